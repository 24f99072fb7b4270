"""Results as tables on a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from txgraph.bench import notes

MB = 1e6
_HEADINGS = (
    "median\nms",
    "min\nms",
    "times\neager",
    "times\ncompile",  # torch.compile
    "times\nbest peer",
    "largest\nerror",
    "relative\nerror",
    "error to\nfloat64",
    "by\nnorm",
    "cold\ns",
    "peak\nMB",
    "held\nMB",
)


def wide_console() -> Console:
    """The terminal as wide as it is; files and pipes as wide as the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


def print_row(row: dict[str, Any], result: dict[str, Any], console: Console) -> None:
    """One row of :func:`benchmarks.compare.compare`; ratios are the median of the ratios within a round."""
    if row["failed"]:
        console.print(f"[red]{escape(row['row'])} failed: {escape(row['failed'])}[/red]")
        return
    settings = result["settings"]
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items() if k in ("torch", "transformers"))
    table = Table(
        title=f"{row['row']}, {row['dtype']}, {row['weights_bytes'] / MB:.0f} MB of weights",
        caption=f"{result['hardware']}, {settings['threads']} threads, {settings['rounds']} rounds, {versions}\n"
        f"eager itself is {_size(row['eager_error_against_float64'])} off float64 (relative); "
        f"errors at {row['judged_at']}",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("competitor", no_wrap=True, vertical="bottom")
    for heading in (*_HEADINGS, *(["tokens/s"] if row["new_tokens"] else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, entry in row["competitors"].items():
        if entry["failed"]:
            table.add_row(name, "[red]failed[/red]")
        else:
            table.add_row(name, *_cells(entry), *([f"{entry['tokens_per_second']:.1f}"] if row["new_tokens"] else []))
    console.print(table)
    for note in notes(row):
        console.print(f"[red]{escape(note)}[/red]")


def print_summary(result: dict[str, Any], console: Console) -> None:
    """The geometric means over all rows."""
    for name, means in result["summary"].items():
        left_out = f"; without {', '.join(means['left_out'])}" if means["left_out"] else ""
        console.print(
            f"{name}: {means['eager']:.2f} times eager, {means['best peer']:.2f} times the best peer "
            f"(geometric means over {means['rows']} rows{escape(left_out)})"
        )


def _size(error: dict[str, Any], measure: str = "relative") -> str:
    return "" if error[measure] is None else f"{error[measure]:.1e}"


def _cells(entry: dict[str, Any]) -> list[str]:
    error, memory = entry["error"], entry["rss_bytes"]
    color = "red" if error["wrong"] else "green"
    sizes = ["" if size is None else f"{size:.1e}" for size in (error["max_abs"], error["relative"])]
    sizes[0] = f"WRONG {sizes[0]}".rstrip() if error["wrong"] else sizes[0]
    return [
        f"{entry['median_seconds'] * 1e3:.1f}",
        f"{entry['min_seconds'] * 1e3:.1f}",
        *(_ratio(entry, baseline) for baseline in ("eager", "torch.compile", "best peer")),
        *(f"[{color}]{size}[/{color}]" for size in sizes),
        _size(entry["error_against_float64"]),
        _size(entry["error_against_float64"], "norm"),
        f"{entry['cold_seconds']:.1f}",
        f"{memory['end'] / MB:.0f}",
        "" if memory["held_end"] is None else f"{memory['held_end'] / MB:.0f}",
    ]


def _ratio(entry: dict[str, Any], baseline: str) -> str:
    ratios = entry["times_faster"].get(baseline)
    return f"{ratios['median_of_rounds']:.2f}" if ratios else ""
