"""Judge answers of an optimized model apart from the product's own verdict: numbers, structure, memory, state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from txgraph.verify import GateResult, Reference, check_gates, reference

Inputs = tuple[torch.Tensor, ...]
_PERTURBED = 24
_SAME = 1e-9  # of the largest value: float64's epsilon, times a condition number of 1e6


@dataclass(frozen=True)
class Finding:
    """One thing that differs from eager.

    Attributes:
        inputs: which inputs show it. what: the gate that broke, or what else differs.
    """

    inputs: str
    what: str

    def __str__(self) -> str:
        return f"{self.inputs}: {self.what}"


@dataclass(frozen=True)
class Answer:
    """What one call gives back and leaves behind.

    Attributes:
        values: buffers after the call, inputs after the call, output leaves. spec: the structure of the output.
        memory: for each output leaf, the inputs, weights and earlier leaves that it shares memory with.
        written: inputs that are not what they were.
    """

    values: tuple[Any, ...]
    spec: pytree.TreeSpec
    memory: tuple[frozenset[str], ...]
    written: frozenset[int]


def answer(call: Callable[..., Any], model: nn.Module, args: Inputs) -> Answer:
    """Call on copies of ``args`` and put the buffers that ``model`` writes to back."""
    inputs = [_copy(a) for a in args]
    buffers = _written(model)
    before = [b.clone() for b in buffers]
    try:
        with torch.no_grad():
            leaves, spec = pytree.tree_flatten(call(*inputs))
        leaves = [leaf.detach() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        memory = _memory(leaves, inputs, model)
        written = frozenset(
            at for at, (now, then) in enumerate(zip(inputs, args, strict=True)) if not _equal(now, then)
        )
        values = (*(b.clone() for b in buffers), *inputs, *leaves)
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
    return Answer(values, spec, memory, written)


def judge(
    fast: Callable[..., Any],
    model: nn.Module,
    args: Inputs,
    inputs: str,
    alias: bool = True,
    truth: Reference | None = None,
) -> list[Finding]:
    """Compare one call with eager and float64.

    Args:
        inputs: the name of these inputs. alias: whether shared memory is compared, too; not of outputs that are what
            the model writes to, which are captured as values of their own. truth: where it is known already.

    Raises:
        Whatever ``fast`` raises.
    """
    truth = truth_of(model, args) if truth is None else truth
    eager = answer(model, model, args)
    found = answer(fast, model, args)
    differences = []
    if found.spec != truth.spec:
        differences.append(f"structure {found.spec} where eager has {truth.spec}")
    if found.written != eager.written:
        differences.append(f"writes to inputs {sorted(found.written)}, eager to {sorted(eager.written)}")
    pairs = [_texts(one.memory, eager, model) for one in (found, eager)]
    if alias and pairs[0] != pairs[1]:
        differences.append(f"outputs share memory {pairs[0]}, eager's {pairs[1]}")
    broken = broken_gates(found.values, truth)
    finite = all(_finite(a) for a in args)
    if broken:
        broken = [g for g in broken if not (finite and _overflowed(truth.eager[g.leaf], g.gate))]
    if broken and any(g.gate != "G0" for g in broken):
        settled = _within_rounding(found.values, truth, model, args)
        broken = [g for g in broken if g.gate == "G0" or g.leaf not in settled]
    return [Finding(inputs, text) for text in (*differences, *map(str, broken))]


def judge_pair(fast: Callable[..., Any], model: nn.Module, twin: nn.Module, args: Inputs) -> list[Finding]:
    """Compare an optimized model with another form of the model in float64.

    The optimized one may be as wrong as the gates allow for the model itself. The float64 results of the two are the
    same but for rounding in float64, so the same bound holds against the twin's, with the worse of the two in eager.
    """
    own, other = (truth_of(m, args) for m in (model, twin))
    findings = [Finding("twin", text) for text in _apart(own, other)]
    given = answer(fast, model, args).values
    if len(given) != len(other.eager):
        return findings
    broken = [g for g in check_gates(given, own.eager, other.oracle) if not g.passed]
    if broken:
        as_twin = {g.leaf for g in check_gates(given, other.eager, other.oracle) if not g.passed}
        settled = _within_rounding(given, other, model, args)
        broken = [g for g in broken if g.leaf in as_twin and g.leaf not in settled]
    return findings + [Finding("twin", str(g)) for g in broken]


def another_function(model: nn.Module, twin: nn.Module, args: Inputs) -> list[str]:
    """How the float64 results of two models differ, beyond rounding in float64."""
    return _apart(truth_of(model, args), truth_of(twin, args))


def truth_of(model: nn.Module, args: Inputs) -> Reference:
    """Eager and float64: buffers and inputs after the call, then the outputs."""
    return reference(model, args, {}, _written(model), range(len(args)))


def _written(model: nn.Module) -> list[torch.Tensor]:
    """The buffers that calls write to; the others are left alone, for a write would have the model compiled anew."""
    names = getattr(model, "written", ())
    return [buffer for name, buffer in model.named_buffers() if name in names]


def broken_gates(values: Sequence[Any], truth: Reference) -> list[GateResult]:
    """The gates that do not hold."""
    return [g for g in check_gates(values, truth.eager, truth.oracle) if not g.passed]


def _within_rounding(values: Sequence[Any], truth: Reference, model: nn.Module, args: Inputs) -> set[int]:
    """Leaves that are as good as eager on inputs and weights that differ by one rounding.

    Where eager's own error is zero by luck, or the model is ill-conditioned, these show how large it usually is.
    """
    leaves: set[int] = set()
    for perturbed in _perturbed(model, args):
        broken = {g.leaf for g in check_gates(values, perturbed, truth.oracle) if not g.passed}
        leaves |= set(range(len(values))) - broken
    return leaves


def _apart(own: Reference, other: Reference) -> list[str]:
    if len(own.oracle) != len(other.oracle):
        return [f"{len(own.oracle)} values and {len(other.oracle)}"]
    texts = []
    for at, (a, b) in enumerate(zip(own.oracle, other.oracle, strict=True)):
        if not isinstance(a, torch.Tensor) or not a.is_floating_point():
            difference = "" if check_gates([a], [b], [b])[0].passed else f"{a} and {b}"
        elif a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()):
            difference = "other shapes, or other values are finite"
        else:
            error, size = ((v[b.isfinite()].abs().amax() if bool(b.isfinite().any()) else 0.0) for v in (a - b, b))
            difference = "" if error <= _SAME * size else f"{error:.3g} apart, of {size:.3g}"
        texts += [f"value {at}: {difference}"] if difference else []
    return texts


def _perturbed(model: nn.Module, args: Inputs) -> Iterator[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(0)

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point():
            return _copy(tensor)
        by = torch.randint(-1, 2, tensor.shape, generator=generator).to(tensor.dtype)
        return tensor * (1 + by * torch.finfo(tensor.dtype).eps)

    for _ in range(_PERTURBED):
        other = copy.deepcopy(model)
        for weight in other.parameters():
            weight.data.copy_(moved(weight.data))
        yield answer(other, other, tuple(moved(a) for a in args)).values


def _overflowed(eager: Any, gate: str) -> bool:
    """Whether finite inputs lead to values that are not: where between they arise may differ."""
    return gate != "G0" and isinstance(eager, torch.Tensor) and not _finite(eager)


def _finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """With the same strides."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).copy_(tensor)


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _memory(leaves: Sequence[Any], inputs: Sequence[torch.Tensor], model: nn.Module) -> tuple[frozenset[str], ...]:
    places = [(f"input {at}", t) for at, t in enumerate(inputs)]
    places += [(name, t) for name, t in (*model.named_parameters(), *model.named_buffers())]
    shared = []
    for at, leaf in enumerate(leaves):
        if isinstance(leaf, torch.Tensor) and leaf.numel():
            mine = leaf.untyped_storage().data_ptr()
            shared.append(frozenset(name for name, t in places if t.untyped_storage().data_ptr() == mine))
            places.append((f"output {at}", leaf))
        else:
            shared.append(frozenset())
    return tuple(shared)


def _texts(memory: Sequence[frozenset[str]], eager: Answer, model: nn.Module) -> list[list[str]]:
    """With what each output shares memory, but for those that in eager are what the model writes to."""
    written = {f"input {at}" for at in eager.written} | set(getattr(model, "written", ()))
    if len(memory) != len(eager.memory):
        return [sorted(each) for each in memory]
    return [sorted(now) for now, then in zip(memory, eager.memory, strict=True) if not then & written]
