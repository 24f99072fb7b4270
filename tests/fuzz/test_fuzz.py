"""The fuzzer: a bounded run of it, what it generates, how it judges and shrinks, and the models it once failed on."""

from __future__ import annotations

import gc
import logging
import random
import runpy
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import txgraph
from tests.fuzz.__main__ import main
from tests.fuzz.regressions import REGRESSIONS, Regression
from txgraph.fuzz import Outcome, Recipe, random_recipe, run, shrink
from txgraph.fuzz.attention import Attention
from txgraph.fuzz.blocks import FeedForward, LayerNorm, Linear, Projection
from txgraph.fuzz.choices import Choices
from txgraph.fuzz.judge import another_function, answer, judge
from txgraph.fuzz.models import BLOCKS, Ends, Parallel, Residual
from txgraph.fuzz.plumbing import Arithmetic, Identity, InPlace
from txgraph.fuzz.run import shrunk
from txgraph.passes import default_pipeline

FIRST, MODELS, PAIRS, COMPILED = 1000, 60, 15, 4  # numbers of the models of the bounded run


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """One thread, no log, and a garbage collector that leaves alone what stays: captures make much garbage."""
    threads, thresholds = torch.get_num_threads(), gc.get_threshold()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def told(outcome: Outcome) -> str:
    return f"{outcome.kind}\n{outcome.detail}\n{outcome.recipe}"


class DropBias(txgraph.RewritePass):
    """linear(x, w, b) -> linear(x, w): wrong"""

    def pattern(self, p: txgraph.PatternFactory) -> txgraph.Pattern:
        return p.aten.linear(p.any("x"), p.any("w"), p.const("b"))

    def rewrite(self, match: txgraph.Match, g: Any) -> Any:
        return g.aten.linear(match["x"], match["w"])


# A bounded run


@pytest.mark.parametrize("first", range(FIRST, FIRST + MODELS, 20))
def test_random_models_are_answered_like_eager(first: int) -> None:
    outcomes = [run(random_recipe(number)) for number in range(first, first + 20)]
    assert [told(o) for o in outcomes if o.is_bug] == []
    assert sum(o.kind == "refused" for o in outcomes) <= 1


def test_random_models_agree_with_their_other_forms() -> None:
    outcomes = [run(random_recipe(number), pairs=True) for number in range(FIRST + MODELS, FIRST + MODELS + PAIRS)]
    assert [told(o) for o in outcomes if o.is_bug] == []


@pytest.mark.parametrize("number", range(FIRST, FIRST + COMPILED))
def test_random_models_through_inductor(number: int) -> None:
    outcome = run(random_recipe(number), backend="inductor")
    assert not outcome.is_bug, told(outcome)


@pytest.mark.parametrize(
    "regression",
    [
        pytest.param(r, id=name, marks=[pytest.mark.xfail(reason=r.open, strict=True)] if r.open else [])
        for name, r in REGRESSIONS.items()
    ],
)
def test_regressions(regression: Regression) -> None:
    outcome = run(regression.recipe, regression.backend)
    assert outcome.kind == "pass", told(outcome)


# What is generated


def test_a_number_gives_one_recipe() -> None:
    assert random_recipe(7) == random_recipe(7)
    assert random_recipe(7) != random_recipe(8)
    assert random_recipe(7).source() == random_recipe(7).source()


@pytest.mark.parametrize("number", range(8))
def test_the_source_defines_the_same_model(number: int) -> None:
    recipe = random_recipe(number)
    namespace: dict[str, Any] = {"__name__": "read"}
    exec(recipe.source(), namespace)
    model, args = namespace["build"](), namespace["inputs"]()
    mine, given = recipe.build(), recipe.inputs()
    assert all(torch.equal(a, b) for a, b in zip(args, given, strict=True))
    states = model.state_dict(), mine.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    values = answer(model, model, args).values, answer(mine, mine, given).values
    for a, b in zip(*values, strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num()) if isinstance(a, torch.Tensor) else a == b


def test_inputs_have_the_sizes_that_are_asked_for() -> None:
    recipe = Recipe(ends=Ends(given="ids", mask="int64", memory=True))
    x, keep, memory = recipe.inputs(3, 6, seed=1)
    assert (x.shape, keep.shape, memory.shape) == ((3, 6), (3, 6), (3, 8, 8))
    assert x.dtype == keep.dtype == torch.int64


def test_twins_are_the_same_function() -> None:
    different = 0
    for number in range(60):
        recipe = random_recipe(number)
        twin = recipe.twin(1)
        different += twin.definition() != recipe.definition()
        apart = another_function(recipe.build(), twin.build(), recipe.inputs())
        assert apart == [], (recipe, twin)
    assert different > 30


def test_a_twin_of_other_weights_is_found() -> None:
    recipe = Recipe(blocks=(Linear(),))
    assert another_function(recipe.build(), replace(recipe, seed=1).build(), recipe.inputs())


def test_every_choice_is_drawn() -> None:
    drawn = {choice for number in range(2500) for choice in random_recipe(number).chosen()}
    kinds: set[type[Choices]] = {Ends}
    waiting: list[type[Choices]] = list(BLOCKS)
    while waiting:
        kind = waiting.pop()
        if kind not in kinds:
            kinds.add(kind)
            waiting += [inner for each in fields(kind) for inner in each.metadata.get("kinds", ())]
    assert {Residual, Parallel, Attention, FeedForward, Projection} <= kinds
    wanted = {
        (kind.__name__, each.name, value)
        for kind in kinds
        for each in fields(kind)
        for value in each.metadata.get("values", ())
    }
    assert wanted - drawn == set()


