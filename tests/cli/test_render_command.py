"""``txgraph render``: the picture is that of the passes, and wrong arguments are named."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from txgraph.cli.app import app

TWO = "tests.cli.factories:two_attentions"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["render", *arguments])


@pytest.mark.parametrize("ending", [".svg", ".html", ".dot"])
def test_a_picture(ending: str, tmp_path: Path) -> None:
    """One attention is fused, the other is none."""
    path = tmp_path / f"two{ending}"
    result = run(TWO, "-o", str(path))
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(path)
    text = html.unescape(path.read_text(encoding="utf-8"))
    assert "TwoAttentions" in text
    if ending != ".html":  # whose content is packed: see tests/render/test_html.py
        assert "fuse-attention" in text
        assert "scaled_dot_product_attention" in text
        assert "not fused" in text  # the other one
        assert "the softmax is not over the keys" in text


def test_as_data(tmp_path: Path) -> None:
    path = tmp_path / "two.dot"
    result = run(TWO, "-o", str(path), "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert (data["model"], data["file"], data["view"], data["level"]) == (TWO, str(path), "diff", "op")
    assert path.exists()
    assert data["rewrites"]["fuse-attention"] == 1
    assert data["operators"]["after"] < data["operators"]["before"]
    assert [each["reason"] for each in data["not_fused"]] == ["the softmax is not over the keys"]


def test_modules_of_a_model_too_large_to_be_loaded(tmp_path: Path) -> None:
    """Its weights have no values."""
    path = tmp_path / "meta.dot"
    result = run("tests.cli.factories:on_meta", "-o", str(path), "--level", "module", "--depth", "1")
    assert result.exit_code == 0, result.output
    text = html.unescape(path.read_text(encoding="utf-8"))
    assert "fuse-linear-activation" in text
    assert "linear_activation" in text


def test_one_module_of_one_graph(tmp_path: Path) -> None:
    path = tmp_path / "one.dot"
    result = run(
        "bert-base", "-o", str(path), "--view", "after", "--focus", "encoder.layer.3.attention", "--length", "16"
    )
    assert result.exit_code == 0, result.output
    text = html.unescape(path.read_text(encoding="utf-8"))
    assert "after_scaled_dot_product_attention" in text
    assert "intermediate" not in text
    assert "before_" not in text


def test_without_graphviz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert shutil.which("dot") is None
    result = run(TWO, "-o", str(tmp_path / "two.svg"), "--backend", "reference")  # needs no compiler either
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "two.dot")


def test_wrong_arguments(tmp_path: Path) -> None:
    result = run(TWO, "-o", str(tmp_path / "two.jpeg"))
    assert result.exit_code == 2
    assert "the name must end in one of .svg, .png, .pdf, .dot, .html" in result.stderr
    result = run(TWO, "-o", str(tmp_path / "nowhere" / "two.svg"))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: cannot draw to ")
    assert "make it first" in result.stderr
    result = run(TWO, "--focus", "attention", "-o", str(tmp_path / "two.svg"))
    assert result.exit_code == 2
    assert "no operator belongs to a module 'attention'" in " ".join(result.stderr.replace("│", " ").split())
    assert "there is no view 'both'" in run(TWO, "--view", "both").stderr
    assert "there is no level 'line'" in run(TWO, "--level", "line").stderr
    result = run(TWO, "--level", "kernel", "-o", str(tmp_path / "two.svg"))
    assert result.exit_code == 2
    assert "no kernels are known" in result.stderr
    assert run("tests.cli.factories:nothing", "-o", str(tmp_path / "two.svg")).exit_code == 2
    assert run("tests.cli.factories:data_dependent", "-o", str(tmp_path / "two.svg")).exit_code == 1
