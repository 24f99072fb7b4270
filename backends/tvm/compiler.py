"""Compile the regions of a graph with TVM. This file imports tvm, which takes seconds."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import tvm
from tvm import tirx

from txgraph.backends.tvm import codegen
from txgraph.backends.tvm.code import Code, Gpu
from txgraph.backends.tvm.gemm import linear_of
from txgraph.backends.tvm.kernel import converts, function_of
from txgraph.backends.tvm.regions import Region, find_regions, has_plain_rows, is_contiguous
from txgraph.backends.tvm.schedule import scheduled
from txgraph.backends.tvm.schedule_cuda import scheduled_for_cuda
from txgraph.backends.tvm.tiling import LINEAR
from txgraph.backends.tvm.worker import compile_folder
from txgraph.errors import BackendFailed
from txgraph.ir import Graph, describe, op_name, type_of
from txgraph.ir.subgraph import kind_of

LONGEST_NAME = 60  # letters of the names of operators
_KERNEL = re.compile(
    r'^extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\([^;{]*\) \{$.*?^\}$', re.MULTILINE | re.DOTALL
)
_ENTRY = re.compile(r"^\.visible \.entry (\w+)\(.*?^\}$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Generated:
    """The generated functions of a graph, and its regions, each with the name of its function; equal ones share one."""

    code: Code
    regions: list[tuple[str, Region]]


def generate(graph: Graph, gpu: Gpu | None) -> Generated:
    """Compile all regions of a graph, for a GPU or for this processor.

    Raises:
        BackendFailed: TVM fails, or crashes, or the linker or nvcc fails.
    """
    named: dict[str, str] = {}
    functions: dict[str, tirx.PrimFunc] = {}
    regions = []
    schedule = scheduled if gpu is None else scheduled_for_cuda

    def write(region: Region, operators: str, made: Callable[[Region, str], tirx.PrimFunc]) -> None:
        kind = _kind(graph, region)
        if kind not in named:
            named[kind] = f"{operators[:LONGEST_NAME]}_{len(named)}"
            functions[named[kind]] = _function(region, named[kind], made)
        regions.append((named[kind], region))

    with contextlib.nullcontext() if gpu is None else tvm.target.Target(_target(gpu)):
        for region in find_regions(graph, converts):
            operators = "_".join(dict.fromkeys(op_name(node).rpartition(":")[2] for node in region.nodes))
            write(region, f"fused_{operators}", lambda region, name: schedule(function_of(region), name))
        for node in graph.calls():
            if node.target is LINEAR:
                write(Region.of([node]), "linear", linear_of)
    return Generated(_code(functions, gpu), regions)


def _kind(graph: Graph, region: Region) -> str:
    """Equal for regions that can run the same function."""
    layouts = [(str(type_of(n)), is_contiguous(n), has_plain_rows(n)) for n in region.inputs]
    return f"{kind_of(graph, [node.name for node in region.nodes])} {layouts} {region.symbols}"


def _function(region: Region, name: str, made: Callable[[Region, str], tirx.PrimFunc]) -> tirx.PrimFunc:
    try:
        return made(region, name)
    except Exception as error:  # TVM raises whatever its passes raise
        raise BackendFailed(
            f"TVM failed on {len(region.nodes)} operators from {describe(region.nodes[0])} on: {_text(error)}"
        ) from error


def _code(functions: dict[str, tirx.PrimFunc], gpu: Gpu | None) -> Code:
    if not functions:
        return Code()
    scripts = {name: function.script() for name, function in functions.items()}
    if gpu is not None:
        with tempfile.TemporaryDirectory() as name:
            return _code_for_gpu(scripts, gpu, Path(name))
    try:
        return Code(codegen.library_of(functions), "\n".join(scripts.values()), scripts)
    except Exception as error:  # as above
        raise BackendFailed(f"TVM failed on this graph: {_text(error)}") from error


def _code_for_gpu(scripts: dict[str, str], gpu: Gpu, folder: Path) -> Code:
    (folder / codegen.JOB).write_text(json.dumps({"functions": scripts, "target": _target(gpu), "nvcc": gpu.nvcc}))
    compile_folder(folder)
    source = (folder / codegen.SOURCE).read_text()
    code = Code((folder / codegen.LIBRARY).read_bytes(), source, _by_function(_KERNEL, source, scripts))
    if not gpu.nvcc:
        return code
    fatbin, cubin = ((folder / each).read_bytes() for each in (codegen.FATBIN, codegen.CUBIN))
    return replace(
        code, fatbin=fatbin, cubin=cubin, ptx=_by_function(_ENTRY, (folder / codegen.PTX).read_text(), scripts)
    )


def _target(gpu: Gpu) -> dict[str, str]:
    return {"kind": "cuda", "arch": gpu.arch}


def _by_function(kernel: re.Pattern[str], text: str, functions: dict[str, str]) -> dict[str, str]:
    """What each function launches: its kernels are named after it, and numbered from the second on."""
    found: dict[str, list[str]] = {name: [] for name in functions}
    for match in kernel.finditer(text):
        found[re.sub(r"_kernel(_\d+)?$", "", match[1])].append(match[0])
    return {name: "\n\n".join(kernels) for name, kernels in found.items()}


def _text(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"
