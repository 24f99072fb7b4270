"""The rows and suites, with real worker processes on a tiny row. Times are recorded, never judged."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.compare import compare, main
from benchmarks.competitors import COMPETITORS
from benchmarks.rows import ROWS
from benchmarks.suites import SUITES
from benchmarks.table import print_row, wide_console
from txgraph.bench import Settings, resolve

ROW = "tests.bench.tiny_bench:row"
QUICK = Settings(rounds=2, threads=1, turn_seconds=0.0, warm_up_calls=1)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("results")
    options = ["--rounds", "2", "--threads", "1", "--turn-seconds", "0", "--warm-up-calls", "1", "--name", "quick"]
    main(["--rows", ROW, "--competitors", "eager", "tests.bench.tiny_bench:Wrong", *options, "--results", str(folder)])
    written: dict[str, Any] = json.loads((folder / "quick.json").read_text(encoding="utf-8"))
    return written


def test_result_says_on_what_and_how_it_was_measured(result: dict[str, Any]) -> None:
    assert "-core " in result["hardware"]
    assert result["versions"]["torch"] == torch.__version__
    assert result["settings"] == asdict(QUICK)


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
    assert entry["error"] == {"max_abs": 0.0, "relative": 0.0, "norm": 0.0, "wrong": ""}
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


def test_unknown_names_end_it_before_anything_is_measured() -> None:
    with pytest.raises(ValueError, match="unknown name 'no-such-row'"):
        compare([ROW, "no-such-row"], ["eager"], QUICK)
    with pytest.raises(ValueError, match="unknown name 'no-such-competitor'"):
        compare([ROW], ["eager", "no-such-competitor"], QUICK)


def test_failed_row_does_not_end_the_others_and_is_measured_again(tmp_path: Path) -> None:
    options = ["--rounds", "2", "--threads", "1", "--turn-seconds", "0", "--warm-up-calls", "1"]
    rows = ["tests.bench.tiny_bench:failing_row", ROW]
    given = ["--rows", *rows, "--competitors", "eager", *options, "--results", str(tmp_path)]
    first = main(given)
    assert [row["failed"] for row in first["rows"]] == ["RuntimeError: not today", ""]
    again = main([*given, "--resume"])
    assert [row["failed"] for row in again["rows"]] == ["RuntimeError: not today", ""]
    assert again["rows"][1] == first["rows"][1]  # with the same times
    assert json.loads((tmp_path / "compare.json").read_text(encoding="utf-8")) == again
    with pytest.raises(ValueError, match="cannot be resumed: its settings are"):
        main([*given, "--resume", "--warm-up-calls", "2"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_suite_for_gpus_says_that_there_is_none() -> None:
    with pytest.raises(SystemExit, match="suite cuda needs an NVIDIA GPU"):
        main(["--suite", "cuda"])


def test_suites_name_what_exists() -> None:
    for suite in SUITES.values():
        for row, competitors in suite.rows.items():
            resolve(row, ROWS)
            for competitor in competitors:
                resolve(competitor, COMPETITORS)


def test_part_of_a_suite() -> None:
    suite = SUITES["cpu"]
    assert suite.select(["gpt2-decode-64", "bert-base-1x128"], ["txgraph", "openvino"]) == {
        "gpt2-decode-64": ("txgraph",),
        "bert-base-1x128": ("openvino", "txgraph"),
    }
    with pytest.raises(ValueError, match="not in suite cpu: no-such-row, nobody"):
        suite.select(["no-such-row"], ["nobody"])
