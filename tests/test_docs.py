"""The pages of docs/ that are written by hand keep up with the code."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

import txgraph
from txgraph import errors, ir, rewrite

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


def documented() -> dict[str, object]:
    """What docs/api.md shows, by path."""
    paths = re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(paths) == len(set(paths)) > 0
    homes = [path.rpartition(".") for path in paths]
    return {
        path: getattr(importlib.import_module(home), name) for path, (home, _, name) in zip(paths, homes, strict=True)
    }


@pytest.mark.parametrize("module", [txgraph, ir, rewrite], ids=lambda module: module.__name__)
def test_every_public_name_is_on_the_page_of_the_interface(module: ModuleType) -> None:
    shown = list(documented().values())
    public = {name: getattr(module, name) for name in module.__all__ if name != "ir"}  # a package, shown name by name
    assert [name for name, value in public.items() if not any(value is each for each in shown)] == []


def test_every_error_is_on_the_page_of_the_interface() -> None:
    defined = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)}
    assert defined <= set(filter(lambda each: isinstance(each, type), documented().values()))


def test_every_page_is_navigated_to() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    navigated = set(re.findall(r"[\w./-]+\.md", text[text.index("nav:") : text.index("hooks:")]))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    listed = {page for page in pages if page.startswith("adr/0")}  # by adr/README.md
    assert sorted(pages - listed - navigated) == []


def test_every_decision_is_listed() -> None:
    index = (DOCS / "adr" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in sorted((DOCS / "adr").glob("0*.md")) if f"]({path.name})" not in index] == []
