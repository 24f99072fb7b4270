"""Write docs/benchmarks.md, the pictures and the README's table from the results: ``python -m benchmarks.page``.

python -m benchmarks.page            writes them
python -m benchmarks.page --check    fails if the page or the README are stale
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import RESULTS
from benchmarks.suites import SUITES, Suite
from benchmarks.table import MB
from txgraph.bench import notes

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
BEGIN, END = "<!-- speed: python -m benchmarks.page -->\n", "<!-- end of speed -->\n"

HEAD = """\
# Benchmarks

This page is generated from `benchmarks/results/` by `python -m benchmarks.page`; do not edit it.

## How it is measured

`python -m benchmarks.compare --suite cpu` measures and writes `benchmarks/results/cpu.json`, with every single time;
`--suite cuda` does it on a machine with an NVIDIA GPU. `--resume` goes on where it was interrupted, and
`pip install -c constraints.txt -e '.[bench]'` installs all competitors.

- Each competitor has a process of its own, with its own empty caches. In each round every competitor has one turn, so
  a slow moment of the machine hits all. Times are medians over the rounds; ratios are medians of the ratios within a
  round.
- *Best peer* is the fastest competitor that is not txgraph and not wrong; eager is one of them.
- *Error* is the largest difference to eager, relative to eager's largest value; *to float64* is the difference to
  eager in float64, which eager itself has, too, and *by norm* the norm of that difference over the norm of the output,
  which is what a budget bounds. A competitor is wrong where its error is over the row's tolerance.
- On padded rows all competitors are judged at valid positions only. `txgraph-zeros` is `padding="zeros"`: it promises
  zeros at masked positions, and breaks its promise where there is anything else. The others promise eager's values
  everywhere; where they differ at masked positions, a note says so.
- *Cold* is what a first call takes, compilation and export included. *Peak* is the most memory that the process ever
  held, the model and its libraries included; *held* is what it holds after the last round.
- Weights are random and seeded, except those of MiniLM. Where a row decodes, tokens must be equal to eager's.

| competitor | what it is |
|---|---|
| eager | the model as it is; on rows that decode, `generate` with its default cache |
| eager-static-cache | `generate` with `cache_implementation="static"` |
| torch.compile | `torch.compile(model)` |
| torch.compile-reduce-overhead | `mode="reduce-overhead"`: as CUDA graphs |
| torch.compile-max-autotune | `mode="max-autotune"`; on CPUs with freezing, and ATen and C++ templates to choose from |
| torch.compile-static-cache | `generate` with a static cache and a `CompileConfig` |
| onnxruntime | `torch.onnx.export(dynamo=True)`, all optimizations of ONNX Runtime |
| onnxruntime-transformers | the same after `onnxruntime.transformers.optimizer.optimize_model` |
| onnxruntime-decoding | one graph with growing keys and values, in a greedy loop |
| openvino | the same ONNX file in OpenVINO, in float32 |
| txgraph | `txgraph.optimize(model, kwargs=inputs)` |
| txgraph-zeros | the same with `padding="zeros"` |
| txgraph-cuda-graphs | the same with `options={"cuda_graphs": True}` |
"""


def page(results: Mapping[str, dict[str, Any]]) -> str:
    """The text of docs/benchmarks.md, from the results of the suites by name."""
    missing = [f"No results of `--suite {name}` are here yet." for name in SUITES if name not in results]
    sections = [_section(SUITES[name], results[name]) for name in SUITES if name in results]
    return "\n".join([HEAD, *sections, *missing]).rstrip() + "\n"


def speed(result: dict[str, Any]) -> str:
    """The README's table and what goes with it, from the result on CPUs."""
    lines = [f"{_where(result)}:\n", _overview(result), _summary(result)]
    return "\n".join(lines) + "\n"


