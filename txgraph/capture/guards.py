"""What a captured graph assumed, checked before every call: inputs, and the state of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, getitem, is_, methodcaller
from typing import Any

import numpy as np
import sympy
import torch
from torch import nn
from torch.utils._sympy.printers import PythonPrinter

from txgraph.capture.adapter import conditions_on_sizes, forms_check
from txgraph.capture.state import plain_slots, versions
from txgraph.capture.unchanged import unchanged_check
from txgraph.ir import DTYPE_NAMES, Graph, type_of
from txgraph.ir.padding import PaddingAssumption


@dataclass(frozen=True)
class InputGuard:
    """Checks dtype, device, rank and sizes of a call's tensors.

    Attributes:
        accepts: compiled check of the list of tensors.
        source: its Python source. constants: the values that it names.
    """

    accepts: Callable[[Sequence[torch.Tensor]], bool]
    source: str
    constants: Mapping[str, object]

    @classmethod
    def of(cls, graph: Graph, assumptions: Sequence[PaddingAssumption] = ()) -> InputGuard:
        """The guard of the inputs that ``graph`` was captured for, and of what was then assumed of their values."""
        return cls.compiled(*_write_guard(graph, assumptions))

    @classmethod
    def compiled(cls, source: str, constants: Mapping[str, object]) -> InputGuard:
        """The guard with that source."""
        namespace: dict[str, Any] = dict(constants)
        exec(compile(source, "<txgraph guard>", "exec"), namespace)
        return cls(namespace["accepts"], source, constants)

    def __reduce__(self) -> tuple[Any, ...]:
        return InputGuard.compiled, (self.source, self.constants)


def _write_guard(graph: Graph, assumptions: Sequence[PaddingAssumption]) -> tuple[str, dict[str, object]]:
    """Python source of a check that reads every property once."""
    constants: dict[str, object] = {}
    lines = ["def accepts(tensors):"]
    symbols: set[str] = set()
    compound: list[tuple[str, sympy.Expr]] = []
    checks: list[str] = []
    for at, node in enumerate(graph.inputs):
        tensor_type = type_of(node)
        assert tensor_type is not None, "the spec: inputs are tensors"
        constants[f"dtype{at}"], constants[f"device{at}"] = tensor_type.dtype, tensor_type.device
        lines += [
            f"    t = tensors[{at}]",
            f"    if t.dtype is not dtype{at} or t.device != device{at} or t.ndim != {tensor_type.rank}: return False",
        ]
        if tensor_type.rank:
            lines.append(f"    {', '.join(f'x{at}_{axis}' for axis in range(tensor_type.rank))}, = t.shape")
        for axis, size in enumerate(tensor_type.shape):
            name, text = f"x{at}_{axis}", _size_text(size)
            if text.isidentifier() and text not in symbols:
                symbols.add(text)
                lines.append(f"    {text} = {name}")
                checks.append(_range_text(graph, text))
            else:
                checks.append(f"{name} == {text}")
                if isinstance(size, torch.SymInt):
                    compound.append((name, size.node.expr))
    for name, expression in compound:  # a size such as 2*s, where no axis is just s
        for symbol in expression.free_symbols:
            if str(symbol) not in symbols:
                symbols.add(str(symbol))
                factor, offset = sympy.Poly(expression, symbol).all_coeffs()
                lines.append(f"    {symbol} = ({name} - {_size_text(offset)}) // {_size_text(factor)}")
                checks.append(_range_text(graph, str(symbol)))
    for condition in conditions_on_sizes(graph):
        if {str(symbol) for symbol in condition.free_symbols} <= symbols:
            checks.append(f"({_size_text(condition)})")
    for number, assumption in enumerate(assumptions):  # last: these read values
        constants[f"assumed{number}"] = assumption.accepts
        at = [str(n.target) for n in graph.inputs].index(assumption.mask.input)
        checks.append(f"assumed{number}(tensors[{at}])")
    lines.append(f"    return {' and '.join(checks) or 'True'}")
    return "\n".join(lines), constants


def _range_text(graph: Graph, symbol: str) -> str:
    low, high = graph.ranges.get(symbol, (2, None))
    return f"{low} <= {symbol}" + (f" <= {high}" if high is not None else "")


def _size_text(size: int | torch.SymInt | sympy.Expr) -> str:
    if isinstance(size, int):
        return str(size)
    return str(PythonPrinter().doprint(size.node.expr if isinstance(size, torch.SymInt) else size))


def explain_mismatch(graph: Graph, names: Sequence[str], tensors: Sequence[torch.Tensor]) -> str:
    """Why a call's tensors do not fit ``graph``, for a message."""
    for name, node, tensor in zip(names, graph.inputs, tensors, strict=True):
        wanted = type_of(node)
        assert wanted is not None, "the spec: inputs are tensors"
        found = f"{DTYPE_NAMES.get(tensor.dtype, tensor.dtype)}{list(tensor.shape)} on {tensor.device}"
        if (tensor.dtype, tensor.device, tensor.ndim) != (wanted.dtype, wanted.device, wanted.rank):
            return f"{name} is {found}, captured as {wanted.format(graph.symbols)} on {wanted.device}"
        if any(isinstance(w, int) and w != s for w, s in zip(wanted.shape, tensor.shape, strict=True)):
            return f"{name} is {found}, captured as {wanted.format(graph.symbols)}"
    ranges = ", ".join(f"{graph.symbols.get(s, s)} in [{lo}, {hi or '∞'}]" for s, (lo, hi) in graph.ranges.items())
    return f"sizes do not fit the captured ranges ({ranges}) or are not equal where they were"


