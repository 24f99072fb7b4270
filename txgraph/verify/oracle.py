"""The two references of every check: eager, and eager in float64.

The oracle runs the user's own Python, not our graph, so that it also judges the capture. Weights are
widened operator by operator and freed at once: no second copy of the model is ever held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from txgraph.capture.state import attributes_kept, plain_tensors, versions
from txgraph.capture.torch_stacks import without_branches_on_values
from txgraph.errors import VerificationFailed
from txgraph.ir import ConstantStore, Graph, interpret
from txgraph.verify.gates import check_gates, only_rounded, same_bits, shared_inputs

_aten = torch.ops.aten
_NARROW = (torch.float16, torch.bfloat16, torch.float32)

# Functions that only move numbers: a weight is widened where it is used, or what is taken of it.
_VIEWS = frozenset((_aten.t.default, _aten.transpose.int))
_TAKES = frozenset((_aten.embedding.default,))
_PRODUCTS = frozenset((_aten.mm.default, _aten.addmm.default))
_BLOCK = 2**18  # numbers of a weight that are widened at a time: 2 MB, which caches hold


# Functions that compare the dtypes of their arguments before an operator is dispatched.
_EARLY_CHECKED = frozenset(
    getattr(torch, name)
    for name in (
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "bilinear",
        "prelu",
    )
)


class _WidenEarly(TorchFunctionMode):
    """Widens the arguments of the few functions that check dtypes too early for :class:`Float64`."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _EARLY_CHECKED:
            args, kwargs = pytree.tree_map(_widen_tensor, (args, dict(kwargs or {})))
        return func(*args, **(kwargs or {}))


