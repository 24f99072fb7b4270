"""What a pass is: the classes that built-in and user passes derive from."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.fx import Node

from txgraph.cost import CostModel, hardware_of
from txgraph.ir import Graph, GraphBuilder, provenance_of
from txgraph.options import Target
from txgraph.rewrite.match import Match, NearMiss
from txgraph.rewrite.pattern import Pattern, PatternFactory

if TYPE_CHECKING:
    from txgraph.rewrite.lossy import LossyContext


@dataclass(frozen=True)
class PassContext:
    """What passes may know beside the graph.

    Attributes:
        target: the device that code will be generated for.
        fused_activations: activations that the backend computes for free at the end of a linear.
        cost: predicts seconds on the target.
        weighs: rewrites with no predicted gain are declined; not if they are measured instead.
        vetoes: rewrites that must not be made, by the name of the pass and of the root, with the reason.
        inputs: values of those inputs that may be padding masks, in the call that the graph is made for, by name.
        near_misses: why rewrites were not applied, if somebody wants to know; filled by the passes.
        advice: what the caller could do to get more; filled by the passes.
        lossy: what lossy passes share, where there is a budget.
    """

    target: Target = Target("cpu")
    fused_activations: frozenset[str] = frozenset()
    cost: CostModel = field(default_factory=lambda: CostModel(hardware_of(Target("cpu")), fuses_elementwise=True))
    weighs: bool = True
    vetoes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False, repr=False)
    near_misses: list[NearMiss] | None = field(default=None, compare=False)
    advice: list[str] = field(default_factory=list, compare=False, repr=False)
    lossy: LossyContext | None = field(default=None, compare=False, repr=False)

    def permits(self, each: Pass, root: Node) -> bool:
        """Whether a pass may rewrite at ``root``; if not, the reason is noted. Every pass asks before it rewrites."""
        reason = self.veto(each, root)
        if reason:
            self.decline(each, root, reason)
        return not reason

    def veto(self, each: Pass, root: Node) -> str:
        """Why a pass may not rewrite at ``root``; empty if it may."""
        return self.vetoes.get((each.name, root.name), "") if self.vetoes else ""

    def decline(self, each: Pass, root: Node, reason: str, node: Node | None = None) -> None:
        """Note why a pass does not rewrite at ``root``: a condition that fails at ``node``."""
        if self.near_misses is not None:
            self.near_misses.append(NearMiss.at(each.name, root, reason, node))


@dataclass(frozen=True)
class Accept:
    """The rewrite is legal here."""


@dataclass(frozen=True)
class Reject:
    """The rewrite is not legal here: why, and at which node."""

    reason: str
    node: Node | None = None


@dataclass(frozen=True)
class Rewrite:
    """A rewrite that was applied.

    Attributes:
        rule: name of the pass.
        removed: names of the nodes it replaced, the root first; made: names of the nodes it added.
        module, location: the user's module and source line of the first replaced node.
        values: pairs of names: a value before, and the one in its place, which is equal up to rounding.
    """

    rule: str
    removed: tuple[str, ...]
    made: tuple[str, ...] = ()
    module: str = ""
    location: str = ""
    values: tuple[tuple[str, str], ...] = ()

    @property
    def root(self) -> str:
        """The node by whose name the rewrite is known."""
        return self.removed[0]

    @classmethod
    def of(
        cls, rule: str, removed: Iterable[Node], made: Iterable[Node] = (), values: Mapping[Node, Node] | None = None
    ) -> Rewrite:
        """A record of replacing ``removed`` by ``made``; call it before nodes are erased."""
        removed = tuple(removed)
        origin = provenance_of(removed[0])
        pairs = tuple((old.name, new.name) for old, new in (values or {}).items())
        names = tuple(n.name for n in removed)
        return cls(rule, names, tuple(n.name for n in made), origin.module, origin.location, pairs)


def replace(
    rule: str,
    values: Mapping[Node, Node],
    made: Sequence[Node] = (),
    inner: Iterable[Node] = (),
    equal: Mapping[Node, Node] | None = None,
) -> Rewrite:
    """Put new values in the places of old ones, and erase what then has no use.

    Args:
        rule: name of the pass.
        values: the new value of each node that is replaced; it may be one that is replaced itself.
        made: the nodes that were made for it.
        inner: further nodes that go with those replaced, each before what it uses; those used elsewhere stay.
        equal: the values that are computed anew, where those in ``values`` become others and only their users' users
            are the same again.
    """
    removed = (*values, *inner)
    final = {old: _last(new, values) for old, new in values.items()}
    same = {old: _last(new, values) for old, new in (values if equal is None else equal).items()}
    record = Rewrite.of(rule, removed, made, same)
    for old, new in final.items():
        old.replace_all_uses_with(new)
    kept = set(final.values())  # a value may be handed on by the very node that it replaces
    for node in removed:
        if not node.users and node not in kept:
            node.graph.erase_node(node)
    return record


def _last(new: Node, values: Mapping[Node, Node]) -> Node:
    while new in values:
        new = values[new]
    return new


class Pass(ABC):
    """A rewriting of the whole graph. A pass holds no state; its fields are its options."""

    @property
    def name(self) -> str:
        """``FuseRmsNorm`` is named ``fuse-rms-norm``."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(self).__name__).lower()

    @property
    def pays(self) -> bool:
        """Whether each rewrite is there for the time that it saves, so that it can be measured by itself.

        A normal form is not: it is there for the rules that follow.
        """
        return False

    @abstractmethod
    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        """Rewrite ``graph`` in place (it is the pass's own copy); an empty list says nothing changed."""


