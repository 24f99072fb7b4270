"""Sizes 0 and 1, 65536 rows, and addresses beyond 2**31 elements."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

import txgraph
from tests.reliability.block import WIDTH, Block, block, normal, optimized
from tests.small import Encoder, assert_as_eager, module
from tests.zoo import tokens
from txgraph import PassContext
from txgraph.capture import capture
from txgraph.cost import CostModel, hardware_of
from txgraph.ir import check_spec, type_of

SIZES = [(2, 5), (3, 7), (0, 5), (2, 0), (1, 1)]
MANY = 2**31


def test_sizes_of_zero_and_one_after_others() -> None:
    """One model is called with all of them: each kind has a graph of its own, and none answers for another."""
    model = block()
    fast = optimized(model, verify="final")
    for size in (*SIZES, *SIZES):
        x = normal(*size)
        assert_as_eager(fast(x), model, x)
    assert len(fast.report.graphs) == len(SIZES)


def test_sizes_of_zero_and_one_first() -> None:
    """The first graph is not taken for a dynamic one."""
    model = block()
    fast = optimized(model, normal(0, 1), verify="final")
    for x in (normal(0, 1), normal(2, 3)):
        assert_as_eager(fast(x), model, x)
    assert len(fast.report.graphs) == 2


def test_what_eager_refuses_is_refused_at_the_users_line() -> None:
    """A view that cannot tell its sizes when there is nothing to view; the graph before it still answers."""
    model, inputs = Encoder(), tokens(2, 6)
    fast = optimized(model, kwargs=inputs, verify="off")
    nothing = {name: tensor[:0] for name, tensor in inputs.items()}
    with pytest.raises(RuntimeError, match="cannot reshape tensor of 0 elements"):
        model(**nothing)
    with pytest.raises(txgraph.CaptureFailed, match=r"small\.py:\d+ in .*\n.*cannot reshape tensor of 0 elements"):
        fast(**nothing)
    assert_as_eager(fast(**inputs), model, **inputs)


def test_compiled_code_of_many_sizes_and_layouts() -> None:
    """One dynamic graph of the default backend: 65536 rows, other layouts, NaN."""
    model = block()
    axes = {"x": {0: Dim.AUTO, 1: Dim.AUTO}}
    fast = txgraph.optimize(model, (normal(3, 7),), dynamic_shapes=axes, verify="final")
    for x in (
        normal(2, 5),
        normal(8192, 8),
        normal(7, 3).transpose(0, 1),
        normal(1, 1).expand(4, 6, WIDTH),
        normal(9, 9)[1::2, ::3],
        normal(3, 7).index_fill(1, torch.tensor(1), float("nan")),
    ):
        assert_as_eager(fast(x), model, x)
    assert len(fast.report.graphs) == 1
    assert fast.report.fallbacks == []


def test_an_input_that_begins_beyond_2_to_the_31(tmp_path: Path) -> None:
    """A slice of a file that is nearly all holes: only what is touched takes room."""
    numbers = torch.from_file(str(tmp_path / "numbers"), shared=True, size=MANY + 8 * WIDTH)
    x = numbers[MANY:].view(2, 4, WIDTH)
    x.copy_(normal(2, 4))
    assert x.storage_offset() >= MANY
    model = block()
    assert_as_eager(optimized(model, x)(x), model, x)


@pytest.mark.parametrize("backend", ["reference", "inductor"])
def test_a_weight_of_more_than_2_to_the_31_elements(backend: str, tmp_path: Path) -> None:
    """Rows of an embedding on both sides of the border."""
    rows = MANY // WIDTH + 8
    table = torch.from_file(str(tmp_path / "table"), shared=True, size=rows * WIDTH).view(rows, WIDTH)
    table[-8:] = normal(8)
    table[:8] = normal(8) + 1
    words, layer = nn.Embedding.from_pretrained(table), block()
    model = module(lambda ids: (words(ids), layer(words(ids))), words=words, layer=layer)
    ids = torch.tensor([[0, rows - 1, 5, rows - 8], [7, 1, rows - 2, rows - 3]])
    # The float64 run would widen the whole table: what is looked up is compared instead.
    fast = optimized(model, ids, verify="off", backend=backend)
    found, result = fast(ids)
    assert torch.equal(found, table[ids])
    assert_as_eager(result, layer, table[ids])


def test_passes_on_types_of_more_than_2_to_the_31_elements() -> None:
    """The default pipeline, weighed by its cost model, on a graph that no memory could hold."""
    with torch.device("meta"):
        model, x = Block(), torch.empty(2**16, 2**16, WIDTH)
    graph = capture(model, (x,), {}).graph
    target = txgraph.Target("cpu")
    context = PassContext(target, frozenset(), CostModel(hardware_of(target), True))
    after, records = txgraph.default_pipeline().run(graph, context)
    check_spec(after, graph)
    assert {"fuse-attention", "fuse-layer-norm"} <= {r.name for r in records if r.status == "applied"}
    (output,) = after.outputs
    assert type_of(output) == type_of(next(iter(graph.outputs)))
