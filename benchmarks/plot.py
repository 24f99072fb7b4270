"""The picture of a result: how many times faster than eager each competitor is, on each row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Colours of Okabe and Ito, which people with any colour vision can tell apart; the markers differ as well.
STYLES = {
    "eager": ("#999999", "|"),
    "eager-static-cache": ("#999999", "x"),
    "torch.compile": ("#56B4E9", "s"),
    "torch.compile-max-autotune": ("#0072B2", "D"),
    "torch.compile-static-cache": ("#0072B2", "s"),
    "onnxruntime": ("#E69F00", "^"),
    "onnxruntime-transformers": ("#F0E442", "v"),
    "onnxruntime-decoding": ("#E69F00", "<"),
    "openvino": ("#009E73", "P"),
    "txgraph": ("#D55E00", "o"),
    "txgraph-zeros": ("#CC79A7", "*"),
}
_OTHERS = ("#000000", ".")
_DATE = {"Date": None}  # the same result gives the same file


def plot(result: dict[str, Any], path: Path) -> None:
    """Write the picture as SVG. Competitors that failed or are wrong are not in it."""
    rows = [row for row in result["rows"] if not row["failed"]][::-1]  # the axis counts from below
    with matplotlib.rc_context({"svg.hashsalt": "txgraph", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(9, 1.8 + 0.55 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for name, points in _points(rows).items():
            color, marker = STYLES.get(name, _OTHERS)
            ours = name.startswith("txgraph")
            axes.scatter(
                [speed for speed, _ in points],
                [place for _, place in points],
                label=name,
                color=color,
                marker=marker,
                s=110 if ours else 55,
                zorder=3 if ours else 2,
                linewidths=1.5 if marker in "|x" else 0.5,
                **({} if marker in "|x" else {"edgecolors": "black"}),
            )
        axes.axvline(1, color="#999999", linewidth=1, zorder=1)
        axes.set_yticks(range(len(rows)), [row["row"] for row in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlim(left=0)
        axes.grid(axis="y", color="#dddddd", zorder=0)
        axes.set_xlabel("times faster than eager (medians of the rounds)")
        axes.set_title(f"{result['hardware']}, {result['settings']['threads']} threads", fontsize=10)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, format="svg", metadata=_DATE)


def _points(rows: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Of each competitor, (times faster than eager, place on the axis of rows)."""
    points: dict[str, list[tuple[float, float]]] = {}
    for place, row in enumerate(rows):
        for name, entry in row["competitors"].items():
            ratios = entry.get("times_faster", {}).get("eager")
            if ratios and not entry["failed"] and not entry["error"]["wrong"]:
                points.setdefault(name, []).append((ratios["median_of_rounds"], place))
    return dict(sorted(points.items(), key=lambda item: [*STYLES, item[0]].index(item[0])))
