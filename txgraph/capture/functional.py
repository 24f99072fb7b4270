"""A captured program is made functional: a write becomes a new value, which later uses of the tensor read.

torch does this by tracing the program again (``run_decompositions``), which takes longer than capturing it did. Here
operators are replaced where they stand. The fake tensors of the trace tell which values share memory, and so through
which names a write is seen: names of the same whole tensor may be, also inputs and buffers. Programs that write in
another way, as to a slice, are traced again; and those under autocast, whose casts a trace alone shows.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from typing import Any

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, OutputSpec, TensorArgument
from torch.fx import Node, map_arg
from torch.utils import _pytree as pytree

from txgraph.capture.adapter import may_be_others, without_writing
from txgraph.capture.parts import InputSizes, Parts
from txgraph.ir import arguments
from txgraph.ir.builder import infer

_aten = torch.ops.aten
_WRITTEN = {InputKind.BUFFER: OutputKind.BUFFER_MUTATION, InputKind.USER_INPUT: OutputKind.USER_INPUT_MUTATION}
# Operators that share memory in some calls, and are kept: the graph's passes know them.
_KEPT = (_aten.reshape.default,)


def functional(exported: ExportedProgram) -> ExportedProgram:
    """The same program without writes, and without operators that may or may not give their input back.

    What it writes to buffers and inputs are its first outputs, as torch has it. ``exported`` may be changed.
    """
    nodes = list(exported.graph.nodes)
    if not all(map(_is_known, nodes)) or _is_under_autocast(nodes):
        return _traced_again(exported)
    memory = _Memory(exported)
    parts = {node: Parts.of(node) for node in nodes if _is_undecided(node)}
    if not all(parts.values()) or not all(map(memory.allows_write, nodes)):
        return _traced_again(exported)

    sizes = InputSizes(exported.graph)
    now: dict[Node, Any] = {}  # what stands for each value of the program, after the nodes so far
    replaced = []
    for node in nodes:
        node.args, node.kwargs = map_arg((node.args, node.kwargs), lambda n: now.get(n, n))
        if node.target is _aten.lift_fresh_copy.default:
            node.target = _aten.clone.default
        with exported.graph.inserting_before(node):
            if call := parts.get(node):
                now[node] = call.insert(now, sizes)
            elif node.target is _aten.sym_size.int and (size := sizes.get(node.meta["val"])) is not None:
                now[node] = size
            elif node.target is operator.getitem and not isinstance(node.args[0], Node):
                now[node] = operator.getitem(*node.args)  # of what such a call gave
            elif node.target is _aten.detach_.default or _gives_its_input(node):
                now[node] = _source(node)
            elif _writes(node):
                names = memory.names(node)
                given = any(name.op == "placeholder" for name in names)
                now.update(dict.fromkeys(names, _new_value(node, given)))
            else:
                continue
        replaced.append(node)
    _give_out(exported, {held: now[held] for held in memory.written if held in now})
    for node in reversed(replaced):
        exported.graph.erase_node(node)
    return exported


class _Memory:
    """Which values of a program share memory, by the fake tensors of its trace.

    Attributes:
        written: the inputs and buffers of the program that can be written.
    """

    def __init__(self, exported: ExportedProgram) -> None:
        nodes = list(exported.graph.nodes)
        self._place = {node: place for place, node in enumerate(nodes)}
        self._holders: dict[int, list[Node]] = defaultdict(list)
        self._joined: dict[int, int] = {}  # what idle dropout seems to have made, which is its input
        for node in nodes:
            if _gives_its_input(node):
                self._joined[_memory(node.meta["val"])] = self._of(_source(node).meta["val"])
            for memory in {self._of(leaf) for leaf in pytree.tree_leaves(node.meta.get("val")) if _is_strided(leaf)}:
                self._holders[memory].append(node)
        kinds = {spec.arg.name: spec.kind for spec in exported.graph_signature.input_specs}
        self.written = [node for node in nodes if node.op == "placeholder" and kinds[node.name] in _WRITTEN]

    def allows_write(self, node: Node) -> bool:
        """Whether the node writes nothing, or a whole tensor whose other names are no parts of it."""
        if not _writes(node):
            return True
        before, after = (n.meta["val"] for n in (_source(node), node))
        target: Any = node.target
        if without_writing(target) is None or not (_is_strided(before) and self._of(before) == self._of(after)):
            return False
        names = [_source(node), node, *self._seen_after(node)]
        whole = all(_is_strided(n.meta["val"]) and _layout(n.meta["val"]) == _layout(before) for n in names)
        held = [n for n in names if n.op == "placeholder"]
        return whole and len(set(held)) <= 1 and all(n in self.written for n in held)

    def names(self, node: Node) -> list[Node]:
        """The values of the program that are another name of what the node writes, itself included."""
        return [n for n in self._holders[self._of(node.meta["val"])] if self._place[n] <= self._place[node]]

    def _of(self, value: torch.Tensor) -> int:
        memory = _memory(value)
        return self._joined.get(memory, memory)

    def _seen_after(self, node: Node) -> list[Node]:
        """Names of what the node writes, or of parts of it, that are used afterwards: the caller sees inputs."""
        return [n for n in self.names(node) if n.op == "placeholder" or self._last_use(n) > self._place[node]]

    def _last_use(self, node: Node) -> int:
        return max((self._place[user] for user in node.users), default=-1)


def _traced_again(exported: ExportedProgram) -> ExportedProgram:
    """By torch, without what gives its input back: torch takes that for a copy, and loses writes to it."""
    parts = [m for m in exported.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    for part in parts:  # the graph, and one for each region of another mode, such as autocast
        for node in list(part.graph.nodes):
            if _gives_its_input(node):
                if part is exported.graph_module:
                    exported.graph_signature.replace_all_uses(node.name, _source(node).name)
                node.replace_all_uses_with(_source(node))
                part.graph.erase_node(node)
        part.recompile()
    again: ExportedProgram = exported.run_decompositions({})
    return again


def _new_value(node: Node, given: bool) -> Node:
    """The value that the tensor has after it was written, in its own dtype.

    Args:
        given: whether it is an input or a buffer: a value that is copied there at the end need not be copied before.
    """
    graph, written, copied = node.graph, node.meta["val"], node.all_input_nodes[-1]
    if given and node.target is _aten.copy_.default and _layout(copied.meta["val"]) == _layout(written):
        return copied
    target = without_writing(node.target)  # type: ignore[arg-type]  # an operator
    assert target is not None, "or the write is not allowed"
    value = graph.call_function(target, node.args, node.kwargs)
    value.meta = {**node.meta, "val": infer(value)}
    if value.meta["val"].dtype != written.dtype:
        value = graph.call_function(_aten._to_copy.default, (value,), {"dtype": written.dtype})
        value.meta = {**node.meta, "val": infer(value)}
    return value


def _give_out(exported: ExportedProgram, values: dict[Node, Node]) -> None:
    """Make what is written to buffers and inputs the program's first outputs."""
    signature, output = exported.graph_signature, exported.graph.output_node()
    inputs = {spec.arg.name: spec for spec in signature.input_specs}
    signature.output_specs[:0] = [
        OutputSpec(_WRITTEN[spec.kind], TensorArgument(value.name), spec.target or held.name)
        for held, value in values.items()
        if (spec := inputs[held.name])
    ]
    output.args = ((*values.values(), *output.args[0]),)  # torch.export: a tuple


