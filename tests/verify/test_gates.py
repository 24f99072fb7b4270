"""Every acceptance gate can fail, passes on honest results, and short-circuits no other."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from txgraph.verify import GateResult, check_gates
from txgraph.verify.gates import _errors, check_memory, only_rounded, shared_inputs

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
INF, NAN = math.inf, math.nan


def honest(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """An eager product of matrices, and its oracle."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 64, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return a @ b, a.double() @ b.double()


def failed(result: object, eager: object, oracle: object) -> list[str]:
    return [g.gate for g in check_gates([result], [eager], [oracle]) if not g.passed]


@pytest.mark.parametrize("dtype", DTYPES)
def test_eager_itself_passes_every_gate(dtype: torch.dtype) -> None:
    eager, oracle = honest(dtype)
    results = check_gates([eager], [eager], [oracle])
    assert [(g.gate, g.passed) for g in results] == [("G0", True), ("G1", True), ("G2", True), ("G3", True)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_another_honest_way_to_compute_passes(dtype: torch.dtype) -> None:
    """The same product summed in another order."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(64, 64, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    order = torch.randperm(64, generator=generator)
    assert failed(a[:, order] @ b[order], a @ b, a.double() @ b.double()) == []


def edited(edit: Callable[[torch.Tensor], object], dtype: torch.dtype = torch.float32) -> list[str]:
    """The gates that break when ``edit`` changes a copy of an honest result."""
    eager, oracle = honest(dtype)
    result = eager.clone()
    replaced = edit(result)
    return failed(result if replaced is None else replaced, eager, oracle)


STRUCTURE: dict[str, Callable[[torch.Tensor], object]] = {
    "shape": lambda t: t[:, :-1],
    "rank": lambda t: t.unsqueeze(0),
    "dtype": lambda t: t.double(),
    "device": lambda t: t.to("meta"),
    "no tensor": lambda t: 3.0,
    "a list": lambda t: t.tolist(),
}


@pytest.mark.parametrize("edit", STRUCTURE.values(), ids=list(STRUCTURE))
def test_structure_breaks_g0(edit: Callable[[torch.Tensor], object]) -> None:
    assert edited(edit) == ["G0"]


def test_details_of_g0() -> None:
    eager, oracle = honest()
    (gate,) = check_gates([eager.double()], [eager], [oracle])
    assert str(gate) == "G0 output 0: 1 > 0 dtype torch.float64 where eager has torch.float32"


def fill(value: float) -> Callable[[torch.Tensor], None]:
    def edit(t: torch.Tensor) -> None:
        t[3, 5] = value

    return edit


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_gained_non_finite_value_breaks_g1(value: float, dtype: torch.dtype) -> None:
    assert "G1" in edited(fill(value), dtype)


@pytest.mark.parametrize(
    ("eager_value", "value", "broken"),
    [
        (NAN, 1.0, True),
        (INF, 1.0, True),
        (INF, -INF, True),
        (INF, NAN, True),
        (NAN, INF, True),
        (NAN, NAN, False),
        (INF, INF, False),
        (-INF, -INF, False),
    ],
)
def test_non_finite_values_must_stay(eager_value: float, value: float, broken: bool) -> None:
    eager, oracle = honest()
    result = eager.clone()
    eager[3, 5], oracle[3, 5], result[3, 5] = eager_value, eager_value, value
    assert ("G1" in failed(result, eager, oracle)) == broken


def test_g1_counts_what_differs() -> None:
    eager, oracle = honest()
    result = eager.clone()
    result[0, :3], result[1, 0] = NAN, INF
    (gate,) = [g for g in check_gates([result], [eager], [oracle]) if g.gate == "G1"]
    assert (gate.actual, gate.bound) == (4, 0)
    assert gate.detail == "3 NaN and 1 infinities differ from eager"


def test_where_everything_is_nan_only_g1_judges() -> None:
    nothing = torch.full((4,), NAN)
    assert [g.gate for g in check_gates([nothing], [nothing], [nothing.double()])] == ["G0", "G1"]
    assert failed(torch.zeros(4), nothing, nothing.double()) == ["G1"]


def test_an_overflow_that_eager_has_is_no_error() -> None:
    eager = torch.tensor([1.0, INF], dtype=torch.float16)
    assert failed(eager, eager, torch.tensor([1.0, 1e6], dtype=torch.float64)) == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_wrong_element_breaks_g3_alone(dtype: torch.dtype) -> None:
    """An error too small and too rare for the mean, and far outside of eager's."""
    eager, oracle = honest(dtype)
    bounds = {g.gate: g.bound for g in check_gates([eager], [eager], [oracle])}
    result = oracle.clone()
    result[3, 5] += 1.5 * bounds["G3"]
    assert errors_only(result, eager, oracle) == {"G2": True, "G3": False}
    result[3, 5] -= 1.0 * bounds["G3"]
    assert errors_only(result, eager, oracle) == {"G2": True, "G3": True}


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_slightly_worse_mean_breaks_g2_alone(dtype: torch.dtype) -> None:
    """Every element is a little wrong, none is as wrong as G3 allows one to be."""
    eager, oracle = honest(dtype)
    bounds = {g.gate: g.bound for g in check_gates([eager], [eager], [oracle])}
    assert bounds["G2"] < bounds["G3"]
    noise = torch.where(torch.arange(64 * 64).reshape(64, 64) % 2 == 0, 1.0, -1.0).double()
    gates = errors_only(oracle + 1.2 * bounds["G2"] * noise, eager, oracle)
    assert gates == {"G2": False, "G3": True}
    assert errors_only(oracle + 0.8 * bounds["G2"] * noise, eager, oracle) == {"G2": True, "G3": True}


def errors_only(result: torch.Tensor, eager: torch.Tensor, oracle: torch.Tensor) -> dict[str, bool]:
    """G2 and G3 of a float64 result as if it had eager's dtype."""
    gates = _errors(0, result.flatten(), eager.double().flatten(), oracle.flatten(), eager.dtype)
    return {g.gate: g.passed for g in gates}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bounds_are_the_written_ones(dtype: torch.dtype) -> None:
    eager, oracle = honest(dtype)
    bounds = {g.gate: g.bound for g in check_gates([eager], [eager], [oracle])}
    narrow = dtype in (torch.float16, torch.bfloat16)
    eps = torch.finfo(dtype).eps
    error = (eager.double() - oracle).abs()
    rms = [float(t.square().mean().sqrt()) for t in (error, oracle)]
    rms_bound = (3 if narrow else 2) * rms[0] + (1 if narrow else 4) * eps * rms[1]
    assert bounds["G2"] == pytest.approx(rms_bound, rel=1e-12)  # sums of squares in another order
    assert bounds["G3"] == 4 * float(error.max()) + 4 * eps * float(oracle.abs().max())


@pytest.mark.parametrize("scale", [1.001, 0.999, -1.0])
def test_a_wrong_scale_breaks_the_error_gates(scale: float) -> None:
    assert edited(lambda t: t * scale) == ["G2", "G3"]


@pytest.mark.parametrize("magnitude", [1e-30, 1e30])
def test_the_gates_do_not_depend_on_the_magnitude(magnitude: float) -> None:
    eager, oracle = honest()
    assert failed(eager * magnitude, eager * magnitude, oracle * magnitude) == []
    assert failed(eager * magnitude * 1.01, eager * magnitude, oracle * magnitude) == ["G2", "G3"]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool])