class NodePass(Pass):
    """A pass that looks at one operator at a time, and gives some of them another form."""

    @abstractmethod
    def rewrite(self, node: Node, g: GraphBuilder) -> Node | Reject | None:
        """The value that replaces ``node``; why there is none, or ``None`` where nobody would expect one.

        New nodes are made with ``g``; those made for nothing are removed.
        """

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        """Look at every operator once, in their order."""
        rewrites = []
        for node in graph.calls():
            g = GraphBuilder(graph, node, made_by=self.name)
            new = self.rewrite(node, g)
            if isinstance(new, Node) and context.permits(self, node):
                rewrites.append(replace(self.name, {node: new}, g.made))
                continue
            g.discard()
            if isinstance(new, Reject):
                context.decline(self, node, new.reason, new.node)
        return rewrites


class RewritePass(Pass):
    """A pass that replaces every place where a pattern fits.

    Legality is :meth:`check`, profitability :meth:`gain`; they and :meth:`rewrite` read only their arguments.

    Attributes:
        examples: graphs that it rewrites, for :func:`txgraph.check`, where chance does not find any: pairs of a
            function of tensors and the axes of its arguments.
    """

    examples: ClassVar[Sequence[tuple[Callable[..., Any], Mapping[str, str]]]] = ()

    @property
    def pays(self) -> bool:
        """A rule that is weighed can be measured."""
        return type(self).gain is not RewritePass.gain

    @abstractmethod
    def pattern(self, p: PatternFactory) -> Pattern:
        """What it looks like; variants are alternatives inside one pattern."""

    def check(self, match: Match) -> Accept | Reject:
        """Whether the rewrite is legal here, and if not why and at which node."""
        return Accept()

    def gain(self, match: Match, made: Sequence[Node]) -> float | None:
        """Predicted seconds saved on the target; <= 0 declines the rewrite, ``None`` is not weighed.

        ``made`` are the nodes that :meth:`rewrite` made; ``match.seconds_saved(made)`` asks the cost model.
        """
        return None

    @abstractmethod
    def rewrite(self, match: Match, g: GraphBuilder) -> Node:
        """The value that replaces the root of the match; new nodes are made with ``g``."""

    def run(self, graph: Graph, context: PassContext) -> list[Rewrite]:
        """Apply the rule wherever it fits, until it fits nowhere."""
        from txgraph.rewrite.driver import apply_rule

        return apply_rule(self, graph, context)
