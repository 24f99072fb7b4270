"""What is kept of what a search prepared."""

from __future__ import annotations

import pytest
import torch

import txgraph
from tests.lossy.models import Mixer, batches, spent, timed_by_table  # noqa: F401  (a fixture)
from txgraph.passes import Int8, PruneChannels, Then
from txgraph.rewrite import LossyContext, LossyPass, Place

INT8, HALF = Int8(), PruneChannels(fraction=0.5)
BOTH = Then(HALF, INT8)


def test_what_no_graph_took_is_given_back() -> None:
    taken, earlier, other = (torch.ones(2) for _ in range(3))
    reason, both = (HALF, ("c",)), (BOTH, ("c",))
    lossy = LossyContext(
        prepared={
            (INT8, ("a",)): {"int8_0": taken, "scales_0": other},  # a part of it is enough
            (INT8, ("b",)): {"int8_0": earlier},
            (HALF, ("a",)): {"weight": other},
            reason: "cannot be done",
            both: {},
        }
    )
    lossy.place([other])
    lossy.give_back({taken.data_ptr()}, {(INT8, ("b",))})
    assert set(lossy.prepared) == {(INT8, ("a",)), (INT8, ("b",)), reason, both}
    assert not lossy._digests, "they hold weights"


@pytest.mark.usefixtures("timed_by_table")
def test_after_a_search_only_what_runs_is_held() -> None:
    """Nothing that was prepared and not taken, and no moments; another shape gets what it needs again."""
    data = batches()
    fast = spent(Mixer(), data, txgraph.Budget(relative_error=0.02))
    for at in range(2):
        compression = fast._compression
        assert compression is not None
        assert compression._subject is not None
        assert not compression._subject._observed
        held = {t.data_ptr() for graph in fast.report.graphs[-1:] for t in fast.graph_after.constants.values()}
        kept: dict[tuple[LossyPass, Place], int] = {}
        for key, prepared in compression._lossy.prepared.items():
            if not isinstance(prepared, str) and prepared:
                kept[key] = sum(tensor.data_ptr() in held for tensor in prepared.values())  # type: ignore[index]
        assert kept
        assert at or all(kept.values()), kept
        fast(batches(1, rows=9)[0])
