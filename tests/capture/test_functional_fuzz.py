"""Random programs that write: what is captured gives what eager gives, and writes what eager writes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.small import graph_of
from txgraph.ir import check_spec, interpret

Tensor = torch.Tensor
X = torch.linspace(-1.3, 1.7, 16).reshape(4, 4)

MADE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # new values, views, other names, and what is one of these
    "add": lambda a, b: a + 0.25,
    "sin": lambda a, b: a.sin(),
    "clone": lambda a, b: a.clone(),
    "transposed": lambda a, b: a.t(),
    "view": lambda a, b: a[1:3].repeat(2, 1),
    "rows": lambda a, b: torch.cat([a[1:], a[:1]]),
    "flat": lambda a, b: a.reshape(16).view(4, 4),
    "detached": lambda a, b: a.detach(),
    "contiguous": lambda a, b: a.contiguous(),
    "same dtype": lambda a, b: a.to(torch.float32),
    "other dtype": lambda a, b: a.to(torch.float64),
    "as the other": lambda a, b: a.type_as(b),
    "dropout": lambda a, b: torch.dropout(a, 0.5, train=False),
    "half": lambda a, b: torch.cat(a.chunk(2, 1)[::-1], 1),
}
WRITTEN: dict[str, Callable[[Tensor, Tensor], object]] = {
    "add_": lambda a, b: a.add_(b.clone()),
    "mul_": lambda a, b: a.mul_(0.5),
    "copy_": lambda a, b: a.copy_(b.clone()),
    "copy_ of a row": lambda a, b: a.copy_(b[2].clone()),
    "index_copy_": lambda a, b: a.index_copy_(0, torch.tensor([2]), b[:1].clone().to(a.dtype)),
    "masked_fill_": lambda a, b: a.masked_fill_(b > 0.5, 0.125),
    "a row": lambda a, b: a[3].mul_(2.0),
    "through detach": lambda a, b: a.detach().sub_(1.0),
}
STEP = st.tuples(st.sampled_from([*MADE, *WRITTEN]), st.integers(0, 9), st.integers(0, 9))


def program(steps: list[tuple[str, int, int]]) -> Callable[[Tensor, Tensor], list[Tensor]]:
    """Each step takes two of the values so far, makes another or writes to the first; all values are outputs."""

    def function(x: Tensor, y: Tensor) -> list[Tensor]:
        values = [x, y, x + y]
        for name, first, second in steps:
            a, b = values[first % len(values)], values[second % len(values)]
            if name in MADE:
                values.append(MADE[name](a, b))
            else:
                WRITTEN[name](a, b)
        return [value * 1.0 for value in values]

    return function


@settings(max_examples=50, deadline=None, derandomize=True, phases=(Phase.generate,))  # shrinking would take minutes
@given(st.lists(STEP, min_size=2, max_size=8))
def test_random_programs(steps: list[tuple[str, int, int]]) -> None:
    function, y = program(steps), X.flip(0).contiguous() * 0.7
    graph = graph_of(function, X.clone(), y.clone())
    check_spec(graph)
    given_to_eager = [X.clone(), y.clone()]
    expected = function(*given_to_eager)
    results = interpret(graph, [X.clone(), y.clone()])
    written, outputs = results[: len(graph.mutations)], results[len(graph.mutations) :]
    for mutation, value in zip(graph.mutations, written, strict=True):
        assert torch.equal(value, given_to_eager["xy".index(mutation.target)])
    for at, name in enumerate("xy"):
        if name not in {m.target for m in graph.mutations}:
            assert torch.equal(given_to_eager[at], [X, y][at])
    for one, other in zip(outputs, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
