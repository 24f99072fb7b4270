"""--budget and --calibration of txgraph optimize: what they are, what is written, and what is said of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from tests.cli.factories import linear_batches
from txgraph import Budget
from txgraph.cli import hugging_face
from txgraph.cli.app import app
from txgraph.cli.budget import load_calibration, parse_budget
from txgraph.cli.models import load_call

LINEAR = ("tests.cli.factories:linear", "--inputs", "tests.cli.factories:linear_kwargs", "--backend", "reference")


def run(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["optimize", *LINEAR, "-o", str(folder), *arguments])


@pytest.fixture
def saved(tmp_path: Path) -> str:
    torch.save(linear_batches(), tmp_path / "calibration.pt")
    return str(tmp_path / "calibration.pt")


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("0.02", Budget(relative_error=0.02)),
        ("2e-2", Budget(relative_error=0.02)),
        ("sqnr_db=30", Budget(sqnr_db=30.0)),
        ("top1_agreement=0.99, seconds=120", Budget(top1_agreement=0.99, seconds=120.0)),
        ("0.05,sqnr_db=20,seed=3", Budget(relative_error=0.05, sqnr_db=20.0, seed=3)),
    ],
)
def test_what_a_budget_is(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget
    assert type(parse_budget(text).seed) is int


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("much", "'much' is no number"),
        ("", "'' is no number"),
        ("-1", "expected a finite number, more than 0"),
        ("nan", "expected a finite number"),
        ("accuracy=1", "'accuracy' is none of relative_error, sqnr_db"),
        ("max_drop=1", "'max_drop' is none of"),
        ("0.1,relative_error=0.2", "'relative_error' is given twice"),
        ("top1_agreement=2", "is a share"),
        ("seconds=3", "no limit is given"),
    ],
)
def test_what_no_budget_is(text: str, said: str) -> None:
    with pytest.raises(typer.BadParameter, match=said):
        parse_budget(text)


def test_what_is_written(tmp_path: Path, saved: str) -> None:
    result = run(tmp_path / "out", "--budget", "0.1", "--calibration", saved, "--json")
    assert result.exit_code == 0, result.output
    (graph,) = json.loads(result.stdout)["graphs"]
    assert graph["budget"]["limits"] == {"relative_error": 0.1}
    assert graph["budget"]["calls"] == {"chosen_by": 2, "held_out": 3}
    assert (tmp_path / "out" / "budget.svg").read_text(encoding="utf-8").startswith("<svg")
    assert "budget.svg" not in [path.name for path in tmp_path.iterdir()]


def test_a_function_gives_batches_as_well(tmp_path: Path) -> None:
    result = run(tmp_path, "--budget", "sqnr_db=20", "--calibration", "tests.cli.factories:linear_batches")
    assert result.exit_code == 0, result.output
    assert "Budget(sqnr_db=20.0)" in result.stdout
    assert "on 3 calls held out" in result.stdout
    assert "budget.svg" in result.stderr


def test_wrong_arguments(tmp_path: Path, saved: str) -> None:
    """Each is said in one line, with exit code 2, before anything is written."""
    torch.save([{"y": torch.ones(2, 4)}] * 4, tmp_path / "other.pt")
    torch.save([{"x": torch.ones(2, 4)}], tmp_path / "one.pt")
    (tmp_path / "text.pt").write_text("no tensors")
    for arguments, said in {
        ("--budget", "0.1"): "--budget needs --calibration",
        ("--calibration", saved): "it is for --budget",
        ("--budget", "0.1", "--calibration", str(tmp_path / "none.pt")): "No such file",
        ("--budget", "0.1", "--calibration", str(tmp_path / "text.pt")): "it is no file of torch.save",
        ("--budget", "0.1", "--calibration", str(tmp_path / "other.pt")): "missing a required argument",
        ("--budget", "0.1", "--calibration", str(tmp_path / "one.pt")): "one batch",
        ("--budget", "0.1", "--calibration", "tests.cli.factories:number"): "must be an iterable of batches",
        ("--budget", "lots", "--calibration", saved): "is no number",
    }.items():
        result = run(tmp_path / "out", *arguments)
        assert (result.exit_code, said in result.stderr) == (2, True), result.output
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
    result = run(tmp_path / "out", "--budget", "1e-12", "--calibration", saved)
    assert result.exit_code == 2
    assert "cannot be kept" in result.stderr


def test_no_code_is_run_from_a_file(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "touched",))

    torch.save([Harmful()] * 3, tmp_path / "harmful.pt")
    result = run(tmp_path / "out", "--budget", "0.1", "--calibration", str(tmp_path / "harmful.pt"))
    assert result.exit_code == 2
    assert not (tmp_path / "touched").exists()


def test_built_in_models_bring_their_own() -> None:
    call = load_call("minilm", None, 2, 16)
    batches = load_calibration(None, "minilm", call, 2, 16)
    assert len(batches) == hugging_face.CALLS
    ids = torch.stack([each["input_ids"] for each in batches])
    assert ids.shape == (hugging_face.CALLS, 2, 16)
    assert (ids[..., 0] == 101).all()  # [CLS]
    assert (ids[..., -1] == 102).all()  # [SEP]
    assert len(ids.flatten(0, 1).unique(dim=0)) == hugging_face.CALLS * 2  # all of them different
    assert all(each["attention_mask"].all() for each in batches)
    with pytest.raises(typer.BadParameter, match="no room for text"):
        hugging_face.calibration("minilm", call.model, 1, 2)
    seeded = hugging_face.calibration("bert-base", call.model, 1, 8)
    assert len({tuple(each["input_ids"][0].tolist()) for each in seeded}) == hugging_face.CALLS
