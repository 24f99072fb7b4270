"""How a budget was spent, as charts and on the page: the numbers are at their places, and each method is named."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import txgraph
from tests.small import MLP
from txgraph import Budget
from txgraph.errors import TxgraphError
from txgraph.lossy import Distance, Point, Spending, Spent
from txgraph.lossy.distance import LeafDistance
from txgraph.passes.precision.int8 import Int8
from txgraph.render import render_budget
from txgraph.render.budget import MOST_ROWS, to_svg
from txgraph.render.chart import Axis
from txgraph.render.style import METHODS

SVG = "{http://www.w3.org/2000/svg}"
PLACES = (
    Spent("encoder.0.query, key", "int8", 400e-6, 100e-6, 3e-3, 0.36),
    Spent("encoder.0.out", "low rank, error 0.02", 200e-6, 150e-6, 4e-3, 0.64),
)
WAY = (Point(0, 600e-6, 0.0), Point(1, 300e-6, 3e-3, 2.9e-3), Point(2, 250e-6, 5e-3, 5.2e-3), Point(3, 240e-6, 4e-2))


def distance(error: float) -> Distance:
    return Distance((LeafDistance((error**2,), (1.0,), product=1.0, own=1.0),))


SPENDING = Spending(
    Budget(relative_error=0.01), 0.51, distance(5.2e-3), distance(5.1e-3), (4, 4), PLACES, WAY, 2, stopped="the budget"
)


def shapes(spending: Spending, tag: str) -> list[ET.Element]:
    return list(ET.fromstring(to_svg(spending)).iter(f"{SVG}{tag}"))


def words(spending: Spending) -> list[str]:
    return [each.text or "" for each in shapes(spending, "text")]


def titles(spending: Spending) -> str:
    return "\n".join(each.text or "" for each in shapes(spending, "title"))


def test_the_way_from_exact_to_fast() -> None:
    steps = [each for each in shapes(SPENDING, "circle") if "data-step" in each.attrib]
    assert [each.get("data-step") for each in steps] == ["0", "1", "2", "3"]
    x, y = ([float(each.attrib[axis]) for each in steps] for axis in ("cx", "cy"))
    assert x == sorted(x, reverse=True)  # fewer seconds are further left
    assert y == sorted(y, reverse=True)  # larger errors are further up
    assert (x[0] - x[1]) / (x[1] - x[2]) == pytest.approx(300 / 50, rel=1e-2)  # as seconds
    told = titles(SPENDING)
    assert "step 2: 250 µs (2.40 times faster), predicted error 5.0e-03" in told
    assert "step 2: measured error 5.2e-03" in told
    assert "calls held out: error 5.1e-03" in told
    (chosen,) = (each for each in shapes(SPENDING, "line") if each.get("class") == "chosen")
    assert float(chosen.attrib["x1"]) == x[2]
    assert "chosen: 2 of 3 steps" in words(SPENDING)


def test_the_limit_is_where_the_error_is_as_large() -> None:
    (limit, _) = (each for each in shapes(SPENDING, "line") if each.get("stroke-dasharray") == "7 4")
    heights = [float(e.attrib["cy"]) for e in shapes(SPENDING, "circle") if "data-step" in e.attrib]
    assert heights[3] < float(limit.attrib["y1"]) < heights[2]  # 5e-3 is allowed, 4e-2 is not
    assert "limit 0.01" in words(SPENDING)
    assert "limit 0.0316" in words(replace(SPENDING, budget=Budget(sqnr_db=30)))
    other = words(replace(SPENDING, budget=Budget(top1_agreement=0.9)))
    assert not [each for each in other if "limit" in each or each == "the budget"]


def test_each_place_has_its_bars() -> None:
    assert {"encoder.0.query, key", "encoder.0.out", "1: int8 (at 1)"} <= set(words(SPENDING))
    bars = {color: [] for color in METHODS[:2]}  # type: dict[str, list[float]]
    for each in shapes(SPENDING, "rect"):
        if each.find(f"{SVG}title") is not None and each.get("fill") in bars:
            bars[each.attrib["fill"]].append(float(each.attrib["width"]))
    (after1, share1), (after2, share2) = bars.values()
    assert after2 / after1 == pytest.approx(150 / 100, rel=1e-2)
    assert share2 / share1 == pytest.approx(0.64 / 0.36, rel=1e-2)
    told = titles(SPENDING)
    assert "encoder.0.query, key: int8; 400 µs before, 100 µs after; error alone 3.0e-03, 36.0% of the squared" in told


def test_many_places_end_in_one_line() -> None:
    many = tuple(Spent(f"layer.{at}", "int8", (200 + at) * 1e-6, 1e-4, 1e-3, 0.01) for at in range(100))
    drawn = words(replace(SPENDING, spent=many))
    places = [each for each in drawn if each.startswith("layer.")]
    assert places == [f"layer.{at}" for at in range(99, 99 - MOST_ROWS, -1)]  # those that gain most
    assert "and 60 places that gain less: 13.8 ms before, 6 ms after, 60% of the squared error" in drawn


def test_nothing_spent() -> None:
    exact = replace(SPENDING, spent=(), path=(Point(0, 0.0, 0.0),), at=0, held_out=distance(0.0))
    assert "chosen: 0 of 0 steps" in words(exact)
    assert "What each place gains and costs" not in words(exact)
    broken = replace(SPENDING, path=(*WAY, Point(4, 1e-6, float("inf"), float("inf"))), held_out=distance(float("nan")))
    assert "inf" not in to_svg(broken)
    assert "nan" not in to_svg(broken)


def test_ticks_are_round() -> None:
    assert Axis(0, 31, 0, 100).ticks() == [0, 10, 20, 30]
    assert Axis(0.004, 0.3, 0, 100, log=True).ticks() == pytest.approx([0.005, 0.01, 0.02, 0.05, 0.1, 0.2])
    assert Axis(1, 100, 0, 100, log=True).at(10) == pytest.approx(50)


def test_names_are_text(tmp_path: Path) -> None:
    odd = replace(PLACES[0], module='a<b>&"c', method="<i>")
    assert 'a<b>&"c' in words(replace(SPENDING, spent=(odd,)))


def test_nothing_is_prepared_again_to_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To quantize a model takes long; near misses are those of exact passes."""
    data = [{"x": torch.randn(3, 4, generator=torch.Generator().manual_seed(at))} for at in range(4)]
    fast = txgraph.optimize(
        MLP(),
        kwargs=data[0],
        passes=txgraph.default_pipeline().append(Int8()),
        budget=Budget(relative_error=0.3),
        calibration=data,
        backend="reference",
        verify="off",
    )
    assert fast.report.budget is not None
    assert len(fast.report.budget.spent) == 2
    monkeypatch.setattr(Int8, "prepare", lambda *_: pytest.fail("prepared again"))
    fast.render(tmp_path / "model.html")
    fast.render_budget(tmp_path / "budget.svg")
    assert ET.parse(tmp_path / "budget.svg").getroot().tag == f"{SVG}svg"


def test_the_file(tmp_path: Path) -> None:
    path = render_budget(SPENDING, tmp_path / "budget.svg")
    assert path.read_text(encoding="utf-8") == to_svg(SPENDING)
    with pytest.raises(ValueError, match=r"must end in \.svg"):
        render_budget(SPENDING, tmp_path / "budget.png")
    fast = txgraph.optimize(MLP(), kwargs={"x": torch.ones(2, 4)}, backend="reference", verify="off")
    with pytest.raises(TxgraphError, match="no budget was spent"):
        fast.render_budget(tmp_path / "budget.svg")
    assert not re.search(r"(href|src)=", to_svg(SPENDING))  # it loads nothing
