"""Code that Inductor generated for a piece of a graph: the function, and what it launches."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from txgraph.errors import BackendFailed

Around = Callable[[int], contextlib.AbstractContextManager[object]]


@dataclass(frozen=True)
class Launch:
    """One launch in generated code.

    Attributes:
        called: what is called there, such as ``cpp_fused_add_0`` or ``extern_kernels.addmm``.
        nodes: names of the operators of the piece that it computes. code: its source, where it was generated.
        ptx, cubin: what that was compiled to, where it was compiled for a GPU that is not here.
    """

    called: str
    nodes: tuple[str, ...]
    code: str = ""
    ptx: str = ""
    cubin: bytes = b""

    @property
    def name(self) -> str:
        """The name of the function, or of the operator: ``aten.addmm``, ``txgraph.linears_native``."""
        path = self.called.split(".")
        if path[:2] == ["torch", "ops"] and len(path) == 5:
            return ".".join(path[2:4])  # without the overload
        return f"aten.{path[1]}" if path[0] == "extern_kernels" else self.called


@dataclass(frozen=True)
class Generated:
    """A compiled piece.

    Attributes:
        function: takes tensors, gives the tuple of outputs. source: in Python, with that of its kernels inside.
        launches: in the order of a call. namespace: the global names of the generated code.
    """

    function: Callable[..., Sequence[Any]]
    source: str
    launches: tuple[Launch, ...]
    namespace: dict[str, Any]

    def __call__(self, *tensors: torch.Tensor) -> Sequence[Any]:
        return self.function(*tensors)

    @property
    def count(self) -> int:
        """How many launches there are."""
        return len(self.launches)

    def watched(self, tensors: Sequence[torch.Tensor], around: Around) -> Sequence[Any]:
        """Run; ``around`` gives, for the number of each launch, what is entered while that launch runs.

        It is the same code that runs: only the names that it calls stand for something else in this thread, meanwhile.

        Raises:
            BackendFailed: something else is launched than was told at compilation, or not by Python.
        """
        launches = _Launches([launch.called for launch in self.launches], around)
        with _LOCK, _watched_names(self.namespace, launches):
            outputs = self.function(*tensors)
        if self.launches and not launches.next:
            raise BackendFailed(
                "none of the kernels was launched by Python, where it could be seen: leave out the options of Inductor "
                "that generate other code, such as cpp_wrapper"
            )
        return outputs


_LOCK = threading.RLock()  # equal pieces share their names


class _Launches:
    """The launches of one run: which are still to come."""

    def __init__(self, called: Sequence[str], around: Around) -> None:
        self.called, self.around = called, around
        self.next = 0
        self.thread = threading.get_ident()

    def leads_to(self, path: str) -> bool:
        return any(called == path or called.startswith(f"{path}.") for called in self.called)

    def enter(self, path: str) -> contextlib.AbstractContextManager[object]:
        if threading.get_ident() != self.thread:
            return contextlib.nullcontext()
        try:
            at = self.called.index(path, self.next)
        except ValueError:
            raise BackendFailed(
                f"generated code launched {path} out of order: it was expected to launch, one after the other, "
                f"{', '.join(self.called)}"
            ) from None
        self.next = at + 1
        return self.around(at)


class _Watched:
    """Stands for a function that is launched, or for a module or an object that holds some."""

    def __init__(self, real: Any, path: str, launches: _Launches) -> None:
        self._real, self._path, self._launches = real, path, launches

    def __getattr__(self, name: str) -> Any:
        value, path = getattr(self._real, name), f"{self._path}.{name}"
        if self._path in self._launches.called:  # Triton's kernels are launched by a method
            return _Watched(value, self._path, self._launches)
        return _Watched(value, path, self._launches) if self._launches.leads_to(path) else value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._launches.enter(self._path):
            return self._real(*args, **kwargs)


@contextlib.contextmanager
def _watched_names(namespace: dict[str, Any], launches: _Launches) -> Iterator[None]:
    names = {called.split(".")[0] for called in launches.called} & namespace.keys()
    with mock.patch.dict(namespace, {name: _Watched(namespace[name], name, launches) for name in names}):
        yield
