"""What a mutant is, and what it takes to kill one.

A fault replaces one real function by a wrong one. It is applied to a probe, which is one call of a small model, or to a
scenario, which is several calls of it between which something changes.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import txgraph
from txgraph.cost import hardware_of
from txgraph.errors import (
    CaptureFailed,
    GuardFailed,
    InvalidGraph,
    PassFailed,
    TxgraphError,
    VerificationFailed,
)
from txgraph.verify import check_gates, reference
from txgraph.verify.gates import shared_inputs

# What starting a kernel costs would decide over models as small as these: rewrites are weighed without it.
OPTIONS: dict[str, Any] = {
    "hardware": replace(hardware_of(txgraph.Target("cpu")), name="no launch", launch_seconds=1e-12)
}
Inputs = dict[str, torch.Tensor]
_NOTICES = (VerificationFailed, PassFailed, InvalidGraph, GuardFailed)
_REFUSES = (GuardFailed, CaptureFailed)


@dataclass
class Reached:
    """How often the wrong function ran."""

    count: int = 0


@dataclass(frozen=True)
class Fault:
    """One function, method or entry of a table, and what stands in its place.

    Attributes:
        owner: the module, class or dict that holds it, under ``name``.
        wrong: the wrong variant: called with the original, then with its arguments.
    """

    owner: Any
    name: Any
    wrong: Callable[..., Any]

    @contextlib.contextmanager
    def applied(self) -> Iterator[Reached]:
        """Put the wrong variant in the place of the original for a while."""
        reached, in_table = Reached(), isinstance(self.owner, dict)
        held = self.owner[self.name] if in_table else inspect.getattr_static(self.owner, self.name)
        original = held.__func__ if isinstance(held, classmethod) else held

        @functools.wraps(original)
        def variant(*args: Any, **kwargs: Any) -> Any:
            reached.count += 1
            return self.wrong(original, *args, **kwargs)

        self._put(classmethod(variant) if isinstance(held, classmethod) else variant)
        try:
            yield reached
        finally:
            self._put(held)

    def _put(self, value: Any) -> None:
        if isinstance(self.owner, dict):
            self.owner[self.name] = value
        else:
            setattr(self.owner, self.name, value)


@dataclass(frozen=True)
class Probe:
    """One call of a small model.

    Attributes:
        model: makes it, always with the same weights. inputs: arguments by name; they are also given with their first
            axis turned round, which is what the compiled graph has not seen.
        backend, pipeline: for ``txgraph.optimize``; all else is the default.
    """

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    backend: str = "reference"
    pipeline: Callable[[], txgraph.Pipeline] = txgraph.default_pipeline

    def play(self) -> Twins:
        """Optimize the model for the inputs, and compare its answers."""
        twins = Twins(self.model(), self.backend, self.pipeline())
        twins.compile(**self.inputs())
        twins.call(**self.inputs())
        twins.call(**{name: tensor.flip(0) for name, tensor in self.inputs().items()})
        twins.expect("calls refused", twins.refusals, 0)
        return twins


@dataclass(frozen=True)
class Scenario:
    """Several calls of a model.

    Attributes:
        steps: what is done to the twins.
        refused: how many of the calls the product must refuse to answer.
    """

    name: str
    model: Callable[[], nn.Module]
    steps: Callable[[Twins], None]
    refused: int = 0

    def play(self) -> Twins:
        """Do all steps."""
        twins = Twins(self.model(), "reference", txgraph.default_pipeline())
        self.steps(twins)
        twins.expect("calls refused", twins.refusals, self.refused)
        return twins


@dataclass
class Twins:
    """An optimized model, and a copy of the original that stays in eager; the same is done to both.

    Attributes:
        differences: between the answers of the two. refusals: calls that the optimized one did not answer.
    """

    original: nn.Module
    backend: str
    pipeline: txgraph.Pipeline
    differences: list[str] = field(default_factory=list)
    refusals: int = 0

    def __post_init__(self) -> None:
        self.eager = copy.deepcopy(self.original)
        self.fast = txgraph.optimize(self.original, backend=self.backend, passes=self.pipeline, options=OPTIONS)

    def compile(self, **inputs: torch.Tensor) -> None:
        """Compile ahead for such inputs."""
        try:
            self.fast.compile_ahead((), inputs)
        except _REFUSES:
            self.refusals += 1

    def change(self, edit: Callable[[nn.Module], object]) -> None:
        """Change both models."""
        with torch.no_grad():
            edit(self.eager)
            edit(self.original)

    def call(self, **inputs: Any) -> None:
        """Call both, and compare: outputs, what they share with inputs, and then buffers and inputs."""
        given, held = copy.deepcopy(inputs), copy.deepcopy(inputs)
        buffers = list(self.eager.buffers())
        tensors = [leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, torch.Tensor)]
        needs_grad = any(t.requires_grad for t in tensors)
        truth = reference(self.eager, (), held, buffers, range(len(tensors)))
        with torch.set_grad_enabled(needs_grad):
            wanted = self.eager(**held)
        try:
            output = self.fast(**given)
        except _REFUSES:
            self.refusals += 1
            return
        leaves, spec = pytree.tree_flatten(output)
        values = [*(b.clone() for b in self.original.buffers()), *tensors, *leaves]
        if spec != truth.spec:
            self.differences.append(f"the output is {spec}, eager's {truth.spec}")
        self.differences += [str(g) for g in check_gates(values, truth.eager, truth.oracle) if not g.passed]
        for at, (now, then) in enumerate(zip(shared_inputs(values, tensors), truth.shared, strict=False)):
            if now - then and at >= len(buffers) + len(tensors):
                self.differences.append(f"output {at} shares memory with input {min(now - then)}, eager's does not")
        if needs_grad and _carry_grad(output) != _carry_grad(wanted):
            self.differences.append("outputs carry no gradient where eager's do")

    def compiled(self, graphs: int) -> None:
        """So many graphs must have been compiled for the calls so far."""
        self.expect("graphs compiled", len(self.fast.report.to_dict()["graphs"]), graphs)

    def expect(self, what: str, found: int, wanted: int) -> None:
        """Something that is counted must be what it is with an honest product."""
        if found != wanted:
            self.differences.append(f"{what}: {found}, not {wanted}")


def _carry_grad(output: Any) -> list[bool]:
    return [leaf.requires_grad for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]


@dataclass(frozen=True)
class Mutant:
    """A fault and where it matters.

    Attributes:
        what: what is wrong, for people.
    """

    name: str
    what: str
    fault: Fault
    probe: Probe | Scenario


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.

    Attributes:
        caught_by: what the product noticed, or how a scenario went wrong; empty if nothing did.
        problem: why that does not count.
    """

    caught_by: str
    problem: str = ""

    @property
    def killed(self) -> bool:
        """Whether it was caught in a way that counts."""
        return bool(self.caught_by) and not self.problem