def _is_under_autocast(nodes: list[Node]) -> bool:
    leaves = pytree.tree_leaves([node.meta.get("val") for node in nodes])
    devices = {leaf.device.type for leaf in leaves if isinstance(leaf, torch.Tensor)}
    return any(torch.is_autocast_enabled(d) for d in devices if torch.amp.is_autocast_available(d))


def _source(node: Node) -> Node:
    """The tensor that comes first among its arguments."""
    return node.all_input_nodes[0]


def _writes(node: Node) -> bool:
    if not isinstance(node.target, OpOverload) or node.target is _aten.detach_.default:
        return False
    return node.target._schema.is_mutable


def _gives_its_input(node: Node) -> bool:
    """Whether the node gives its input back, which the schema of its operator does not say."""
    if node.target is _aten.type_as.default:
        return bool(_source(node).meta["val"].dtype == node.meta["val"].dtype)
    if node.target is not _aten.dropout.default:
        return False
    named = arguments(node)
    return not named["train"] or named["p"] == 0


def _is_undecided(node: Node) -> bool:
    """Whether the operator is made of others, and gives its input, a view of it, or something new."""
    return isinstance(node.target, OpOverload) and node.target not in _KEPT and may_be_others(node.target)


def _is_known(node: Node) -> bool:
    """Regions of another mode are not, and operators of which the schema does not say what they write."""
    if node.op != "call_function" or node.target is operator.getitem:
        return True
    if not isinstance(node.target, OpOverload):
        return getattr(node.target, "__module__", "") in ("_operator", "math", "torch")  # of symbolic sizes
    return _gives_its_input(node) or torch.Tag.maybe_aliasing_or_mutating not in node.target.tags


def _is_strided(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided


def _memory(value: torch.Tensor) -> int:
    memory: int = value.untyped_storage()._cdata
    return memory


def _layout(value: torch.Tensor) -> tuple[str, ...]:
    """As text, which is exact for symbolic sizes, too, and adds no guards."""
    return str(value.dtype), str(list(value.shape)), str(value.stride()), str(value.storage_offset())
