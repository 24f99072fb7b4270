"""The float64 oracle widens everything the model computes, and leaves the model and its inputs as they were."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

from tests.small import MLP, bits, module
from tests.zoo import ZOO
from txgraph import VerificationFailed
from txgraph.verify import Reference, check_gates, oracle, reference
from txgraph.verify.oracle import Float64

DOUBLE = torch.float64


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_is_float64(model: nn.Module, *args: Any, **kwargs: Any) -> Reference:
    """The oracle of ``model`` is the float64 model on float64 inputs, to the last digits."""
    truth = reference(model, args, kwargs)
    wide = copy.deepcopy(model).double()
    args, kwargs = pytree.tree_map_only(
        torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, (args, kwargs)
    )
    with torch.no_grad():
        expected = pytree.tree_leaves(wide(*args, **kwargs))
    assert [g for g in check_gates(truth.oracle, expected, expected) if not g.passed] == []
    assert any(isinstance(leaf, torch.Tensor) and leaf.dtype is DOUBLE for leaf in truth.oracle)
    return truth


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_and_inputs_are_widened_as_they_are(dtype: torch.dtype) -> None:
    truth = assert_is_float64(MLP().to(dtype), randn(3, 4).to(dtype))
    assert truth.eager[0].dtype is dtype
    assert not torch.equal(truth.eager[0].double(), truth.oracle[0])


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...]]] = {
    "conv": (lambda: nn.Conv2d(3, 4, 2), (randn(1, 3, 4, 4),)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 2, groups=1), (randn(2, 3, 5),)),
    "conv-transpose": (lambda: nn.ConvTranspose2d(3, 4, 2), (randn(1, 3, 4, 4),)),
    "prelu": (nn.PReLU, (randn(3, 4),)),
    "bilinear": (lambda: nn.Bilinear(4, 4, 3), (randn(2, 4), randn(2, 4))),
    "group-norm": (lambda: nn.GroupNorm(2, 4), (randn(3, 4, 5),)),
    "batch-norm": (lambda: nn.BatchNorm1d(4).eval(), (randn(3, 4),)),
    "rms-norm": (lambda: nn.RMSNorm(4), (randn(3, 4),)),
    "embedding": (lambda: nn.Embedding(10, 4), (torch.tensor([[1, 2]]),)),
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True).eval(), (randn(2, 3, 8),) * 3),
    "encoder-layer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), (randn(2, 3, 8),)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str) -> None:
    make, inputs = MODULES[name]
    torch.manual_seed(0)
    assert_is_float64(make(), *inputs)


@pytest.mark.parametrize("name", ["vit-sdpa", "bert-eager"])
def test_real_models(name: str) -> None:
    """Convolutions and embeddings; float masks of the dtype's lowest number."""
    architecture = ZOO[name]
    assert_is_float64(architecture.model(), **architecture.inputs(2, 5))


