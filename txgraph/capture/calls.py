"""Bring a call's arguments, in any legal mixture, into one flat form."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from txgraph.capture.pytrees import register_caches

_EMPTY = inspect.Parameter.empty
_PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device)


class FlatCall(NamedTuple):
    """A call in flat form.

    Attributes:
        tensors: the tensor leaves, in order.
        structure: all else: names, plain values and container types; equal for calls that can
            share a graph.
    """

    tensors: list[torch.Tensor]
    structure: tuple[Any, ...]


@dataclass(frozen=True)
class _Plan:
    """Where the arguments of one form of call stand: positions first, then keywords."""

    positions: tuple[tuple[str, Any], ...]
    keywords: tuple[tuple[str, Any], ...]
    variadic: str | None
    positional_only: int


class CallSignature:
    """The signature of a model's ``forward``.

    Calls are normalised: arguments by name in the order of the signature, values that are the
    default left out.
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._signature = inspect.signature(forward)
        self._name = getattr(forward, "__qualname__", "forward")
        self._plans: dict[tuple[int, tuple[str, ...]], _Plan] = {}

    @classmethod
    def of(cls, model: nn.Module) -> CallSignature:
        """The signature of ``model.forward``."""
        register_caches()  # before the first call is flattened: it may already hold a cache
        return cls(model.forward)

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> FlatCall:
        """Flatten a call.

        Raises:
            TypeError: the arguments do not fit the signature, as in eager.
        """
        plan = self._plan(args, kwargs)
        tensors: list[torch.Tensor] = []
        structure: list[Any] = []
        for (name, default), value in zip(plan.positions, args, strict=False):
            _flatten_one(name, value, default, tensors, structure)
        if plan.variadic is not None:
            for value in args[len(plan.positions) :]:
                _flatten_one(plan.variadic, value, _EMPTY, tensors, structure)
        for name, default in plan.keywords:
            _flatten_one(name, kwargs[name], default, tensors, structure)
        return FlatCall(tensors, tuple(structure))

    def normalise(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same call in the form that is captured: by name where that is possible."""
        plan = self._plan(args, kwargs)
        if plan.variadic is not None:
            return args, {k: kwargs[k] for k, default in plan.keywords if not _is_default(kwargs[k], default)}
        nameless = plan.positional_only
        named = zip(plan.positions[nameless:], args[nameless:], strict=True)
        by_name = {n: v for (n, d), v in named if not _is_default(v, d)}
        by_name |= {n: kwargs[n] for n, d in plan.keywords if not _is_default(kwargs[n], d)}
        return args[:nameless], by_name

    def arrange(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Values for the arguments of a call, by parameter: those of ``*args`` together."""
        return dict(self._signature.bind(*args, **kwargs).arguments)

    def without_parameter(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments that ``**kwargs`` takes."""
        return {name: value for name, value in kwargs.items() if name not in self._signature.parameters}

    def names(self, count: int) -> list[str]:
        """Names of the first ``count`` parameters."""
        return list(self._signature.parameters)[:count]

    def _plan(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Plan:
        form = (len(args), tuple(kwargs))
        plan = self._plans.get(form)
        if plan is None:
            plan = self._plans[form] = self._make_plan(args, kwargs)
        return plan

    def _make_plan(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Plan:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self._name}() {error}") from None
        parameters = self._signature.parameters
        fixed = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][: len(args)]
        variadic = next((p.name for p in parameters.values() if p.kind is p.VAR_POSITIONAL), None)
        order = {name: at for at, name in enumerate(parameters)}
        named = sorted(kwargs, key=lambda k: order.get(k, len(order)))  # further keywords in the order of the call
        return _Plan(
            tuple((p.name, p.default) for p in fixed),
            tuple((k, parameters[k].default if k in parameters else _EMPTY) for k in named),
            variadic if len(args) > len(fixed) else None,
            sum(p.kind is p.POSITIONAL_ONLY for p in fixed),
        )


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (default is not _EMPTY and isinstance(value, _PLAIN) and _key(value) == _key(default))


def _key(value: Any) -> tuple[type, Any]:
    """Equal for values that no model tells apart: 1, 1.0 and True differ, and so do the zeros of two signs."""
    if isinstance(value, float | complex):
        return type(value), str(value)
    return type(value), value if type(value).__hash__ is not None else _contents(value)


def _contents(value: Any) -> Any:
    """What stands for a value that has no hash."""
    if isinstance(value, set):
        return frozenset(map(_key, value))
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return _Itself(value)


class _Itself:
    """A value that has no hash; equal to itself only."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other._value is self._value

    def __hash__(self) -> int:
        return id(self._value)


def _flatten_one(name: str, value: Any, default: Any, tensors: list[torch.Tensor], structure: list[Any]) -> None:
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        structure.append(name)
    elif _is_default(value, default):
        return
    elif isinstance(value, _PLAIN):
        structure.append((name, *_key(value)))
    else:
        leaves, spec = pytree.tree_flatten(value)
        held = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        plain = [None if isinstance(leaf, torch.Tensor) else _key(leaf) for leaf in leaves]
        tensors += held
        structure.append((name, spec, tuple(plain)))
