"""What is kept of what a search prepared."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

from txgraph.candidates import Singles
from txgraph.lossy.findings import Findings, named
from txgraph.lossy.search import Clock
from txgraph.passes import Int8, PruneChannels, Then
from txgraph.rewrite import LossyContext, LossyPass, Place

INT8, HALF = Int8(), PruneChannels(fraction=0.5)
BOTH = Then(HALF, INT8)


def kept(errors: dict[tuple[LossyPass, Place], float], *unknown: tuple[LossyPass, Place]) -> set[tuple[Any, Place]]:
    """What stays of what was prepared under a squared error of 1."""
    forgotten: list[bool] = []
    subject: Any = SimpleNamespace(forget_observed=lambda: forgotten.append(True))
    lossy, findings = LossyContext(prepared={key: {} for key in (*errors, *unknown)}), Findings()
    for (method, place), error in errors.items():
        findings.keep(f"error {named(method, place)}", error=error)
    Singles((), False, 1.0, subject, lossy, findings, Clock(math.inf)).give_back()
    assert forgotten == [True]
    return set(lossy.prepared)


def test_what_no_graph_can_take_is_given_back() -> None:
    small, large = (INT8, ("a",)), (INT8, ("b",))
    assert kept({small: 0.5, large: 1.5, (HALF, ("a", "b")): math.inf}) == {small}


def test_what_others_are_made_of_stays() -> None:
    """Without the pruning that it begins with, both together could not be made in another graph."""
    pruning, both, inner = (HALF, ("a", "b")), (BOTH, ("a", "b")), (INT8, ("fewer a",))
    assert kept({pruning: 1.5, both: 0.9}, inner) == {pruning, both, inner}
    assert kept({pruning: 1.5, both: 1.9}) == set()