class Float64(TorchDispatchMode):
    """Runs every operator in float64, also where the code asks for a narrower dtype.

    Args:
        shadows: tensors that the code writes to, each with its float64 stand-in; the originals stay
            as they are.
    """

    def __init__(self, shadows: Sequence[tuple[torch.Tensor, torch.Tensor]] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._shadows = {id(original): shadow for original, shadow in shadows}
        self._alive = [original for original, _ in shadows]

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _VIEWS | _TAKES and id(args[0]) not in self._shadows:
            moved = func(*args, **kwargs)
            return moved if func in _VIEWS else _widen_tensor(moved)
        if func in _PRODUCTS and id(args[-1]) not in self._shadows and args[-1].dtype in _NARROW:
            *others, matrix = args
            return _product(func, [self._widen(other) for other in others], matrix, kwargs)
        args, kwargs = pytree.tree_map(self._widen, (args, kwargs))
        return pytree.tree_map(_widen_tensor, func(*args, **kwargs))

    def shadow(self, tensor: torch.Tensor) -> torch.Tensor:
        """The stand-in of a tensor; the tensor itself, in float64, where it has none."""
        widened: torch.Tensor = self._shadows[id(tensor)] if id(tensor) in self._shadows else _widen_tensor(tensor)
        return widened

    def _widen(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.shadow(value)
        if isinstance(value, torch.dtype) and value in _NARROW:
            return torch.float64
        return value


def _product(
    func: Callable[..., Any], others: Sequence[torch.Tensor], matrix: torch.Tensor, numbers: Mapping[str, Any]
) -> torch.Tensor:
    """``mm`` or ``addmm`` with a weight ``[K, N]``, some columns at a time: a second copy of it is not in memory."""
    *added, left = others
    columns = max(1, _BLOCK // max(1, matrix.shape[0]))
    blocks = matrix.split(columns, dim=1)
    parts = [each.expand(left.shape[0], matrix.shape[1]).split(columns, dim=1) for each in added]
    results = [func(*(part[at] for part in parts), left, block.double(), **numbers) for at, block in enumerate(blocks)]
    return results[0] if len(results) == 1 else torch.cat(results, dim=1)


def _widen_tensor(value: Any) -> Any:
    return value.double() if isinstance(value, torch.Tensor) and value.dtype in _NARROW else value


@dataclass(frozen=True)
class Reference:
    """What a result is compared with: mutated values first, then the model's output leaves.

    Attributes:
        eager: in the model's dtypes. oracle: in float64.
        spec: structure of the model's output.
        shared: for each eager value, the tensors whose memory it shares: of the inputs, then of the model.
        turned: the oracle with ties rounded the other way, where there is rounding (:mod:`txgraph.verify.ties`).
    """

    eager: tuple[Any, ...]
    oracle: tuple[Any, ...]
    spec: pytree.TreeSpec
    shared: tuple[frozenset[int], ...] = ()
    turned: tuple[Any, ...] | None = None

    @property
    def outputs(self) -> tuple[Any, ...]:
        """What the model returns of ``eager``."""
        return self.eager[len(self.eager) - self.spec.num_leaves :]


def model_tensors(model: nn.Module) -> list[torch.Tensor]:
    """The parameters and buffers of a model."""
    return [*model.parameters(), *model.buffers()]


def reference(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    buffers: Sequence[torch.Tensor] = (),
    mutated_inputs: Sequence[int] = (),
) -> Reference:
    """Run ``model`` in eager and in float64 and leave it, and the inputs, as they were.

    Args:
        buffers: buffers that the model writes to. mutated_inputs: indices of the tensor leaves it
            writes to; their values after the call lead the results.

    Raises:
        VerificationFailed: it cannot be run in float64, writes to other tensors than those, or gives another result
            when run again. What its eager run raises is raised as it is.
    """
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    with attributes_kept(model) as assigned:
        made = _reference(model, leaves, spec, buffers, mutated_inputs)
        if assigned() or not only_rounded(made.eager, made.oracle):  # else two runs agree, one of them in float64
            _check_repeats(model, spec, leaves, made.outputs)
    return made


def check_repeats(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], made: Reference) -> None:
    """Run ``model`` in eager again, and leave it as it was.

    Raises:
        VerificationFailed: it gives another result than in ``made``.
    """
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    with attributes_kept(model):
        _check_repeats(model, spec, leaves, made.outputs)


def _reference(
    model: nn.Module,
    leaves: Sequence[Any],
    in_spec: pytree.TreeSpec,
    buffers: Sequence[torch.Tensor],
    mutated_inputs: Sequence[int],
) -> Reference:
    with _buffers_restored(model) as written:
        inputs = [*map(_cloned, leaves)]
        tensors = [leaf for leaf in inputs if isinstance(leaf, torch.Tensor)]
        counters = versions([*tensors, *model_tensors(model)])
        outputs = _call(model, in_spec, inputs)
        leaves_now, spec = pytree.tree_flatten(outputs)
        values = (*written(buffers), *(tensors[i] for i in mutated_inputs), *leaves_now)
        shared = tuple(shared_inputs(values, [*tensors, *model_tensors(model)]))
        eager = tuple(map(_cloned, values))  # what is a buffer gets its old value back
        known = [*(tensors[i] for i in mutated_inputs), *buffers]
        _check_writes(model, tensors, counters, known)
    shadows = [(b, _widen_tensor(b.clone())) for b in buffers]
    wide_inputs = [_widen_tensor(leaf.clone()) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    wide_tensors = [leaf for leaf in wide_inputs if isinstance(leaf, torch.Tensor)]
    mode = Float64(shadows)
    try:
        with _buffers_restored(model) as written, without_branches_on_values(model), mode, _WidenEarly():
            wide_leaves = pytree.tree_leaves(_call(model, in_spec, wide_inputs))
            wide_buffers = [mode.shadow(b) for b in written(buffers)]
    except (RuntimeError, NotImplementedError) as error:
        raise VerificationFailed(
            f"{type(model).__name__} cannot be checked: its float64 run raised {type(error).__name__}: {error}. "
            f'With verify="off" nothing is checked.'
        ) from error
    oracle = (*wide_buffers, *(wide_tensors[i] for i in mutated_inputs), *wide_leaves)
    return Reference(eager, oracle, spec, shared)


def in_float64(graph: Graph, inputs: Sequence[Any]) -> tuple[Any, ...]:
    """Run a graph in float64, its constants and narrower dtypes that it asks for widened, too."""
    constants = ConstantStore({name: _widen_tensor(tensor) for name, tensor in graph.constants.items()})
    with Float64():
        return interpret(replace(graph, constants=constants), [_widen_tensor(value) for value in inputs])


def _check_writes(
    model: nn.Module, inputs: Sequence[torch.Tensor], before: Sequence[int], known: Sequence[torch.Tensor]
) -> None:
    """Every tensor that the model writes to must be one whose new value the graph gives."""
    names = [f"input {at}" for at in range(len(inputs))]
    names += [name for name, _ in (*model.named_parameters(), *model.named_buffers())]
    now = versions([*inputs, *model_tensors(model)])
    for name, tensor, was, version in zip(names, [*inputs, *model_tensors(model)], before, now, strict=True):
        if version != was and not any(tensor is each for each in known):
            raise VerificationFailed(
                f"{type(model).__name__} writes to {name}, and its captured graph does not. "
                f'With verify="off" nothing is checked.'
            )


def _check_attributes(model: nn.Module, once: Mapping[str, torch.Tensor]) -> None:
    """A tensor that is a plain attribute may be cached by a run, but must not move on with every run."""
    for name, tensor in plain_tensors(model).items():
        if name in once and tensor is not once[name] and not same_bits(tensor, once[name]):
            raise VerificationFailed(
                f"{type(model).__name__} assigns {name} in its forward(), and each call changes it: make it a buffer, "
                f'so that its new value can be captured. With verify="off" nothing is checked.'
            )


def _cloned(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, torch.Tensor) else leaf


def _check_repeats(model: nn.Module, in_spec: pytree.TreeSpec, leaves: Sequence[Any], first: Sequence[Any]) -> None:
    """A model that disagrees with itself would make every gate wide enough for anything.

    It runs twice: one that takes turns between two results may have given the other one in float64. The second run
    tells whether a plain attribute moves on, too.
    """
    once: dict[str, torch.Tensor] = {}
    for _ in range(2):
        with _buffers_restored(model):
            inputs = [*map(_cloned, leaves)]
            again = [*map(_cloned, pytree.tree_leaves(_call(model, in_spec, inputs)))]
        _check_attributes(model, once)
        once = plain_tensors(model)
        broken = [str(g) for g in check_gates(again, first, first) if not g.passed]
        if broken:
            raise VerificationFailed(
                f"{type(model).__name__} gives another result when it is called again ({broken[0]}): its forward() "
                f"depends on Python state or random numbers, which a graph cannot hold. "
                f'With verify="off" nothing is checked.'
            )


@contextlib.contextmanager
def _buffers_restored(model: nn.Module) -> Iterator[Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]]:
    """Undo what a run does to the model's buffers: writes to them, and new tensors in their places.

    Yields:
        A function that gives what now stands in the places of the given buffers.
    """
    holders = [m._buffers for m in model.modules()]
    held = [dict(h) for h in holders]
    values = [(b, b.clone()) for h in holders for b in h.values() if b is not None]

    def written(buffers: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        places = [next((at, n) for at, h in enumerate(held) for n, v in h.items() if v is b) for b in buffers]
        return [holders[at][name] for at, name in places]  # type: ignore[misc]  # tensors, as in buffers

    try:
        yield written
    finally:
        for holder, was in zip(holders, held, strict=True):
            holder.clear()
            holder.update(was)
        for buffer, value in values:
            if not same_bits(buffer, value):  # a write makes graphs stale that hold the buffer's values
                buffer.copy_(value)


def _call(model: nn.Module, spec: pytree.TreeSpec, leaves: Sequence[Any]) -> Any:
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    with torch.no_grad():
        return model(*args, **kwargs)
