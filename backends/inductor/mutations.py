"""What a model writes to inputs and buffers is written where it belongs, not computed as a whole and copied back.

before:  new = index_copy(cache, 2, places, rows); outputs: new, ...
after:   new = index_copy(cache, 2, places, rows); copy_(cache, new); outputs: ...
why:     Inductor then writes only the rows: a step of a decoder would else copy the cache of every layer twice
legal:   the old value is read for nothing but the new one (Inductor drops copies of it that other writes need), and
         in one piece; no output has the memory of the new one; for a buffer, no other constant has its memory
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch.fx import Node

from txgraph.backends.pieces import Piece
from txgraph.ir import Graph
from txgraph.ir.aliasing import base_of, owns_memory
from txgraph.ir.node import COMPUTES


def written_in_place(graph: Graph, pieces: Sequence[Piece]) -> dict[str, str]:
    """Names of the values that can be written in place, each with that of the input or constant it is written to."""
    targets = _targets(graph)
    bases = [base_of(value) for value in graph.outputs]
    home = {name: piece for piece in pieces for name in piece.names}
    written: dict[str, str] = {}
    for at, mutation in enumerate(graph.mutations):
        value, target = graph.outputs[at], targets.get((mutation.kind, mutation.target))
        if target is None or not isinstance(value, Node) or not owns_memory(value):
            continue
        readers = _readers(target, value)
        apart = all(base is not bases[at] for base in (*bases[:at], *bases[at + 1 :]))
        if apart and value in readers and all(home.get(node.name) is home[value.name] for node in readers):
            written[value.name] = target.name
    return _alike(pieces, written)


def write_in_place(part: Graph, written: Mapping[str, str]) -> Graph:
    """Make the graph of a piece write its ``written`` values to its inputs, instead of giving them; it is changed."""
    inputs = {node.name: node for node in part.inputs}
    kept = []
    for value in part.outputs:
        if isinstance(value, Node) and value.name in written:
            with part.fx.inserting_before(part.output):
                copy = part.fx.call_function(torch.ops.aten.copy_.default, (inputs[written[value.name]], value))
            copy.meta[COMPUTES] = value.meta.get(COMPUTES, ())
        else:
            kept.append(value)
    part.output.args = (tuple(kept),)
    return part


def _readers(target: Node, value: Node) -> set[Node]:
    """All that depends on the old value of ``target``, but not by way of the new one; the output is one of them."""
    found: set[Node] = set()
    pending = [target]
    while pending:
        node = pending.pop()
        new = [user for user in node.users if user not in found]
        if node is not value:
            found.update(new)
            pending += new
    return found


def _targets(graph: Graph) -> dict[tuple[str, str], Node]:
    """What can be written to, by kind and name: inputs, and contiguous buffers with a node and memory of their own."""
    constants = [node for node in graph.nodes if node.op == "get_attr"]
    names = Counter(str(node.target) for node in constants)
    memory = Counter(tensor.untyped_storage().data_ptr() for _, tensor in graph.constants.items())
    found = {("input", node.name): node for node in graph.inputs}
    for node in constants:
        tensor = graph.constants[str(node.target)]
        alone = names[str(node.target)] == 1 and memory[tensor.untyped_storage().data_ptr()] == 1
        if alone and tensor.is_contiguous():
            found["buffer", str(node.target)] = node
    return found


def _alike(pieces: Sequence[Piece], written: Mapping[str, str]) -> dict[str, str]:
    """Without those of pieces that run the same code, and do not all write at the same places."""
    places: dict[int, set[frozenset[tuple[int, int]]]] = {}
    for piece in pieces:
        pairs = ((piece.outputs.index(v), piece.inputs.index(t)) for v, t in written.items() if v in piece.outputs)
        places.setdefault(piece.like, set()).add(frozenset(pairs))
    differing = {value for piece in pieces if len(places[piece.like]) > 1 for value in piece.outputs}
    return {value: target for value, target in written.items() if value not in differing}
