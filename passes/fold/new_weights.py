"""New weights computed from old ones: whether they may take their place, and with which values."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch.fx import Node

from txgraph.ir import Graph


def why_not_replaced(graph: Graph, used: Iterable[Node], replaced: Node | None, inside: Collection[Node]) -> str:
    """Why nothing can be computed from ``used``, or the weight ``replaced`` has users not ``inside``; else empty."""
    for node in used:
        if node.op != "get_attr":
            return f"%{node.name} is not a constant"
        tensor = graph.frozen(node)
        if tensor is None:
            return f"{node.target} is changed by each call"
        if tensor.is_meta:
            return f"{node.target} is on the meta device: it has no values"
    name = replaced.target if replaced is not None else None
    for user in (user for n in graph.nodes if n.op == "get_attr" and n.target == name for user in n.users):
        if user not in inside:
            return f"{name} is also used by %{user.name}"
    return ""


def times(values: torch.Tensor, factor: torch.Tensor) -> torch.Tensor | str:
    """The product, computed in float64 and rounded once to the dtype of ``values``; or why it cannot be a constant."""
    product = rounded(values.double() * factor.double(), values.dtype)
    if isinstance(product, str):
        return product
    vanishing = (product.abs() < torch.finfo(product.dtype).smallest_normal) & (values != 0) & (factor != 0)
    return f"a folded value is subnormal in {product.dtype}" if bool(vanishing.any()) else product


def rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | str:
    """Float64 values rounded to ``dtype``; or why they cannot be constants of it."""
    result = values.to(dtype)
    if not bool(result.isfinite().all()):
        return f"a folded value is not finite in {dtype}"
    if dtype.itemsize < 4 and not bool((result.double() == values).all()):
        return f"a folded value would be rounded to {dtype}"
    return result
