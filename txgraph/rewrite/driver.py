"""Applies one rule to a graph: find, check, weigh, replace; linear in the size of the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from torch.fx import Node

from txgraph.errors import PassFailed
from txgraph.ir import Graph, GraphBuilder, describe, operator_of, type_of
from txgraph.ir.known_values import KnownValues
from txgraph.rewrite.base import Accept, Pass, PassContext, Reject, Rewrite, RewritePass, replace
from txgraph.rewrite.match import Match, NearMiss
from txgraph.rewrite.pattern import Failure, Pattern, PatternFactory, State

MAX_SWEEPS = 100


def apply_rule(rule: RewritePass, graph: Graph, context: PassContext) -> list[Rewrite]:
    """Apply ``rule`` wherever it fits, sweep after sweep, until a sweep changes nothing.

    Raises:
        PassFailed: the rule still fits after many sweeps: it undoes its own work.
    """
    pattern = rule.pattern(PatternFactory())
    rewrites: list[Rewrite] = []
    misses: dict[str, NearMiss] = {}
    for _ in range(MAX_SWEEPS):
        applied = _sweep(rule, pattern, graph, context, misses)
        rewrites += applied
        if not applied:
            rewritten = {name for rewrite in rewrites for name in rewrite.removed}
            if context.near_misses is not None:
                context.near_misses.extend(miss for root, miss in misses.items() if root not in rewritten)
            return rewrites
    raise PassFailed(
        f"pass {rule.name} does not converge: it still rewrites after {MAX_SWEEPS} sweeps, "
        f"last at {rewrites[-1].removed[0]} ({rewrites[-1].location}); its result must not match its own pattern"
    )


def explain_pass(each: Pass, graph: Graph, context: PassContext) -> tuple[list[Rewrite], list[NearMiss]]:
    """What a pass would rewrite in ``graph``, and its near misses, nearest first; nothing is changed."""
    misses: list[NearMiss] = []
    rewrites = each.run(graph.copy(), dataclasses.replace(context, near_misses=misses))
    return rewrites, sorted(misses, key=lambda miss: miss.nearness, reverse=True)


def _sweep(
    rule: RewritePass, pattern: Pattern, graph: Graph, context: PassContext, misses: dict[str, NearMiss]
) -> list[Rewrite]:
    """Try every node once; the first near miss of each is kept, when the graph was nearest to the user's."""
    roots, known = pattern.roots(), KnownValues(graph)
    applied = []
    for node in reversed(graph.calls()):  # users first: the largest match wins
        if not node.users or operator_of(node) not in roots:  # without users it was part of a match before
            continue
        failure, veto = Failure(), context.veto(rule, node)
        if veto:
            failure.record(0, veto, node, complete=True)
        for match in () if veto else _matches(rule, pattern, node, graph, context, known, failure):
            rewrite = _apply(rule, match, graph, failure)
            if rewrite is not None:
                applied.append(rewrite)
                break
        else:
            if context.near_misses is not None and node.name not in misses:
                misses[node.name] = NearMiss.at(
                    rule.name, node, failure.reason, failure.node, failure.complete, failure.depth
                )
    return applied


def _matches(
    rule: RewritePass,
    pattern: Pattern,
    root: Node,
    graph: Graph,
    context: PassContext,
    known: KnownValues,
    failure: Failure,
) -> Iterator[Match]:
    """The legal matches at ``root``; why the others are not is recorded."""
    for state in pattern.match(root, State(), failure):
        match = Match(root, state.nodes, state.bound, graph, context, known)
        verdict = _used_outside(match) or rule.check(match)
        if isinstance(verdict, Accept):
            yield match
        else:
            failure.record(len(state.nodes), verdict.reason, verdict.node, complete=True)


def _used_outside(match: Match) -> Reject | None:
    """An inner value with a user outside the match would be computed twice, or lost."""
    inside = set(match.nodes)
    for node in match.nodes:
        if node is match.root:
            continue
        for user in node.users:
            if user not in inside:
                return Reject(f"inner value %{node.name} is also used by %{user.name}", node)
    return None


def _apply(rule: RewritePass, match: Match, graph: Graph, failure: Failure) -> Rewrite | None:
    """Put the new value in the place of the old one; ``None`` if the rule's gain says that it does not pay."""
    builder = GraphBuilder(graph, match.root, like=match.nodes[::-1], made_by=rule.name)
    value = rule.rewrite(match, builder)
    _check_replacement(rule, match, value, graph)
    gain = rule.gain(match, builder.made) if match.context.weighs else None
    if gain is not None and gain <= 0:
        builder.discard()
        reason = f"no gain: predicted {gain * 1e6:.2f} µs on {match.context.cost.hardware.name}"
        failure.record(len(match.nodes), reason, match.root, complete=True)
        return None
    return replace(rule.name, {match.root: value}, builder.made, match.nodes[1:])


def _check_replacement(rule: RewritePass, match: Match, value: object, graph: Graph) -> None:
    if not isinstance(value, Node) or value.graph is not graph.fx:
        raise PassFailed(
            f"pass {rule.name}: rewrite() of {describe(match.root)} returned {value!r}; "
            f"return a node of this graph: one bound by the pattern, or one made with the builder"
        )
    was, now = type_of(match.root), type_of(value)
    if was is None or now is None or (was.dtype, was.rank, was.device) != (now.dtype, now.rank, now.device):
        raise PassFailed(f"pass {rule.name}: {describe(match.root)} is {was}, its replacement %{value.name} is {now}")
