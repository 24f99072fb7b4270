"""Outputs and arguments of every structure, weights of every kind, and operators that cannot be captured."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree
from transformers.modeling_outputs import BaseModelOutput

import txgraph
from tests.reliability.block import WIDTH, Block, block, normal, optimized
from tests.small import Linear, assert_as_eager, module

X = torch.arange(8.0).reshape(2, 4)
Y = torch.arange(12.0).reshape(3, 4)


# -- outputs and arguments -----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Registered:
    hidden: torch.Tensor
    extra: Any


@dataclasses.dataclass
class Unregistered:
    hidden: torch.Tensor


class Named(NamedTuple):
    hidden: torch.Tensor
    extra: Any


torch.export.register_dataclass(Registered, serialized_type_name="tests.reliability.Registered")


def structured(x: torch.Tensor) -> dict[str, Any]:
    """Containers in containers, None, and numbers that depend on sizes."""
    twice = x * 2
    return {
        "dataclass": Registered(twice, {"none": None}),
        "output": BaseModelOutput(last_hidden_state=x + 1, hidden_states=(twice, x.sum())),
        "named": Named(x - 1, [None, (), []]),
        "ordered": collections.OrderedDict(b=x.argmax(), a=(x > 3, x.t())),
        "sizes": (x.shape[0], x.shape[0] * x.shape[1], x.shape[0] > 2),
        "again": twice,
        "input": x,
    }


def assert_same_structure(ours: Any, eager: Any) -> None:
    """Types of containers, of leaves, and all values, exactly."""
    (leaves, spec), (expected, expected_spec) = pytree.tree_flatten(ours), pytree.tree_flatten(eager)
    assert spec == expected_spec
    assert [type(leaf) for leaf in leaves] == [type(leaf) for leaf in expected]
    for leaf, other in zip(leaves, expected, strict=True):
        assert torch.equal(leaf, other) if isinstance(leaf, torch.Tensor) else leaf == other


@pytest.mark.parametrize("backend", ["reference", "inductor"])
def test_outputs(backend: str) -> None:
    """Static, then dynamic."""
    model = module(structured)
    fast = optimized(model, backend=backend)
    for x in (X, Y, X + 1, torch.ones(5, 4)):
        assert_same_structure(fast(x), model(x))
    output = fast(X)
    assert type(output["output"]) is BaseModelOutput
    assert output["input"] is X
    assert len(fast.report.graphs) == 2


@pytest.mark.parametrize("value", [1.5, "text", True, None, 7, (), [1.5, None]], ids=str)
def test_plain_outputs(value: object) -> None:
    model = module(lambda x: (x * 2, value))
    assert_same_structure(optimized(model, X)(X), model(X))


@pytest.mark.parametrize("value", ["constant", "of a size"])
def test_float_outputs_of_compiled_code(value: str) -> None:
    model = module(lambda x: (x * 2, 1.5 if value == "constant" else x.shape[0] / 2))
    fast = txgraph.optimize(model)
    for x in (X, Y):
        assert_same_structure(fast(x), model(x))


def test_no_output() -> None:
    model = module(lambda x: None)
    assert optimized(model, X)(X) is None


def test_an_output_of_a_class_that_torch_does_not_know() -> None:
    """Named, and what to do; in eager where that is allowed."""
    model = module(lambda x: Unregistered(x * 2))
    with pytest.raises(txgraph.CaptureFailed, match=r"Unregistered.* in output, which is not a known type"):
        optimized(model, X)
    fast = optimized(model, options={"allow_fallback": True})
    assert torch.equal(fast(X).hidden, X * 2)
    assert len(fast.report.fallbacks) == 1


class Arguments(nn.Module):
    """Every kind of parameter; one that is not used."""

    def forward(
        self,
        x: torch.Tensor,
        /,
        unused: Any,
        *rest: torch.Tensor,
        scale: float = 2.0,
        pair: Any = None,
        **others: Any,
    ) -> Any:
        result = x * scale + sum(rest)
        if pair is not None:
            result = result + pair["a"] - pair["b"][0]
        return {name: result + value for name, value in others.items()} if others else (result, None)


def test_arguments() -> None:
    """Positional only, unused, further ones, by keyword, defaults, containers and others by keyword."""
    model = Arguments()
    fast = optimized(model, verify="off")
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((X, None), {}),
        ((X, "text"), {}),
        ((X, X.long()), {}),
        ((X,), {"unused": X.long()}),
        ((X, None, X, X + 1), {"scale": 3.0}),
        ((X, None), {"pair": {"a": X, "b": [X + 2]}}),
        ((X, None), {"first": X - 1, "second": X}),
        ((X, None), {"first": 2, "second": X}),
        ((X, None), {"scale": 2.0}),
    ]
    for args, kwargs in (*calls, *calls):
        assert_same_structure(fast(*args, **kwargs), model(*args, **kwargs))
    assert len(fast.report.graphs) == len(calls) - 2  # by keyword as by position; the default as nothing


@pytest.mark.parametrize("kwargs", [{"b": X, "a": X + 1}, {"a": X, "b": 2}], ids=["sorted", "numbers first"])
def test_the_order_of_further_keywords(kwargs: dict[str, Any]) -> None:
    """A dictionary that is made from them has its keys in the order of the call."""
    model = Arguments()
    assert_same_structure(optimized(model)(X, None, **kwargs), model(X, None, **kwargs))


# -- weights -------------------------------------------------------------------------------------------------------


def holding(tensor: torch.Tensor, kind: str = "buffer") -> nn.Module:
    """A layer beside a further tensor, which it adds to its input."""
    model = Linear().eval()
    if kind == "parameter":
        model.register_parameter("further", nn.Parameter(tensor, requires_grad=False))
    elif kind == "buffer":
        model.register_buffer("further", tensor)
    else:
        model.further = tensor
    model.forward = lambda x: model.layer(x + model.further)
    return model


REFUSED: dict[str, tuple[Callable[[], torch.Tensor], str]] = {
    "meta": (
        lambda: torch.empty(4, device="meta"),
        "further is on the meta device: it has no values. Load the weights first",
    ),
    "sparse": (
        lambda: torch.ones(4).to_sparse(),
        r"further has layout torch.sparse_coo and .* not take: give it dense",
    ),
    "sparse rows": (
        lambda: torch.eye(4).to_sparse_csr(),
        r"further has layout torch.sparse_csr and .* not take: give it dense, by to_dense\(\)",
    ),
    "complex": (
        lambda: torch.ones(4, dtype=torch.complex64),
        "further has layout torch.strided and dtype torch.complex64",
    ),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        "further has layout torch.strided and dtype torch.qint8",
    ),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, "buffer") for name in REFUSED), *((name, "parameter") for name in REFUSED if name != "quantized")],
)
def test_weights_that_are_refused_by_name(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any work; also where the model gets such a weight before its first call."""
    make, message = REFUSED[name]
    tensor = make()
    model = Linear().eval()
    fast = optimized(model)

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("captured")

    monkeypatch.setattr("txgraph.compile.capture", never)
    with pytest.raises(txgraph.TxgraphError, match=message):
        txgraph.optimize(holding(tensor, kind))
    model.layer.register_buffer("further", tensor)
    with pytest.raises(txgraph.TxgraphError, match=f"layer.{message}"):
        fast(X)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_floating_point_weights(dtype: torch.dtype) -> None:
    model, x = block(dtype), normal(2, 5, dtype=dtype)
    fast = optimized(model, x, verify="passes" if dtype is torch.float64 else "final")
    assert_as_eager(fast(x + 1), model, x + 1)
    assert fast.report.fallbacks == []


