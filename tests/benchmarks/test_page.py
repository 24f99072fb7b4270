"""Medians, means and pages, from results that are written here; and the committed page, from the committed results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.page import BEGIN, END, PAGE, README, page, read_results, speed, with_speed
from txgraph.bench.summary import best_peer, summarise_all, summarise_row

SECONDS = {
    "eager": (0.4, 0.4, 0.8),  # the last round had a slow moment, for all
    "openvino": (0.2, 0.2, 0.4),
    "wrong": (0.01, 0.01, 0.01),
    "txgraph": (0.1, 0.1, 0.2),
    "txgraph-zeros": (0.05, 0.05, 0.1),
}


def entry(name: str) -> dict[str, Any]:
    wrong = "relative error 1.0e+00 is over 1e-04" if name == "wrong" else ""
    return {
        "failed": "",
        "promises_zeros": name.endswith("zeros"),
        "cold_seconds": 12.5,
        "rss_bytes": {"after_compile": 8e8, "end": 9e8, "held_end": 7e8},
        "error": {"max_abs": 1e-6, "relative": 2e-6, "wrong": wrong},
        "error_against_float64": {"max_abs": 1e-6, "relative": 3e-6, "norm": 4e-6, "wrong": ""},
        "details": {},
    }


def row(name: str, new_tokens: int = 0, without: str = "") -> dict[str, Any]:
    entries = {competitor: entry(competitor) for competitor in SECONDS if competitor != without}
    entries["absent"] = {"failed": "PackageMissing: absent is not installed"}
    turns = [
        {"round": at, "competitor": competitor, "seconds": [SECONDS[competitor][at]], "machine_busy": 0.0}
        for at in range(3)
        for competitor in entries
        if competitor in SECONDS
    ]
    return {
        "row": name,
        "failed": "",
        "inputs": {"input_ids": "int64[2, 8]"},
        "dtype": "float32",
        "new_tokens": new_tokens,
        "judged_at": "valid positions",
        "density": 0.5,
        "weights_bytes": 4e8,
        "machine_busy": 0.0,
        **summarise_row(entries, turns, new_tokens),
        "competitors": entries,
        "turns": turns,
    }


@pytest.fixture
def result() -> dict[str, Any]:
    rows = [row("padded"), row("decoding", new_tokens=8, without="txgraph-zeros"), {"row": "lost", "failed": "why"}]
    return {
        "suite": "cpu",
        "hardware": "2-core x86-64 AVX2",
        "versions": {"torch": "2.13.0", "openvino": "2026.4.1"},
        "settings": {"rounds": 3, "threads": 2},
        "rows": rows,
        "summary": summarise_all(rows),
    }


def test_best_peer_is_not_ours_not_wrong_and_not_failed() -> None:
    entries = row("padded")["competitors"]
    assert best_peer(entries) == "openvino"
    assert best_peer({"absent": entries["absent"], "txgraph": entries["txgraph"]}) == ""


def test_ratios_are_those_within_a_round() -> None:
    ratios = row("padded")["competitors"]["txgraph"]["times_faster"]
    assert ratios["best peer"] == pytest.approx(dict.fromkeys(ratios["best peer"], 2.0))
    assert ratios["eager"]["median_of_rounds"] == pytest.approx(4.0)


def test_means_are_geometric_and_name_what_is_left_out(result: dict[str, Any]) -> None:
    exact, zeros = result["summary"].values()
    assert (exact["eager"], exact["best peer"]) == (pytest.approx(4.0), pytest.approx(2.0))
    assert zeros["eager"] == pytest.approx((8.0 * 4.0) ** 0.5)  # the row that decodes has no zeros
    assert (exact["rows"], exact["left_out"]) == (2, ["lost"])


def test_page_has_every_row_and_competitor(result: dict[str, Any]) -> None:
    text = page({"cpu": result})
    assert (
        "| padded | 400.0 ms | 200.0 ms (openvino) | 100.0 ms | 4.00 | 2.00 | 50.0 ms, 4.00 times best peer |" in text
    )
    assert "| lost | failed |  |  |  |  |  |" in text
    assert "| txgraph | 100.0 | 4.00 | 2.00 | 2.0e-06 | 3.0e-06 | 4.0e-06 | 12.5 | 900 | 700 |\n" in text
    assert "| txgraph | 100.0 | 4.00 | 2.00 | 2.0e-06 | 3.0e-06 | 4.0e-06 | 12.5 | 900 | 700 | 80.0 |\n" in text
    assert "- absent failed: PackageMissing: absent is not installed\n" in text
    assert "| wrong | wrong |  |  | wrong | 3.0e-06 | 4.0e-06 | 12.5 | 900 | 700 |\n" in text
    assert "txgraph: 4.00 times as fast as eager, 2.00 times as fast as the best peer" in text
    assert "50% of the positions are valid. Errors are judged at valid positions." in text
    assert "No results of `--suite cuda` are here yet." in text


def test_readme_changes_between_its_marks_only(result: dict[str, Any]) -> None:
    readme = f"before\n{BEGIN}old\n{END}after\n"
    assert with_speed(readme, {"cpu": result}) == f"before\n{BEGIN}{speed(result)}{END}after\n"
    assert with_speed(readme, {}) == readme
    with pytest.raises(ValueError, match=r"README\.md needs the lines"):
        with_speed("nothing", {"cpu": result})


def test_plot_names_rows_and_competitors(result: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.plot import plot

    plot(result, tmp_path / "one.svg")
    plot(result, tmp_path / "two.svg")
    text = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert text == (tmp_path / "two.svg").read_text(encoding="utf-8")
    assert all(name in text for name in ("padded", "decoding", "openvino", "txgraph-zeros"))
    assert "wrong" not in text


def test_committed_page_and_readme_are_what_the_committed_results_give() -> None:
    results = read_results()
    assert PAGE.read_text(encoding="utf-8") == page(results)
    readme = README.read_text(encoding="utf-8")
    assert readme == with_speed(readme, results)
