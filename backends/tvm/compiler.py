"""Compile the regions of a graph with TVM. This file imports tvm, which takes seconds."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tvm
from tvm import tirx

from txgraph.backends.tvm.kernel import converts, function_of
from txgraph.backends.tvm.regions import Region, find_regions, has_plain_rows, is_contiguous
from txgraph.backends.tvm.schedule import scheduled
from txgraph.errors import BackendFailed
from txgraph.ir import Graph, describe, op_name, type_of
from txgraph.ir.subgraph import kind_of

LONGEST_NAME = 60  # letters of the names of operators


@dataclass(frozen=True)
class Generated:
    """The generated functions of a graph.

    Attributes:
        library: a shared library of them. codes: of each function, as TIR, which is printed as Python.
        regions: those of the graph, each with the name of its function; equal regions share one.
    """

    library: bytes
    codes: dict[str, str]
    regions: list[tuple[str, Region]]


def generate(graph: Graph) -> Generated:
    """Compile all regions of a graph.

    Raises:
        BackendFailed: TVM fails, or the linker.
    """
    named: dict[str, str] = {}
    functions: dict[str, tirx.PrimFunc] = {}
    regions = []
    for region in find_regions(graph, converts):
        kind = _kind(graph, region)
        if kind not in named:
            operators = "_".join(dict.fromkeys(op_name(node).rpartition(":")[2] for node in region.nodes))
            named[kind] = f"fused_{operators[:LONGEST_NAME]}_{len(named)}"
            functions[named[kind]] = _function(region, named[kind])
        regions.append((named[kind], region))
    codes = {name: function.script() for name, function in functions.items()}
    return Generated(_library(functions) if functions else b"", codes, regions)


def _kind(graph: Graph, region: Region) -> str:
    """Equal for regions that can run the same function."""
    layouts = [(str(type_of(n)), is_contiguous(n), has_plain_rows(n)) for n in region.inputs]
    return f"{kind_of(graph, [node.name for node in region.nodes])} {layouts} {region.symbols}"


def _function(region: Region, name: str) -> tirx.PrimFunc:
    try:
        return scheduled(function_of(region), name)
    except Exception as error:  # TVM raises whatever its passes raise
        raise BackendFailed(
            f"TVM failed on {len(region.nodes)} operators from {describe(region.nodes[0])} on: {_text(error)}"
        ) from error


def _library(functions: dict[str, tirx.PrimFunc]) -> bytes:
    try:
        executable = tvm.compile(tvm.IRModule(functions), target=_target())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "kernels.so")
            executable.export_library(str(path))
            return path.read_bytes()
    except Exception as error:  # as above
        raise BackendFailed(f"TVM failed on this graph: {_text(error)}") from error


@functools.cache
def _target() -> tvm.target.Target:
    """This processor; a product and a sum may be one instruction, as in torch's own kernels."""
    here = tvm.target.Target.from_device("cpu").export()
    return tvm.target.Target({**here, "fast-math-contract": True})


def _text(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"
