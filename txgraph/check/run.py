"""Check a rewrite rule by itself, on graphs that it rewrites: is the new part the old part, for every input?"""

from __future__ import annotations

import dataclasses
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from txgraph.check.program import Program
from txgraph.check.synthesis import programs
from txgraph.check.tensors import VALUES, Case, cases
from txgraph.errors import CheckFailed, InvalidGraph, PassFailed
from txgraph.ir import Graph, arguments, check_spec, interpret, packet_of
from txgraph.ir.ops import ACTIVATIONS
from txgraph.progress import say, track
from txgraph.rewrite import Pass, PassContext, RewritePass, explain_pass
from txgraph.verify.gates import check_gates, check_memory, shared_inputs
from txgraph.verify.oracle import in_float64

log = logging.getLogger(__name__)

_ATTEMPTS = 4000
_EXACT = 1e-10
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_CONTEXT = PassContext(fused_activations=frozenset(ACTIVATIONS), weighs=False)  # legality alone is in question


@dataclass(frozen=True)
class Checked:
    """What a rule was tried on, without a fault.

    Attributes:
        rule: name of the pass.
        programs: different graphs that it rewrites.
        cases: how often it was compared: with a size, dtype, kind of values or layout each.
    """

    rule: str
    programs: int
    cases: int


@dataclass(frozen=True)
class _Fault:
    """A case in which a rule is wrong."""

    program: Program
    case: Case
    before: Graph
    after: Graph | None
    reason: str

    @property
    def nodes(self) -> int:
        return len(self.before)


Example = tuple[Callable[..., Any], Mapping[str, str]]


def check(
    rule: Pass,
    examples: Sequence[Example] | None = None,
    *,
    without: Collection[str] = (),
    graphs: int = 8,
    seconds: float = 20.0,
) -> Checked:
    """Check a rule on graphs that are made to fit its pattern and its ``check``.

    Each graph is run with sizes 0, 1, 2 and primes, in four dtypes, with zeros of both signs, large and tiny values,
    NaN and infinities, and with inputs that are not contiguous. What the rule puts in must agree with what it takes
    out: in float64 to ``1e-10 (1 + |L|)``, in each dtype by the gates G0 to G3 (:mod:`txgraph.verify.gates`), without
    a new alias of an input.

    Args:
        rule: a :class:`RewritePass`; any other pass needs examples.
        examples: graphs to try instead of those made by chance: pairs of a function of tensors and the axes of its
            arguments, as in ``(lambda x, w: (x @ w.T).relu(), {"x": "B S D", "w": "const N D"})``. See
            :meth:`Program.of`. By default those that the rule itself has (``RewritePass.examples``).
        without: kinds of values that are not tried, by their names in :data:`txgraph.check.VALUES`: a rule that is not
            right for infinities says so in its docstring, and here.
        graphs: how many that it rewrites are enough. seconds: how long they are looked for.

    Raises:
        ValueError: there are no values of that name.
        CheckFailed: the rule is wrong, with the smallest counterexample that was found; or nothing was found that it
            rewrites, with the conditions that failed.
    """
    unknown = sorted(set(without) - set(VALUES))
    if unknown:
        raise ValueError(f"unknown values {unknown}: expected some of {list(VALUES)}")
    if examples is None:
        examples = rule.examples if isinstance(rule, RewritePass) else ()
    found, tried = list[Program](), Counter[str]()
    for program in _candidates(rule, examples, tried, seconds):
        say("look for graphs", f"{rule.name}, {len(found)} found")
        if _is_rewritten(rule, program, tried):
            found.append(program)
            if len(found) == graphs and not examples:
                break
    if not found:
        why = "".join(f"\n  {times} x {reason}" for reason, times in tried.most_common(5))
        raise CheckFailed(
            f"{rule.name} was not checked: no graph was found that it rewrites. Give examples=[(function, shapes)]: "
            f"graphs in the normal form that it looks for.{why}"
        )
    compared, faults = 0, []
    for program in track(found, "try them", lambda program: rule.name):
        for case in (case for case in cases(program) if case.values not in without):
            fault = _judge(rule, program, case)
            if isinstance(fault, _Fault):
                faults.append(fault)
                break
            compared += fault
    if faults:
        worst = min((_smaller(rule, fault) for fault in faults), key=lambda fault: fault.nodes)
        raise CheckFailed(_describe(rule, worst), worst.before)
    return Checked(rule.name, len(found), compared)


def _candidates(rule: Pass, examples: Sequence[Example], tried: Counter[str], seconds: float) -> Iterator[Program]:
    """The examples, or programs made by chance; those that read or make the user's own values may be refused."""
    for function, shapes in examples:
        yield from _with_frame(Program.of(function, **shapes))
    if not examples and isinstance(rule, RewritePass):
        end, numbers = time.monotonic() + seconds, list[float]()
        for program in programs(rule, numbers, _ATTEMPTS):
            yield from _with_frame(program)
            asked = (float(each) for reason in tried for each in _NUMBER.findall(reason))  # what its reasons speak of
            numbers += [number for number in dict.fromkeys(asked) if number not in numbers]
            if time.monotonic() > end:
                return


def _with_frame(program: Program) -> Iterator[Program]:
    yield program
    yield program.framed()


