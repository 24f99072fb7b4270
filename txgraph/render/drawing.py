"""Two stages of a graph, compared and folded: what there is to draw."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from txgraph.explain import explain_each, nearest_misses, unfused
from txgraph.ir import Graph, Kernel
from txgraph.pipeline import Pipeline
from txgraph.profile import Profile
from txgraph.render.diff import UNCHANGED, Fates, Status, compare, replaced_paths
from txgraph.render.focus import focus_on
from txgraph.render.fold import Folding, fold, unfolded
from txgraph.render.panel import Box, Link, Panel
from txgraph.render.spent import spent_on
from txgraph.render.summary import Change, summarise
from txgraph.render.view import Arrow, View, module_classes, view_of
from txgraph.report import GraphReport
from txgraph.rewrite import NearMiss, PassContext, Rewrite

SIDES = ("before", "after")


@dataclass(frozen=True)
class Stages:
    """What is compared.

    Attributes:
        before, after: the captured graph, and what it became.
        rewrites: records of what was applied, in order: they say what became of which node.
        seconds_before, seconds_after: what each node is predicted to take, as far as that is known.
        kernels: that compute the graph after, in the order of their launch, if they are known.
        profile: measured seconds of these; they stand in the place of predicted ones.
        benchmark: what ``txgraph bench`` measured, as it writes it.
        misses: gives where passes nearly rewrote. unfused: those fusions among them that the graph after lacks.
        report, text: on the compilation, as data and as text.
    """

    before: Graph
    after: Graph
    rewrites: Sequence[Rewrite] = ()
    seconds_before: Mapping[str, float] = field(default_factory=dict)
    seconds_after: Mapping[str, float] = field(default_factory=dict)
    kernels: Sequence[Kernel] = ()
    profile: Profile | None = None
    benchmark: Mapping[str, Any] = field(default_factory=dict)
    misses: Callable[[], Sequence[NearMiss]] = tuple
    unfused: Callable[[], Sequence[NearMiss]] = tuple
    report: GraphReport | None = None
    text: str = ""

    @classmethod
    def of(
        cls,
        pipeline: Pipeline,
        before: Graph,
        after: Graph,
        rewrites: Sequence[Rewrite],
        context: PassContext,
        skip: Collection[str] = (),
    ) -> Stages:
        """With the predicted seconds of each operator, and what the passes say of what they did not rewrite.

        Args:
            context: what the passes knew. skip: those that were rolled back.
        """
        pipeline = pipeline.exact  # what a budget left undone is no near miss, and to prepare it again takes long
        apart = replace(context.cost, fuses_elementwise=False)  # the captured graph runs each as a kernel of its own
        return cls(
            before,
            after,
            rewrites,
            apart.seconds_by_name(before.calls()),
            context.cost.seconds_by_name(after.calls()),
            misses=lambda: nearest_misses(explain_each(pipeline, before, context, skip).values()),
            unfused=lambda: unfused(pipeline, after, context),
        )

    def errors(self) -> dict[str, str]:
        """What the rewrite that made a node did to the numbers, where that was measured."""
        spent = spent_on(self.after, self.report) if self.report else {}
        return spent | {
            name: f"{error.after:.1e} against float64; {error.before:.1e} before {rewrite.rule}"
            for rewrite, error in (self.report.errors if self.report else ())
            if error is not None
            for name in rewrite.made
        }

    def seconds(self, at: int) -> Mapping[str, float]:
        """What the nodes of one graph take: of the graph after as it was measured, if it was.

        A kernel's seconds are shared by its operators as they are predicted to share them.
        """
        predicted = (self.seconds_before, self.seconds_after)[at]
        if at == 0 or self.profile is None:
            return predicted
        measured: dict[str, float] = defaultdict(float)
        for launch in self.profile.launches:
            names = launch.kernel.nodes
            whole = sum(predicted.get(name, 0.0) for name in names)
            for name in names:
                share = predicted.get(name, 0.0) / whole if whole else 1 / len(names)
                measured[name] += launch.seconds * share
        return measured


@dataclass(frozen=True)
class Drawing:
    """Both graphs, ready to be laid out, and what became of the one in the other, in words."""

    before: Panel
    after: Panel
    changes: tuple[Change, ...]


def draw(stages: Stages, focus: str = "", collapse: bool = True) -> Drawing:
    """Compare two graphs, fold their repeated layers and arrange what is left in boxes.

    Args:
        focus: the path of a module; then what does not belong to it is left out.
        collapse: whether repeated layers are drawn once.

    Raises:
        ValueError: there is no such module.
    """
    graphs = (stages.before, stages.after)
    views: Sequence[View] = [view_of(g) for g in graphs]
    fates: Sequence[Fates] = compare(views[0], views[1], stages.rewrites)
    for name, path in replaced_paths(views[0], views[1], fates).items():
        views[1][name] = replace(views[1][name], path=path)
    for name, error in stages.errors().items():
        if name in views[1]:
            views[1][name] = replace(views[1][name], error=error)
    if focus:
        views, fates = focus_on(focus, views, fates)
    folding = fold(views) if collapse else unfolded(views)
    numbers = _numbers(fates, folding)
    left, right = (
        _panel(graph, view, at, fates[at], folding, numbers, stages.seconds(at), bool(focus))
        for at, (graph, view) in enumerate(zip(graphs, views, strict=True))
    )
    right = replace(right, measured=stages.profile is not None)
    missed = [miss for miss in stages.unfused() if f"{miss.module}.".startswith(f"{focus}." if focus else "")]
    return Drawing(left, right, summarise(views, fates, folding, numbers, missed))


def _numbers(fates: Sequence[Fates], folding: Folding) -> dict[int, int]:
    """Numbers 1, 2, ... of the groups as drawn: equal for the same rewrite in folded layers.

    What was changed one for one needs none.
    """
    members: dict[int, set[tuple[int, str]]] = defaultdict(set)
    for at, each in enumerate(fates):
        for name in folding.drawn[at]:
            group = each[name].group
            if group is not None and each[name].status is not Status.CHANGED:
                members[group].add((at, folding.drawn[at][name]))
    drawn: dict[frozenset[tuple[int, str]], int] = {}
    order = dict.fromkeys(g for name in folding.drawn[0] if (g := fates[0][name].group) in members)
    return {group: drawn.setdefault(frozenset(members[group]), len(drawn) + 1) for group in order}


def _panel(
    graph: Graph,
    view: View,
    at: int,
    fates: Fates,
    folding: Folding,
    numbers: dict[int, int],
    seconds: Mapping[str, float],
    focused: bool,
) -> Panel:
    instances = folding.instances(at)
    boxes = {name: _box(view, at, names, fates, folding, numbers) for name, names in instances.items()}
    boxes = {n: replace(box, seconds=sum(seconds.get(i, 0.0) for i in instances[n])) for n, box in boxes.items()}
    arrows = _arrows(view, at, folding)
    owner = _merge_views(boxes, arrows)
    links = dict.fromkeys(
        Link(owner[a.source].id, owner[target].id, a.type)
        for target, sources in arrows.items()
        for a in sources
        if owner[a.source] is not owner[target]
    )
    drawn = {op.name for op in view.values() if op.kind == "call_function"}
    operators = len([n for n in graph.calls() if n.name in drawn or not focused])
    unique = tuple({box.id: box for box in owner.values()}.values())
    return Panel(SIDES[at], unique, tuple(links), folding.repeats, module_classes(graph), operators)


def _box(view: View, at: int, names: list[str], fates: Fates, folding: Folding, numbers: dict[int, int]) -> Box:
    """The box of a drawn node, with what became of most of the nodes that it stands for."""
    found = Counter((fates[n].status, fates[n].how, fates[n].passes) for n in names)
    most, count = max(found.items(), key=lambda item: (item[1], item[0][0] is not Status.UNCHANGED))
    fate = next(f for n in names if ((f := fates[n]).status, f.how, f.passes) == most)
    first = names[0]
    box = Box(f"{SIDES[at]}_{first}", folding.paths[at][first], (view[first],), UNCHANGED, times=len(names))
    if fate.status is Status.UNCHANGED:
        return box
    note = f"{fate.how} {', '.join(fate.passes)}" if fate.passes else str(fate.status)
    if count < len(names):
        note += f" ({count} of {len(names)})"
    number = None if fate.group is None else numbers.get(fate.group)
    return replace(box, fate=fate, note=note, number=number)


def _arrows(view: View, at: int, folding: Folding) -> dict[str, list[Arrow]]:
    """Arrows into each drawn node; those from one instance of a folded layer to the next are left out."""
    drawn = folding.drawn[at]
    arrows: dict[str, list[Arrow]] = {name: [] for name in view if drawn[name] == name}
    for op in view.values():
        into = arrows[drawn[op.name]]
        for arrow in op.arrows:
            shown = Arrow(drawn[arrow.source], arrow.type)
            if shown not in into and not folding.is_inner(at, arrow.source, op.name):
                into.append(shown)
    return arrows


def _merge_views(boxes: dict[str, Box], arrows: dict[str, list[Arrow]]) -> dict[str, Box]:
    """Join views that only feed each other into one box; gives the box of every drawn node."""
    users: dict[str, set[str]] = defaultdict(set)
    for target, sources in arrows.items():
        for arrow in sources:
            users[arrow.source].add(target)
    owner = dict(boxes)
    for name, box in boxes.items():
        op = box.ops[0]
        if not op.is_view or len(arrows[name]) != 1 or op.constants:
            continue
        source = owner[arrows[name][0].source]
        last = source.ops[-1]
        same = (source.note, source.number, source.path) == (box.note, box.number, box.path)
        if same and last.is_view and last.name == arrows[name][0].source and users[last.name] == {name}:
            joined = replace(source, ops=(*source.ops, op), seconds=source.seconds + box.seconds)
            owner |= {each.name: joined for each in joined.ops}
    return owner
