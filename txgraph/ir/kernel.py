"""Kernels: what a compiled graph launches in a call, and which operators each launch computes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from torch._ops import OpOverload
from torch.fx import Node

from txgraph.ir.graph import Graph
from txgraph.ir.node import COMPUTES, GETITEM, is_symbolic, packet_of

KernelKind = Literal["generated", "library", "txgraph", "interpreted"]


@dataclass(frozen=True)
class Kernel:
    """One launch of one call. Copies of a layer run the same code: each has kernels of its own, with equal ``code``.

    Attributes:
        name: of the function in the generated code, such as ``cpp_fused_add_native_layer_norm_2``, or of the operator
            that is called, such as ``aten.addmm`` or ``txgraph.linears_native``. Our own for GPUs are functions:
            ``txgraph_ragged_attention_0``.
        nodes: names of the operator nodes of the optimized graph that it computes, in the order of the graph. An
            operator that is cheap to compute again may be part of several kernels.
        kind: ``"generated"``: by the backend's compiler; ``"library"``: a kernel that torch comes with; ``"txgraph"``:
            one of our own; ``"interpreted"``: an operator that is called one by one.
        code: its source in C++, Triton, TIR or CUDA, where it was generated or is one of our own in Triton.
        ptx, cubin: what a Triton kernel was compiled to, where that was for a GPU that this machine has not: PTX, and
            machine code as an ELF file. Of TVM's kernels for any GPU; there the file holds all kernels of a graph.
    """

    name: str
    nodes: tuple[str, ...]
    kind: KernelKind
    code: str = ""
    ptx: str = field(default="", repr=False)
    cubin: bytes = field(default=b"", repr=False)


def compute_themselves(graph: Graph) -> None:
    """Write down in each operator node that it is in its own place."""
    for node in graph.calls():
        node.meta[COMPUTES] = (node.name,)


def operator_path(node: Node) -> str:
    """What a node calls, as a kernel's name: ``aten.linear``, ``txgraph.linears``, ``getitem``."""
    packet = packet_of(node)
    return str(packet) if packet is not None else str(getattr(node.target, "__name__", node.target))


def kind_of_call(name: str, otherwise: KernelKind) -> KernelKind:
    """The kind of a kernel by its name, or by that of the operator that is called."""
    return "txgraph" if is_own_kernel(name) else otherwise


def is_own_kernel(name: str) -> bool:
    """Whether a kernel is one of ours: ``txgraph...._native`` or ``_triton``, or Triton's function ``txgraph_...``."""
    return name.startswith("txgraph_") or (name.startswith("txgraph.") and name.endswith(("_native", "_triton")))


def without_kernel(graph: Graph, kernels: Iterable[Kernel]) -> dict[str, str]:
    """The operator nodes of the optimized graph that no kernel computes, each with the reason.

    Reasons: ``"size"`` (arithmetic on symbolic sizes), ``"item"`` (of what an operator gives), ``"view"``, and
    ``"removed"``: the backend's compiler computed it before, or found that it needs no computing.
    """
    computed = {name for kernel in kernels for name in kernel.nodes}
    return {node.name: _reason(node) for node in graph.calls() if node.name not in computed}


def _reason(node: Node) -> str:
    if is_symbolic(node):
        return "size"
    if node.target is GETITEM:
        return "item"
    returns = node.target._schema.returns if isinstance(node.target, OpOverload) else ()
    return "view" if any(value.alias_info is not None for value in returns) else "removed"
