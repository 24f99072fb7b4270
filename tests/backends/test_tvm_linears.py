"""Linears that TVM generates: as near to float64 as torch's own, for every tail; and how they are chosen."""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import txgraph
from tests.backends.kernels.errors import as_near
from tests.helpers import normal
from tests.small import MLP, assert_as_eager, module
from txgraph.backends.calls import gemm
from txgraph.backends.calls.gemm import GENERATED, GemmShape
from txgraph.backends.tvm import linears, search
from txgraph.backends.tvm.codegen import library_of
from txgraph.backends.tvm.library import Function, load_functions
from txgraph.backends.tvm.linears import LinearGenerator
from txgraph.backends.tvm.tiling import Problem, Tiling, tilings
from txgraph.cache import Measurements
from txgraph.ir.ops import ACTIVATIONS

pytestmark = pytest.mark.skipif(importlib.util.find_spec("tvm") is None, reason="Apache TVM is not installed")

TILINGS = (  # lanes, rows, columns, depth, panels
    Tiling(16, 4, 4, 64, 0),
    Tiling(8, 3, 3, 32, 0),
    Tiling(16, 3, 64, 32, 1),
    Tiling(8, 2, 16, 48, 1),
)
SIZES = ((64, 64), (35, 130), (10, 5))  # K, N
ROWS = (1, 2, 5, 6, 7, 8, 13, 29)


@pytest.fixture(scope="module")
def functions() -> dict[str, Function]:
    """Each tiling for each size, in turns of a plain product, and with a bias and an activation."""
    from tvm import tirx

    from txgraph.backends.tvm.gemm import linear_function

    written = {}
    for name, ((k, n), columns, tiling) in cases().items():
        m, bias = tirx.Var("m", "int64"), name.endswith("biased")
        tiling = replace(tiling, depth=min(tiling.depth, -(-k // tiling.lanes) * tiling.lanes))
        written[name] = linear_function(name, [m], [m, k], n, columns, bias, "gelu" if bias else "", tiling)
    return load_functions(library_of(written), list(written))


def cases() -> dict[str, tuple[tuple[int, int], bool, Tiling]]:
    """Sizes, whether the weight is stored by columns, and a tiling."""
    found = [(sizes, False, tiling) for sizes in SIZES for tiling in TILINGS]
    found += [(sizes, True, tiling) for sizes in SIZES for tiling in TILINGS if tiling.panels]
    return {f"linear_{at}{'_biased' if at % 2 else ''}": each for at, each in enumerate(found)}


def unaligned(*shape: int) -> torch.Tensor:
    """Normal numbers that do not begin where vectors do."""
    memory = torch.empty(math.prod(shape) + 1)[1:].view(shape)
    return memory.copy_(normal(*shape))


@pytest.mark.parametrize("name", cases())
def test_every_size(name: str, functions: dict[str, Function]) -> None:
    (k, n), columns, _ = cases()[name]
    for make in (normal, unaligned):
        w, b = make(n, k), make(n)
        stored = w.t().contiguous() if columns else w
        for m in ROWS:
            x = make(m, k)
            memory = torch.full(((m + 2) * n,), math.nan)
            y = memory[n:-n].view(m, n)
            if name.endswith("biased"):
                functions[name](m, x, stored, b, y)
                as_near(y, lambda *operands: F.gelu(F.linear(*operands)), x, w, b)
            else:
                functions[name](m, x, stored, y)
                as_near(y, F.linear, x, w)
            assert memory[:n].isnan().all()  # nothing is written beside the result
            assert memory[-n:].isnan().all()


def test_results_do_not_depend_on_threads(functions: dict[str, Function]) -> None:
    x, w, b = normal(29, 35), normal(130, 35), normal(130)
    names = [name for name, (sizes, columns, _) in cases().items() if sizes == (35, 130) and not columns]
    before = torch.get_num_threads()
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results = [torch.empty(29, 130) for _ in names]
        for name, result in zip(names, results, strict=True):
            functions[name](29, x, w, *([b] if name.endswith("biased") else []), result)
        found.append(results)
    torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_keeps_its_numbers_to_itself(value: float, functions: dict[str, Function]) -> None:
    x, w = normal(13, 35), normal(130, 35)
    x[3, 4] = value
    for name, (sizes, columns, _) in cases().items():
        if sizes == (35, 130) and not name.endswith("biased"):
            y = torch.empty(13, 130)
            functions[name](13, x, w.t().contiguous() if columns else w, y)
            assert not y[3].isfinite().any()
            assert y[:3].isfinite().all()
            assert y[4:].isfinite().all()


def test_what_is_tried() -> None:
    for m, k in ((1, 768), (7, 3072), (128, 768), (128, 3072), (1000, 500)):
        several = tilings(Problem(m, k, 768, columns=False))
        assert len(set(map(str, several))) == len(several) > 0
        for each in several:
            assert each.depth % each.lanes == each.width % each.lanes == each.width % each.columns == 0
            assert each.depth < k + each.lanes
            assert Tiling(*each.numbers) == each
    assert tilings(Problem(8, 768, 768, columns=True)) == []
    assert all(each.panels for each in tilings(Problem(1000, 768, 768, columns=False)))


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[Tiling]:
    """Every linear is generated, by the first of these tilings; nothing is searched or measured."""
    used = [TILINGS[0]]

    def first(ways: dict[str, Callable[[], object]], *rest: Any, **named: Any) -> tuple[str, str]:
        return (GENERATED, "chosen") if GENERATED in ways else ("aten", "the first")

    monkeypatch.setattr(gemm, "fastest", first)
    monkeypatch.setattr(linears, "LEAST", 1)
    monkeypatch.setattr(LinearGenerator, "_tiling", lambda self, problem: used[0])
    return used


def linears_of(fast: txgraph.OptimizedModel) -> list[str]:
    return [kernel.name for kernel in fast.kernels() if kernel.name.startswith("linear_")]


@pytest.mark.parametrize("tiling", [TILINGS[0], TILINGS[2]], ids=str)
def test_a_model_with_any_number_of_rows(tiling: Tiling, generated: list[Tiling]) -> None:
    generated[0] = tiling
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 70), nn.GELU(), nn.Linear(70, 40, bias=False))
    fast = txgraph.optimize(model, backend="tvm", verify="final")
    for shape in ((2, 3, 40), (3, 9, 40), (5, 17, 40)):
        x = torch.randn(shape)
        assert_as_eager(fast(x), model, x)
    assert len(fast.report.graphs) == 2
    assert len(linears_of(fast)) == 2
    assert fast.report.fallbacks == []
    assert "chosen" in str(fast.report)
    with torch.no_grad():
        model[0].weight.mul_(2)  # where it is, it is read
        model[2].weight.mul_(0.5)
    assert_as_eager(fast(x), model, x)
    assert len(fast.report.graphs) == 2


def test_weights_by_columns_and_inputs_of_any_strides(generated: list[Tiling]) -> None:
    generated[0] = TILINGS[2]
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(24, 40))
    model = module(lambda x: F.linear(x.transpose(1, 2), weight.transpose(0, 1)), weight=weight)
    x = torch.randn(2, 24, 9)
    fast = txgraph.optimize(model, args=(x,), backend="tvm")
    assert len(linears_of(fast)) == 1
    assert_as_eager(fast(x), model, x)


