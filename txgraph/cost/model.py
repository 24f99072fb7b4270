"""Predict how long operators take: the roofline model.

source: Williams, Waterman, Patterson, "Roofline", CACM 2009
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.fx import Node

from txgraph.cost.adapter import tensors_of
from txgraph.cost.counts import flops, traffic
from txgraph.cost.hardware import Hardware
from txgraph.cost.kernels import fused_kernels, separate_kernels
from txgraph.ir import op_name


@dataclass(frozen=True)
class Kernel:
    """Operators that run together, and the three things that take time."""

    nodes: tuple[Node, ...]
    flops: int
    bytes: int
    compute_seconds: float
    memory_seconds: float
    launch_seconds: float

    @property
    def seconds(self) -> float:
        """Computing and moving overlap; the launch comes before."""
        return max(self.compute_seconds, self.memory_seconds) + self.launch_seconds

    @property
    def bound(self) -> str:
        """What takes longest: ``"compute"``, ``"memory"`` or ``"launch"``."""
        parts = {"compute": self.compute_seconds, "memory": self.memory_seconds, "launch": self.launch_seconds}
        return max(parts, key=parts.__getitem__)

    def __str__(self) -> str:
        numbers = f"{self.flops:>15,} FLOP {self.bytes:>13,} B {self.seconds * 1e6:>11.2f} us"
        return f"{numbers}  {self.bound:<7}  {' + '.join(map(op_name, self.nodes))}"


@dataclass(frozen=True)
class CostModel:
    """Predicted seconds of operators on a machine.

    Attributes:
        fuses_elementwise: whether the backend joins connected elementwise operators, reductions and norms into one
            kernel, as Inductor does; otherwise each operator is a kernel, as in eager.
    """

    hardware: Hardware
    fuses_elementwise: bool = False

    def kernels(self, nodes: Iterable[Node]) -> list[Kernel]:
        """The kernels that the operators run as; nodes that cost nothing are in none."""
        groups = fused_kernels(nodes) if self.fuses_elementwise else separate_kernels(nodes)
        return [self._kernel(tuple(group)) for group in groups]

    def seconds(self, nodes: Iterable[Node]) -> float:
        """Seconds that the operators take one kernel after the other; 0 if all of them are free."""
        return sum(kernel.seconds for kernel in self.kernels(nodes))

    def seconds_by_name(self, nodes: Iterable[Node]) -> dict[str, float]:
        """Seconds of each operator by its name; the operators of one kernel share its seconds equally."""
        kernels = self.kernels(nodes)
        return {node.name: kernel.seconds / len(kernel.nodes) for kernel in kernels for node in kernel.nodes}

    def explain(self, nodes: Iterable[Node]) -> str:
        """A line for each kernel: FLOPs, bytes, seconds, what bounds it, and its operators; then the sum."""
        kernels = self.kernels(nodes)
        total = f"{sum(kernel.seconds for kernel in kernels) * 1e6:.2f} us in {len(kernels)} kernels"
        return "\n".join([*map(str, kernels), f"{total} on {self.hardware.name}"])

    def _kernel(self, nodes: tuple[Node, ...]) -> Kernel:
        work = [(flops(node), self.hardware.peak(_dtype(node))) for node in nodes]
        moved = traffic(nodes)
        return Kernel(
            nodes=nodes,
            flops=sum(count for count, _ in work),
            bytes=moved,
            compute_seconds=sum(count / peak for count, peak in work),
            memory_seconds=moved / self.hardware.bandwidth,
            launch_seconds=self.hardware.launch_seconds,
        )


def _dtype(node: Node) -> torch.dtype:
    """The dtype that an operator computes in: that of its first tensor, or of its result if it has none."""
    read = [tensor for source in node.all_input_nodes for tensor in tensors_of(source)]
    return (read or tensors_of(node))[0].dtype