def test_integers_and_booleans_are_exact(dtype: torch.dtype) -> None:
    eager = torch.tensor([0, 1, 1, 0]).to(dtype)
    assert failed(eager.clone(), eager, eager) == []
    wrong = eager.clone()
    wrong[0] = 1
    (gate,) = check_gates([wrong], [eager], [eager])
    assert (gate.passed, gate.detail) == (False, "1 of 4 values differ")


@pytest.mark.parametrize(
    ("value", "eager", "passes"),
    [
        (3, 3, True),
        (None, None, True),
        (3, 4, False),
        (3, 3.0, False),
        (True, 1, False),
        ("a", "b", False),
    ],
)
def test_plain_values(value: object, eager: object, passes: bool) -> None:
    assert (failed(value, eager, eager) == []) == passes


@pytest.mark.parametrize("shape", [(0,), (0, 4), ()])
def test_empty_and_scalar_leaves(shape: tuple[int, ...]) -> None:
    eager = torch.full(shape, 2.0)
    assert failed(eager.clone(), eager, eager.double()) == []
    assert failed(torch.full((*shape, 1), 2.0), eager, eager.double()) == ["G0"]
    if not shape:
        assert failed(torch.tensor(2.1), eager, eager.double()) == ["G2", "G3"]


def test_a_missing_or_additional_leaf_breaks_g0() -> None:
    eager, oracle = honest()
    for leaves in ([], [eager, eager]):
        (gate,) = check_gates(leaves, [eager], [oracle])
        assert (gate.gate, gate.passed) == ("G0", False)
        assert gate.detail == f"{len(leaves)} leaves, eager has 1"


