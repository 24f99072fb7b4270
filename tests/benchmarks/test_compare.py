"""The comparison itself, on a tiny row with real worker processes. Times are recorded, never judged."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
import torch

from benchmarks.compare import Settings, compare, compare_row, main
from benchmarks.errors import compare_outputs
from benchmarks.hardware import describe_hardware
from benchmarks.processes import WorkerFailed
from benchmarks.table import print_row, wide_console

ROW = "tiny_bench:row"
QUICK = Settings(rounds=2, threads=1, turn_seconds=0.0, warm_up_calls=1)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("results")
    options = ["--rounds", "2", "--threads", "1", "--turn-seconds", "0", "--warm-up-calls", "1", "--name", "quick"]
    main(["--rows", ROW, "--competitors", "eager", "tiny_bench:Wrong", *options, "--results", str(folder)])
    written: dict[str, Any] = json.loads((folder / "quick.json").read_text(encoding="utf-8"))
    return written


def test_result_says_on_what_and_how_it_was_measured(result: dict[str, Any]) -> None:
    assert "-core " in result["hardware"]
    assert result["versions"]["torch"] == torch.__version__
    assert result["settings"] == {"rounds": 2, "threads": 1, "turn_seconds": 0.0, "warm_up_calls": 1}


def test_row_holds_its_model_and_inputs(result: dict[str, Any]) -> None:
    (row,) = result["rows"]
    assert (row["row"], row["weights_bytes"]) == ("tiny", (8 * 8 + 8) * 4)
    assert row["inputs"] == {"input": "float32[4, 8]"}
    assert row["eager_error_against_float64"]["relative"] < 1e-6


def test_competitors_take_turns(result: dict[str, Any]) -> None:
    turns = [(t["round"], t["competitor"]) for t in result["rows"][0]["turns"]]
    assert turns == [(0, "eager"), (0, "wrong"), (1, "eager"), (1, "wrong")]
    assert all(len(t["seconds"]) >= 1 and min(t["seconds"]) > 0 for t in result["rows"][0]["turns"])


def test_entry_of_a_competitor(result: dict[str, Any]) -> None:
    entry = result["rows"][0]["competitors"]["eager"]
    assert entry["failed"] == ""
    assert entry["error"] == {"max_abs": 0.0, "relative": 0.0, "wrong": ""}
    assert entry["cold_seconds"] == pytest.approx(entry["build_seconds"] + entry["first_call_seconds"])
    assert entry["min_seconds"] <= entry["median_seconds"]
    memory = entry["rss_bytes"]
    assert 0 < memory["before"] <= memory["after_compile"] <= memory["end"]
    ratios = entry["times_faster"]["eager"]
    assert ratios["of_medians"] == ratios["median_of_rounds"] == ratios["least"] == ratios["largest"] == 1.0


def test_wrong_numbers_are_flagged(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = result["rows"]
    entry = row["competitors"]["wrong"]
    assert entry["error"]["max_abs"] == pytest.approx(0.5)
    assert "is over 1e-04" in entry["error"]["wrong"]
    assert entry["details"] == {"kept": True}
    print_row(row, result, wide_console())
    assert "WRONG 5.0e-01" in capsys.readouterr().out


def test_one_bad_competitor_does_not_end_the_row() -> None:
    names = ["Arrays", "Raises", "Dies", "WrongLater"]
    row = compare_row(ROW, [f"tiny_bench:{n}" for n in names], QUICK, lambda text: None)
    entries = row["competitors"]
    assert entries["arrays"]["error"] == {"max_abs": 0.0, "relative": 0.0, "wrong": ""}
    assert entries["raises"]["failed"] == "RuntimeError: no such kernel"
    assert entries["dies"]["failed"].startswith("the process ended with code 3")
    assert "is over" in entries["wrong later"]["error"]["wrong"]
    assert {t["competitor"] for t in row["turns"]} == {"arrays", "wrong later"}
    assert entries["arrays"]["times_faster"] == {}  # there is no baseline among them


def test_unknown_row_is_named() -> None:
    with pytest.raises(WorkerFailed, match="unknown name 'no-such-row'"):
        compare(["no-such-row"], ["eager"], QUICK)


@pytest.mark.parametrize(
    ("outputs", "wrong"),
    [
        ([], "0 outputs, eager has 1"),
        ([torch.zeros(3)], r"output 0 has shape \[3\], eager's has \[2\]"),
        ([torch.tensor([1.0, math.nan])], "NaN or infinities"),
        ([torch.tensor([1.0, 2.1])], "relative error 5.0e-02 is over"),
        ([torch.tensor([1.0, 2.0])], "^$"),
    ],
)
def test_outputs_are_judged(outputs: list[torch.Tensor], wrong: str) -> None:
    error = compare_outputs(outputs, [torch.tensor([1.0, 2.0])], tolerance=1e-4)
    assert re.search(wrong, error["wrong"])


def test_hardware_is_named_by_its_kind() -> None:
    assert describe_hardware(frozenset({"avx", "avx2", "avx512f", "amx_tile"}), 4).endswith("AVX-512 AMX")
    assert describe_hardware(frozenset(), 4).startswith("4-core ")
