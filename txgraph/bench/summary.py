"""What many times come to: medians, ratios, the best peer of a row, and the mean over all rows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from txgraph.bench.competitors import OURS

BASELINES = ("eager", "torch.compile")  # ratios are given to these, and to the best peer


def summarise_row(entries: dict[str, dict[str, Any]], turns: list[dict[str, Any]], new_tokens: int) -> dict[str, Any]:
    """Add to each entry its median, minimum and ratios; give the facts of the row.

    A round counts by the median of its calls. ``times_faster`` holds, for each baseline, the ratio of the medians
    and the median, least and largest of the ratios within one round; over 1 is faster than the baseline.
    """
    rounds: dict[str, list[float]] = {}
    for turn in turns:
        rounds.setdefault(turn["competitor"], []).append(statistics.median(turn["seconds"]))
    measured = {name: rounds[name] for name, entry in entries.items() if name in rounds and not entry["failed"]}
    for name, mine in measured.items():
        entries[name]["median_seconds"] = statistics.median(mine)
        entries[name]["min_seconds"] = min(min(t["seconds"]) for t in turns if t["competitor"] == name)
        if new_tokens:
            entries[name]["tokens_per_second"] = new_tokens / statistics.median(mine)
    peer = best_peer(entries)
    baselines = {name: measured[name] for name in BASELINES if name in measured}
    if peer:
        baselines["best peer"] = measured[peer]
    for name, mine in measured.items():
        entries[name]["times_faster"] = {kind: _ratios(theirs, mine) for kind, theirs in baselines.items()}
    return {"best_peer": peer}


def best_peer(entries: dict[str, dict[str, Any]]) -> str:
    """The fastest competitor that is not ours, and not wrong; empty where there is none."""
    times = {
        name: entry["median_seconds"]
        for name, entry in entries.items()
        if "median_seconds" in entry and not entry["error"]["wrong"] and not name.startswith(OURS)
    }
    return min(times, key=lambda name: times[name], default="")


def summarise_all(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means over rows, for each of ours.

    ``txgraph`` is over all rows on which it is right; ``txgraph, zeros where padded`` takes ``txgraph-zeros`` on
    the rows that have it.
    """
    exact = {row["row"]: _ours(row, OURS) for row in rows}
    zeros = {row["row"]: _ours(row, f"{OURS}-zeros") or exact[row["row"]] for row in rows}
    found = {OURS: exact, f"{OURS}, zeros where padded": zeros}
    return {name: summary for name, by_row in found.items() if (summary := _means(by_row))}


def machine_busy(turns: list[dict[str, Any]]) -> float | None:
    """The median over all turns of the share of time in which some task waited for a core."""
    shares = [turn["machine_busy"] for turn in turns if turn["machine_busy"] is not None]
    return statistics.median(shares) if shares else None


def _ratios(theirs: Sequence[float], mine: Sequence[float]) -> dict[str, float]:
    ratios = [b / m for b, m in zip(theirs, mine, strict=True)]
    return {
        "of_medians": statistics.median(theirs) / statistics.median(mine),
        "median_of_rounds": statistics.median(ratios),
        "least": min(ratios),
        "largest": max(ratios),
    }


def _ours(row: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The ratios of ``name`` on a row; ``None`` where it failed or is wrong."""
    entry = row.get("competitors", {}).get(name)
    if entry is None or "times_faster" not in entry or entry["error"]["wrong"]:
        return None
    ratios: dict[str, Any] = entry["times_faster"]
    return ratios


def _means(by_row: dict[str, dict[str, Any] | None]) -> dict[str, Any]:
    """Geometric means of the ratios to eager and to the best peer, and the rows that are not in them."""
    kinds = ("eager", "best peer")
    counted = {row: ratios for row, ratios in by_row.items() if ratios and all(kind in ratios for kind in kinds)}
    if not counted:
        return {}
    means = {
        kind: statistics.geometric_mean(ratios[kind]["median_of_rounds"] for ratios in counted.values())
        for kind in kinds
    }
    return {**means, "rows": len(counted), "left_out": [row for row in by_row if row not in counted]}
