"""The IR's validity spec, checked after capture and after every pass.

1. Nodes are topologically ordered and belong to the graph.
2. Only placeholder, get_attr, call_function and output nodes occur; call targets are operators with
   a schema, or arithmetic on symbolic sizes.
3. The graph is functional: no operator writes to its arguments.
4. Every get_attr names a constant that the graph owns; one tensor has one name.
5. Every tensor-valued node carries its type, a FakeTensor in ``meta["val"]``.
6. Against the graph before a pass: the same inputs, and outputs of the same number and type; what it assumes, and
   which outputs are zero at padding, is not taken back.
"""

from __future__ import annotations

import builtins
import math
import operator

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import Node

from txgraph.errors import InvalidGraph
from txgraph.ir.graph import Graph
from txgraph.ir.node import describe, type_of

_SYMBOLIC_MODULES = {operator.__name__, "_operator", math.__name__, builtins.__name__, "torch"}


def check_spec(graph: Graph, before: Graph | None = None) -> None:
    """Check ``graph`` against the spec, and against the graph it was rewritten from.

    Raises:
        InvalidGraph: names the rule, the node and the user's source line.
    """
    _check_nodes(graph)
    _check_constants(graph)
    if before is not None:
        _check_contract(graph, before)


def _check_nodes(graph: Graph) -> None:
    seen: set[Node] = set()
    for node in graph.nodes:
        for source in node.all_input_nodes:
            if source not in seen:
                raise InvalidGraph(
                    f"{describe(node)}: uses %{source.name}, which does not come before it in this graph"
                )
        seen.add(node)
        if node.op not in ("placeholder", "get_attr", "call_function", "output"):
            raise InvalidGraph(f"{describe(node)}: a {node.op} node; expected an operator call")
        if node.op == "call_function":
            _check_call(node)
        if node.op in ("placeholder", "get_attr", "call_function") and "val" not in node.meta:
            raise InvalidGraph(f"{describe(node)}: has no type; build nodes with the GraphBuilder, which infers it")
    if not any(node.op == "output" for node in graph.nodes):
        raise InvalidGraph("the graph has no output node")


def _check_call(node: Node) -> None:
    target = node.target
    if isinstance(target, OpOverload):
        if target._schema.is_mutable:
            raise InvalidGraph(f"{describe(node)}: writes to its arguments; the IR is functional")
        return
    if isinstance(target, HigherOrderOperator):
        raise InvalidGraph(f"{describe(node)}: control flow is not supported in this IR")
    if getattr(target, "__module__", None) not in _SYMBOLIC_MODULES:
        raise InvalidGraph(f"{describe(node)}: {target} is not an operator with a schema")


def _check_constants(graph: Graph) -> None:
    names: dict[tuple[object, ...], str] = {}
    for node in graph.nodes:
        if node.op != "get_attr":
            continue
        name = str(node.target)
        if name not in graph.constants:
            raise InvalidGraph(f"{describe(node)}: names the constant {name!r}, which the graph does not own")
        tensor = graph.constants[name]
        if tensor.numel() == 0 or not _has_storage(tensor):
            continue
        view = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if names.setdefault(view, name) != name:
            raise InvalidGraph(
                f"{describe(node)}: the constant {name!r} is {names[view]!r} again; tied weights have one name"
            )


def _has_storage(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.device.type != "meta"


def _check_contract(graph: Graph, before: Graph) -> None:
    for kind, now, then in (
        ("input", graph.inputs, before.inputs),
        ("output", list(graph.outputs), list(before.outputs)),
    ):
        if len(now) != len(then):
            raise InvalidGraph(f"the graph has {len(now)} {kind}s where it had {len(then)}")
        for index, (value, expected) in enumerate(zip(now, then, strict=True)):
            if type_of(value) != type_of(expected):
                where = f" ({describe(value)})" if isinstance(value, Node) else ""
                raise InvalidGraph(f"{kind} {index}{where} is {type_of(value)} where it was {type_of(expected)}")
    if graph.mutations != before.mutations:
        raise InvalidGraph("the graph's mutations changed")
    for kind in ("assumptions", "zeroed"):
        held = getattr(before, kind)
        if getattr(graph, kind)[: len(held)] != held:
            raise InvalidGraph(f"the graph lost {kind} that it had")
