"""The map from kernels to operators: whole, in the order of the launches, and the same where code is shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

import txgraph
from tests.helpers import normal
from tests.small import Encoder, traced
from txgraph import BackendOptions, Target
from txgraph.backends.inductor import InductorBackend, softcap
from txgraph.backends.inductor.generated import Generated, Launch
from txgraph.errors import BackendFailed
from txgraph.ir import Graph, Kernel, op_name, without_kernel

IDS = torch.arange(32).reshape(2, 16)
CPU = Target("cpu")


def bert() -> nn.Module:
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 3}
    return BertModel(BertConfig(**sizes, vocab_size=64)).eval()


def gpt2() -> nn.Module:
    special = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(n_embd=32, n_head=2, n_layer=3, n_positions=32, vocab_size=64, use_cache=False, **special)
    return GPT2LMHeadModel(config).eval()


MODELS: dict[str, Callable[[], nn.Module]] = {"bert": bert, "gpt2": gpt2, "by hand": Encoder}


class Order:
    """Writes down in which order kernels are launched."""

    def __init__(self) -> None:
        self.launched: list[int] = []
        self.inside = False

    def call(self) -> AbstractContextManager[object]:
        self.inside = True
        return nullcontext()

    def launch(self, number: int) -> AbstractContextManager[object]:
        assert self.inside
        self.launched.append(number)
        return nullcontext()


def optimized(model: nn.Module, dynamic: bool = False, **settings: Any) -> txgraph.OptimizedModel:
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    sizes = {name: {0: Dim.AUTO, 1: Dim.AUTO} for name in inputs} if dynamic else None
    return txgraph.optimize(model, kwargs=inputs, dynamic_shapes=sizes, **{"backend": "inductor", **settings})


def assert_complete(graph: Graph, kernels: Sequence[Kernel]) -> None:
    """Every operator is computed by a kernel, or is one that needs none; every kernel computes something."""
    assert "removed" not in without_kernel(graph, kernels).values()
    operators = {node.name: node for node in graph.calls()}
    for kernel in kernels:
        assert kernel.nodes
        assert set(kernel.nodes) <= operators.keys()
        assert bool(kernel.code) is (kernel.kind == "generated")
    computed = {op_name(operators[name]) for kernel in kernels for name in kernel.nodes}
    assert computed.isdisjoint({"transpose", "getitem", "unsqueeze", "sym_size"})
    assert {"scaled_dot_product_attention", "layer_norm", "embedding"} <= computed


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", MODELS)
def test_every_operator_has_its_kernel(name: str, dynamic: bool) -> None:
    """Cut into layers, and whole."""
    layers = dynamic is (name == "gpt2")
    fast = optimized(MODELS[name](), dynamic, options={"layers": layers}, verify="off")
    kernels = fast.kernels()
    assert_complete(fast.graph_after, kernels)
    assert not fast.report.fallbacks
    compiled, order = fast._latest().compiled, Order()
    assert compiled.watched is not None
    inputs = [IDS, torch.ones_like(IDS)]
    with torch.no_grad():
        outputs = compiled.watched(inputs, order)
        for ours, plain in zip(outputs, compiled.run(inputs), strict=True):
            assert torch.equal(ours, plain) if isinstance(plain, torch.Tensor) else ours == plain
    assert order.launched == list(range(len(kernels)))


def test_copies_of_a_layer_have_kernels_of_their_own() -> None:
    """As many as there are copies, with equal code; each computes the nodes of its own layer."""
    fast = optimized(bert(), options={"layers": True})
    modules = {node.name: txgraph.ir.provenance_of(node).module for node in fast.graph_after.nodes}
    norms = [
        k for k in fast.kernels() if k.kind == "generated" and len(k.nodes) == 2 and "encoder" in modules[k.nodes[0]]
    ]
    assert len({kernel.code for kernel in norms}) < len(norms) == 6
    places = [modules[kernel.nodes[-1]] for kernel in norms]
    assert places == [f"encoder.layer.{at}{part}.output.LayerNorm" for at in range(3) for part in (".attention", "")]
    assert Counter(name for kernel in norms for name in kernel.nodes).most_common(1)[0][1] == 1


def test_what_lowering_replaces_keeps_its_name() -> None:
    """Three linears of one input, a linear with its activation, and attention, whatever computes them."""
    fast = optimized(Encoder())
    operators = {node.name: op_name(node) for node in fast.graph_after.calls()}
    wanted = {"txgraph::linears", "txgraph::linear_activation", "scaled_dot_product_attention"}
    assert wanted <= set(operators.values())
    computed = {operators[name] for kernel in fast.kernels() for name in kernel.nodes}
    assert wanted <= computed


def test_flex_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its call, and what was put around it, are in the place of one operator."""
    monkeypatch.setattr(softcap, "FEWEST_SCORES", 0)
    q, k, v = normal(2, 4, 12, 8), normal(2, 4, 20, 8), normal(2, 4, 20, 8)
    graph = traced(lambda q, k, v: torch.ops.txgraph.softcap_attention(q, k, v, None, 0.3, 5.0) + 1, q, k, v)
    attention, add = (node.name for node in graph.calls())
    compiled = InductorBackend().lower(graph, CPU, BackendOptions())
    assert "flex_attention" in compiled.code
    assert [kernel.nodes for kernel in compiled.kernels if "flex" in kernel.name] == [(attention,)]
    assert compiled.kernels[-1].nodes == (add,)