def test_every_leaf_is_judged() -> None:
    eager, oracle = honest()
    results = check_gates([eager, eager * 2, eager], [eager] * 3, [oracle] * 3)
    assert {g.leaf for g in results} == {0, 1, 2}
    assert {(g.leaf, g.gate) for g in results if not g.passed} == {(1, "G2"), (1, "G3")}


def test_no_gate_hides_another() -> None:
    eager, oracle = honest()
    result = eager * 2
    result[0, 0] = NAN
    assert failed(result, eager, oracle) == ["G1", "G2", "G3"]


def test_text() -> None:
    assert str(GateResult("G2", 1, False, 0.25, 0.125)) == "G2 output 1: 0.25 > 0.125"
    assert str(GateResult("G3", 0, True, 0.125, 0.25)) == "G3 output 0: 0.125 <= 0.25"


def test_which_inputs_an_output_shares_memory_with() -> None:
    a, b = torch.ones(4), torch.ones(4)
    outputs = [a, b[1:], a + 1, 3, torch.empty(0)]
    assert shared_inputs(outputs, [a, b, torch.empty(0)]) == [{0}, {1}, frozenset(), frozenset(), frozenset()]


def test_an_output_may_not_gain_an_alias_but_may_lose_one() -> None:
    none, first = frozenset[int](), frozenset({0})
    a = torch.ones(2)
    assert check_memory([first], [first], [a], [a]) == []
    assert check_memory([none], [first], [a], [a]) == []
    (gate,) = check_memory([first], [none], [a], [a])
    assert (gate.gate, gate.passed, gate.leaf) == ("G0", False, 0)
    assert gate.detail == "shares memory with input 0, eager's does not"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])),
        (torch.tensor([1.0, NAN]), torch.tensor([1.0, 0.0])),
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (torch.tensor([1, 2]), torch.tensor([1, 3])),
        (torch.tensor(True), torch.tensor(False)),
    ],
)
def test_inputs_must_be_bit_identical_after_a_run(before: torch.Tensor, after: torch.Tensor) -> None:
    assert check_memory([], [], [before.clone()], [before]) == []
    (gate,) = check_memory([], [], [after], [before])
    assert (gate.gate, gate.passed, gate.detail) == ("G0", False, "input 0 was written to")


WIDE = torch.linspace(1, 2, 100, dtype=torch.float64)
SEEN: dict[str, tuple[object, object, bool]] = {
    "rounded": (WIDE.float(), WIDE, True),
    "the error of many layers": ((WIDE * (1 + 2e-6)).float(), WIDE, True),
    "more than that": ((WIDE * (1 + 1e-5)).float(), WIDE, False),
    "halves": (WIDE.half(), WIDE, False),
    "float64": (WIDE, WIDE.clone(), True),
    "NaN": (WIDE.float() * math.nan, WIDE * math.nan, False),
    "zeros": (torch.zeros(3), torch.zeros(3).double(), True),
    "empty": (torch.zeros(0), torch.zeros(0).double(), True),
    "integers": (torch.arange(3), torch.arange(3), True),
    "other integers": (torch.arange(3), torch.arange(3) + 1, False),
    "plain": ("a", "a", True),
    "other plain values": (1, 2, False),
}


@pytest.mark.parametrize(("eager", "oracle", "expected"), SEEN.values(), ids=SEEN)
def test_only_rounded(eager: object, oracle: object, expected: bool) -> None:
    assert only_rounded([eager], [oracle]) is expected
    assert only_rounded([torch.arange(2), eager], [torch.arange(2), oracle]) is expected
