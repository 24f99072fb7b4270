"""Every seeded fault is caught; and what is no fault is not said to be one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.mutants.catalogue import MUTANTS
from tests.mutants.edits import always
from tests.mutants.mutant import Fault, Mutant, Probe, Scenario, control, judge, notices
from tests.mutants.operators import GELU, SILU
from txgraph.passes.fuse.fuse_gelu import FuseGelu
from txgraph.passes.fuse.fuse_silu import FuseSilu
from txgraph.rewrite import Reject

PROBES = {mutant.probe.name: mutant.probe for mutant in MUTANTS}
PAGE = Path(__file__).parent.parent / "docs" / "mutants.md"


def unchanged(original: Any, *args: Any, **kwargs: Any) -> Any:
    return original(*args, **kwargs)


def crash(original: Any, *args: Any, **kwargs: Any) -> Any:
    raise AttributeError("the fault is badly written")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_is_killed(mutant: Mutant) -> None:
    """Noticed by the product itself, or by what a scenario compares."""
    outcome = judge(mutant)
    assert outcome.killed, outcome.problem


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES.keys())
def test_nothing_is_noticed_without_a_mutant(probe: Probe | Scenario) -> None:
    """And all answers are right: else a kill would mean nothing."""
    assert not control(probe)


def test_names_are_not_used_twice() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 46
    assert len(PROBES) == len({mutant.probe for mutant in MUTANTS})


def test_what_is_no_fault_survives() -> None:
    """A function that does the same in another guise, and a rewrite that is left out, are right."""
    same = judge(Mutant("same", "nothing", Fault(FuseGelu, "rewrite", unchanged), GELU))
    assert (same.killed, same.problem) == (False, "no answer is wrong")
    declined = judge(Mutant("declined", "nothing", Fault(FuseSilu, "check", always(Reject("never"))), SILU))
    assert (declined.killed, declined.problem) == (False, "no answer is wrong")


def test_what_never_runs_survives() -> None:
    outcome = judge(Mutant("idle", "nothing", Fault(FuseSilu, "rewrite", always(None)), GELU))
    assert (outcome.killed, outcome.problem) == (False, "the wrong function was never called")


def test_a_fault_that_raises_by_itself_survives() -> None:
    outcome = judge(Mutant("crash", "raises", Fault(FuseGelu, "rewrite", crash), GELU))
    assert outcome.caught_by.startswith("PassFailed")
    assert (outcome.killed, outcome.problem) == (False, "the fault itself raised")


def test_a_fault_is_taken_back() -> None:
    held = FuseGelu.rewrite
    with Fault(FuseGelu, "rewrite", crash).applied():
        assert FuseGelu.rewrite is not held
    assert FuseGelu.rewrite is held
    assert not notices(GELU.play().fast.report.to_dict())


def test_the_page_lists_every_mutant() -> None:
    """Made by ``python -m tests.mutants --write docs/mutants.md``."""
    page = PAGE.read_text()
    assert f"Killed: {len(MUTANTS)} of {len(MUTANTS)}." in page
    assert [m.name for m in MUTANTS if f"| {m.name} | {m.what} |" not in page] == []
