"""Write docs/passes.md from the docstrings of the passes, in the order of the default pipeline.

python scripts/generate_pass_docs.py            writes the page
python scripts/generate_pass_docs.py --check    fails if the page is stale
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import txgraph.passes
from txgraph import Pass
from txgraph.rewrite import LossyPass

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "passes.md"
FIELD = re.compile(r"^(?P<name>[a-z]+):\s*(?P<text>.*)$")
ROLE = re.compile(r":[a-z]+:(?=`)")  # of Sphinx
SHOWN_AS_CODE = ("before", "after")

HEAD = """\
# Passes

This page is generated from the docstrings of `passes/` by `scripts/generate_pass_docs.py`; change those instead.

Every pass of the default pipeline is exact: it changes rounding at most. *legal* is what a pass checks before it
rewrites, *pays* is what it saves, *source* is where it comes from. How to write one:
[writing-a-pass.md](writing-a-pass.md).

## The default pipeline

The passes run in this order. The reasons for the order are comments in
[passes/\\_\\_init\\_\\_.py](../passes/__init__.py).
"""

LOSSY = """\
## Under a budget

These change numbers on purpose. They run after all others, and under a budget only: a search chooses among these
methods, place by place, or a pipeline has one of them ([lossy.md](lossy.md)).
"""

MEASURED = ROOT / "benchmarks" / "results" / "fusions.json"
LEFT = """\
## Left to the backend

Most of these pieces have no pass: Inductor makes one kernel of each by itself, and none is left to win. Measured by
`python -m benchmarks.fusions` with batches of 8 x 128 tokens of 768 features and 12 heads: best times in µs
({where}).
*Bound* is the time to read the inputs and to write the outputs once, at the bandwidth of a large copy; what stays in
the caches is faster.
"""
LEFT_TABLE = """\
| piece | eager | backend | kernels | bound | otherwise |
|---|---|---|---|---|---|"""
LEFT_CONCLUSIONS = """\
So norms with what is added before them, rotary embeddings and gates stay with the backend. Linears of different values
are not grouped: one batched product is slower than three by themselves; those of experts are where an expert has
many rows, which would each read its weight ([fuse-expert-linears](#fuse-expert-linears)). Linears of *one* value are
joined ([fuse-shared-input-linears](#fuse-shared-input-linears)). Heads that share keys become rows of one product, or
at least share them ([group-query-heads](#group-query-heads)). The affine part of a norm costs next to nothing beside
a linear, and to fold it copies the linear's weight, so [fold-norm-affine](#fold-norm-affine) is not in the default
pipeline. Capped scores are one operator ([fuse-attention](#fuse-attention)), lowered to FlexAttention from 1024 tokens
on."""


def page() -> str:
    """The text of docs/passes.md."""
    pipeline = [type(each) for each in txgraph.passes.default_pipeline()]
    ordered = list(dict.fromkeys(pipeline))
    parts = [HEAD, *(f"{at}. {_entry(kind)}" for at, kind in enumerate(pipeline, 1)), ""]
    parts += [section for kind in ordered for section in _section(kind)]
    methods = txgraph.passes.lossy_methods()
    whole = [kind for kind in _all_passes() if not inspect.isabstract(kind)]
    lossy = [kind for kind in whole if issubclass(kind, LossyPass)]
    parts += [LOSSY, *(f"- {each.label}: [`{each.name}`](#{each.name})" for each in methods), ""]
    parts += [section for kind in lossy for section in _section(kind)]
    others = [kind for kind in whole if kind not in (*ordered, *lossy)]
    if others:
        parts += ["## Not in the default pipeline", ""]
        parts += [section for kind in others for section in _section(kind)]
    parts += _left_to_the_backend()
    return "\n".join(parts).rstrip() + "\n"


def _left_to_the_backend() -> list[str]:
    """What ``python -m benchmarks.fusions`` measured."""
    result = json.loads(MEASURED.read_text())
    rows = [LEFT_TABLE]
    for row in result["rows"]:
        times = " | ".join(f"{row[key]:,.0f}" for key in ("eager_us", "backend_us"))
        other = f"{row['other']}: {row['other_us']:,.0f}" if row["other"] else ""
        rows.append(f"| {row['piece']} | {times} | {row['kernels']} | {row['bound_us']:,.0f} | {other} |")
    where = f"{result['hardware']}, {result['settings']['threads']} threads, torch {result['versions']['torch']}"
    return [LEFT.format(where=where), "\n".join(rows), "", LEFT_CONCLUSIONS]


def _name(kind: type[Pass]) -> str:
    return kind.name.fget(object.__new__(kind))  # type: ignore[attr-defined]  # Pass.name: a property


def _entry(kind: type[Pass]) -> str:
    return f"[`{_name(kind)}`](#{_name(kind)}): {_summary(kind)}"


def _docstring(kind: type[Pass]) -> str:
    return inspect.cleandoc(sys.modules[kind.__module__].__doc__ or "")


def _summary(kind: type[Pass]) -> str:
    return _docstring(kind).splitlines()[0]


def _section(kind: type[Pass]) -> Iterator[str]:
    """Heading, summary, before and after as code, the other fields as a list, and the options."""
    yield f"### {_name(kind)}\n"
    yield f"{_summary(kind)}\n"
    code, fields = _fields(_docstring(kind))
    if code:
        yield "```text\n" + "\n".join(code) + "\n```\n"
    for name, text in fields.items():
        yield f"- **{name}**: {ROLE.sub('', text).replace('``', '`')}"
    for option in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
        shown = "" if option.default is dataclasses.MISSING else f" = {option.default!r}"
        yield f"- **option** `{option.name}{shown}`: {_option_text(kind, option.name)}"
    source = Path(inspect.getfile(kind)).relative_to(ROOT).as_posix()
    yield f"- **file**: [{source}](../{source})\n"


def _fields(text: str) -> tuple[list[str], dict[str, str]]:
    """The lines of ``before`` and ``after`` as they stand; the other fields with their lines joined."""
    code: list[str] = []
    fields: dict[str, str] = {}
    current = ""
    for line in text.splitlines()[1:]:
        found = FIELD.match(line)
        current = found["name"] if found else current
        if current in SHOWN_AS_CODE:
            code.append(line.rstrip())
        elif found:
            fields[current] = found["text"]
        elif current and line.strip():
            fields[current] += " " + line.strip()
    return [line for line in code if line], fields


def _option_text(kind: type[Pass], option: str) -> str:
    """What ``Attributes:`` of the class, or of one that it derives from, says about an option."""
    names = "|".join(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]  # it has options
    for each in kind.__mro__:
        _, _, attributes = (each.__doc__ or "").partition("Attributes:")
        text = " ".join(attributes.partition("\n\n")[0].split())
        if found := re.search(rf"(?:^|\. ){option}: (.*?)(?=\. (?:{names}): |$)", text):
            return found[1].rstrip(".").replace("``", "`") + "."
    return ""


def _all_passes() -> list[type[Pass]]:
    """Every pass class that a module of txgraph.passes defines, by module."""
    names = sorted(m.name for m in pkgutil.walk_packages(txgraph.passes.__path__, "txgraph.passes."))
    return [
        kind
        for module in map(importlib.import_module, names)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Pass) and kind.__module__ == module.__name__
    ]


def main() -> int:
    """Write the page, or tell whether it is stale."""
    parser = argparse.ArgumentParser(description="Write docs/passes.md from the docstrings of the passes.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is stale")
    check = parser.parse_args().check
    text = page()
    if not check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PAGE.relative_to(ROOT)} is stale: run python scripts/generate_pass_docs.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
