"""The page."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.render.models import Stack, X, stages
from txgraph.render import Picture, render

pytestmark = pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = stages(Stack(8, 8), X)
    path: Path = tmp_path_factory.mktemp("page") / "stack.html"
    render(run, path, Picture(), "A <b>", "gates </pre> 1 < 2")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    return reader


def test_it_loads_nothing(page: str, read: _Reader) -> None:
    links = {value for _, attrs in read.tags for name, value in attrs.items() if name in ("src", "href", "xlink:href")}
    assert links <= {None}
    outside = set(re.findall(r"[a-z]+://[^\"'<> ]*", page))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not addresses
    assert "@import" not in page
    assert "url(" not in page
    policy = next(attrs["content"] for tag, attrs in read.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_it_holds_drawing_changes_and_report(read: _Reader) -> None:
    tags = [tag for tag, _ in read.tags]
    assert tags.count("svg") == tags.count("script") == 1
    assert "DOCTYPE svg" not in "".join(read.texts)
    assert "A <b>" in read.texts
    assert "gates </pre> 1 < 2" in "".join(read.texts)
    assert {"fuse-linear-activation", "3 x", "layers.0..1"} & set(read.texts) == {
        "fuse-linear-activation",
        "layers.0..1",
    }


def test_rows_and_nodes_of_a_rewrite_find_each_other(read: _Reader) -> None:
    rows = {attrs["data-rewrite"] for tag, attrs in read.tags if tag == "tr" and "data-rewrite" in attrs}
    classes = {c for tag, attrs in read.tags if tag == "g" for c in (attrs.get("class") or "").split()}
    assert rows == {"rewrite1", "rewrite2"}
    assert rows <= classes
