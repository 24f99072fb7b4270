"""``txgraph explain``: what it prints, what it says of wrong arguments, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import txgraph
from tests.cli.factories import TwoAttentions, encoder, two_attentions
from txgraph.cli.app import app
from txgraph.cli.explanations import explain_passes
from txgraph.cli.models import ModelCall
from txgraph.cli.overview import overview
from txgraph.explain import Explanation
from txgraph.rewrite import NearMiss

TWO = "tests.cli.factories:two_attentions"
FIRST_LINE = TwoAttentions.forward.__code__.co_firstlineno
NOT_OVER_KEYS = "the softmax is not over the keys"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", *arguments])


def data(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    parsed: dict[str, Any] = json.loads(result.stdout)
    return parsed


def assert_one_error(result: Result, exit_code: int, text: str) -> None:
    assert result.exit_code == exit_code, result.output
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert text in line
    assert "Traceback" not in result.stderr


def test_each_pass_says_what_optimize_says() -> None:
    """For the backend that optimize() takes, though nothing is compiled here."""
    model, kwargs = encoder()
    fast = txgraph.optimize(model, kwargs=kwargs, verify="off")
    found = explain_passes(ModelCall(model, kwargs=kwargs), "auto")
    assert list(found) == list(dict.fromkeys(txgraph.default_pipeline().names))
    assert found == {name: fast.explain(name) for name in found}
    assert sum(len(each.rewrites) for each in found.values()) > 3


def test_the_backend_decides_what_pays() -> None:
    model, kwargs = encoder()
    call = ModelCall(model, kwargs=kwargs)
    fast = txgraph.optimize(model, kwargs=kwargs, backend="reference", verify="off")
    found = explain_passes(call, "reference")
    assert found == {name: fast.explain(name) for name in found}
    assert found["fuse-linear-activation"] != explain_passes(call, "inductor")["fuse-linear-activation"]


def test_a_named_pass_is_explained_place_by_place() -> None:
    result = run(TWO, "fuse-attention")
    assert result.exit_code == 0, result.output
    heading, *places = result.stdout.splitlines()
    assert heading.startswith("fuse-attention: 1 rewrites, ")
    rewritten = [line for line in places if line.startswith("  rewritten ")]
    assert [f"(factories.py:{FIRST_LINE + 3})" in line for line in rewritten] == [True]
    assert any(line.startswith(f"  missed     (factories.py:{FIRST_LINE + 1}): {NOT_OVER_KEYS}") for line in places)


def test_named_passes_come_in_the_order_given_and_once() -> None:
    result = run(TWO, "fuse-gelu", "fuse-attention", "fuse-gelu")
    headings = [line for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert [heading.partition(":")[0] for heading in headings] == ["fuse-gelu", "fuse-attention"]


def test_the_overview_has_the_passes_with_news() -> None:
    model, kwargs = two_attentions()
    found = explain_passes(ModelCall(model, kwargs=kwargs), "auto")
    news = [n for n, e in found.items() if e.rewrites or any(m.complete for m in e.near_misses)]
    result = run(TWO)
    *lines, hint = result.stdout.splitlines()
    assert hint == "With names of passes: each place with its module and source line."
    assert [line.partition(":")[0] for line in lines if not line.startswith(" ")] == news
    assert "fuse-attention" in news
    assert "fuse-gelu" not in news
    assert f"  1 x {NOT_OVER_KEYS}, as in (factories.py:{FIRST_LINE + 1})" in lines


def test_all_passes_in_the_overview() -> None:
    lines = run(TWO, "--all").stdout.splitlines()[:-1]
    headings = [line.partition(":")[0] for line in lines if not line.startswith(" ")]
    assert headings == list(dict.fromkeys(txgraph.default_pipeline().names))
    assert "fuse-gelu: 0 rewrites, 0 rejected" in lines


def test_reasons_are_counted_and_cut() -> None:
    def miss(reason: str, location: str = "", complete: bool = True) -> NearMiss:
        return NearMiss("a-pass", "add", reason, "%add", "layer", location, complete)

    misses = [miss("rare"), *(miss("often", f"model.py:{line}") for line in (7, 8)), miss("far", complete=False)]
    misses += [miss(f"other {at}") for at in range(3)]
    assert overview(Explanation("a-pass", (), tuple(misses))).splitlines() == [
        "a-pass: 0 rewrites, 6 rejected",
        "  2 x often, as in layer (model.py:7)",
        "  1 x rare",
        "  1 x other 0",
        "  and 2 more reasons",
    ]


def test_json_holds_every_place() -> None:
    found = data(TWO, "fuse-attention")
    assert (found["model"], found["backend"]) == (TWO, "inductor")
    (explanation,) = found["passes"]
    assert explanation["name"] == "fuse-attention"
    (rewrite,) = explanation["rewrites"]
    assert rewrite["location"] == f"factories.py:{FIRST_LINE + 3}"
    assert len(rewrite["removed"]) >= 3
    nearest = explanation["near_misses"][0]
    assert (nearest["reason"], nearest["location"]) == (NOT_OVER_KEYS, f"factories.py:{FIRST_LINE + 1}")
    assert nearest["complete"] is True


def test_lines_are_not_broken_at_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert NOT_OVER_KEYS in run(TWO, "fuse-attention").stdout


def test_a_model_in_training_mode_is_explained_in_eval_mode() -> None:
    (explanation,) = data("tests.cli.factories:training", "fuse-linear-activation")["passes"]
    assert len(explanation["rewrites"]) == 1


def test_unknown_passes_are_named_with_the_known_ones() -> None:
    result = run(TWO, "fuse-everything", "fuse-gelu", "fuse-nothing")
    assert_one_error(result, 2, "no pass named 'fuse-everything', 'fuse-nothing'; there are normalize-arithmetic, ")
    assert "fuse-attention" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--backend", "gcc"], "unknown backend 'gcc': expected one of auto, inductor, tvm, reference"),
        (["fuse-gelu", "--all"], "give names of passes or --all, not both"),
        (["--batch", "0"], "Invalid value for '--batch': "),
        (["--length", "many"], "Invalid value for '--length': "),
    ],
)
def test_wrong_arguments(arguments: list[str], text: str) -> None:
    assert_one_error(run(TWO, *arguments), 2, text)


def test_an_error_of_txgraph_is_its_message_and_code_1() -> None:
    result = run("tests.cli.factories:data_dependent")
    assert result.exit_code == 1
    assert result.stdout == ""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert line.startswith("Error: DataDependent could not be captured as one graph at ")
    assert "factories.py" in line
    assert "Traceback" not in result.stderr


def test_help_says_what_each_option_is() -> None:
    text = " ".join(run("--help").stdout.split())
    for option in ("MODEL", "[PASS]...", "--batch", "--length", "--inputs", "--backend", "--all", "--json"):
        assert option in text
    assert "Nothing is downloaded" in text
    assert "default: 128" in text
    assert "default: inductor" in text


def test_as_a_process_models_come_from_the_current_folder(tmp_path: Path) -> None:
    source = "import torch\nclass Twice(torch.nn.Module):\n    def forward(self, x):\n        return -(-x) * 1\n"
    (tmp_path / "my_model.py").write_text(f"{source}def make():\n    return Twice(), {{'x': torch.ones(2, 3)}}\n")
    command = [sys.executable, "-m", "txgraph", "explain", "my_model:make", "remove-identities"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("remove-identities: 1 rewrites, ")
    assert "(my_model.py:4)" in done.stdout
    wrong = subprocess.run([*command, "fuse-x"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "no pass named 'fuse-x'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
