"""What a compilation depends on, as one text: equal texts, equal graphs.

The model's Python cannot be compared as such. What is told apart: the classes of its modules and all that they hold;
the files of these classes with all that they import, except for installed packages, which count by their versions;
names, types and ties of the weights, and which are mostly zeros, not their values (those that a graph holds are
compared when it is taken from the cache). What this does not see, a value that is computed when a module is imported,
the check on the call has to find.
"""

from __future__ import annotations

import ast
import hashlib
import io
import os
import pickle
import platform
import re
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.backends import cpu

from txgraph.ir.digest import digest_of
from txgraph.ir.zeros import nonzero_percent

_OWN = ("txgraph", "txgraph.passes", "txgraph.backends")
_TOLD = re.compile("(TORCH|ATEN|MKL|ONEDNN|DNNL|OMP|KMP|GOMP)_")  # variables that torch and its libraries read
_TREE = ("_parameters", "_buffers", "_modules")
_CANNOT_PICKLE = (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError, NotImplementedError)


class CannotTell(Exception):
    """Something has no form by which another process could know it again."""


def fingerprint(model: nn.Module, tensors: Sequence[torch.Tensor], *others: Any) -> str:
    """What a compilation of ``model`` for a call with these tensors depends on.

    Args:
        tensors: of the call; their values do not count. others: whatever else decides: options, passes, plain values.

    Raises:
        CannotTell: the model, or one of the others, holds what cannot be pickled, such as a lambda.
    """
    types = [(t.dtype, tuple(t.shape), t.device.type) for t in tensors]
    modules = [(name, type(m), _held(m)) for name, m in model.named_modules(remove_duplicate=False)]
    digest = _Digest(model)
    digest.add((machine(), _switches(), types, others))
    digest.add((modules, list(_weights(model))))
    digest.add(_code({*digest.modules, *(k.__module__ for m in model.modules() for k in type(m).__mro__)}))
    return digest.text()


def machine() -> str:
    """This computer with its threads, Python, torch, and the sources of txgraph."""
    versions = sys.version, torch.version.git_version, _own_code()
    return _sha(repr((*versions, _hardware(), torch.get_num_threads())).encode())


class _Digest(pickle.Pickler):
    """Takes values in by their pickles. Nothing is told apart by whether two objects are one.

    Attributes:
        modules: names of those whose classes and functions were taken in.
    """

    def __init__(self, model: nn.Module) -> None:
        self._stream = io.BytesIO()
        super().__init__(self._stream, protocol=5)
        self.fast = True
        self.modules: set[str] = set()
        self._names = {id(module): name for name, module in model.named_modules()}

    def add(self, value: Any) -> None:
        try:
            self.dump(value)
        except _CANNOT_PICKLE as error:
            raise CannotTell(str(error)) from error

    def text(self) -> str:
        return _sha(self._stream.getvalue())

    def persistent_id(self, obj: Any) -> Any:
        """What stands for modules of the model, tensors, and sets (whose order is another in each process)."""
        if isinstance(obj, nn.Module):
            if id(obj) not in self._names:
                raise CannotTell(f"{type(obj).__name__} is held by the model, but is none of its modules")
            return f"module {self._names[id(obj)]}"
        if isinstance(obj, torch.Tensor):
            return f"tensor {digest_of(obj)}"
        if isinstance(obj, set | frozenset):
            return f"set {sorted(_sha(pickle.dumps(each)) for each in obj)}"
        if isinstance(obj, FunctionType | type):
            self.modules.add(obj.__module__)
        return None


def _held(module: nn.Module) -> dict[str, Any]:
    """All that a module holds itself, beside weights and modules."""
    return {name: value for name, value in vars(module).items() if name not in _TREE}


def _weights(model: nn.Module) -> Iterator[tuple[Any, ...]]:
    """Names and types of parameters and buffers, which of them have one memory, and which are mostly zeros."""
    places: dict[tuple[Any, ...], int] = {}
    for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in named:
            memory = (tensor.device, tensor.untyped_storage().data_ptr(), tensor.storage_offset())
            place = places.setdefault(memory, len(places))
            zeros = nonzero_percent([tensor]) if tensor.ndim == 2 else None  # such weights are computed differently
            yield name, tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device, type(tensor), place, zeros


def _switches() -> tuple[Any, ...]:
    """What torch is told to do in this process."""
    autocast = [torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None for kind in ("cpu", "cuda")]
    settings = (torch.get_default_dtype(), torch.get_float32_matmul_precision())
    flags = (torch.backends.mkldnn.enabled, torch.are_deterministic_algorithms_enabled())
    told = sorted((name, value) for name, value in os.environ.items() if _TOLD.match(name) and name != "TORCH_LOGS")
    return (*autocast, *settings, *flags, told)


@cache
def _hardware() -> tuple[Any, ...]:
    gpus = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.is_file() else []
    model = next((line for line in lines if line.startswith("model name")), platform.processor())
    return platform.machine(), model, cpu.get_cpu_capability(), os.cpu_count(), gpus


@cache
def _own_code() -> str:
    """All sources of txgraph, also those that are not loaded yet."""
    folders = [Path(path) for name in _OWN for path in sys.modules[name].__path__]
    files = sorted(file for folder in folders for file in folder.rglob("*") if file.suffix in (".py", ".cpp", ".h"))
    return _sha(*(file.read_bytes() for file in files))


def _code(names: Iterable[str]) -> list[tuple[str, str]]:
    """Installed packages by their versions, other modules by their content and by what they import."""
    found: dict[str, str] = {}
    pending = list(names)
    while pending:
        name = pending.pop()
        module = sys.modules.get(name)
        if name in found or module is None or name in sys.builtin_module_names or name.startswith("txgraph."):
            continue
        package = sys.modules.get(name.partition(".")[0])
        if _is_installed(getattr(package, "__file__", None) or ""):  # its modules, too: torch.ops has no file at all
            found[name.partition(".")[0]] = str(getattr(package, "__version__", ""))
            continue
        path = getattr(module, "__file__", None)
        if path is None and hasattr(module, "__path__"):
            continue  # a folder without a file of its own
        if path is None:
            raise CannotTell(f"what is defined in {name} was defined in no file")
        if _is_installed(path):  # a part of a package that is spread over folders
            found[name.partition(".")[0]] = str(getattr(package, "__version__", ""))
            continue
        source = Path(path).read_bytes()
        found[name] = _sha(source)
        if path.endswith(".py"):
            pending += _imports(source, getattr(module, "__package__", None) or "")
    return sorted(found.items())


def _is_installed(path: str) -> bool:
    """Whether a file is Python's own, or stands where packages are installed, also for this user or by a .pth file."""
    return path.startswith(_installed()) or not {"site-packages", "dist-packages"}.isdisjoint(Path(path).parts)


@cache
def _installed() -> tuple[str, ...]:
    return tuple({*site.getsitepackages(), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib"))})


def _imports(source: bytes, package: str) -> Iterator[str]:
    """Names of the modules that a source imports, and of what it imports from them, which may be modules, too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = "." * node.level + (node.module or "")
            base = resolve_name(name, package) if node.level else name
            yield from (base, *(f"{base}.{each.name}" for each in node.names))


def _sha(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
