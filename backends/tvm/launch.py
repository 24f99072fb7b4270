"""The call of a generated function: what it takes beside tensors, and memory for what it gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from txgraph.backends.tvm.regions import Region, has_plain_rows, is_contiguous, order_of
from txgraph.backends.tvm.sizes import Size, compute
from txgraph.backends.tvm.tiling import LINEAR

VECTOR = 16  # bytes: GPUs read vectors only from where they begin


class Launch:
    """Calls the function of a region.

    Args:
        function: see :func:`txgraph.backends.tvm.kernel.function_of`.
    """

    def __init__(self, name: str, function: Callable[..., None], region: Region) -> None:
        self.__name__, self.__module__ = name, "txgraph_tvm"
        self._function, self._symbols = function, region.symbols
        held = [is_contiguous(node) or region.nodes[0].target is LINEAR for node in region.inputs]  # a linear's all are
        self._strided = [(at, has_plain_rows(n)) for at, n in enumerate(region.inputs) if not held[at]]
        self._contiguous = [at for at, is_held in enumerate(held) if is_held]
        orders = [order_of(node) for node in region.outputs]
        self._results = [
            (tuple(node.meta["val"].shape[axis] for axis in order), node.meta["val"].dtype, node.meta["val"].device)
            for node, order in zip(region.outputs, orders, strict=True)
        ]
        self._turned = [
            (at, [order.index(axis) for axis in range(len(order))])
            for at, order in enumerate(orders)
            if order != tuple(range(len(order)))
        ]
        self._aligned = any(node.meta["val"].is_cuda for node in region.outputs)
        self._sizes_vary = any(not isinstance(size, int) for shape, *_ in self._results for size in shape)

    def __call__(self, *given: Any) -> Any:
        """The outputs of the region, in a tuple; ``given`` are the values of its symbols, and its inputs."""
        symbols, tensors = given[: len(self._symbols)], list(given[len(self._symbols) :])
        for at in self._contiguous:
            if not tensors[at].is_contiguous():
                tensors[at] = tensors[at].contiguous()
            if self._aligned and tensors[at].data_ptr() % VECTOR:
                tensors[at] = tensors[at].clone()
        strides: list[int] = []
        for at, plain in self._strided:
            tensors[at] = _memory(tensors[at], plain, strides)
        if self._sizes_vary:
            values = dict(zip(self._symbols, symbols, strict=True))
            results = [torch.empty(_shape(s, values), dtype=d, device=device) for s, d, device in self._results]
        else:
            results = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype, device in self._results]
        self._function(*symbols, *strides, *tensors, *results)
        for at, places in self._turned:
            results[at] = results[at].permute(places)
        return tuple(results)


def _shape(shape: tuple[Size, ...], values: dict[str, int]) -> list[int]:
    return [compute(size, values) for size in shape]


def _memory(tensor: torch.Tensor, plain: bool, strides: list[int]) -> torch.Tensor:
    """All memory that a tensor spans, as one axis; adds its strides, without the last one where that must be 1."""
    steps = tensor.stride()
    if plain and steps[-1] != 1:
        tensor = tensor.contiguous()
        steps = tensor.stride()
    strides += steps[:-1] if plain else steps
    length = 1 + sum((size - 1) * step for size, step in zip(tensor.shape, steps, strict=True))
    return tensor.as_strided((length,), (1,))
