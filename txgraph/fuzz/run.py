"""Optimize random models and say what became of each."""

from __future__ import annotations

import dataclasses
import logging
import random
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from txgraph.cost import hardware_of
from txgraph.errors import CaptureFailed, GuardFailed, TxgraphError, UnsupportedOp
from txgraph.fuzz.judge import Finding, judge, judge_pair, truth_of
from txgraph.fuzz.models import Recipe, random_recipe
from txgraph.fuzz.shrink import shrink
from txgraph.optimize import optimize
from txgraph.optimized_model import OptimizedModel
from txgraph.options import Target
from txgraph.passes import default_pipeline
from txgraph.pipeline import Pipeline
from txgraph.verify import Reference

log = logging.getLogger(__name__)

KINDS = ("pass", "rounding", "caught", "refused", "wrong", "invalid")
_REFUSALS = (CaptureFailed, GuardFailed, UnsupportedOp)
_USUAL = hardware_of(Target("cpu"))
_FREE_LAUNCHES = dataclasses.replace(_USUAL, name="no launch", launch_seconds=1e-12)


@dataclass(frozen=True)
class Outcome:
    """What became of one recipe.

    Attributes:
        kind: ``"pass"``; ``"caught"``: the numbers are right, but a pass or the backend was found to be wrong and was
            replaced; ``"rounding"``: the same, but what was replaced is as good as eager is on inputs and weights that
            differ by one rounding; ``"refused"``: a clear error instead of an answer; ``"wrong"``: answers differ from
            eager, or an error that is no refusal; ``"invalid"``: the model does not run in eager, a mistake of the
            generator.
        detail: a line for each thing that was found. signature: equal for findings that look alike.
        minimal: the smallest recipe that was found with this outcome.
    """

    recipe: Recipe
    kind: str
    detail: str = ""
    signature: str = ""
    minimal: Recipe | None = None

    @property
    def is_bug(self) -> bool:
        """Whether something in the product, or in the generator, is wrong."""
        return self.kind in ("caught", "wrong", "invalid")


def run(recipe: Recipe, backend: str = "reference", pairs: bool = False, passes: Pipeline | None = None) -> Outcome:
    """Build, optimize and judge one model.

    Args:
        pairs: compare with the twin of the recipe, too. passes: other than the default pipeline.
    """
    torch.manual_seed(0)
    try:
        model, args = recipe.build(), recipe.inputs()
        truth_of(model, args)
    except Exception as error:  # whatever the generator got wrong
        return Outcome(recipe, "invalid", _told(error), _kind_of(error))
    try:
        fast = optimized(recipe, model, args, backend, passes)
        findings = []
        for name, given in trials(recipe, fast):
            truth = _truth_or_none(model, given)
            if truth is not None:
                findings += judge(fast, model, given, name, _comparable(given), truth)
        if pairs:
            twin = recipe.twin(1).build()
            findings += judge_pair(fast, model, twin, recipe.inputs(seed=2))
    except _REFUSALS as error:
        return Outcome(recipe, "refused", _told(error), _kind_of(error))
    except Exception as error:  # that it raises at all is the finding
        return Outcome(recipe, "wrong", f"{_told(error)}\n{_last_lines(error)}", _kind_of(error))
    caught = rejected(fast)
    if findings:
        blamed = sorted({line.split(":")[0] for line in caught})
        return Outcome(recipe, "wrong", "\n".join([*map(str, findings), *caught]), " ".join(_sign(findings) + blamed))
    if caught:
        kind = "caught" if _unchecked(recipe, model, args, backend, passes) else "rounding"
        return Outcome(recipe, kind, "\n".join(caught), " ".join(sorted({line.split(":")[0] for line in caught})))
    return Outcome(recipe, "pass")


def fuzz(
    count: int, seed: int = 0, backend: str = "reference", pairs: bool = False, shrinks: bool = True
) -> Iterator[Outcome]:
    """The outcomes of ``count`` recipes from number ``seed`` on; each that fails comes with a minimal one."""
    for number in range(seed, seed + count):
        outcome = run(random_recipe(number), backend, pairs)
        yield shrunk(outcome, backend, pairs) if shrinks and outcome.is_bug else outcome


def shrunk(
    outcome: Outcome, backend: str = "reference", pairs: bool = False, passes: Pipeline | None = None
) -> Outcome:
    """With the smallest recipe that fails in the same way."""

    def fails(recipe: Recipe) -> bool:
        other = run(recipe, backend, pairs, passes)
        return other.kind == outcome.kind and other.signature == outcome.signature

    return replace(outcome, minimal=shrink(outcome.recipe, fails))


