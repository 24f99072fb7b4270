"""``txgraph optimize``: the report on the terminal and in files, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from txgraph.cli.app import app

TWO = "tests.cli.factories:two_attentions"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["optimize", *arguments])


def test_what_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    result = run(TWO, "-o", str(folder), "--backend", "reference")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in folder.iterdir()) == ["code.py", "graphs.html", "report.json", "report.txt"]
    assert result.stdout == (folder / "report.txt").read_text(encoding="utf-8")
    assert "fuse-attention" in result.stdout
    assert "TwoAttentions: 1 graph(s), backend reference, verify passes" in result.stdout
    assert f"written: {folder}/report.txt" in result.stderr
    data = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert all(each["passed"] for each in data["verification"])
    assert "scaled_dot_product_attention" in (folder / "code.py").read_text(encoding="utf-8")


def test_plain_data(tmp_path: Path) -> None:
    """And nothing else on stdout, or on stderr where it is no terminal."""
    result = run(TWO, "-o", str(tmp_path), "--backend", "reference", "--verify", "final", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [each["stage"] for each in json.loads(result.stdout)["verification"]] == ["capture", "backend"]
    assert result.stderr.strip() == ""


def test_padding(tmp_path: Path) -> None:
    """It reaches optimize(): "zeros" adds a pass."""
    names = []
    for padding in ("exact", "zeros"):
        arguments = ("--backend", "reference", "--padding", padding, "--json")
        result = run("tests.cli.factories:encoder", "-o", str(tmp_path), *arguments)
        assert result.exit_code == 0, result.output
        names.append({each["name"] for each in json.loads(result.stdout)["passes"]})
    assert names[0] < names[1]


def test_wrong_arguments(tmp_path: Path) -> None:
    for arguments, text in {
        ("--verify", "some"): "'some' is none of off, final, passes, rewrites",
        ("--padding", "none"): "'none' is none of exact, zeros",
        ("--backend", "gcc"): "unknown backend 'gcc'",
    }.items():
        result = run(TWO, "-o", str(tmp_path / "out"), *arguments)
        assert result.exit_code == 2
        assert text in result.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    result = run(TWO, "-o", str(tmp_path / "file" / "out"), "--backend", "reference")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    result = run("tests.cli.factories:data_dependent", "-o", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
