"""A graph as a Python file of its own, with the values that it needs."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Sequence

import torch
from torch.fx import Node

from txgraph.ir import Graph

_LARGEST_VALUES = 1 << 20  # bytes of one tensor that the file holds


def reproduction(graph: Graph, inputs: Sequence[torch.Tensor], reason: str, backend: str) -> str:
    """The source of a file that compiles a graph, compares it with eager, and exits with 1 if they differ.

    Args:
        reason: what is wrong with it, for the first line.
    """
    fx = torch.fx.Graph()
    held: dict[str, torch.Tensor] = {}
    made: dict[Node, Node] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            held[f"constant_{len(held)}"] = graph.constants[str(node.target)]
            made[node] = fx.get_attr(f"constant_{len(held) - 1}")
        else:
            made[node] = fx.node_copy(node, made.__getitem__)
    code = torch.fx.Graph.python_code(fx, "self").src
    body = "\n".join(f"    {line}" for line in code.strip().splitlines())
    tensors = {**held, **{f"input_{at}": value for at, value in enumerate(inputs)}}
    return _FILE.format(
        backend=backend,
        reason=reason,
        names=repr([name for name in tensors if name.startswith("input_")]),
        forward=body,
        values="\n".join(f"    {name!r}: {_value(tensor)}," for name, tensor in tensors.items()),
    )


def _value(tensor: torch.Tensor) -> str:
    """Source of a tensor: its own values, or random ones of its type where it is large."""
    if tensor.nbytes > _LARGEST_VALUES:
        return f"torch.randn({tuple(tensor.shape)}).to({tensor.dtype})"
    buffer = io.BytesIO()
    torch.save(tensor.detach().clone(), buffer)
    return f"held({base64.b85encode(zlib.compress(buffer.getvalue(), 9)).decode()!r})"


_FILE = '''"""A graph that the backend {backend} compiles wrongly: {reason}"""

import base64
import io
import sys
import zlib

import torch
from torch import device, inf, nan  # what a graph may name

import txgraph
from txgraph.verify import check_gates, reference


def held(text):
    return torch.load(io.BytesIO(zlib.decompress(base64.b85decode(text))), weights_only=True)


torch.manual_seed(0)
VALUES = {{
{values}
}}


class Part(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, value in VALUES.items():
            if name.startswith("constant_"):
                self.register_buffer(name, value)

{forward}


inputs = tuple(VALUES[name] for name in {names})
compiled = txgraph.optimize(Part(), inputs, backend="{backend}", passes=txgraph.Pipeline(()), verify="off")
truth = reference(Part(), inputs, {{}})
result = compiled(*inputs)
failed = [str(gate) for gate in check_gates([*result], truth.eager, truth.oracle) if not gate.passed]
print("\\n".join(failed) or "right: compiled and eager agree")
sys.exit(bool(failed))
'''