def optimized(
    recipe: Recipe,
    model: nn.Module,
    args: tuple[torch.Tensor, ...],
    backend: str,
    passes: Pipeline | None = None,
    verify: str = "passes",
) -> OptimizedModel:
    """The model of a recipe, compiled for its example inputs."""
    given = () if recipe.dynamic == "lazy" else tuple(a.clone() for a in args)
    return optimize(
        model,
        given,
        dynamic_shapes=recipe.dynamic_shapes(),
        backend=backend,
        passes=default_pipeline() if passes is None else passes,
        verify=verify,
        options={"hardware": _USUAL if recipe.eager_costs else _FREE_LAUNCHES},
    )


def _unchecked(
    recipe: Recipe, model: nn.Module, args: tuple[torch.Tensor, ...], backend: str, passes: Pipeline | None
) -> list[Finding]:
    """What is wrong on the example inputs where the product checks nothing, and so takes nothing back."""
    fast = optimized(recipe, model, args, backend, passes, verify="off")
    return judge(fast, model, args, "unchecked", alias=_comparable(args))


def trials(recipe: Recipe, fast: OptimizedModel) -> Iterator[tuple[str, tuple[torch.Tensor, ...]]]:
    """Inputs that the model was not compiled with, by their names."""
    yield "example", recipe.inputs()
    yield "fresh", recipe.inputs(seed=1)
    if recipe.dynamic != "static":
        batch, length = recipe.batch + 1, recipe.length if recipe.dynamic == "batch" else recipe.length + 2
        yield "other sizes", recipe.inputs(batch, length, seed=2)
    args = recipe.inputs(seed=3)
    name = random.Random(recipe.seed).choice(tuple(SPECIAL))
    if not _documented(name, fast):
        yield name, (SPECIAL[name](args[0]), *args[1:])


def _truth_or_none(model: nn.Module, args: tuple[torch.Tensor, ...]) -> Reference | None:
    """The reference; nothing for inputs that eager does not take, such as strides that a view cannot have."""
    try:
        return truth_of(model, args)
    except (RuntimeError, IndexError, TxgraphError):
        return None


def rejected(fast: OptimizedModel) -> list[str]:
    """What the product itself found to be wrong: passes rolled back, rewrites left out, backends replaced."""
    report = fast.report.to_dict()
    lines = []
    for each in report["passes"]:
        if each["status"] == "rolled back":
            lines.append(f"{each['name']}: rolled back: {each['reason']}")
        lines += [f"{each['name']}: left out {root}: {reason}" for root, reason in each["left_out"].items()]
    return lines + [f"{each['what']}: {each['reason']}" for each in report["fallbacks"]]


def _filled(x: torch.Tensor, value: float) -> torch.Tensor:
    """One token of not-a-number or infinity."""
    x = x.clone()
    if x.is_floating_point():
        x[-1, -1] = value
    return x


def _strided(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1)


SPECIAL: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "zeros": torch.zeros_like,
    "ones": torch.ones_like,
    "large": lambda x: x * (100.0 if x.dtype == torch.float16 else 1e4) if x.is_floating_point() else x,
    "tiny": lambda x: x * 1e-4 if x.is_floating_point() else x,
    "not a number": lambda x: _filled(x, float("nan")),
    "infinity": lambda x: _filled(x, float("inf")),
    "minus infinity": lambda x: _filled(x, float("-inf")),
    "strided": _strided,
}

# Passes that say for which values their results may differ: docs/verification.md and their own docstrings.
_LIMITS = {
    "not a number": ("recognize-masks", "remove-padding"),
    "infinity": ("recognize-masks", "remove-padding", "fuse-gelu", "merge-low-rank-update", "reassociate-matmuls"),
    "minus infinity": ("recognize-masks", "remove-padding", "merge-low-rank-update", "reassociate-matmuls"),
}


def _documented(name: str, fast: OptimizedModel) -> bool:
    """Whether a pass that was applied is documented to differ for such inputs."""
    applied = {p["name"] for p in fast.report.to_dict()["passes"] if p["status"] == "applied"}
    return bool(applied & set(_LIMITS.get(name, ())))


def _comparable(args: tuple[torch.Tensor, ...]) -> bool:
    """Whether shared memory is that of eager: calls bring other inputs into a contiguous form."""
    return all(a.is_contiguous() for a in args)


def _sign(findings: list[Finding]) -> list[str]:
    """What broke, without numbers."""
    return sorted({f.what.split(" ")[0] for f in findings})


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _kind_of(error: Exception) -> str:
    """The type of an error and the kind of what it says."""
    words = str(error).strip().splitlines()
    said = words[0] if words else ""
    if isinstance(error, TxgraphError) and len(words) > 1:
        said = words[1]
    return f"{type(error).__name__}: {' '.join(said.split()[:6])}"


def _last_lines(error: Exception) -> str:
    return "".join(traceback.format_tb(error.__traceback__)[-2:])