@pytest.mark.parametrize("kind", [Identity, Arithmetic, InPlace], ids=lambda kind: kind.__name__)
def test_every_line_runs(kind: type[Choices]) -> None:
    (values,) = (each.metadata["values"] for each in fields(kind) if each.name == "how")
    for how in values:
        recipe = Recipe(ends=Ends(mask="bool"), blocks=(kind(how=how),))  # type: ignore[arg-type]  # all are blocks
        model, args = recipe.build(), recipe.inputs()
        given, found = args[0], answer(model, model, args).values[-1]
        assert found.shape == given.shape, how
        assert torch.allclose(found, given) or kind is not Identity, how


# How it is judged


def test_a_wrong_answer_is_found() -> None:
    recipe = Recipe(blocks=(Linear(),))
    model, args = recipe.build(), recipe.inputs()
    assert judge(model, model, args, "x") == []
    assert [f.what[:2] for f in judge(lambda x: model(x) * (1 + 1e-5), model, args, "x")] == ["G2", "G3"]
    assert "structure" in judge(lambda x: (model(x),), model, args, "x")[0].what
    assert "writes to inputs [0]" in judge(lambda x: model(x.add_(0.0)) + 0 * x.add_(1.0), model, args, "x")[0].what


def test_shared_memory_is_compared() -> None:
    recipe = Recipe(ends=Ends(outputs="view"))
    model, args = recipe.build(), recipe.inputs()
    (finding,) = judge(lambda x: tuple(t.clone() for t in model(x)), model, args, "x")
    assert "share memory [[], [], []], eager's [['input 0'], ['input 0', 'output 0']" in finding.what


def test_written_buffers_are_compared_and_put_back() -> None:
    recipe = Recipe(blocks=(InPlace(how="{counter}.add_(1); y = y * {counter}"),))
    model, args = recipe.build(), recipe.inputs()
    assert judge(model, model, args, "x") == []
    assert float(next(model.buffers())) == 1.0
    assert judge(lambda x: x * 2.0, model, args, "x")[0].what.startswith("G2 output 0")


def test_what_the_product_takes_back_counts_as_caught() -> None:
    wrong = default_pipeline().append(DropBias())
    outcome = run(Recipe(blocks=(Linear(),)), passes=wrong)
    assert (outcome.kind, outcome.signature) == ("caught", "drop-bias")
    assert outcome.is_bug


def test_a_model_that_does_not_run_is_the_generators_mistake() -> None:
    assert run(Recipe(width=8, heads=3, blocks=(Attention(style="flat"),))).kind == "invalid"


def test_a_refusal_is_not_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise txgraph.CaptureFailed("Model could not be captured\n  ValueError: a branch over a tensor")

    monkeypatch.setattr(sys.modules["txgraph.fuzz.run"], "optimize", refuse)
    outcome = run(Recipe(blocks=(Linear(),)))
    assert (outcome.kind, outcome.is_bug) == ("refused", False)
    assert outcome.signature == "CaptureFailed: ValueError: a branch over a tensor"


# How it is shrunk


def test_shrinking_leaves_what_is_needed() -> None:
    blocks = (LayerNorm(), Residual(inner=FeedForward(gate="gated"), order="pre"), Linear())
    recipe = Recipe(width=16, heads=4, dtype="bfloat16", ends=Ends(given="ids", pool="mean"), blocks=blocks, length=7)
    small = shrink(recipe, lambda r: "FeedForward" in str(r) and r.length > 5)
    assert small == Recipe(blocks=(FeedForward(),), length=7)


def test_shrinking_asks_no_more_than_it_may() -> None:
    asked = []
    recipe = random_recipe(3)
    assert shrink(recipe, lambda r: bool(asked.append(r)), most=5) == recipe
    assert len(asked) == 5


def test_a_wrong_pass_is_shrunk_to_one_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = txgraph.Pipeline((DropBias(),))
    blocks = (Arithmetic(), Residual(inner=Linear(), norm=LayerNorm(), order="pre"))
    outcome = run(Recipe(ends=Ends(outputs="tuple"), blocks=blocks), passes=wrong)
    small = shrunk(outcome, passes=wrong).minimal
    assert small == Recipe(blocks=(Linear(),))
    path = tmp_path / "found.py"
    path.write_text(small.source(), encoding="utf-8")
    runpy.run_path(str(path), run_name="__main__")
    assert "optimized tensor(" in capsys.readouterr().out


def test_simpler_choices_come_first() -> None:
    block = Linear(projection=Projection(bias=False), chained="wide")
    assert next(block.simpler()) == Linear(chained="wide")
    assert list(Linear().simpler()) == []
    assert Projection.draw(random.Random(1)) == Projection.draw(random.Random(1))


# The command


def test_the_command_writes_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.md"
    assert main(["--graphs", "2", "--seed", str(FIRST), "--write", str(path)]) == 0
    assert "| pass | 2 |" in path.read_text(encoding="utf-8")
    assert "pass" in capsys.readouterr().out
