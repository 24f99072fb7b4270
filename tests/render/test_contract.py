"""Many boxes as one, and never in a circle."""

from __future__ import annotations

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from tests.render.models import op
from txgraph.render.contract import Group, contract
from txgraph.render.diff import UNCHANGED, Fate, Status
from txgraph.render.panel import Box, Link, Panel


def box(name: str, status: Status = Status.UNCHANGED, how: str = "", *passes: str, times: int = 1) -> Box:
    fate = UNCHANGED if status is Status.UNCHANGED else Fate(status, how, passes)
    note = f"{how} {', '.join(passes)}"
    return Box(name, (), (op(name),), fate, note.strip(), times=times, seconds=1.0)


def panel(boxes: list[Box], *links: str) -> Panel:
    arrows = tuple(Link(*each.split(), type="f32[4]") for each in links)
    return Panel("after", tuple(boxes), arrows, {}, {}, len(boxes))


def members(panel: Panel) -> list[list[str]]:
    return [[each.name for each in box.ops] for box in panel.boxes]


def capital(box: Box) -> Group | None:
    """Boxes of one first letter are a group; small letters stay alone."""
    return Group(box.id[0]) if box.id[0].isupper() else None


def test_a_group_is_one_box_with_one_arrow_for_each_neighbour() -> None:
    whole = panel([box(n) for n in ("x", "A1", "A2", "A3", "y")], "x A1", "x A2", "A1 A3", "A2 A3", "A3 y")
    joined = contract(whole, capital)
    assert members(joined) == [["x"], ["A1", "A2", "A3"], ["y"]]
    (group,) = [each for each in joined.boxes if each.inside]
    assert [(link.source, link.target) for link in joined.links] == [("x", group.id), (group.id, "y")]
    assert group.seconds == 3.0
    assert group.operators() == 3


def test_a_group_that_is_left_and_entered_again_is_two() -> None:
    whole = panel([box(n) for n in ("A1", "A2", "x", "A3", "A4")], "A1 A2", "A2 x", "x A3", "A3 A4", "A1 A4")
    assert members(contract(whole, capital)) == [["A1", "A2"], ["x"], ["A3", "A4"]]


def test_a_group_beside_another_way_stays_whole() -> None:
    """However long the way around it is: only one that comes back divides it."""
    whole = panel([box(n) for n in ("x", "y", "z", "A1", "A2")], "x y", "y z", "z A2", "x A1", "A1 A2")
    assert members(contract(whole, capital)) == [["x"], ["y"], ["z"], ["A1", "A2"]]


def test_a_box_alone_is_a_group_only_under_a_title() -> None:
    whole = panel([box("A1"), box("B1")], "A1 B1")
    named = contract(whole, lambda each: Group(each.id, title="kernel" if each.id == "A1" else ""))
    assert [(each.title, bool(each.inside)) for each in named.boxes] == [("kernel", True), ("", False)]


def test_the_most_telling_status_is_shown_and_every_pass_named_once() -> None:
    parts = [
        box("A1", Status.REMOVED, "removed by", "fold"),
        box("A2", Status.FUSED, "fused by", "fuse"),
        box("A3", Status.REMOVED, "removed by", "fold"),
        box("A4", Status.REMOVED, "removed by", "drop"),
        box("A5"),
    ]
    (group,) = contract(panel(parts), capital).boxes
    assert group.fate.status is Status.FUSED
    assert group.note == "removed by fold, drop; fused by fuse"
    assert [each.name for each in group.ops] == ["A2", "A5"]
    assert [each.name for each in group.replaced] == ["A1", "A3", "A4"]
    (gone,) = contract(panel([parts[0], parts[2]]), capital).boxes
    assert gone.fate.status is Status.REMOVED
    assert len(gone.ops) == 2
    (some,) = contract(panel([parts[0], parts[4]]), capital).boxes
    assert some.fate.status is Status.CHANGED


def test_groups_of_groups_are_made_of_the_same_boxes() -> None:
    whole = panel([box(n) for n in ("A1", "A2", "B1")], "A1 A2", "A2 B1")
    twice = contract(contract(whole, capital), lambda each: Group("all", title="all"))
    assert [[inner.id for inner in each.inside] for each in twice.boxes] == [["A1", "A2", "B1"]]


def test_equal_layers_count() -> None:
    (group,) = contract(panel([box("A1", times=12), box("A2", times=12)]), capital).boxes
    assert group.operators() == 24
    assert group.operators(12) == 2


@given(st.lists(st.tuples(st.sampled_from("ABCx"), st.lists(st.integers(0, 20), max_size=3)), min_size=1, max_size=20))
def test_no_arrows_run_in_a_circle(drawn: list[tuple[str, list[int]]]) -> None:
    names = [f"{letter}{at}" for at, (letter, _) in enumerate(drawn)]
    links = [f"{names[s]} {names[at]}" for at, (_, sources) in enumerate(drawn) for s in sources if s < at]
    joined = contract(panel([box(name) for name in names], *links), capital)
    assert sorted(name for group in members(joined) for name in group) == sorted(names)
    flow: nx.DiGraph = nx.DiGraph((link.source, link.target) for link in joined.links)
    assert nx.is_directed_acyclic_graph(flow)
    assert not list(nx.selfloop_edges(flow))
