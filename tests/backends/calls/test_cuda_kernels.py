"""Our operators on CUDA: none is left for CPUs, our Triton kernels are machine code, and compute what eager does."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import nn
from torch.export import Dim

import txgraph
from tests.backends.calls.test_quantized import assert_near
from tests.backends.cuda_models import bert
from tests.backends.test_cuda import compiled, pytestmark
from tests.backends.test_cuda_numbers import interpreted
from tests.helpers import normal
from tests.small import apply, graph_of, traced
from txgraph import BackendOptions, Target
from txgraph.backends.calls.cuda_kernels import lower_for_cuda
from txgraph.backends.inductor import InductorBackend
from txgraph.ir import Kernel, interpret, without_kernel
from txgraph.ir.packed import token_index
from txgraph.ir.quantized import quantize_weight, quantize_weight_grouped
from txgraph.passes import Int8

__all__ = ["interpreted", "pytestmark"]

IDS = torch.arange(40).reshape(4, 10)
MASK = (torch.arange(10) < torch.tensor([10, 3, 5, 1])[:, None]).long()
SM_90 = Target("cuda", "sm_90")
FOR_CPUS = ("ops.txgraph.", "mkldnn", "cpp_fused", "empty_strided_cpu(")  # and what is called by its definition
_ops = torch.ops.txgraph


def own(kernels: tuple[Kernel, ...]) -> list[str]:
    """The names of our kernels, without their numbers; each of them is machine code."""
    ours = [kernel for kernel in kernels if kernel.kind == "txgraph"]
    for kernel in ours:
        assert "@triton.jit" in kernel.code
        assert ".target sm_90" in kernel.ptx
        assert kernel.cubin.startswith(b"\x7fELF")
    return [kernel.name.rpartition("_")[0] for kernel in ours]


def defined() -> set[str]:
    """The names of all operators of ``txgraph::``."""
    names = {schema.name for schema in torch._C._jit_get_all_schemas()}
    return {name.removeprefix("txgraph::") for name in names if name.startswith("txgraph::")}


def check_no_cpu(fast: txgraph.OptimizedModel) -> None:
    """Every operator is accounted for; none is for CPUs, and none of ours is called as an operator."""
    kernels = fast.kernels()
    assert set(without_kernel(fast.graph_after, kernels).values()) <= {"view", "item", "size", "removed"}
    interpreted_ones = {kernel.name for kernel in kernels if kernel.kind == "interpreted"}
    assert interpreted_ones <= {"aten.ne", "txgraph.token_index", "getitem"}
    code = fast.code()
    assert not [name for name in FOR_CPUS if name in code]


@pytest.mark.usefixtures("interpreted")
def test_bert_without_padding() -> None:
    torch.manual_seed(0)
    model = bert()
    batch = {"input_ids": IDS, "attention_mask": MASK}
    fast = compiled(model, kwargs=batch, padding="zeros")
    check_no_cpu(fast)
    assert own(fast.kernels()) == ["txgraph_ragged_attention"]
    (kernel,) = [kernel for kernel in fast.kernels() if kernel.kind == "txgraph"]
    assert kernel.nodes == ("ragged_attention_default",)
    other = MASK.flip(0)  # than it was compiled for
    ours = fast(input_ids=IDS, attention_mask=other).last_hidden_state
    with torch.no_grad():
        expected = model(input_ids=IDS, attention_mask=other).last_hidden_state
    torch.testing.assert_close(ours, expected * other[:, :, None], rtol=1e-4, atol=1e-5)
    assert len(fast.report.graphs) == 1


def every_operator(
    x: torch.Tensor,
    row: torch.Tensor,
    position: torch.Tensor,
    lengths: torch.Tensor,
    w: torch.Tensor,
    b: torch.Tensor,
    w8: torch.Tensor,
    s8: torch.Tensor,
    w4: torch.Tensor,
    s4: torch.Tensor,
    d: torch.Tensor,
) -> list[torch.Tensor]:
    """Of ``x`` [N, 64]: what our operators make of it, one by one."""
    packed = x.view(-1, 2, 32)
    values, scales = _ops.quantize_rows(x, d)
    heads = packed.transpose(0, 1)
    return [
        _ops.quick_gelu(x),
        _ops.linear_activation(x, w, b, "tanh"),
        *_ops.linears(x, [w, w], [b, None]),
        _ops.softcap_attention(heads, heads, heads, None, 0.5, 2.0),
        _ops.ragged_attention(packed, packed, packed, row, position, lengths, None, True, None, False),
        _ops.int8_linears(values, scales, [w8], [s8], [b], "tanh")[0],
        _ops.weight_only_linears(x, [w8], [s8[:, None]], [b], "relu", 8, 0)[0],
        _ops.weight_only_linears(x, [w4], [s4], [None], "", 4, 32)[0],
        _ops.fake_quantize_rows(x, None),
    ]


# Their definitions run on GPUs, too: token_index decides sizes, before compiled code; is_left_aligned compares a mask
# with itself; a fake-quantized weight is a constant that a pass folds; expert_linear, window_attention and
# threshold_attention are made for CPUs alone.
BY_DEFINITION = {
    *("token_index", "is_left_aligned", "fake_quantize_weight"),
    *("expert_linear", "window_attention", "threshold_attention"),
}


@pytest.mark.usefixtures("interpreted")
def test_every_operator() -> None:
    """No operator of ours is called on a GPU; what becomes of it computes what it is defined as."""
    row, position, lengths, _, _ = token_index(MASK.bool())
    weight = normal(48, 64)
    constants = {"w": weight, "b": normal(48), "d": normal(64).exp()}
    constants |= dict(zip(("w8", "s8"), quantize_weight(weight), strict=True))
    constants |= dict(zip(("w4", "s4"), quantize_weight_grouped(weight), strict=True))
    names = [name for name in inspect.signature(every_operator).parameters if name in constants]
    inputs = (normal(len(row), 64), row, position, lengths)
    graph = traced(every_operator, *inputs, **{name: constants[name] for name in names})
    asked = {name.removeprefix("txgraph::") for name in graph.count() if name.startswith("txgraph::")}
    for_backends = ("_native", "_onednn", "_triton", "_generated", "in_memory")
    known = {name for name in defined() if not name.endswith(for_backends)}
    assert asked == known - BY_DEFINITION

    compiled = InductorBackend().lower(graph, SM_90, BackendOptions())
    assert not [name for name in FOR_CPUS if name in compiled.code]
    expected_kernels = ["txgraph_int8_linear", "txgraph_ragged_attention"] + ["txgraph_weight_only_linear"] * 2
    assert sorted(own(compiled.kernels)) == expected_kernels
    assert set(without_kernel(graph, compiled.kernels).values()) <= {"view", "item", "removed"}
    for ours, expected in zip(compiled.run(inputs), interpret(graph, inputs), strict=True):
        assert_near(ours, expected)


def test_what_our_kernels_do_not_take_stays() -> None:
    """Other dtypes, and larger heads: their definitions run on the GPU."""
    row, position, lengths, _, _ = token_index(MASK.bool())

    def attend(q: torch.Tensor, r: torch.Tensor, p: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        return _ops.ragged_attention(q, q, q, r, p, n, None, False, None, False)  # type: ignore[no-any-return]

    for q in (normal(len(row), 1, 8).double(), normal(len(row), 1, 264)):
        graph = traced(attend, q, row, position, lengths)
        lower_for_cuda(graph)
        assert graph.count() == {"txgraph::ragged_attention": 1}


def test_rows_that_vary() -> None:
    graph = graph_of(nn.Linear(64, 32).eval(), normal(2, 5, 64), dynamic_shapes=({0: Dim("B"), 1: Dim("S")},))
    graph, _ = apply(Int8(), graph)
    assert InductorBackend().unsupported(graph, SM_90) == []
    compiled = InductorBackend().lower(graph, SM_90, BackendOptions())
    assert own(compiled.kernels) == ["txgraph_int8_linear"]
    assert not [name for name in FOR_CPUS if name in compiled.code]


class Cache(nn.Module):
    """Writes a row to a buffer, as a step of a decoder does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("held", torch.zeros(2, 16, 8))

    def forward(self, x: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        self.held.index_copy_(1, place, x)
        return self.held.sum(1)


def test_a_cache_is_written_in_place() -> None:
    fast = compiled(Cache(), normal(2, 1, 8), torch.tensor([3]))
    assert [kernel.kind for kernel in fast.kernels()] == ["generated", "generated"]
    assert "copy_(" not in fast.code().partition("def call(")[2]
    assert "copy_" not in vars(torch.Tensor)  # it was answered for while that was compiled