def read_results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The results of the suites that were measured, by name."""
    paths = {name: folder / f"{name}.json" for name in SUITES}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def with_speed(readme: str, results: Mapping[str, dict[str, Any]]) -> str:
    """The README with the table of the result; as it is where there is no result."""
    if "cpu" not in results:
        return readme
    before, _, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"README.md needs the lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}{speed(results['cpu'])}{END}{after}"


def _section(suite: Suite, result: dict[str, Any]) -> str:
    compares_ours = any("txgraph" in row.get("competitors", ()) for row in result["rows"])
    lines = [
        f"## {suite.title}\n",
        f"{_where(result)} ([all times](../benchmarks/results/{suite.name}.json)).\n",
        f"![Times faster than eager, on each row](../benchmarks/results/{suite.name}.svg)\n",
        *([_overview(result)] if compares_ours else []),
        _summary(result),
    ]
    return "\n".join([*lines, *(_row(row) for row in result["rows"])])


def _where(result: dict[str, Any]) -> str:
    settings, versions = result["settings"], result["versions"]
    named = ", ".join(f"{name} {versions[name]}" for name in ("torch", "onnxruntime", "openvino") if name in versions)
    return f"A {result['hardware']} machine, {settings['threads']} threads, {settings['rounds']} rounds, {named}"


def _overview(result: dict[str, Any]) -> str:
    """Ours beside eager and the best peer, a line for each row."""
    heads = ("row", "eager", "best peer", "txgraph", "times eager", "times best peer", '`padding="zeros"`')
    lines = []
    for row in result["rows"]:
        if row["failed"]:
            lines.append([row["row"], "failed", *[""] * 5])
            continue
        entries, peer = row["competitors"], row["best_peer"]
        ours = entries.get("txgraph", {"failed": "not measured"})
        best = f"{_ms(entries[peer])} ({peer})" if peer else ""
        zeros = entries.get("txgraph-zeros", {})
        also = f"{_ms(zeros)}, {_ratio(zeros, 'best peer')} times best peer" if "median_seconds" in zeros else ""
        eager = _ms(entries["eager"]) if "eager" in entries else ""
        ratios = [_ratio(ours, baseline) for baseline in ("eager", "best peer")]
        lines.append([row["row"], eager, best, _ms(ours), *ratios, also])
    return _table(heads, lines)


def _summary(result: dict[str, Any]) -> str:
    """The geometric means as sentences."""
    lines = []
    for name, means in result["summary"].items():
        left_out = f", without {', '.join(means['left_out'])}" if means["left_out"] else ""
        lines.append(
            f"- {name}: {means['eager']:.2f} times as fast as eager, {means['best peer']:.2f} times as fast as the "
            f"best peer of each row (geometric means over {means['rows']} rows{left_out})."
        )
    return "\n".join(lines) + "\n"


def _row(row: dict[str, Any]) -> str:
    """All competitors of one row."""
    if row["failed"]:
        return f"### {row['row']}\n\nFailed: {row['failed']}\n"
    inputs = ", ".join(f"`{name}` {what}" for name, what in row["inputs"].items())
    density = "" if row["density"] is None else f" {row['density']:.0%} of the positions are valid."
    heads = [
        "competitor",
        "median ms",
        "times eager",
        "times best peer",
        "error",
        "to float64",
        "by norm",
        "cold s",
        "peak MB",
        "held MB",
    ]
    lines = [[name, *_cells(entry, row)] for name, entry in row["competitors"].items()]
    if row["new_tokens"]:
        heads.append("tokens/s")
    said = "".join(f"- {note}\n" for note in notes(row))
    return "\n".join(
        [
            f"### {row['row']}\n",
            f"{row['dtype']}, {row['weights_bytes'] / MB:.0f} MB of weights; {inputs}.{density} "
            f"Errors are judged at {row['judged_at']}.\n",
            _table(heads, lines),
            said,
        ]
    )


def _cells(entry: dict[str, Any], row: dict[str, Any]) -> Iterator[str]:
    if entry["failed"]:
        yield from ("failed", *[""] * (9 if row["new_tokens"] else 8))
        return
    yield _ms(entry).removesuffix(" ms")
    yield from (_ratio(entry, baseline) for baseline in ("eager", "best peer"))
    yield "wrong" if entry["error"]["wrong"] else f"{entry['error']['relative']:.1e}"
    exact = entry["error_against_float64"]["relative"]
    yield "" if exact is None else f"{exact:.1e}"
    norm = entry["error_against_float64"].get("norm")  # older results have none
    yield "" if norm is None else f"{norm:.1e}"
    yield f"{entry['cold_seconds']:.1f}"
    yield f"{entry['rss_bytes']['end'] / MB:.0f}"
    held = entry["rss_bytes"]["held_end"]
    yield "" if held is None else f"{held / MB:.0f}"
    if row["new_tokens"]:
        yield f"{entry['tokens_per_second']:.1f}"


def _ms(entry: dict[str, Any]) -> str:
    if entry["failed"]:
        return "failed"
    return "wrong" if entry["error"]["wrong"] else f"{entry['median_seconds'] * 1e3:.1f} ms"


def _ratio(entry: dict[str, Any], baseline: str) -> str:
    ratios = entry.get("times_faster", {}).get(baseline)
    return f"{ratios['median_of_rounds']:.2f}" if ratios and not entry["error"]["wrong"] else ""


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(heads) - 1)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, rule, *lines))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something is stale")
    check = parser.parse_args().check
    results = read_results()
    texts = {PAGE: page(results), README: with_speed(README.read_text(encoding="utf-8"), results)}
    stale = [path for path, text in texts.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if check and stale:
        sys.exit(f"stale: {', '.join(str(path.relative_to(ROOT)) for path in stale)}: run python -m benchmarks.page")
    if not check:
        from benchmarks.plot import plot  # the only user of matplotlib

        for path in stale:
            path.write_text(texts[path], encoding="utf-8")
        for name, result in results.items():
            plot(result, RESULTS / f"{name}.svg")


if __name__ == "__main__":
    main()
