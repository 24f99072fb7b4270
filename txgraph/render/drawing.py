"""What is drawn: boxes, arrows and the tree of modules, before any word of DOT."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from txgraph.ir import Graph
from txgraph.render.diff import UNCHANGED, Fate, Fates, Status, compare, replaced_paths
from txgraph.render.focus import focus_on
from txgraph.render.fold import Folding, Repeat, fold
from txgraph.render.summary import Change, summarise
from txgraph.render.view import Arrow, Op, Path, View, module_classes, view_of
from txgraph.rewrite import Rewrite

MAX_ARROWS = 8  # out of one box; a value with more users is named where it is used


@dataclass(frozen=True)
class Box:
    """One node of the drawing: an operator, or a chain of views.

    Attributes:
        note: what became of it, such as ``fused by fuse-attention (11 of 12)``.
        number: shared by the boxes before and after of one rewrite.
    """

    ops: tuple[Op, ...]
    fate: Fate
    note: str = ""
    number: int | None = None

    @property
    def name(self) -> str:
        """Of its first operator."""
        return self.ops[0].name


@dataclass
class Cluster:
    """A module with the boxes of its own and of its submodules."""

    path: Path
    boxes: list[Box] = field(default_factory=list)
    children: dict[str, Cluster] = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """An arrow between two boxes, by their names."""

    source: str
    target: str
    type: str


@dataclass(frozen=True)
class Panel:
    """One graph of the drawing.

    Attributes:
        root: the tree of modules. repeats: the modules drawn once for several. classes: their class names.
        operators: number of operators of the whole graph, or of the module in focus, without folding.
    """

    root: Cluster
    links: tuple[Link, ...]
    repeats: dict[Path, Repeat]
    classes: dict[Path, str]
    operators: int

    def wide(self) -> set[str]:
        """Boxes with so many users that arrows to all of them would hide the rest, and take minutes to lay out."""
        users = Counter(link.source for link in self.links)
        return {name for name, count in users.items() if count > MAX_ARROWS}

    def boxes(self) -> list[Box]:
        """All boxes."""
        found, pending = [], [self.root]
        for cluster in pending:
            found += cluster.boxes
            pending += cluster.children.values()
        return found


@dataclass(frozen=True)
class Drawing:
    """Both graphs, ready to be laid out, and what became of the one in the other, in words."""

    before: Panel
    after: Panel
    changes: tuple[Change, ...]


def draw(before: Graph, after: Graph, rewrites: Sequence[Rewrite], focus: str = "") -> Drawing:
    """Compare two graphs, fold their repeated layers and arrange what is left in boxes.

    Args:
        focus: the path of a module; then what does not belong to it is left out.

    Raises:
        ValueError: there is no such module.
    """
    graphs = (before, after)
    views: Sequence[View] = [view_of(g) for g in graphs]
    fates: Sequence[Fates] = compare(views[0], views[1], rewrites)
    for name, path in replaced_paths(views[0], views[1], fates).items():
        views[1][name] = replace(views[1][name], path=path)
    if focus:
        views, fates = focus_on(focus, views, fates)
    folding = fold(views)
    numbers = _numbers(fates, folding)
    left, right = (
        _panel(graph, view, at, fates[at], folding, numbers, bool(focus))
        for at, (graph, view) in enumerate(zip(graphs, views, strict=True))
    )
    return Drawing(left, right, summarise(views, fates, folding, numbers))


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
    graph: Graph, view: View, at: int, fates: Fates, folding: Folding, numbers: dict[int, int], focused: bool
) -> Panel:
    instances = folding.instances(at)
    boxes = {name: _box(view, names, fates, numbers) for name, names in instances.items()}
    arrows = _arrows(view, at, folding)
    owner = _merge_views(boxes, arrows, folding.paths[at])
    root = Cluster(())
    for box in {b.name: b for b in owner.values()}.values():
        cluster = root
        for depth, part in enumerate(folding.paths[at][box.name]):
            path = folding.paths[at][box.name][: depth + 1]
            cluster = cluster.children.setdefault(part, Cluster(path))
        cluster.boxes.append(box)
    _flatten(root, folding.repeats)
    links = dict.fromkeys(
        Link(owner[a.source].name, owner[target].name, a.type)
        for target, sources in arrows.items()
        for a in sources
        if owner[a.source] is not owner[target]
    )
    drawn = {op.name for op in view.values() if op.kind == "call_function"}
    operators = len([n for n in graph.calls() if n.name in drawn or not focused])
    return Panel(root, tuple(links), folding.repeats, module_classes(graph), operators)


def _box(view: View, names: list[str], fates: Fates, numbers: dict[int, int]) -> Box:
    """The box of a drawn node, with what became of most of the nodes that it stands for."""
    found = Counter((fates[n].status, fates[n].how, fates[n].passes) for n in names)
    most, count = max(found.items(), key=lambda item: (item[1], item[0][0] is not Status.UNCHANGED))
    fate = next(f for n in names if ((f := fates[n]).status, f.how, f.passes) == most)
    if fate.status is Status.UNCHANGED:
        return Box((view[names[0]],), UNCHANGED)
    note = f"{fate.how} {', '.join(fate.passes)}" if fate.passes else str(fate.status)
    if count < len(names):
        note += f" ({count} of {len(names)})"
    number = None if fate.group is None else numbers.get(fate.group)
    return Box((view[names[0]],), replace(fate, group=None), note, number)


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


def _merge_views(boxes: dict[str, Box], arrows: dict[str, list[Arrow]], paths: dict[str, Path]) -> dict[str, Box]:
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
        same = (source.note, source.number, paths[last.name]) == (box.note, box.number, paths[name])
        if same and last.is_view and last.name == arrows[name][0].source and users[last.name] == {name}:
            joined = Box((*source.ops, op), box.fate, box.note, box.number)
            owner |= {each.name: joined for each in joined.ops}
    return owner


def _flatten(cluster: Cluster, repeats: dict[Path, Repeat]) -> None:
    """Drop the frame of a module with a single box: the box says enough; and join frames that hold only one."""
    for part, child in list(cluster.children.items()):
        _flatten(child, repeats)
        if child.path not in repeats and len(child.boxes) == 1 and not child.children:
            cluster.boxes += child.boxes
            del cluster.children[part]
        elif child.path not in repeats and not child.boxes and len(child.children) == 1:
            cluster.children[part] = next(iter(child.children.values()))
