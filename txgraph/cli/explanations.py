"""The explanations of all passes of a model, for any backend, without compiling."""

from __future__ import annotations

from itertools import chain

import torch

from txgraph.backends import choose_backend
from txgraph.capture import CallSignature, capture
from txgraph.cli.models import ModelCall
from txgraph.cost import CostModel, hardware_of
from txgraph.explain import Explanation, explain_each
from txgraph.ir import Graph
from txgraph.ir.padding import masks_of
from txgraph.optimize import optimize
from txgraph.options import Target
from txgraph.passes import default_pipeline
from txgraph.pipeline import Pipeline
from txgraph.rewrite import PassContext


def explain_passes(call: ModelCall, backend: str) -> dict[str, Explanation]:
    """What ``optimize(...).explain(name)`` says of each default pass, where no pass is rolled back.

    Raises:
        CaptureFailed, PassFailed, TxgraphError: see :mod:`txgraph.errors`.
    """
    graph = captured_graph(call)
    return explain_each(default_pipeline(), graph, context_of(call, graph, backend))


def captured_graph(call: ModelCall) -> Graph:
    """The model's graph as it is captured. Its weights may be on the meta device, if its inputs are, too.

    Raises:
        CaptureFailed, TxgraphError: see :mod:`txgraph.errors`.
    """
    if _device(call) == torch.device("meta"):  # too large to be loaded here; optimize() would ask for values
        call.model.eval()
        return capture(call.model, call.args, call.kwargs).graph
    # Without passes and for the interpreter, optimize() only captures, with all its checks of model and inputs.
    return optimize(
        call.model, call.args, call.kwargs, passes=Pipeline(()), backend="reference", verify="off"
    ).graph_before


def context_of(call: ModelCall, graph: Graph, backend: str) -> PassContext:
    """What passes know when this backend compiles for the device of the weights; for the CPU where these are meta."""
    device = _device(call)
    target = Target("cpu") if device.type == "meta" else Target.of(device)
    chosen = choose_backend(backend)
    cost = CostModel(hardware_of(target), chosen.fuses_elementwise)
    masks = {} if device.type == "meta" else masks_of(graph, _tensors(call))
    return PassContext(target, chosen.fused_activations(target), cost, inputs=masks)


def _tensors(call: ModelCall) -> list[torch.Tensor]:
    return CallSignature.of(call.model).flatten(call.args, call.kwargs).tensors


def _device(call: ModelCall) -> torch.device:
    weights = chain(call.model.parameters(), call.model.buffers())
    return next((tensor.device for tensor in weights), torch.device("cpu"))
