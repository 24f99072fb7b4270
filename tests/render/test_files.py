"""Files of every kind, and what can go wrong with them."""

from __future__ import annotations

import logging
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import graphviz
import pytest

import txgraph
from tests.render.models import Stack, X, stages
from tests.small import MLP
from txgraph.render import Picture, Stages, read_benchmark, render
from txgraph.render.files import FORMATS, VIEWS

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
MAGIC = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF", ".dot": b"digraph", ".html": b"<!DOCTYPE html>"}


@pytest.fixture(scope="module")
def run() -> Stages:
    return stages(Stack(8, 8), X)


@pytest.mark.parametrize("ending", [*FORMATS, ".SVG"])
@needs_dot
def test_every_kind_of_file(run: Stages, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"stack{ending}"
    path.write_bytes(b"old")
    assert render(run, path, Picture(), "Stack") == path
    assert path.read_bytes().startswith(MAGIC[ending.lower()])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@needs_dot
def test_an_optimized_model_draws_itself(tmp_path: Path) -> None:
    fast = txgraph.optimize(MLP(), (X,), backend="reference", verify="off")
    path = fast.render(str(tmp_path / "mlp.svg"))
    text = "".join(ET.fromstring(path.read_text(encoding="utf-8")).itertext()).replace("\xa0", " ")
    assert "MLP" in text
    assert "removed by remove-identities" in text


@pytest.mark.parametrize("name", ["stack", "stack.jpg", "stack.svg.gz", ".svg"])
def test_another_ending(run: Stages, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"must end in one of \.svg, \.png, \.pdf, \.dot, \.html"):
        render(run, tmp_path / name, Picture())
    assert list(tmp_path.iterdir()) == []


def test_no_such_folder(run: Stages, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing; make it first"):
        render(run, tmp_path / "missing" / "stack.dot", Picture())


def test_a_file_that_cannot_be_written(run: Stages, tmp_path: Path) -> None:
    (tmp_path / "stack.dot").mkdir()
    with pytest.raises(IsADirectoryError, match="cannot write the drawing: Is a directory") as error:
        render(run, tmp_path / "stack.dot", Picture())
    assert error.value.filename == str(tmp_path / "stack.dot")


@pytest.mark.parametrize("ending", [".svg", ".png"])
def test_without_the_program(
    run: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with caplog.at_level(logging.WARNING, "txgraph"):
        path = render(run, tmp_path / f"stack{ending}", Picture(), "Stack")
    assert path == tmp_path / "stack.dot"
    assert [p.name for p in tmp_path.iterdir()] == ["stack.dot"]
    assert "linear_activation" in path.read_text(encoding="utf-8")
    (message,) = caplog.messages
    assert f"wrote {path} instead of stack{ending}" in message
    assert "apt-get install graphviz" in message
    assert f"dot -T{ending[1:]} {path} -O; an .html page needs no Graphviz" in message


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for dot")
def test_a_program_that_fails(run: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "dot"
    fake.write_text(
        "#!/bin/sh\nwhile read -r _; do :; done\necho 'Format: pdf not recognized' >&2\nexit 1\n", encoding="utf-8"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(txgraph.TxgraphError, match=r"dot could not draw .*stack\.pdf: .*not recognized") as error:
        render(run, tmp_path / "stack.pdf", Picture())
    assert isinstance(error.value.__cause__, graphviz.CalledProcessError)


@pytest.mark.parametrize("error", [BrokenPipeError("pipe"), graphviz.CalledProcessError(1, "dot", stderr=b"pipe")])
def test_a_program_that_dies(run: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise error

    monkeypatch.setattr(graphviz.Digraph, "pipe", fail)
    with pytest.raises(txgraph.TxgraphError, match=r"dot could not draw .*stack\.png: .*pipe"):
        render(run, tmp_path / "stack.png", Picture())


@needs_dot
@pytest.mark.parametrize("view", VIEWS)
def test_views(run: Stages, tmp_path: Path, view: str) -> None:
    text = render(run, tmp_path / "stack.svg", Picture(view), "Stack").read_text(encoding="utf-8")
    titles = {side for side in ("diff", "before", "after") if f"cluster_{side}<" in text}
    assert titles == ({"before", "after"} if view == "side-by-side" else {view})
    assert ("#1 on the left" in text) is (view == "side-by-side")
    assert ("struck out" in text) is (view == "diff")
    assert "x2: 2 equal layers" in text


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"view": "both"}, r"there is no view 'both': it is one of diff, side-by-side, before, after"),
        ({"level": "line"}, r"there is no level 'line': it is one of op, module, kernel"),
        ({"depth": 0}, r"depth is 0, but a module's children are at depth 1"),
        ({"view": "diff", "level": "kernel"}, r"only the graph after the passes has kernels: view='after'"),
    ],
)
def test_a_picture_that_is_not_there(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Picture(**asked)


def test_the_legend_speaks_only_of_what_is_drawn(tmp_path: Path) -> None:
    alone = stages(Stack(8), X)
    side_by_side = Picture("side-by-side")
    path = render(alone, tmp_path / "x.dot", side_by_side)
    assert "equal layers" not in path.read_text(encoding="utf-8")
    equal = Stages(alone.before, alone.before)
    assert "on the left" not in render(equal, path, side_by_side).read_text(encoding="utf-8")
    assert "struck out" not in render(equal, path, Picture()).read_text(encoding="utf-8")


def test_something_else_than_a_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for content in ("no json", "[]", "{}", '{"rows": [{}]}'):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"result\.json is no benchmark"):
            read_benchmark(path)


def test_a_profile_of_another_graph(tmp_path: Path) -> None:
    fast, other = (
        txgraph.optimize(model, (X,), backend="reference", verify="off") for model in (MLP(), Stack(8).eval())
    )
    with pytest.raises(ValueError, match="the profile is of another graph"):
        fast.render(tmp_path / "x.svg", profile=other.profile(X, calls=1))


@needs_dot
def test_measured_shares(tmp_path: Path) -> None:
    fast = txgraph.optimize(MLP(), (X,), backend="reference", verify="off")
    assert "share of the predicted time" in fast.render(tmp_path / "x.svg").read_text(encoding="utf-8")
    measured = fast.render(tmp_path / "x.svg", profile=fast.profile(X, calls=1)).read_text(encoding="utf-8")
    assert "share of the measured time" in measured
    assert "predicted" not in measured
