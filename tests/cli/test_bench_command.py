"""``txgraph bench``, with real worker processes on tiny models. Times are recorded, never judged."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from txgraph.cli.app import app
from txgraph.cli.bench_row import TOLERANCES, model_row, padding_of

FACTORIES = "tests.cli.factories"
QUICK = ("--rounds", "2", "--threads", "1", "--backend", "reference")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", *arguments])


def test_plain_data(tmp_path: Path) -> None:
    """In the format of the benchmarks. The factory's weights are random, and the same in every process."""
    file = tmp_path / "result.json"
    result = run(f"{FACTORIES}:encoder", "--competitors", "eager,txgraph", *QUICK, "--json", "-o", str(file))
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout == file.read_text(encoding="utf-8")
    data = json.loads(result.stdout)
    assert data["versions"]["torch"] == torch.__version__
    assert (data["settings"]["rounds"], data["settings"]["threads"]) == (2, 1)
    (row,) = data["rows"]
    assert (row["row"], row["best_peer"], row["judged_at"]) == (f"{FACTORIES}:encoder", "eager", "all positions")
    assert [(turn["round"], turn["competitor"]) for turn in row["turns"]] == [
        (0, "eager"),
        (0, "txgraph"),
        (1, "eager"),
        (1, "txgraph"),
    ]
    entry = row["competitors"]["txgraph"]
    assert entry["error"]["wrong"] == ""
    assert entry["details"]["graphs"][0]["backend"] == "reference"
    assert set(entry["times_faster"]) == {"eager", "best peer"}


def test_table_with_padding() -> None:
    """Our promise is that of the option; where inputs have padding, outputs are judged at the tokens."""
    result = run(f"{FACTORIES}:padded_encoder", "--competitors", "eager,txgraph", *QUICK, "--padding", "zeros")
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert " ".join(lines).startswith(f"{FACTORIES}:padded_encoder, input_ids int64[2, 6], attention_mask bool[2, 6]")
    words = [line.split() for line in lines]
    names = [line[0] for line in words if len(line) == 6]  # with five numbers
    assert names == ["eager", "txgraph-zeros"]
    assert ["competitor", "median", "ms", "times", "eager", "times", "best", "peer", "error", "cold", "s"] in words
    assert "the best peer is eager" in " ".join(lines)
    assert "txgraph-zeros promises zeros at masked positions, not eager's values there" in lines


def test_model_that_fails_in_eager() -> None:
    result = run(f"{FACTORIES}:broken", "--competitors", "eager", *QUICK)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {FACTORIES}:broken fails in eager: ValueError: no weights for this\n"


def test_competitor_that_fails() -> None:
    """The others are measured, and the exit code tells."""
    result = run(f"{FACTORIES}:data_dependent", "--competitors", "eager,txgraph", *QUICK)
    assert result.exit_code == 1, result.output
    assert "txgraph failed: CaptureFailed: " in result.stdout
    (eager,) = [words for line in result.stdout.splitlines() if len(words := line.split()) == 6]
    assert (eager[0], eager[2:4]) == ("eager", ["1.00", "1.00"])


def test_wrong_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(f"{FACTORIES}:encoder", "--competitors", "eager,onnx")
    assert result.exit_code == 2
    assert "no competitor 'onnx': there are eager, torch.compile," in result.stderr
    result = run(f"{FACTORIES}:nothing", *QUICK)
    assert result.exit_code == 2
    assert "has no function or class 'nothing'" in result.stderr
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = run(f"{FACTORIES}:encoder", "--competitors", "eager,openvino")
    assert result.exit_code == 2
    assert "openvino needs openvino: pip install openvino" in result.stderr


def test_rows() -> None:
    assert model_row(f"{FACTORIES}:data_dependent", None, 1, 8).make()[1].keys() == {"x"}  # given by position
    row = model_row(f"{FACTORIES}:padded_encoder", None, 1, 8)
    model, inputs = row.make()
    assert row.valid is not None
    assert row.valid(inputs).sum(-1).tolist() == [6, 3]
    assert row.tolerance == TOLERANCES[torch.float32]
    again, _ = model_row(f"{FACTORIES}:padded_encoder", None, 1, 8).make()
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_masks() -> None:
    assert padding_of({"attention_mask": torch.ones(2, 3, dtype=torch.long)}) is None  # nothing is hidden
    assert padding_of({"attention_mask": torch.zeros(2, 1, 3, 3)}) is None  # not a mask of positions
    ignored = torch.tensor([[False, True]])
    valid = padding_of({"src_key_padding_mask": ignored})
    assert valid is not None
    assert valid({"src_key_padding_mask": ignored}).tolist() == [[True, False]]
