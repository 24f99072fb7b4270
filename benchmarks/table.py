"""Results as tables on a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

MB = 1e6
BUSY = 0.1  # share of the time in which tasks waited for a core, from which on times mean little
_HEADINGS = (
    "median\nms",
    "min\nms",
    "times\neager",
    "times\ncompile",  # torch.compile
    "largest\nerror",
    "relative\nerror",
    "cold\ns",
    "compile\npeak MB",
    "end\npeak MB",
)


def wide_console() -> Console:
    """The terminal as wide as it is; files and pipes as wide as the tables."""
    console = Console()
    return console if console.is_terminal else Console(width=110)


def print_row(row: dict[str, Any], result: dict[str, Any], console: Console) -> None:
    """One row of :func:`benchmarks.compare.compare`; ratios are the median of the ratios within a round."""
    settings = result["settings"]
    versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items() if k in ("torch", "transformers"))
    table = Table(
        title=f"{row['row']}, float32, {row['weights_bytes'] / MB:.0f} MB of weights",
        caption=f"{result['hardware']}, {settings['threads']} threads, {settings['rounds']} rounds, {versions}\n"
        f"eager itself is {row['eager_error_against_float64']['relative']:.1e} off float64 (relative)",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("competitor", no_wrap=True, vertical="bottom")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    notes = []
    for name, entry in row["competitors"].items():
        if entry["failed"]:
            table.add_row(name, "[red]failed[/red]")
            notes.append(f"{name} failed: {entry['failed']}")
            continue
        table.add_row(name, *_cells(entry))
        if entry["error"]["wrong"]:
            notes.append(f"{name} is wrong: {entry['error']['wrong']}")
        for fallback in entry["details"].get("fallbacks", ()):
            notes.append(f"{name} fell back: {fallback['what']}: {fallback['reason']}")
    console.print(table)
    if (row["machine_busy"] or 0.0) > BUSY:
        notes.append(
            f"the machine was busy: tasks waited for a core during {row['machine_busy']:.0%} of the time. "
            f"Measure again when it is quiet."
        )
    for note in notes:
        console.print(f"[red]{escape(note)}[/red]")


def _cells(entry: dict[str, Any]) -> list[str]:
    error, memory = entry["error"], entry["rss_bytes"]
    color = "red" if error["wrong"] else "green"
    sizes = ["" if size is None else f"{size:.1e}" for size in (error["max_abs"], error["relative"])]
    sizes[0] = f"WRONG {sizes[0]}".rstrip() if error["wrong"] else sizes[0]
    return [
        f"{entry['median_seconds'] * 1e3:.1f}",
        f"{entry['min_seconds'] * 1e3:.1f}",
        _ratio(entry, "eager"),
        _ratio(entry, "torch.compile"),
        *(f"[{color}]{size}[/{color}]" for size in sizes),
        f"{entry['cold_seconds']:.1f}",
        f"{memory['after_compile'] / MB:.0f}",
        f"{memory['end'] / MB:.0f}",
    ]


def _ratio(entry: dict[str, Any], baseline: str) -> str:
    ratios = entry["times_faster"].get(baseline)
    return f"{ratios['median_of_rounds']:.2f}" if ratios else ""