def test_what_is_written_in_place() -> None:
    class Cache(nn.Module):
        def forward(self, x: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
            cache.copy_(cache * 2 + x)
            return x.exp()

    x, cache = normal(4, 8), normal(4, 8)
    fast = txgraph.optimize(Cache(), args=(x, cache.clone()), backend="inductor")
    computed = {name for kernel in fast.kernels() for name in kernel.nodes}
    assert computed == {node.name for node in fast.graph_after.calls()}
    held, order, compiled = cache.clone(), Order(), fast._latest().compiled
    assert compiled.watched is not None
    with torch.no_grad():
        results = compiled.watched([x, held], order)
    assert torch.equal(held, cache)  # watching a call has no effect
    torch.testing.assert_close(results[0], cache * 2 + x)
    assert order.launched == [*range(len(fast.kernels()))]


def test_interpreted_operators_are_kernels() -> None:
    fast = optimized(Encoder(), backend="reference")
    assert [kernel.nodes for kernel in fast.kernels()] == [(node.name,) for node in fast.graph_after.calls()]
    assert {kernel.kind for kernel in fast.kernels()} == {"interpreted"}
    order, compiled = Order(), fast._latest().compiled
    assert compiled.watched is not None
    compiled.watched([IDS, torch.ones_like(IDS)], order)
    assert order.launched == list(range(len(fast.kernels())))


def test_other_launches_than_expected_are_an_error() -> None:
    def twice(x: torch.Tensor) -> tuple[torch.Tensor]:
        return (namespace["double"](namespace["double"](x)),)

    namespace: dict[str, Any] = {"double": lambda x: 2 * x}
    code = Generated(twice, "", (Launch("double", ("mul",)), Launch("double", ("mul_1",))), namespace)
    seen: list[int] = []

    def around(number: int) -> AbstractContextManager[object]:
        seen.append(number)
        return nullcontext()

    assert code.watched([torch.ones(())], around)[0] == 4
    assert seen == [0, 1]
    assert namespace["double"](1) == 2  # as before
    once = Generated(twice, "", (Launch("double", ("mul",)),), namespace)
    with pytest.raises(BackendFailed, match="launched double out of order"):
        once.watched([torch.ones(())], around)
    hidden = Generated(twice, "", (Launch("double", ("mul",)),), {})
    with pytest.raises(BackendFailed, match="none of the kernels was launched by Python"):
        hidden.watched([torch.ones(())], around)