@pytest.mark.usefixtures("generated")
def test_a_wrong_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from txgraph.backends.tvm.gemm import Gemm

    monkeypatch.setattr(Gemm, "_finish", lambda *_: None)  # no bias
    model, x = MLP(), torch.randn(2, 4)
    fast = txgraph.optimize(model, args=(x,), backend="tvm")
    assert any("gate" in fallback.reason for fallback in fast.report.fallbacks)
    assert_as_eager(fast(x), model, x)


SHAPE = GemmShape(3, 40, (70, 30), "relu", bias=True)


def test_the_search_has_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It finds one of the tilings; what is timed computes the linear, of each width, with a bias and without one."""
    monkeypatch.setattr(linears, "LEAST", 1)
    with LinearGenerator(remembers=False) as generator:
        found = generator(SHAPE, False)
        worker = generator._worker
    assert worker is not None
    assert not worker.is_running
    assert found is not None
    assert Tiling(*found.rest[1]) in tilings(Problem(3, 40, 70, columns=False))  # type: ignore[misc]
    x = normal(3, 40)
    for w, b in ((normal(70, 40), normal(70)), (normal(30, 40), None)):
        as_near(found.run(x, w, b), lambda *operands: F.relu(F.linear(*operands)), x, w, b)


def test_a_search_that_fails_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    crashes = tmp_path / "crashes.py"
    crashes.write_text("raise SystemExit('no code today')")
    monkeypatch.setattr(linears, "LEAST", 1)
    monkeypatch.setattr(search, "__file__", str(crashes))
    with caplog.at_level(logging.WARNING), LinearGenerator(remembers=False) as generator:
        assert generator(SHAPE, False) is None
    assert "no code is generated for linear 3x40x70+30 + relu" in caplog.text
    assert "no code today" in caplog.text


def test_what_was_found_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TXGRAPH_CACHE", "1")
    monkeypatch.setenv("TXGRAPH_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(linears, "LEAST", 1)
    problem = Problem(3, 40, 70, columns=False)
    several = tilings(problem)
    Measurements().keep(problem.about, {str(tiling): -float(at) for at, tiling in enumerate(several)})
    with LinearGenerator(remembers=True) as generator:
        found = generator(SHAPE, False)
        assert generator._worker is None
    assert found is not None
    assert found.rest == (False, several[-1].numbers)


def test_small_weights_are_left_to_others() -> None:
    with LinearGenerator(remembers=False) as generator:
        assert generator(replace(SHAPE, n=(70,)), False) is None
        assert generator._worker is None


@pytest.mark.parametrize("activation", ["", *ACTIVATIONS])
def test_activations(activation: str) -> None:
    from txgraph.backends.tvm.gemm import linear_function

    x, w, b = normal(7, 40), normal(24, 40), normal(24)
    function = linear_function("linear", [], [7, 40], 24, False, True, activation, TILINGS[1])
    y = torch.empty(7, 24)
    load_functions(library_of({"linear": function}), ["linear"])["linear"](x, w, b, y)
    as_near(y, lambda *operands: ACTIVATIONS.get(activation, torch.clone)(F.linear(*operands)), x, w, b)


def test_the_operator_keeps_its_meaning() -> None:
    x, w, b = normal(2, 3, 8), normal(5, 8), normal(5)
    operator, tiling = torch.ops.txgraph.linear_generated.default, TILINGS[0].numbers
    assert torch.equal(operator(x, w, b, "relu", False, tiling), F.relu(F.linear(x, w, b)))
    assert torch.equal(operator(x, w.t().contiguous(), None, "", True, tiling), F.linear(x, w.t().contiguous().t()))
    tests = ("test_schema", "test_faketensor")
    result = torch.library.opcheck(operator, (x, w, b, "relu", False, tiling), test_utils=tests)
    assert set(result.values()) == {"SUCCESS"}
