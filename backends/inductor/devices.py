"""Move a graph to a device that need not be there: its fake inputs, and the devices that its operators are told."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.node import map_aggregate

from txgraph.ir import Graph


def move(graph: Graph, device: torch.device) -> None:
    """Types of other values are left as they were: who compiles the graph infers them anew."""

    def moved(value: object) -> object:
        return device if isinstance(value, torch.device) else value

    for node in graph.nodes:
        node.args = map_aggregate(node.args, moved)  # type: ignore[arg-type]  # devices for devices
        node.kwargs = map_aggregate(node.kwargs, moved)  # type: ignore[arg-type]
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, FakeTensor):
            with value.fake_mode:
                node.meta["val"] = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=device)
