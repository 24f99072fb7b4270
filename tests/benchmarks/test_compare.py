"""The comparison itself, on a tiny row with real worker processes. Times are recorded, never judged."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.compare import Settings, compare, compare_row, main
from benchmarks.competitors import COMPETITORS
from benchmarks.errors import compare_outputs
from benchmarks.hardware import describe_hardware
from benchmarks.processes import Worker, WorkerFailed
from benchmarks.references import check_name
from benchmarks.rows import ROWS
from benchmarks.suites import SUITES
from benchmarks.table import notes, print_row, wide_console

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
    assert set(entries["arrays"]["times_faster"]) == {"best peer"}  # there is no other baseline among them


def test_unknown_names_end_it_before_anything_is_measured() -> None:
    with pytest.raises(ValueError, match="unknown name 'no-such-row'"):
        compare([ROW, "no-such-row"], ["eager"], QUICK)
    with pytest.raises(ValueError, match="unknown name 'no-such-competitor'"):
        compare([ROW], ["eager", "no-such-competitor"], QUICK)


def test_missing_package_is_named_with_the_command_that_installs_it() -> None:
    row = compare_row(ROW, ["lacks_a_package:Competitor"], QUICK, lambda text: None)
    (entry,) = row["competitors"].values()
    assert entry["failed"] == (
        "PackageMissing: no_such_package is not installed: pip install -c constraints.txt -e '.[bench]'"
    )


def test_padded_rows_are_judged_at_valid_positions() -> None:
    names = ["tiny_bench:WrongAtPadding", "tiny_bench:Zeros", "tiny_bench:ZerosNotKept"]
    row = compare_row("tiny_bench:padded_row", names, QUICK, lambda text: None)
    assert (row["judged_at"], row["density"]) == ("valid positions", 0.75)
    entries = row["competitors"]
    assert all(entry["error"]["relative"] == 0.0 for entry in entries.values())
    assert entries["wrong at padding"]["error"]["wrong"] == ""
    assert "is over 1e-04" in entries["wrong at padding"]["error_everywhere"]["wrong"]
    assert entries["zeros"]["error"]["wrong"] == ""
    assert "error_everywhere" not in entries["zeros"]
    assert entries["zeros not kept"]["error"]["wrong"] == "output 0 is not zero at all masked positions"
    assert list(notes(row)) == [
        "wrong at padding differs from eager at masked positions: "
        + entries["wrong at padding"]["error_everywhere"]["wrong"],
        "zeros promises zeros at masked positions, not eager's values there",
        "zeros not kept is wrong: output 0 is not zero at all masked positions",
        "zeros not kept promises zeros at masked positions, not eager's values there",
    ]


def test_rows_that_decode_have_tokens_per_second() -> None:
    row = compare_row("tiny_bench:decoding_row", ["eager"], QUICK, lambda text: None)
    entry = row["competitors"]["eager"]
    assert entry["tokens_per_second"] == pytest.approx(4 / entry["median_seconds"])


def test_competitor_that_takes_too_long_is_ended() -> None:
    with Worker(ROW, "tiny_bench:Sleeps", 1) as worker:
        worker.ask("hello")
        with pytest.raises(WorkerFailed, match="no answer after 0 s"):
            worker.ask("build", limit=0.1)
        with pytest.raises(WorkerFailed, match="the process ended"):
            worker.ask("finish")


def test_failed_row_does_not_end_the_others_and_is_measured_again(tmp_path: Path) -> None:
    options = ["--rounds", "2", "--threads", "1", "--turn-seconds", "0", "--warm-up-calls", "1"]
    given = ["--rows", "tiny_bench:failing_row", ROW, "--competitors", "eager", *options, "--results", str(tmp_path)]
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
            check_name(row, ROWS)
            for competitor in competitors:
                check_name(competitor, COMPETITORS)


def test_part_of_a_suite() -> None:
    suite = SUITES["cpu"]
    assert suite.select(["gpt2-decode-64", "bert-base-1x128"], ["txgraph", "openvino"]) == {
        "gpt2-decode-64": ("txgraph",),
        "bert-base-1x128": ("openvino", "txgraph"),
    }
    with pytest.raises(ValueError, match="not in suite cpu: no-such-row, nobody"):
        suite.select(["no-such-row"], ["nobody"])


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


def test_integers_are_equal_or_not() -> None:
    error = compare_outputs([torch.tensor([5, 7])], [torch.tensor([5, 6])], tolerance=1.0)
    assert error["wrong"] == "output 0: 1 of 2 integers differ from eager's"


def test_only_outputs_of_positions_are_masked() -> None:
    valid = torch.tensor([[True, False]])
    tokens, pooled = torch.tensor([[[1.0], [2.0]]]), torch.tensor([[3.0, 4.0, 5.0]])
    elsewhere, other_pooled = torch.tensor([[[1.0], [9.0]]]), torch.tensor([[3.0, 4.0, 6.0]])
    assert not compare_outputs([elsewhere, pooled], [tokens, pooled], 1e-4, valid)["wrong"]
    assert compare_outputs([tokens, other_pooled], [tokens, pooled], 1e-4, valid)["wrong"]


def test_hardware_is_named_by_its_kind() -> None:
    assert describe_hardware(frozenset({"avx", "avx2", "avx512f", "amx_tile"}), 4).endswith("AVX-512 AMX")
    assert describe_hardware(frozenset(), 4).startswith("4-core ")
