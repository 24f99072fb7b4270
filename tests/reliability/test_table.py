"""The table of docs/reliability.md names tests that exist, for every row, and every expected failure."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
HOLDS, HOLDS_NOT = PAGE.split("## What does not hold yet")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)(?:\[[^\]]*\])?`")
ROWS = range(1, 18)


def rows(text: str) -> list[tuple[int, list[tuple[str, str]]]]:
    """The number of each row of a table, and its tests: file and function."""
    lines = re.findall(r"^\| (\d+) (\|.*)$", text, re.MULTILINE)
    return [(int(number), TEST.findall(line)) for number, line in lines]


def expected_failures(path: str) -> Iterator[str]:
    """Tests of a file that are marked, as a whole or for one of their parameters."""
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    for name, value in vars(module).items():
        marks = getattr(value, "pytestmark", []) if name.startswith("test_") else []
        sets = [each for mark in marks if mark.name == "parametrize" for each in mark.args[1]]
        inner = [mark for each in sets for mark in getattr(each, "marks", ())]
        if any(mark.name == "xfail" for mark in (*marks, *inner)):
            yield name


def test_every_row_is_there() -> None:
    assert [number for number, _ in rows(HOLDS)] == list(ROWS)
    assert {number for number, _ in rows(HOLDS_NOT)} <= set(ROWS)


@pytest.mark.parametrize(("number", "tests"), [*rows(HOLDS), *rows(HOLDS_NOT)])
def test_the_tests_of_a_row_exist(number: int, tests: list[tuple[str, str]]) -> None:
    assert tests, f"row {number} has no test"
    assert len(set(tests)) == len(tests)
    for path, name in tests:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        assert callable(getattr(module, name, None)), f"row {number}: {path}::{name}"
        assert name.startswith("test_")


def test_every_test_and_every_expected_failure_of_the_folder_is_named() -> None:
    files = [str(p.relative_to(ROOT)) for p in Path(__file__).parent.glob("test_*.py") if p.name != Path(__file__).name]
    named = {test for _, tests in [*rows(HOLDS), *rows(HOLDS_NOT)] for test in tests}
    gaps = {test for _, tests in rows(HOLDS_NOT) for test in tests}
    for path in files:
        module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        every = {(path, name) for name in vars(module) if name.startswith("test_")}
        assert every <= named, every - named
        assert {(path, name) for name in expected_failures(path)} == {test for test in gaps if test[0] == path}
