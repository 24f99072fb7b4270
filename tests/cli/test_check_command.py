"""``txgraph check``: what it prints, what it says of wrong arguments, and its exit codes."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from txgraph.cli.app import app


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", *arguments])


def test_rules_that_are_right() -> None:
    result = run("fuse-silu", "tests.check.test_check:Rule", "--graphs", "2")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["fuse-silu", "rule"]
    assert all(line.endswith("cases of 2 graphs") for line in lines)


def test_a_wrong_rule_does_not_keep_the_others_from_being_checked() -> None:
    result = run("tests.check.test_check:Aliases", "fuse-silu", "--graphs", "2")
    assert result.exit_code == 1
    assert result.stdout.startswith("fuse-silu: right in ")
    assert result.stderr.startswith("Error: aliases is wrong: G0 output 0: 1 > 0 shares memory with input 0")
    assert "in a graph of 3 nodes:" in result.stderr


def test_plain_data() -> None:
    result = run("tests.check.test_check:Aliases", "fuse-silu", "--graphs", "2", "--json")
    assert result.exit_code == 1
    wrong, right = json.loads(result.stdout)
    assert (wrong["rule"], right["rule"]) == ("aliases", "fuse-silu")
    assert "is wrong" in wrong["error"]
    assert (right["error"], right["programs"]) == ("", 2)


def test_values_that_are_not_tried() -> None:
    dropped = ("--without", "NaN", "--without", "inf", "--without", "-inf", "--without", "negative zero")
    assert run("tests.check.test_check:DropsAZero", "--graphs", "1").exit_code == 1
    assert run("tests.check.test_check:DropsAZero", "--graphs", "1", *dropped).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fuse-everything"], "no pass 'fuse-everything': expected module:Pass, or a built-in name"),
        (["no_such_module:Rule"], "cannot import no_such_module"),
        (["tests.check.test_check:X"], "has no function or class 'X'"),
        (["tests.cli.factories:encoder"], "gave a tuple, expected a txgraph.Pass"),
        (["fuse-silu", "--without", "nothing"], "no values 'nothing'; there are normal, zeros"),
        ([], "Missing argument"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