class ModelState:
    """Everything about a model, beside its inputs, that a graph depends on.

    Which tensors and modules it has, their train/eval flags, dtypes and devices, autocast; and the
    values of those weights that were folded into the graph. Reads only; built for speed: what is usual is found out by
    C that txgraph's installation compiled, and what it doubts by ``map``.

    Args:
        frozen: the weights whose values were used, by name.
    """

    def __init__(self, model: nn.Module, frozen: Mapping[str, torch.Tensor] | None = None) -> None:
        self._modules = list(model.modules())
        holders = [d for m in self._modules for d in (m._modules, m._parameters, m._buffers)]
        slots = [(holder, name) for holder in holders for name in holder]
        self._holders, self._empty = [h for h in holders if h], [h for h in holders if not h]
        self._sizes = list(map(len, self._holders))
        for module in self._modules:
            slots += [(held, key) for held, key, value in plain_slots(module) if isinstance(value, torch.Tensor)]
        self._dicts, self._names = [d for d, _ in slots], [n for _, n in slots]
        self._values = list(map(getitem, self._dicts, self._names))
        self._tensors = [v for v in self._values if isinstance(v, torch.Tensor)]
        self._frozen_names, self._frozen = list(frozen or {}), list((frozen or {}).values())
        self._device = next((t.device.type for t in self._tensors), "cpu")
        self._pointers = list(map(torch.Tensor.data_ptr, self._tensors))
        self._dtypes = list(map(attrgetter("dtype"), self._tensors))
        self._shapes = list(map(attrgetter("shape"), self._tensors))
        self._strides = list(map(torch.Tensor.stride, self._tensors))
        self._same_forms = forms_check(self._tensors)
        self._default_dtype = torch.get_default_dtype()
        self._training = list(map(attrgetter("training"), self._modules))
        self._unchanged = unchanged_check(
            [*zip(self._dicts, self._names, self._values, strict=True)], holders, self._tensors
        )
        flags = [(vars(m), "training", flag) for m, flag in zip(self._modules, self._training, strict=True)]
        self._same_flags = unchanged_check(flags)
        self._versions = versions(self._frozen)
        self._samples = [view for t in self._frozen if (view := _sample_view(t)) is not None]
        self._sampled = list(map(_read, self._samples))
        self._autocast = self._autocast_now()

    def _autocast_now(self) -> torch.dtype | None:
        enabled = torch.is_autocast_enabled(self._device)
        return torch.get_autocast_dtype(self._device) if enabled else None

    def change(self) -> str:
        """What has changed for good since; an empty text if nothing has."""
        if not self._unchanged() and (change := self._change_of_form()):
            return change
        if versions(self._frozen) != self._versions:
            changed = [
                n for n, a, b in zip(self._frozen_names, versions(self._frozen), self._versions, strict=True) if a != b
            ]
            return f"{changed[0]} was changed in place, and its values are folded into the graph"
        if list(map(_read, self._samples)) != self._sampled:
            return "a weight was written to through .data, and its values are folded into the graph"
        return ""

    def _change_of_form(self) -> str:
        """What has changed, beside values."""
        try:
            same = all(map(is_, map(getitem, self._dicts, self._names), self._values))
        except KeyError as missing:
            return f"{missing} was removed from the model"
        if not same or list(map(len, self._holders)) != self._sizes or any(self._empty):
            return "a parameter, buffer or submodule was replaced or added"
        same_forms = self._same_forms()
        if not same_forms and list(map(attrgetter("dtype"), self._tensors)) != self._dtypes:
            return "the model was moved to another dtype"
        if list(map(torch.Tensor.data_ptr, self._tensors)) != self._pointers:
            return "a parameter or buffer got new storage (assignment to .data, or a move to another device)"
        if not same_forms:
            shapes, strides = map(attrgetter("shape"), self._tensors), map(torch.Tensor.stride, self._tensors)
            if list(shapes) != self._shapes or list(strides) != self._strides:
                return "a parameter or buffer got another shape or other strides"
            self._same_forms = forms_check(self._tensors)  # it was a mode of torch that is another one
        return ""

    def same_mode(self) -> bool:
        """Whether flags, autocast and default dtype are as they were: switched back, the graph serves again."""
        if self._autocast_now() != self._autocast or torch.get_default_dtype() is not self._default_dtype:
            return False
        return self._same_flags() or list(map(attrgetter("training"), self._modules)) == self._training


_SAMPLES = 16
_read = methodcaller("tobytes")


def _sample_view(tensor: torch.Tensor) -> np.ndarray[Any, Any] | None:
    """A few elements, evenly spaced, of a weight's own memory: shows writes that bypass the version counter."""
    if tensor.device.type != "cpu" or not tensor.is_contiguous() or tensor.numel() == 0:
        return None
    elements = tensor.detach().reshape(-1).view(torch.uint8).numpy().reshape(-1, tensor.element_size())
    return elements[:: max(1, len(elements) // _SAMPLES)]
