"""What a pass may ask of one :class:`torch.fx.Node`: its operator, arguments, type and origin."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

DTYPE_NAMES = {
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float32: "f32",
    torch.float64: "f64",
    torch.bool: "bool",
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
}

COMPUTES = "txgraph_computes"  # in a node's notes: names of nodes of the graph that was lowered, in whose place it is
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)\n\s*(?P<code>.*)')
_TORCH_ROOT = str(Path(torch.__file__).parent)


def same_size(a: int | torch.SymInt, b: int | torch.SymInt) -> bool:
    """Whether two sizes are known to be equal; never adds a guard on a symbolic size."""
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    return str(a) == str(b) or statically_known_true(a == b)


@dataclass(frozen=True, eq=False)
class TensorType:
    """Type of a tensor value: sizes are ints or symbolic (``torch.SymInt``).

    Two types are equal if they are known to be, whatever the symbolic sizes turn out to be.
    """

    dtype: torch.dtype
    shape: tuple[int | torch.SymInt, ...]
    device: torch.device

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorType):
            return NotImplemented
        same = self.dtype == other.dtype and self.device == other.device and self.rank == other.rank
        return same and all(same_size(a, b) for a, b in zip(self.shape, other.shape, strict=True))

    def __hash__(self) -> int:
        return hash((self.dtype, self.device, self.rank))

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def format(self, symbols: Mapping[str, str] | None = None) -> str:
        """Readable form such as ``f32[B, S, 768]``; ``symbols`` renames symbolic sizes."""
        sizes = [str(s) for s in self.shape]
        for symbol, name in (symbols or {}).items():
            sizes = [re.sub(rf"\b{symbol}\b", name, s) for s in sizes]
        return f"{DTYPE_NAMES.get(self.dtype, str(self.dtype))}[{', '.join(sizes)}]"

    def __str__(self) -> str:
        return self.format()


@dataclass(frozen=True)
class Provenance:
    """Where a node comes from in the user's model.

    Attributes:
        module: qualified name of the module, such as ``encoder.layer.0.attention``.
        module_type: class name of that module.
        file, line, code: the innermost source line outside torch itself.
        passes: the passes that made or touched the node, in order.
    """

    module: str = ""
    module_type: str = ""
    file: str = ""
    line: int = 0
    code: str = ""
    passes: tuple[str, ...] = ()

    @property
    def location(self) -> str:
        """``modeling_bert.py:175``, or an empty text where the line is unknown."""
        return f"{Path(self.file).name}:{self.line}" if self.file else ""


def type_of(value: Node | object) -> TensorType | None:
    """The tensor type of a node; ``None`` for numbers, symbolic sizes and tuples."""
    val = value.meta.get("val") if isinstance(value, Node) else value
    if isinstance(val, torch.Tensor):
        return TensorType(val.dtype, tuple(val.shape), val.device)
    return None


def packet_of(node: Node) -> OpOverloadPacket | None:
    """The operator without its overload (``aten.add`` of ``aten.add.Tensor``), if it is one."""
    return node.target.overloadpacket if isinstance(node.target, OpOverload) else None


def operator_of(node: Node) -> Any:
    """What a node calls: the operator without its overload, or a Python function such as ``operator.getitem``."""
    return packet_of(node) or node.target


def op_name(node: Node) -> str:
    """Short name of the operator: ``linear``, ``txgraph::linear_activation``, ``getitem``."""
    if isinstance(node.target, OpOverload):
        namespace, name = node.target.name().split("::")
        name = name.split(".")[0]
        return name if namespace == "aten" else f"{namespace}::{name}"
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", node.target))
    return node.op


def arguments(node: Node) -> dict[str, Any]:
    """All arguments of an operator node by their schema names, defaults filled in.

    Raises:
        TypeError: the node is not an ATen or custom operator.
    """
    if not isinstance(node.target, OpOverload):
        raise TypeError(f"{node.name} is not an operator with a schema")
    bound: dict[str, Any] = {}
    for position, argument in enumerate(node.target._schema.arguments):
        if position < len(node.args):
            bound[argument.name] = node.args[position]
        elif argument.name in node.kwargs:
            bound[argument.name] = node.kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value if argument.has_default_value() else None
    return bound


def is_impure(node: Node) -> bool:
    """Whether a node must stay even if unused, and may not be merged with an equal one."""
    if node.op != "call_function":
        return node.op in ("placeholder", "output")
    if not isinstance(node.target, OpOverload):
        return False
    return node.target._schema.is_mutable or is_random(node)


def is_random(node: Node) -> bool:
    """Whether the operator draws random numbers (an active dropout, ``rand``, ...)."""
    if not isinstance(node.target, OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    named = arguments(node)
    if node.target.overloadpacket is torch.ops.aten.scaled_dot_product_attention:
        return bool(named["dropout_p"])
    if node.target.overloadpacket in (torch.ops.aten.dropout, torch.ops.aten.native_dropout):
        return bool(named["train"]) and bool(named["p"])
    return True


def is_symbolic(node: Node) -> bool:
    """Whether the node is arithmetic on symbolic sizes."""
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool)


def provenance_of(node: Node) -> Provenance:
    """Where the node comes from; fields are empty where capture recorded nothing."""
    module, module_type = "", ""
    stack = node.meta.get("nn_module_stack") or {}
    if stack:
        module, kind = list(stack.values())[-1]
        module_type = (kind if isinstance(kind, str) else kind.__qualname__).rsplit(".", 1)[-1]
    file, line, code = "", 0, ""
    for frame in _FRAME.finditer(node.meta.get("stack_trace") or ""):
        if not frame["file"].startswith((_TORCH_ROOT, "<")):  # "<eval_with_key>": code that torch wrote
            file, line, code = frame["file"], int(frame["line"]), frame["code"].strip()
    return Provenance(module, module_type, file, line, code, tuple(node.meta.get("txgraph_passes", ())))


def describe(node: Node) -> str:
    """One line for an error message: the node, its operator, module and source line."""
    origin = provenance_of(node)
    where = " ".join(part for part in (origin.module, f"({origin.location})" if origin.location else "") if part)
    return f"%{node.name} = {op_name(node)}" + (f" in {where}" if where else "")


GETITEM = operator.getitem
