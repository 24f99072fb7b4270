"""The harness on tiny rows, with real worker processes. Times are recorded, never judged."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from txgraph.bench import (
    COMPETITORS,
    Settings,
    Worker,
    WorkerFailed,
    compare_row,
    look_up,
    notes,
    resolve,
    with_arguments,
)
from txgraph.bench.errors import compare_outputs
from txgraph.bench.hardware import describe_hardware
from txgraph.progress import Step, listen

HERE = "tests.bench.tiny_bench"
ROW = f"{HERE}:row"
QUICK = Settings(rounds=2, threads=1, turn_seconds=0.0, warm_up_calls=1)


def tiny(*names: str) -> dict[str, str]:
    return {name: f"{HERE}:{name}" for name in names}


def test_one_bad_competitor_does_not_end_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["Arrays", "Raises", "Dies", "WrongLater"]
    limits: dict[str, float] = {}
    ask = Worker.ask

    def watched(worker: Worker, command: str, limit: float = math.inf, **arguments: Any) -> dict[str, Any]:
        if command == "build":
            limits[worker.name] = limit
        return ask(worker, command, limit, **arguments)

    monkeypatch.setattr(Worker, "ask", watched)
    row = compare_row(ROW, tiny(*names), QUICK)
    assert limits == {"Arrays": QUICK.cold_limit + 7, **dict.fromkeys(names[1:], QUICK.cold_limit)}
    entries = row["competitors"]
    assert entries["arrays"]["error"] == {"max_abs": 0.0, "relative": 0.0, "norm": 0.0, "wrong": ""}
    assert entries["raises"]["failed"] == "RuntimeError: no such kernel"
    assert entries["dies"]["failed"].startswith("the process ended with code 3")
    assert "is over" in entries["wrong later"]["error"]["wrong"]
    assert {t["competitor"] for t in row["turns"]} == {"arrays", "wrong later"}
    assert set(entries["arrays"]["times_faster"]) == {"best peer"}  # there is no other baseline among them


def test_missing_package_is_named_with_the_command_that_installs_it() -> None:
    row = compare_row(ROW, {"lacking": "tests.bench.lacks_a_package:Competitor"}, QUICK)
    entry = row["competitors"]["lacking"]
    assert entry["failed"] == "PackageMissing: no_such_package is not installed: pip install no_such_package"


def test_padded_rows_are_judged_at_valid_positions() -> None:
    row = compare_row(f"{HERE}:padded_row", tiny("WrongAtPadding", "Zeros", "ZerosNotKept"), QUICK)
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
    row = compare_row(f"{HERE}:decoding_row", {"eager": COMPETITORS["eager"]}, QUICK)
    entry = row["competitors"]["eager"]
    assert entry["tokens_per_second"] == pytest.approx(4 / entry["median_seconds"])


def test_competitor_that_takes_too_long_is_ended() -> None:
    with Worker(ROW, f"{HERE}:Sleeps", 1) as worker:
        worker.ask("hello")
        with pytest.raises(WorkerFailed, match="no answer after 0 s"):
            worker.ask("build", limit=0.1)
        with pytest.raises(WorkerFailed, match="the process ended"):
            worker.ask("finish")


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


def test_errors_by_norm() -> None:
    """One of a hundred is off by half: by the largest that is much, by norm a twentieth of it."""
    exact = torch.ones(100)
    found = exact.clone()
    found[3] = 1.5
    error = compare_outputs([found, exact], [exact, exact], tolerance=1.0)
    assert error == {"max_abs": 0.5, "relative": 0.5, "norm": pytest.approx(0.05), "wrong": ""}


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


def test_rows_and_competitors_may_take_arguments() -> None:
    """The row is made by a function, and has inputs that are no tensors."""
    row = with_arguments(f"{HERE}:scaled_row", size=5)
    competitors = {"wrong": with_arguments(f"{HERE}:Wrong", by=0.25), "eager": COMPETITORS["eager"]}
    steps: list[Step] = []
    with listen(steps.append):
        found = compare_row(row, competitors, QUICK)
    assert found["inputs"] == {"input": "float32[5]", "factor": "float"}
    assert found["competitors"]["wrong"]["error"]["max_abs"] == 0.25
    assert found["competitors"]["eager"]["error"]["max_abs"] == 0.0
    assert list(map(str, steps)) == [
        "reference: eager, and in float64",
        "cold start 1 of 2: wrong",
        "cold start 2 of 2: eager",
        "warm up",
        "rounds 1 of 2",
        "rounds 2 of 2",
    ]


def test_models_that_do_not_run_in_float64_are_measured() -> None:
    row = compare_row(f"{HERE}:single_row", {"eager": COMPETITORS["eager"]}, QUICK)
    entry = row["competitors"]["eager"]
    assert (entry["failed"], entry["error"]["relative"]) == ("", 0.0)
    assert entry["error_against_float64"]["relative"] is None
    (note,) = [note for note in notes(row) if "float64" in note]
    assert note.startswith("no errors against float64: RuntimeError: ")


def test_row_that_fails_in_eager_is_an_error() -> None:
    with pytest.raises(WorkerFailed, match=r"^RuntimeError: not today$"):
        compare_row(f"{HERE}:failing_row", {"eager": COMPETITORS["eager"]}, QUICK)


def test_references() -> None:
    assert resolve("eager", COMPETITORS) == COMPETITORS["eager"]
    assert resolve("mine:Own", COMPETITORS) == "mine:Own"
    with pytest.raises(ValueError, match=r"unknown name 'mine': expected one of .*'txgraph-zeros'"):
        resolve("mine", COMPETITORS)
    assert look_up("math:tau") == math.tau
    assert look_up(with_arguments("builtins:dict", a=1, b=[None, "two words"]))() == {"a": 1, "b": [None, "two words"]}


@pytest.mark.parametrize("name", COMPETITORS)
def test_competitors_are_called_what_they_are_called(name: str) -> None:
    """No package of another project is needed to import them."""
    assert look_up(COMPETITORS[name]).name == name