def _is_rewritten(rule: Pass, program: Program, tried: Counter[str]) -> bool:
    """Whether the rule rewrites the program; why not is counted."""
    try:
        graph = _graph(program, Case())
        if any(_ends_the_process(node) for node in graph.calls()):
            return False
        interpret(graph, _inputs(program, Case()))
    except Exception as error:  # made by chance: an operator may refuse it in any way
        log.debug("not a graph: %s", error)
        return False
    try:
        rewrites, misses = explain_pass(rule, graph, _CONTEXT)
    except Exception as error:  # a rule may raise anything; that is a fault
        fault = _Fault(program, Case(), graph, None, f"it raised {type(error).__name__}: {error}")
        raise CheckFailed(_describe(rule, fault), graph) from error
    tried.update(miss.reason for miss in misses[:1] if not rewrites)
    return bool(rewrites)


def _graph(program: Program, case: Case) -> Graph:
    tensors = case.tensors(program)
    held = {leaf.name for leaf in program.leaves if leaf.constant}
    constants = {name: tensor for name, tensor in tensors.items() if name in held}
    inputs = {name: tensor for name, tensor in tensors.items() if name not in held}
    return program.graph(constants, inputs, case.sizes)


def _inputs(program: Program, case: Case) -> list[torch.Tensor]:
    tensors = case.tensors(program)
    return [tensors[leaf.name] for leaf in program.leaves if not leaf.constant]


def _judge(rule: Pass, program: Program, case: Case) -> _Fault | int:
    """A fault, or how often the rule was compared: 0 where the operators or the rule do not take the case."""
    try:
        before = _graph(program, case)
        if any(_ends_the_process(node) for node in before.calls()):
            return 0
        inputs = _inputs(program, case)
        eager = interpret(before, [tensor.clone() for tensor in inputs])
    except Exception as error:  # an operator may refuse sizes, dtypes and values in any way
        log.debug("%s does not run with %s: %s", rule.name, case, error)
        return 0
    after = before.copy()
    try:
        rewrites = rule.run(after, _CONTEXT)
        after.eliminate_dead_code()
        check_spec(after, before)
    except (PassFailed, InvalidGraph) as error:
        return _Fault(program, case, before, None, str(error))
    except Exception as error:  # a rule may raise anything; that is a fault
        return _Fault(program, case, before, None, f"it raised {type(error).__name__}: {error}")
    if not rewrites:
        return 0
    reason = _difference(before, after, inputs, eager, case)
    return _Fault(program, case, before, after, reason) if reason else 1


def _ends_the_process(node: Node) -> bool:
    """Grouped attention of no heads: torch divides by their number."""
    if packet_of(node) is not torch.ops.aten.scaled_dot_product_attention:
        return False
    named = arguments(node)
    return bool(named["enable_gqa"]) and not named["key"].meta["val"].numel()


def _difference(before: Graph, after: Graph, inputs: Sequence[torch.Tensor], eager: Sequence[Any], case: Case) -> str:
    """How the two graphs differ; empty if they do not."""
    given = [tensor.clone() for tensor in inputs]
    try:
        result = interpret(after, given)
        truth = in_float64(before, inputs)
    except Exception as error:  # what the rule made may be refused by an operator in any way
        return f"what it makes raised {type(error).__name__}: {error}"
    gates = check_gates(result, eager, truth)
    plain = [tensor.clone() for tensor in inputs]
    gates += check_memory(shared_inputs(result, given), shared_inputs(interpret(before, plain), plain), given, inputs)
    exact = case.dtype is torch.float64  # which the oracle is, too: it says nothing of eager's own rounding
    failed = [str(gate) for gate in gates if not gate.passed and not (exact and gate.gate in ("G2", "G3"))]
    if exact and not failed:
        failed = [text for a, b in zip(eager, result, strict=True) if (text := _inexact(a, b))]
    return "; ".join(failed)


def _inexact(left: Any, right: Any) -> str:
    if not isinstance(left, torch.Tensor) or not left.is_floating_point():
        return ""
    finite = left.isfinite() & right.isfinite()
    error = ((left - right).abs() / (1 + left.abs()))[finite]
    largest = float(error.max()) if error.numel() else 0.0
    return f"float64: |L - R| / (1 + |L|) = {largest:.2g} > {_EXACT}" if largest > _EXACT else ""


def _smaller(rule: Pass, fault: _Fault) -> _Fault:
    """The same fault with smaller axes, where there is one."""
    for axis in fault.program.axes:
        for size in (1, 2):
            sizes = {axis: size, **fault.case.sizes}
            smaller = _judge(rule, fault.program, dataclasses.replace(fault.case, sizes=sizes))
            if isinstance(smaller, _Fault):
                fault = smaller
                break
    return fault


def _describe(rule: Pass, fault: _Fault) -> str:
    made = "" if fault.after is None else f"\nits rewrite:\n{_indented(fault.after)}"
    return (
        f"{rule.name} is wrong: {fault.reason}\nfor {fault.case}, in a graph of {fault.nodes} nodes:\n"
        f"{_indented(fault.before)}{made}"
    )


def _indented(graph: Graph) -> str:
    return "\n".join(f"  {line}" for line in str(graph).splitlines())


def check_own(rules: Iterable[Pass]) -> list[str]:
    """Check the rules that are not built in; notes on those for which no graph was found.

    Raises:
        CheckFailed: a rule is wrong.
    """
    notes = []
    for rule in rules:
        if not isinstance(rule, RewritePass) or type(rule).__module__.startswith("txgraph.passes."):
            continue
        try:
            check(rule)
        except CheckFailed as error:
            if error.counterexample is not None:
                raise
            notes.append(str(error).splitlines()[0])
    return notes
