"""The explanations of all passes of a model, for any backend, without compiling."""

from __future__ import annotations

from itertools import chain

import torch

from txgraph.backends import choose_backend
from txgraph.cli.models import ModelCall
from txgraph.cost import CostModel, hardware_of
from txgraph.explain import Explanation, explain_each
from txgraph.ir import Graph
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
    return explain_each(default_pipeline(), captured_graph(call), context_of(call, backend))


def captured_graph(call: ModelCall) -> Graph:
    """The model's graph as it is captured.

    Raises:
        CaptureFailed, TxgraphError: see :mod:`txgraph.errors`.
    """
    # Without passes and for the interpreter, optimize() only captures, with all its checks of model and inputs.
    return optimize(
        call.model, call.args, call.kwargs, passes=Pipeline(()), backend="reference", verify="off"
    ).graph_before


def context_of(call: ModelCall, backend: str) -> PassContext:
    """What passes know when this backend compiles for the device of the weights."""
    weights = chain(call.model.parameters(), call.model.buffers())
    target = Target.of(next((t.device for t in weights), torch.device("cpu")))
    chosen = choose_backend(backend)
    return PassContext(
        target, chosen.fused_activations(target), CostModel(hardware_of(target), chosen.fuses_elementwise)
    )
