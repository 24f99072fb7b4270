"""Pickles of graphs. The private torch names that know fake tensors and symbolic sizes are in this file alone.

``tests/cache/test_adapter.py`` tells when they move.
"""

from __future__ import annotations

import contextlib
import gc
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import Node
from torch.fx._graph_pickler import GraphPickler, Options, _GraphUnpickler, _UnpickleState
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.node import map_aggregate

_META = ("val", "stack_trace", "nn_module_stack", "txgraph_passes")  # what is read of a node's notes


def dumps(value: object, place: Callable[[torch.Tensor], Any]) -> bytes:
    """Pickle a value that may hold graphs; of each tensor with data only what ``place`` gives for it is kept.

    Raises:
        Exception: whatever the pickling of an object raises that cannot be pickled.
    """
    stream = io.BytesIO()
    pickler = _Pickler(stream, Options(ops_filter=None, node_metadata_key_filter=None))
    pickler.place = place
    pickler.dump(value)
    return stream.getvalue()


def loads(data: bytes, tensor: Callable[[Any], torch.Tensor]) -> Any:
    """The value again; ``tensor`` gives the tensor of a place. Its graphs share one mode of fake tensors."""
    unpickler = _Unpickler(io.BytesIO(data), _UnpickleState(FakeTensorMode(shape_env=ShapeEnv())))
    unpickler.tensor = tensor
    with _no_collection(), warnings.catch_warnings():
        # torch makes its tree specs by a constructor that it calls deprecated itself.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
        return unpickler.load()


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Thousands of objects are made and none is thrown away: looking for garbage would take half of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class _Pickler(GraphPickler):
    place: Callable[[torch.Tensor], Any]

    def __init__(self, stream: io.BytesIO, options: Options) -> None:
        super().__init__(stream, options)
        self._fakes: dict[tuple[Any, ...], FakeTensor] = {}

    def persistent_id(self, obj: object) -> Any:
        if isinstance(obj, torch.Tensor) and not isinstance(obj, FakeTensor):
            return "tensor", self.place(obj)
        return super().persistent_id(obj)

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, FakeTensor):  # torch's own description holds what it was made from, too
            described = (tuple(obj.shape), tuple(obj.stride()), obj.dtype, obj.device)
            if any(isinstance(size, torch.SymInt) for size in (*described[0], *described[1])):
                return _fake_tensor, (self._unpickle_state, described)
            first = self._fakes.setdefault(described, obj)  # a graph has few types, and making a fake tensor takes long
            return (_fake_tensor, (self._unpickle_state, described)) if first is obj else (_itself, (first,))
        if isinstance(obj, torch.fx.Graph):
            return _graph, (_nodes_of(obj),)
        return super().reducer_override(obj)


class _Unpickler(_GraphUnpickler):
    tensor: Callable[[Any], torch.Tensor]

    def persistent_load(self, pid: Any) -> object:
        if isinstance(pid, tuple):
            return self.tensor(pid[1])
        return super().persistent_load(pid)


@dataclass(frozen=True)
class _Reference:
    """Stands for a node among the arguments of another."""

    at: int


def _nodes_of(graph: torch.fx.Graph) -> list[tuple[Any, ...]]:
    places: dict[Node, Any] = {node: _Reference(at) for at, node in enumerate(graph.nodes)}
    return [
        (
            node.op,
            node.name,
            node.target,
            *torch.fx.map_arg((node.args, node.kwargs), places.__getitem__),
            {key: node.meta[key] for key in _META if key in node.meta},
        )
        for node in graph.nodes
    ]


def _graph(nodes: list[tuple[Any, ...]]) -> torch.fx.Graph:
    graph, made = torch.fx.Graph(), list[Node]()
    for op, name, target, args, kwargs, meta in nodes:
        args, kwargs = map_aggregate((args, kwargs), partial(_node_of, made))
        node = graph.create_node(op, target, args, kwargs, name)
        node.name, node.meta = name, meta  # fx renames a node called like a builtin, such as `input`
        made.append(node)
    return graph


def _node_of(made: list[Node], argument: Any) -> Any:
    return made[argument.at] if isinstance(argument, _Reference) else argument


def _itself(value: Any) -> Any:
    return value


def _fake_tensor(state: _UnpickleState, described: tuple[Any, ...]) -> torch.Tensor:
    shape, stride, dtype, device = described
    with state.fake_mode:
        return torch.empty_strided(shape, stride, dtype=dtype, device=device)
