"""Where the time of a call goes, by kernel, module and pass: text for people, plain data for programs."""

from __future__ import annotations

import gzip
import itertools
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from txgraph.ir import Graph, Kernel, provenance_of

MOST_KERNELS, MOST_SUMS = 20, 10  # rows of a table; the kernels that are faster are one row


@dataclass(frozen=True)
class LaunchTime:
    """One launch, as it was measured.

    Attributes:
        number: its place in a call. kernel: what is launched; its ``nodes`` are those of ``graph_after``.
        seconds: the median of the calls.
        module: path of the innermost module that holds all operators that the kernel computes.
        location: the user's source line of the last of them that has one. passes: those that made any of them.
    """

    number: int
    kernel: Kernel
    seconds: float
    module: str
    location: str
    passes: tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """What :meth:`txgraph.OptimizedModel.profile` measured.

    Attributes:
        model: class name. device: ``"cpu"`` or ``"cuda"``. calls: how many were measured.
        seconds: of a call under torch's profiler, the median.
        outside: seconds of a call in which no kernel ran, the median: what Python does between the launches, and what
            the profiler itself takes there.
        launches: the kernels of a call, in the order in which they are launched.
    """

    model: str
    device: str
    calls: int
    seconds: float
    outside: float
    launches: tuple[LaunchTime, ...]
    _trace: bytes = field(default=b"", repr=False, compare=False)  # of torch.profiler, compressed

    @classmethod
    def of(
        cls,
        model: str,
        device: str,
        graph: Graph,
        kernels: Sequence[Kernel],
        calls: Sequence[tuple[float, Sequence[float]]],
        trace: bytes,
    ) -> Profile:
        """Put measured seconds and the graph's notes together.

        Args:
            graph: the one that was lowered. calls: the seconds of each call, and in it those of each kernel.
        """
        each = [statistics.median(times) for times in zip(*(times for _, times in calls), strict=True)]
        nodes = {node.name: provenance_of(node) for node in graph.nodes}
        launches = []
        for number, (kernel, seconds) in enumerate(zip(kernels, each, strict=True)):
            origins = [nodes[name] for name in kernel.nodes]
            location = next((origin.location for origin in reversed(origins) if origin.location), "")
            passes = tuple(dict.fromkeys(name for origin in origins for name in origin.passes))
            module = _common([origin.module for origin in origins])
            launches.append(LaunchTime(number, kernel, seconds, module, location, passes))
        total = statistics.median(call for call, _ in calls)
        outside = statistics.median(call - sum(times) for call, times in calls)
        return cls(model, device, len(calls), total, outside, tuple(launches), trace)

    @property
    def by_module(self) -> dict[str, float]:
        """Seconds of kernels by module, each with all that is below it; ``""`` is the model."""
        return _summed((prefix, each.seconds) for each in self.launches for prefix in _prefixes(each.module))

    @property
    def by_pass(self) -> dict[str, float]:
        """Seconds of the kernels in which a pass had a hand; ``""`` are those that no pass touched.

        A kernel counts for each of its passes: these do not add up to a call.
        """
        return _summed((name, each.seconds) for each in self.launches for name in each.passes or ("",))

    @property
    def by_kind(self) -> dict[str, float]:
        """Seconds by the kind of kernel: generated, library, txgraph, interpreted."""
        return _summed((each.kernel.kind, each.seconds) for each in self.launches)

    def to_dict(self) -> dict[str, Any]:
        """The profile as plain data; ``kernels`` in the order of launches."""
        return {
            "model": self.model,
            "device": self.device,
            "calls": self.calls,
            "seconds": self.seconds,
            "outside": self.outside,
            "kernels": [
                {
                    "name": each.kernel.name,
                    "kind": each.kernel.kind,
                    "seconds": each.seconds,
                    "nodes": list(each.kernel.nodes),
                    "module": each.module,
                    "location": each.location,
                    "passes": list(each.passes),
                }
                for each in self.launches
            ],
            "modules": self.by_module,
            "passes": self.by_pass,
            "kinds": self.by_kind,
        }

    def export_chrome_trace(self, path: str | os.PathLike[str]) -> Path:
        """Write torch.profiler's trace of all measured calls, for ``chrome://tracing`` or Perfetto; returns the file.

        Launches are named as in :attr:`launches`, with their numbers.

        Args:
            path: of a .json file, or of a .json.gz file.

        Raises:
            OSError: the file cannot be written.
        """
        file = Path(path)
        file.write_bytes(self._trace if file.suffix == ".gz" else gzip.decompress(self._trace))
        return file

    def __str__(self) -> str:
        text = StringIO()
        console = Console(file=text, width=118, no_color=True, highlight=False)
        console.print(
            f"{self.model} on {self.device}: {1e3 * self.seconds:.3f} ms a call under the profiler (median of "
            f"{self.calls}), {len(self.launches)} kernels",
            markup=False,
        )
        table = Table("share", "ms", "launches", "kernel", "nodes", "module", "source", box=None)
        rows = sorted(self._equal_launches(), key=lambda launches: -sum(each.seconds for each in launches))
        for launches in rows[:MOST_KERNELS]:
            first, count = launches[0], f"x{len(launches)}" if len(launches) > 1 else ""
            table.add_row(
                *self._time(sum(each.seconds for each in launches)),
                count,
                _shortened(first.kernel.name, 34),
                str(len(first.kernel.nodes)),
                _shortened(_numberless(first.module) if count else first.module, 30),
                _shortened(first.location, 22),
            )
        rest = [each for launches in rows[MOST_KERNELS:] for each in launches]
        if rest:
            table.add_row(*self._time(sum(each.seconds for each in rest)), f"x{len(rest)}", "more kernels")
        table.add_row(*self._time(self.outside), "", "outside of kernels")
        console.print(table)
        self._print_sums(console, "kind", self.by_kind)
        self._print_sums(console, "module", {name: value for name, value in self.by_module.items() if name})
        self._print_sums(console, "pass", {name or "none": value for name, value in self.by_pass.items()})
        return text.getvalue().rstrip()

    __repr__ = __str__

    def _equal_launches(self) -> list[list[LaunchTime]]:
        """Launches of one kernel by equal layers."""
        groups: dict[tuple[object, ...], list[LaunchTime]] = {}
        for each in self.launches:
            key = (each.kernel.name, each.kernel.code, len(each.kernel.nodes), _numberless(each.module), each.location)
            groups.setdefault(key, []).append(each)
        return list(groups.values())

    def _print_sums(self, console: Console, what: str, sums: Mapping[str, float]) -> None:
        table = Table("share", "ms", what, box=None)
        for name, value in sorted(sums.items(), key=lambda pair: -pair[1])[:MOST_SUMS]:
            table.add_row(*self._time(value), name)
        if sums:
            console.print()
            console.print(table)

    def _time(self, seconds: float) -> tuple[str, str]:
        total = sum(each.seconds for each in self.launches) + self.outside
        return f"{100 * seconds / total:5.1f} %", f"{1e3 * seconds:.3f}"


def _summed(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for name, seconds in pairs:
        sums[name] = sums.get(name, 0.0) + seconds
    return sums


def _prefixes(path: str) -> list[str]:
    """The module and all that hold it: ``["", "encoder", "encoder.layer"]``."""
    parts = path.split(".") if path else []
    return [".".join(parts[:end]) for end in range(len(parts) + 1)]


def _common(paths: Sequence[str]) -> str:
    """The longest path of a module that holds all of them."""
    levels = zip(*(path.split(".") for path in paths), strict=False)
    return ".".join(level[0] for level in itertools.takewhile(lambda level: len(set(level)) == 1, levels))


def _numberless(path: str) -> str:
    """With ``*`` for each number: the same for equal layers."""
    return ".".join("*" if part.isdecimal() else part for part in path.split("."))


def _shortened(text: str, most: int) -> str:
    """Without its middle."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[most // 2 + 1 - most :]}"
