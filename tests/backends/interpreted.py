"""Run a wrapper that Inductor generated for CUDA on a CPU: its Triton kernels, and ours, by Triton's interpreter.

Run as a process of its own, ``python -m tests.backends.interpreted CODE INPUTS OUTPUTS``, with ``TRITON_INTERPRET=1``.
Products and copies are torch's on the CPU; attention, which has other kernels there, is torch's by its definition.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from scipy import special
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.runtime import triton_helpers
from triton import language as tl

BLOCKS = {"XBLOCK": 8, "YBLOCK": 8, "ZBLOCK": 8, "R0_BLOCK": 16}  # other than a GPU's, and smaller than the values
FUNCTIONS = {"erf": special.erf, "rsqrt": lambda x: 1 / np.sqrt(x), "pow": np.power, "nearbyint": np.rint}


class Libdevice:
    """CUDA's mathematical functions, computed by numpy."""

    def __getattr__(self, name: str) -> Any:
        function = FUNCTIONS.get(name) or getattr(np, name)

        def computed(*values: Any) -> Any:
            from triton.runtime.interpreter import TensorHandle

            first, *others = values
            data = function(first.handle.data, *(getattr(v, "handle", v) for v in others))
            handle = TensorHandle(np.asarray(data, first.handle.data.dtype), first.handle.dtype)
            return tl.core.tensor(handle, first.type)

        return computed


class Interpreted:
    """A kernel without Inductor's heuristics, which would look for a GPU: blocks are ``BLOCKS``."""

    def __init__(self, name: str, source: str) -> None:
        tree = ast.parse(source)
        tree.body = [node for node in tree.body if not _is_call(node)]  # it is that for Triton's driver
        self._constants: dict[str, Any] | None = None  # of a kernel of ours, which is launched with a grid
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                self._constants = _constants(node) if node.name == name else self._constants
                node.decorator_list = [d for d in node.decorator_list if isinstance(d, ast.Attribute)]
        module = _module(name, ast.unparse(tree))
        module.libdevice = Libdevice()  # type: ignore[attr-defined]
        self._function = getattr(module, name)

    def run(self, *args: Any, stream: object) -> None:
        if self._constants is not None:
            *values, x, y, z = args
            given = dict(zip([n for n in self._function.arg_names if n not in self._constants], values, strict=True))
            self._function[x, y, z](**given, **self._constants)
            return
        names = [name for name in self._function.arg_names if name not in BLOCKS]
        sizes = dict(zip(names, args, strict=True))
        grid = [-(-sizes.get(f"{axis}numel", 1) // BLOCKS[f"{axis.upper()}BLOCK"]) for axis in "xyz"]
        blocks = {name: size for name, size in BLOCKS.items() if name in self._function.arg_names}
        self._function[tuple(grid)](*args, **blocks)


def _constants(function: ast.FunctionDef) -> dict[str, Any] | None:
    """What Inductor says of the constants of a kernel that it was given; ``None`` for those it has made."""
    for decorator in function.decorator_list:
        said = {each.arg: each.value for each in decorator.keywords} if isinstance(decorator, ast.Call) else {}
        meta = said.get("triton_meta")
        if "custom_kernel" in said and isinstance(meta, ast.Dict):
            pairs = zip(meta.keys, meta.values, strict=True)
            (constants,) = (v for k, v in pairs if isinstance(k, ast.Constant) and k.value == "constants")
            found: dict[str, Any] = ast.literal_eval(constants)
            return found
    return None


def _is_call(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)


def _module(name: str, source: str) -> ModuleType:
    path = Path(tempfile.mkdtemp()) / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: Any, *args: Any, scale: float | None = None
) -> tuple[torch.Tensor, ...]:
    """``_scaled_dot_product_efficient_attention`` on a CPU."""
    causal = bool(args[2]) if len(args) > 2 else False
    result = F.scaled_dot_product_attention(query, key, value, bias, 0.0, causal, scale=scale)
    nothing = torch.empty(0)
    return result.transpose(1, 2).contiguous().transpose(1, 2), nothing, nothing, nothing


def _interpreted(_: AsyncCompile, name: str, source: str, device_str: str) -> Interpreted:
    assert device_str == "cuda"
    return Interpreted(name, source)


def main(code: str, inputs: str, outputs: str) -> None:
    library = torch.library.Library("aten", "IMPL")
    library.impl("_scaled_dot_product_efficient_attention", _attention, "CPU")
    torch._C._cuda_getCurrentRawStream = lambda _: 0  # type: ignore[attr-defined]
    guard = mock.patch.object(torch.cuda, "_DeviceGuard", return_value=contextlib.nullcontext())
    device = mock.patch.object(torch.cuda, "set_device")
    kernels = mock.patch.object(AsyncCompile, "triton", _interpreted)
    # That of torch tells which number is NaN, and would be interpreted number by number.
    largest = mock.patch.object(triton_helpers, "max2", lambda values, axis: tl.max(values, axis))
    with guard, device, kernels, largest, torch.no_grad():
        wrapper = _module("wrapper", Path(code).read_text())
        wrapper.empty_strided_cuda = wrapper.empty_strided_cpu  # type: ignore[attr-defined]
        torch.save(list(wrapper.call(torch.load(inputs))), outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