class RMSNorm(nn.Module):
    """As in Llama: computed in float32 whatever the input is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 2, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = x.dtype
        x = x.to(torch.float32)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_explicit_casts_do_not_narrow(dtype: torch.dtype) -> None:
    model, x = RMSNorm().to(dtype), randn(3, 8).to(dtype)
    truth = reference(model, (x,), {})
    wide = x.double()
    expected = model.weight.double() * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6))
    assert torch.equal(truth.oracle[0], expected.detach())
    assert truth.eager[0].dtype is dtype


FUNCTIONS: list[Callable[[torch.Tensor], torch.Tensor]] = [
    lambda x: x.float() + x.half() + x.to(torch.bfloat16) + x.type(torch.float32),
    lambda x: x + torch.zeros(4) + torch.ones(4, dtype=torch.float32) + torch.full((4,), 0.1),
    lambda x: x + torch.empty(4).fill_(0.5) + x.new_full((4,), 0.25) + torch.zeros_like(x),
    lambda x: torch.cat([x, torch.zeros(1, 4)]),
    lambda x: torch.where(x > 0, x, torch.tensor(0.5)),
    lambda x: torch.einsum("bi,bj->ij", x, x).softmax(-1, dtype=torch.float32),
    lambda x: torch.lerp(x, torch.zeros(4), 0.5) + torch.linspace(0, 1, 4),
    lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], torch.zeros(2, 2))[0],
    lambda x: F.layer_norm(x, (4,), torch.ones(4), torch.zeros(4)),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_casts_and_factories(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    truth = reference(module(lambda x: function(x)), (randn(2, 4),), {})
    assert truth.oracle[0].dtype is DOUBLE
    assert (truth.oracle[0] - truth.eager[0]).abs().max() < 0.05


def test_precision_is_kept_through_a_cast() -> None:
    """A value that float32 cannot hold survives .float()."""
    tiny = 2.0**-40
    truth = reference(module(lambda x: (x + tiny).float() - 1), (torch.ones(1),), {})
    assert truth.oracle[0].item() == tiny
    assert truth.eager[0].item() == 0


def test_integers_and_booleans_are_left_alone() -> None:
    truth = reference(module(lambda x: (x.argmax(), x > 0, x.to(torch.int32))), (randn(4),), {})
    assert [o.dtype for o in truth.oracle] == [torch.int64, torch.bool, torch.int32]


def test_outputs_in_every_structure() -> None:
    truth = reference(module(lambda x, scale: {"a": x * scale, "b": (None, 3)}), (randn(2),), {"scale": 2.0})
    assert [type(v) for v in truth.eager] == [torch.Tensor, type(None), int]
    assert truth.spec.num_leaves == 3
    assert truth.oracle[1:] == (None, 3)


class Counter(nn.Module):
    """Writes to its buffers: in place, through a view, and by assignment."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("replaced", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += x[0] / 3
        self.total[1:].mul_(2)
        self.calls.add_(1)
        self.replaced = self.replaced + x[0] / 3
        return x * self.total * self.replaced


def test_written_buffers() -> None:
    model, x = Counter(), randn(2, 4)
    held = dict(model.named_buffers())
    before = {name: bits(b).clone() for name, b in held.items()}
    truth = reference(model, (x,), {}, buffers=[model.total, model.calls, model.replaced])
    assert dict(model.named_buffers()).keys() == held.keys()
    assert all(b is held[name] for name, b in model.named_buffers())
    assert all(torch.equal(bits(b), before[name]) for name, b in held.items())
    again = copy.deepcopy(model)
    with torch.no_grad():
        output = again(x)
    assert [
        torch.equal(a, b) for a, b in zip(truth.eager, [again.total, again.calls, again.replaced, output], strict=True)
    ] == [True] * 4
    wide = copy.deepcopy(model).double()
    with torch.no_grad():
        output = wide(x.double())
    expected = [wide.total, wide.calls, wide.replaced, output]
    assert [torch.equal(a, b) for a, b in zip(truth.oracle, expected, strict=True)] == [True] * 4
    assert [o.dtype for o in truth.oracle] == [DOUBLE, torch.int64, DOUBLE, DOUBLE]


def test_the_model_is_restored_where_its_forward_raises() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        model.count.add_(1)
        model.count = model.count + 1
        raise ValueError("in the middle")

    model = module(forward)
    model.register_buffer("count", torch.zeros(1))
    buffer = model.count
    with pytest.raises(ValueError, match="in the middle"):
        reference(model, (randn(2),), {}, buffers=[buffer])
    assert model.count is buffer
    assert buffer.item() == 0


def test_written_inputs() -> None:
    x, y = randn(2, 4), randn(2, 4)
    kept = x.clone()
    truth = reference(module(lambda x, y: x.add_(y).sum()), (x, y), {}, mutated_inputs=[0])
    assert torch.equal(x, kept)
    assert torch.equal(truth.eager[0], kept + y)
    assert torch.equal(truth.oracle[0], kept.double() + y.double())
    assert len(truth.eager) == len(truth.oracle) == 2


def test_which_outputs_share_memory_with_inputs() -> None:
    x, y = randn(2, 4), randn(2, 4)
    truth = reference(module(lambda x, y: (x, y.t(), x + y, 3)), (x, y), {})
    assert truth.shared == ({0}, {1}, set(), set())


