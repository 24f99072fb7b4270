"""The drawing as Graphviz's source, drawn by the real program."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace

import graphviz
import pytest
import torch
from torch import nn

from tests.render.models import Stack, X, op, stages
from txgraph.render import Picture, Stages, labels
from txgraph.render.diff import Fate, Status
from txgraph.render.dot import to_dot
from txgraph.render.drawing import draw
from txgraph.render.panel import MAX_ARROWS, Box, Link
from txgraph.render.style import LOOKS
from txgraph.render.view import Constant

SVG = "{http://www.w3.org/2000/svg}"
NASTY = 'a "b" <c> & {d|e} \\n \\l [f] ä'

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")


def source_of(run: Stages, title: str = "") -> graphviz.Digraph:
    drawing = draw(run)
    return to_dot(Picture("side-by-side").panels(drawing), drawing.changes, title)


def svg_of(run: Stages, title: str = "Stack") -> ET.Element:
    return ET.fromstring(source_of(run, title).pipe(format="svg"))


def texts(element: ET.Element) -> list[str]:
    """Texts of an SVG; Graphviz writes runs of blanks with no-break spaces."""
    found = ("".join(t.itertext()).replace("\xa0", " ").strip() for t in element.iter(f"{SVG}text"))
    return [text for text in found if text]


def group(svg: ET.Element, title: str) -> ET.Element:
    """The node, edge or cluster of that name."""
    return next(g for g in svg.iter(f"{SVG}g") if g.findtext(f"{SVG}title") == title)


def tooltip(node: ET.Element) -> list[str]:
    """Its lines."""
    link = node.find(f".//{SVG}a")
    assert link is not None
    return link.get("{http://www.w3.org/1999/xlink}title", "").replace("\xa0", " ").split("\n")


@pytest.fixture(scope="module")
def run() -> Stages:
    return stages(Stack(8, 8, 8), X)


@pytest.fixture(scope="module")
def svg(run: Stages) -> ET.Element:
    if shutil.which("dot") is None:
        pytest.skip("needs Graphviz")
    return svg_of(run)


def test_both_graphs_are_there(svg: ET.Element, run: Stages) -> None:
    before, after = (texts(group(svg, f"cluster_{side}")) for side in ("before", "after"))
    assert before[:2] == ["before", f"{len(run.before.calls())} operators"]
    assert after[:2] == ["after", f"{len(run.after.calls())} operators"]


def test_operators_weights_and_types(svg: ET.Element) -> None:
    shown = texts(svg)
    assert {"gelu", "txgraph::linear_activation", "split_with_sizes", "tanh", "x", "output"} <= set(shown)
    assert "down.weight [4x8], bias" in shown
    assert "gate+up.weight [16x4], bias" in shown
    first = next(g for g in svg.iter(f"{SVG}g") if g.findtext(f"{SVG}title") == "before_x->before_linear")
    assert texts(first) == ["f32[2, 4]"]


def test_layers_are_drawn_once_with_their_number(svg: ET.Element) -> None:
    frame = group(svg, "cluster_before_layers.0")
    assert texts(frame)[:3] == ["x3", "layers.0..2", "Block"]
    titles = [g.findtext(f"{SVG}title", "") for g in svg.iter(f"{SVG}g") if "gelu" in texts(g)]
    assert [t for t in titles if t.startswith("before_")] == ["before_gelu"]
    assert not any(g.findtext(f"{SVG}title") == "cluster_before_layers.1" for g in svg.iter(f"{SVG}g"))


def test_the_legend_has_every_status_and_the_changes(svg: ET.Element) -> None:
    shown = texts(group(svg, "txgraph"))
    assert shown[: 1 + len(LOOKS)] == ["Stack", *(look.meaning for look in LOOKS.values())]
    assert {"fuse-linear-activation", "linear, gelu → txgraph::linear_activation", "in layers.0..2"} <= set(shown)


def test_statuses_differ_in_more_than_colour() -> None:
    assert len({(look.border, look.width, look.borders) for look in LOOKS.values()}) == len(LOOKS)


def test_a_node_says_what_became_of_it(svg: ET.Element) -> None:
    node = group(svg, "before_gelu")
    assert "fused" in node.get("class", "")
    assert texts(node) == ["gelu", "#2", "fused by fuse-linear-activation"]
    assert texts(group(svg, "before_clone"))[-1] == "removed by remove-identities"
    line = group(svg, "before_clone").find(f".//{SVG}polygon")
    assert line is not None
    assert line.get("stroke-dasharray")
    assert line.get("fill") == LOOKS[Status.REMOVED].fill.lower()


def test_tooltips_tell_the_origin(svg: ET.Element) -> None:
    fused = next(
        g for g in svg.iter(f"{SVG}g") if "txgraph::linear_activation" in texts(g) and g.get("class") != "graph"
    )
    tip = tooltip(fused)
    assert re.match(r"%\w+ = txgraph::linear_activation\(%linear_3, layers\.0\.out\.weight, ", tip[0])
    assert tip[0].endswith("'gelu'): f32[2, 4]")
    assert tip[1] == "  module: layers.0"
    assert tip[2].startswith("  source: models.py:")
    assert tip[2].endswith("return x + self.copy(torch.nn.functional.gelu(self.out(hidden)))")
    assert tip[3] == "  passes: fuse-linear-activation"


def test_the_same_operator_is_at_the_same_height(svg: ET.Element) -> None:
    def height(name: str) -> float:
        text = group(svg, name).find(f".//{SVG}text")
        assert text is not None
        return float(text.get("y", "nan"))

    for name in ("x", "tanh", "output", "add"):
        assert height(f"before_{name}") == pytest.approx(height(f"after_{name}"), abs=3)


@needs_dot
def test_operators_that_changed_places_do_not_turn_arrows() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.exp().tanh()

    run = stages(Two(), X)
    exp, tanh = run.after.calls()
    exp.args, tanh.args = (tanh,), (run.after.inputs[0],)
    run.after.output.args = ((exp,),)
    tanh.append(exp)
    source = source_of(run).source
    assert "{\n\t\trank=same\n\t\tbefore_x\n\t\tafter_x" in source
    assert "rank=same\n\t\tbefore_exp" not in source
    ET.fromstring(source_of(run).pipe(format="svg"))


@needs_dot
def test_sizes_that_vary_have_names() -> None:
    dynamic = {"x": {0: torch.export.Dim.AUTO}}
    shown = texts(svg_of(stages(Stack(8, 8), X, dynamic_shapes=dynamic)))
    assert "f32[B, 4]" in shown


@needs_dot
def test_a_value_with_many_users_is_named_at_each() -> None:
    class Wide(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x.exp()
            for at in range(MAX_ARROWS + 1):
                x = x + y * at
            return x

    svg = svg_of(stages(Wide(), X))
    assert texts(group(svg, "before_exp")) == ["exp", "f32[2, 4]", "%exp"]
    assert texts(group(svg, "before_exp_at_before_mul_3")) == ["%exp", "f32[2, 4]"]


@needs_dot
def test_any_text_can_be_drawn(run: Stages) -> None:
    drawing = draw(run)
    clone = next(b for b in drawing.before.boxes if b.ops[0].op == "clone")
    nasty = op(clone.ops[0].name, NASTY, type=NASTY, text=NASTY, code=NASTY, literals=(repr(NASTY),), location=NASTY)
    nasty = replace(nasty, constants=(Constant(NASTY, NASTY, (2, 2), (NASTY,)),), path=(NASTY,))
    box = Box("nasty", (), (nasty,), Fate(Status.REMOVED), note=NASTY, replaced=(nasty,))
    several = Box("group", (NASTY,), (nasty,), Fate(Status.FUSED), note=NASTY, inside=(box,), title=NASTY)
    dot = to_dot([drawing.after], drawing.changes, NASTY)
    dot.node("nasty", label=labels.box_label(box, (), drawing.before, shows_type=True), tooltip=labels.box_tooltip(box))
    dot.node("group", label=labels.box_label(several, (), drawing.before))
    dot.node("reference", label=labels.reference_label(Link(f"after_{NASTY}", NASTY, NASTY)))
    svg = ET.fromstring(dot.pipe(format="svg"))
    assert texts(svg)[0] == NASTY
    shown = texts(group(svg, "nasty"))
    assert shown[0] == shown[-1] == shown[-2] == NASTY
    assert tooltip(group(svg, "nasty"))[0] == f"{NASTY}: {NASTY}"


@needs_dot
def test_equal_graphs_and_no_title() -> None:
    class Plain(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.tanh()

    assert "the graphs are equal" in texts(svg_of(stages(Plain(), X), title=""))


def test_the_same_graph_gives_the_same_source() -> None:
    first, second = (source_of(stages(Stack(8, 8, 6), X), "t").source for _ in range(2))
    assert first == second
