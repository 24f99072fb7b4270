"""What a model computes in one forward, and how much of that is one operator of a graph.

The model's are counted in eager, so that what a pass should find does not rest on the pass's own idea of it. A norm
or an activation is a call of a module that has the name of one, or of ATen's operator outside of such a module. An
attention is a softmax of three axes or more (routers of experts have two), or a fused operator. A joint projection is a
value that several linear modules read, such as query, key and value do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from txgraph.ir import Graph, arguments, op_name

_aten = torch.ops.aten
_ATTENTIONS = (
    _aten._scaled_dot_product_flash_attention_for_cpu,
    _aten._scaled_dot_product_flash_attention,
    _aten._scaled_dot_product_efficient_attention,
    _aten._scaled_dot_product_cudnn_attention,
)
_SOFTMAXES = (_aten._softmax, _aten._safe_softmax)
_NORMS = (_aten.native_layer_norm, _aten.layer_norm, _aten.rms_norm, _aten._fused_rms_norm)
_ACTIVATIONS = (_aten.gelu, _aten.silu, _aten.relu)


@dataclass(frozen=True)
class Counts:
    """How often each of them is computed.

    Attributes:
        projections: values that several linears read; in a graph: that one linear reads in the place of several.
        norms: LayerNorms and RMSNorms. activations: GELUs in all their forms, SiLUs and ReLUs.
    """

    attentions: int
    projections: int
    norms: int
    activations: int


def in_graph(graph: Graph) -> Counts:
    """Those that are one operator, alone or with a linear."""
    seen: Counter[str] = Counter()
    for node in graph.calls():
        name = op_name(node)
        seen[arguments(node)["activation"] if name == "txgraph::linear_activation" else name] += 1
    return Counts(
        seen["scaled_dot_product_attention"] + seen["txgraph::softcap_attention"] + seen["txgraph::window_attention"],
        seen["txgraph::linears"],
        seen["layer_norm"] + seen["rms_norm"],
        sum(seen[name] for name in ("gelu", "gelu_tanh", "quick_gelu", "silu", "relu")),
    )


def in_eager(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> Counts:
    """Those of one forward."""
    counter = _Counter()
    hooks = []
    for module in model.modules():
        kind = _kind(type(module).__name__)
        if kind and not any(module.children()):  # a whole layer may be named after its norms
            hooks.append(module.register_forward_pre_hook(lambda *_, kind=kind: counter.enter(kind)))
            hooks.append(module.register_forward_hook(lambda *_, kind=kind: counter.leave(kind)))
        if isinstance(module, nn.Linear):
            hooks.append(module.register_forward_pre_hook(lambda _, args: counter.project(args[0])))
    try:
        with counter:  # with autograd: torch's own layers have a fast path without, which calls no modules
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    projections = sum(readers > 1 for readers in counter.readers.values())
    return Counts(counter.seen["attention"], projections, counter.seen["norm"], counter.seen["activation"])


def _kind(name: str) -> str:
    """What a module is by its class's name: ``"norm"``, ``"activation"`` or an empty text."""
    lower = name.lower()
    if lower.endswith(("layernorm", "rmsnorm")):
        return "norm"
    return "activation" if "gelu" in lower or lower.startswith(("silu", "relu")) else ""


class _Counter(TorchDispatchMode):
    """Counts operators, except inside of modules that are counted as a whole."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[str] = Counter()
        self.readers: Counter[tuple[int, int]] = Counter()  # linears that read a value, by where it is
        self._inside: Counter[str] = Counter()
        self._alive: list[torch.Tensor] = []  # so that no two values have one place

    def enter(self, kind: str) -> None:
        self.seen[kind] += not self._inside[kind]
        self._inside[kind] += 1

    def leave(self, kind: str) -> None:
        self._inside[kind] -= 1

    def project(self, value: torch.Tensor) -> None:
        self.readers[value.data_ptr(), value.numel()] += 1
        self._alive.append(value)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet in _ATTENTIONS or (packet in _SOFTMAXES and args[0].dim() > 2):
            self.seen["attention"] += 1
        for kind, packets in (("norm", _NORMS), ("activation", _ACTIVATIONS)):
            self.seen[kind] += packet in packets and not self._inside[kind]
        return func(*args, **(kwargs or {}))
