"""Check the documentation: links lead somewhere, code blocks run, doctests pass.

Python blocks of README.md and docs/ run in order, one namespace per file, in a temporary folder. A block
that opens with ``python no-run`` is not run.
"""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import sys
import tempfile
import tomllib
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<code>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)(?:\s+\"[^\"]*\")?\)")
HEADING = re.compile(r"^#+\s+(?P<title>.+?)\s*$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = [match["title"] for match in HEADING.finditer(FENCE.sub("", text))]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path) -> Iterator[str]:
    """Relative links of ``page`` that lead nowhere; the web is not asked."""
    for match in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = match["target"].partition("#")
        if ":" in path:
            continue
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists():
            yield f"{page.relative_to(ROOT)}: no such file: {match['target']}"
        elif anchor and linked.suffix == ".md" and anchor not in anchors(linked.read_text(encoding="utf-8")):
            yield f"{page.relative_to(ROOT)}: no such heading: {match['target']}"


def failing_blocks(page: Path) -> Iterator[str]:
    """Python blocks of ``page`` that raise; those after a failing one are not run."""
    text = page.read_text(encoding="utf-8")
    module = sys.modules["__docs__"] = ModuleType("__docs__")  # dataclasses look their module up by name
    for match in FENCE.finditer(text):
        if match["info"].strip() != "python":
            continue
        line = text.count("\n", 0, match.start("code"))
        where = f"{page.relative_to(ROOT)}:{line}"
        if ">>>" in match["code"]:
            test = doctest.DocTestParser().get_doctest(match["code"], module.__dict__, page.name, str(page), line)
            if doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False).failed:
                yield f"{where}: this block gives something else"
                return
            module.__dict__.update(test.globs)
            continue
        try:
            exec(compile("\n" * line + match["code"], str(page), "exec"), module.__dict__)
        except Exception:  # whatever a block raises is a finding
            yield f"{where}: this block failed\n{traceback.format_exc()}"
            return


def failing_doctests() -> Iterator[str]:
    """Modules of txgraph whose doctests fail."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for package in settings["tool"]["setuptools"]["packages"]:
        paths = importlib.import_module(package).__path__
        below = [f"{package}.{each.name}" for each in pkgutil.iter_modules(paths) if not each.ispkg]
        for name in [package, *below]:
            failed, attempted = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
            if failed:
                yield f"{name}: {failed} of {attempted} doctest lines failed"


def main() -> int:
    """Print what is wrong; 0 when nothing is."""
    linked = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
    run = [page for page in linked if page.name == "README.md" or (ROOT / "docs") in page.parents]
    findings = [finding for page in linked for finding in broken_links(page)]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        findings += [finding for page in run for finding in failing_blocks(page)]
        findings += failing_doctests()
        os.chdir(ROOT)
    for finding in findings:
        print(finding, file=sys.stderr)
    print(f"{len(linked)} pages, {len(run)} of them run: {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