def test_no_second_copy_of_the_model_is_held() -> None:
    """Widened weights live no longer than the operator that uses them."""
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(5)))
    alive: list[int] = []

    class Count(Float64):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:

            wide = [
                o for o in gc.get_objects() if type(o) is torch.Tensor and o.dtype is DOUBLE and o.numel() == 64 * 64
            ]
            alive.append(len(wide))
            return super().__torch_dispatch__(func, types, args, kwargs)

    gc.freeze()  # what is there already is not looked at
    try:
        with torch.no_grad(), Count():
            model(randn(1, 64))
    finally:
        gc.unfreeze()
    assert len(alive) >= 5
    assert max(alive) <= 2


def test_eagers_own_error_is_raised_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        reference(MLP(), (randn(3, 5),), {})
    with pytest.raises(IndexError, match="index out of range"):
        reference(nn.Embedding(3, 4), (torch.tensor([7]),), {})


def test_a_model_that_cannot_run_in_float64() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        if x.dtype is DOUBLE:
            raise RuntimeError("no kernel for Double")
        return x

    with pytest.raises(
        VerificationFailed, match=r"Module cannot be checked: its float64 run raised RuntimeError: no kernel"
    ):
        reference(module(forward), (randn(2),), {})


@pytest.mark.parametrize("block", [1, 60, 10**6])
@pytest.mark.parametrize(
    "function",
    [
        lambda x, w, b: F.linear(x, w, b),
        lambda x, w, b: F.linear(x, w),
        lambda x, w, b: torch.addmm(b, x, w.t(), beta=0.5, alpha=2.0),
        lambda x, w, b: torch.addmm(b[:1], x, w.t()),
        lambda x, w, b: torch.addmm(x[:, :1], x, w.transpose(0, 1)),
        lambda x, w, b: x @ w.T + x.mm(w[:, : w.shape[1]].t()),
    ],
    ids=["linear", "no bias", "factors", "one number", "a number for each row", "views"],
)
def test_products_with_weights(function: Callable[..., Any], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are widened some columns at a time."""
    monkeypatch.setattr(oracle, "_BLOCK", block)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(randn(7, 20)), nn.Parameter(randn(7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = function(x, self.weight, self.bias)
            return result

    assert_is_float64(Model(), randn(5, 20))


def module_runs(forward: Callable[[int, torch.Tensor], torch.Tensor]) -> tuple[nn.Module, list[int]]:
    """A model whose forward is given how often it ran before."""
    runs: list[int] = []

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            runs.append(len(runs))
            return forward(runs[-1], x)

    return Model(), runs


def test_eager_is_run_again_only_where_float64_does_not_agree() -> None:
    model, runs = module_runs(lambda run, x: x.sin())
    reference(model, (randn(8),), {})
    assert len(runs) == 2  # once in float64
    model, runs = module_runs(lambda run, x: (x * 1e4).sin())  # rounding, and no state
    reference(model, (randn(8),), {})
    assert len(runs) == 4


def test_eager_is_run_again_where_a_run_assigns_something() -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return x * (1 + self.calls * 8 * torch.finfo(x.dtype).eps)  # as small as rounding of many layers

    with pytest.raises(VerificationFailed, match="gives another result when it is called again"):
        reference(Counting(), (randn(8),), {})


@pytest.mark.parametrize("period", [2, 3, 4])
def test_a_model_that_takes_turns(period: int) -> None:
    model, _ = module_runs(lambda run, x: x + run % period)
    with pytest.raises(VerificationFailed, match="gives another result when it is called again"):
        reference(model, (randn(8),), {})


def test_the_embedding_of_few_tokens_widens_few_rows() -> None:
    weight, indices = randn(1000, 8), torch.tensor([3, 3, 999])
    seen: list[int] = []

    class Count(Float64):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = super().__torch_dispatch__(func, types, args, kwargs)
            seen.append(max(t.numel() for t in (result, *args) if isinstance(t, torch.Tensor) and t.dtype is DOUBLE))
            return result

    with torch.no_grad(), Count():
        rows = F.embedding(indices, weight)
    assert torch.equal(rows, weight[indices].double())
    assert max(seen) == rows.numel()
