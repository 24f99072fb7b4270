"""What Inductor says of the code that it generated, as launches with the operators that each computes."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Mapping, Sequence

import torch

from txgraph.backends.inductor.generated import Launch
from txgraph.ir.kernel import is_own_kernel
from txgraph.ir.node import COMPUTES

_aten = torch.ops.aten
_OWN = "triton_kernel_wrapper_mutation"  # the node by which Inductor calls a Triton kernel that it was given


def launches_of(
    provenance: Mapping[str, Mapping[str, Sequence[str]]], source: str, graph: torch.fx.Graph
) -> tuple[Launch, ...]:
    """What generated code launches, in order.

    Args:
        provenance: by ``cppCodeToPost``, for each launch (``what is called:number``) nodes of Inductor's own graph; by
            ``postToPre``, for each of these the nodes of ``graph`` that it was made of.
        source: the generated Python module. graph: what was compiled; its nodes' notes say what they compute.
    """
    computes = {node.name: node.meta.get(COMPUTES, ()) for node in graph.nodes}
    made_of, codes = provenance.get("postToPre", {}), _kernel_sources(source)
    launches = []
    for numbered, inner in provenance.get("cppCodeToPost", {}).items():
        called = numbered.rpartition(":")[0]
        computed = _computed(called, inner)
        nodes = dict.fromkeys(
            name for each in computed for given in made_of.get(each, ()) for name in computes.get(given, ())
        )
        launches.append(Launch(called, tuple(nodes), codes.get(called, "")))
    return tuple(launches)


def _computed(called: str, inner: Sequence[str]) -> Sequence[str]:
    """Those of Inductor's own nodes that a launch computes: it also lists views that it reads through.

    A call of an operator lists what its arguments were made of, too, and computes the nodes of that operator alone.
    What is left is all of them, if nothing else is: then a view is copied.
    """
    if is_own_kernel(called):
        return [name for name in inner if _operator(name) == _OWN]
    inner = [name for name in inner if _operator(name) != _OWN]  # it writes what such a kernel reads
    of_operator = [name for name in inner if _operator(name) in called.split(".")]
    return of_operator or [name for name in inner if not _is_view(_operator(name))] or inner


def _operator(name: str) -> str:
    """The operator of a node, by the name that fx gave it: ``permute_12``, ``full_default_1``."""
    return re.sub(r"(_default)?(_\d+)?$", "", name)


@functools.cache
def _is_view(operator: str) -> bool:
    packet = getattr(_aten, operator, None)
    if packet is None:
        return operator == "getitem"
    aliases = [value.alias_info for o in packet.overloads() for value in getattr(packet, o)._schema.returns]
    return operator == "_unsafe_view" or any(alias is not None and not alias.is_write for alias in aliases)


def _kernel_sources(source: str) -> dict[str, str]:
    """The sources of kernels in a generated module: ``name = async_compile.cpp_pybinding(..., 'source')`` and alike."""
    found = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            texts = [a.value for a in statement.value.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            for target in statement.targets:
                if isinstance(target, ast.Name) and texts:
                    found[target.id] = max(texts, key=len).strip("\n")
    return found