def judge(mutant: Mutant) -> Outcome:
    """Apply a mutant and see whether it is killed.

    A fault of a probe must be noticed by the product itself, and where a model came back its answers must be right. A
    fault of a scenario may also be seen by its answers alone.
    """
    with mutant.fault.applied() as reached:
        outcome = _outcome(mutant.probe)
    return outcome if reached.count else Outcome("", "the wrong function was never called")


def _outcome(probe: Probe | Scenario) -> Outcome:
    try:
        twins = probe.play()
    except PassFailed as error:
        crashed = error.__cause__ is not None and not isinstance(error.__cause__, TxgraphError)
        return Outcome(_error(error), "the fault itself raised" if crashed else "")
    except _NOTICES as error:
        return Outcome(_error(error))
    except Exception as error:  # not an error of txgraph: nothing has noticed the fault
        return Outcome("", f"{type(error).__name__}: {error}")
    noticed = notices(twins.fast.report.to_dict())
    if isinstance(probe, Scenario) and twins.differences:
        noticed = [*noticed, f"scenario: {_summary(twins.differences)}"]
    elif twins.differences:
        return Outcome(noticed[0] if noticed else "", f"an answer is wrong: {twins.differences[0]}")
    return Outcome(noticed[0]) if noticed else Outcome("", "no answer is wrong")


def _summary(differences: Sequence[str]) -> str:
    """The gates that failed; where none did, the first difference."""
    gates = {difference[:2] for difference in differences if re.match(r"G[0-3] ", difference)}
    return ", ".join(sorted(gates)) or differences[0]


def _error(error: TxgraphError) -> str:
    """Its class, and what of its message is the same each time."""
    gates = sorted(set(re.findall(r"\bG[0-3]\b", str(error))))
    first = str(error).splitlines()[0]
    detail = f"capture: {', '.join(gates)}" if gates else first[:70] + ("..." if len(first) > 70 else "")
    return f"{type(error).__name__} ({detail})"


def notices(report: Mapping[str, Any]) -> list[str]:
    """What of a report says that something was wrong: gates, what was rolled back or left out, fallbacks."""
    found = []
    for stage in report["verification"]:
        if not stage["passed"]:
            gates = sorted({gate["gate"] for gate in stage["gates"] if not gate["passed"]})
            found.append(f"{', '.join(gates) or 'an error'} at {stage['stage']}")
    for each in report["passes"]:
        if each["status"] == "rolled back" or each["left_out"]:
            found.append(f"{each['name']} rolled back")
    return found + [f"fallback: {fallback['what']}" for fallback in report["fallbacks"]]


@functools.cache
def control(probe: Probe | Scenario) -> Sequence[str]:
    """What is wrong with a probe or scenario without any mutant: must be nothing."""
    twins = probe.play()
    return (*notices(twins.fast.report.to_dict()), *twins.differences)
