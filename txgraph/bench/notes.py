"""What a reader of times must know beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from txgraph.cost import BUSY


def notes(row: dict[str, Any]) -> Iterator[str]:
    """What a reader of the times must know: failures, wrong numbers, fallbacks, and a busy machine."""
    for name, entry in row["competitors"].items():
        if entry["failed"]:
            yield f"{name} failed: {entry['failed']}"
            continue
        if entry["error"]["wrong"]:
            yield f"{name} is wrong: {entry['error']['wrong']}"
        elif entry.get("error_everywhere", {}).get("wrong"):
            yield f"{name} differs from eager at masked positions: {entry['error_everywhere']['wrong']}"
        if entry["promises_zeros"]:
            yield f"{name} promises zeros at masked positions, not eager's values there"
        if "note" in entry["details"]:
            yield f"{name}: {entry['details']['note']}"
        for fallback in entry["details"].get("fallbacks", ()):
            yield f"{name} fell back: {fallback['what']}: {fallback['reason']}"
    if row.get("not_in_float64"):
        yield f"no errors against float64: {row['not_in_float64']}"
    if (row["machine_busy"] or 0.0) > BUSY:
        yield (
            f"the machine was busy: tasks waited for a core during {row['machine_busy']:.0%} of the time. "
            f"Measure again when it is quiet."
        )