def test_weights_in_8_bits() -> None:
    """Widened by the model itself."""
    weight = torch.linspace(-1, 1, WIDTH * WIDTH).reshape(WIDTH, WIDTH)
    narrow = weight.to(torch.float8_e4m3fn)
    integers = (weight * 100).to(torch.int8)
    model = module(lambda x: x @ model.narrow.to(x.dtype) + x @ (model.integers.to(x.dtype) * 0.01))
    model.register_buffer("narrow", narrow)
    model.register_buffer("integers", integers)
    x = normal(2, 5)
    assert_as_eager(optimized(model, x)(x), model, x)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_outputs_in_8_bits(dtype: torch.dtype) -> None:
    """Right, or refused by name."""
    model = module(lambda x: x.to(dtype))
    try:
        result = optimized(model, X)(X)
    except txgraph.TxgraphError as error:
        assert "float8" in str(error)  # noqa: PT017
        return
    assert torch.equal(result.float(), model(X).float())


def test_a_complex_tensor_that_is_an_attribute() -> None:
    """Rotary embeddings as Llama's first code has them."""
    torch.manual_seed(0)
    model = module(lambda x: torch.view_as_real(torch.view_as_complex(x.view(*x.shape[:2], -1, 2)) * model.turn))
    model.turn = torch.polar(torch.ones(5, WIDTH // 2), torch.rand(5, WIDTH // 2))
    x = normal(2, 5)
    fast = optimized(model, x)
    assert_as_eager(fast(x), model, x)
    model.turn.mul_(1j)
    assert_as_eager(fast(x), model, x)


@pytest.mark.parametrize("name", ["sparse", "meta"])
def test_attributes_that_are_refused_by_name(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(txgraph.TxgraphError, match=message):
        optimized(holding(make(), "attribute"), X)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_dynamically_quantized_model_is_refused_by_name() -> None:
    model = torch.ao.quantization.quantize_dynamic(block(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(txgraph.TxgraphError, match=r"query.*quantized"):
        optimized(model, normal(2, 5))


def test_weights_made_in_inference_mode() -> None:
    """Eager runs with them; torch.export does not, and the error says what they are."""
    with torch.inference_mode():
        model = Block()
    with pytest.raises(txgraph.TxgraphError, match=r"was made under torch\.inference_mode\(\)"):
        optimized(model, normal(2, 5))


# -- operators -----------------------------------------------------------------------------------------------------


@torch.library.custom_op("reliability::opaque", mutates_args=())
def opaque(x: torch.Tensor) -> torch.Tensor:
    """An operator of which nobody knows the shape of the result."""
    return x + 1


def test_an_operator_without_a_shape_function() -> None:
    """The operator and the user's line; eager where it is allowed, counted."""
    model = module(lambda x: opaque(x) * 2)
    with pytest.raises(
        txgraph.CaptureFailed, match=r"test_models\.py:\d+ in .*opaque\(x\)(.|\n)*no fake impl .*opaque"
    ):
        optimized(model, X)
    fast = optimized(model, options={"allow_fallback": True})
    assert torch.equal(fast(X), (X + 1) * 2)
    (fallback,) = fast.report.to_dict()["fallbacks"]
    assert "opaque" in fallback["reason"]


def test_a_backend_that_cannot_lower_an_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The node, the operator and the user's line; eager where it is allowed, counted."""
    from txgraph.backends.reference import ReferenceBackend
    from txgraph.ir import describe, op_name

    class Without(ReferenceBackend):
        def unsupported(self, graph: Any, target: Any) -> list[str]:
            return [f"{describe(n)} is not available" for n in graph.calls() if op_name(n) == "layer_norm"]

    monkeypatch.setattr("txgraph.compile.choose_backend", lambda name: Without("without"))
    model, x = block(), normal(2, 5)
    with pytest.raises(
        txgraph.UnsupportedOp, match=r"backend without cannot lower(.|\n)*%\w+ = layer_norm in .*block\.py:\d+"
    ):
        optimized(model, x)
    fast = optimized(model, options={"allow_fallback": True})
    assert torch.equal(fast(x), model(x))
    assert "layer_norm" in fast.report.fallbacks[0].reason
