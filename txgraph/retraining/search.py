"""What a budget chooses for the modules of a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.fx import Node

from txgraph.backends import choose_backend
from txgraph.capture import CallSignature, capture
from txgraph.compression import Compression
from txgraph.cost import CostModel, hardware_of
from txgraph.ir import Graph
from txgraph.ir.linears import Linears, names_of
from txgraph.ir.node import GETITEM
from txgraph.lossy import Budget, Calibration
from txgraph.lossy.calibration import Call
from txgraph.options import BackendOptions, Target
from txgraph.passes import default_pipeline, for_every_call, lossy_methods
from txgraph.retraining.methods import TRAINED
from txgraph.rewrite import LinearPass, PassContext

log = logging.getLogger(__name__)


def chosen(
    model: nn.Module,
    call: Call,
    calibration: Calibration,
    budget: Budget,
    methods: Sequence[LinearPass],
    backend_name: str,
    linears: Mapping[str, nn.Module],
) -> list[tuple[LinearPass, list[str]]]:
    """The methods with names of modules that the search of ``optimize`` spends a budget on.

    Args:
        call: whose times count. methods: to choose from, wherever they fit; none: all that there are, where they are
            faster.
        linears: the modules that can be compressed, by name.

    Raises:
        ValueError, TxgraphError: see :meth:`txgraph.compression.Compression.spend`.
    """
    signature = CallSignature.of(model)
    args, kwargs = signature.normalise(call.args, call.kwargs)
    backend = choose_backend(backend_name)
    target = Target.of(next((t.device for t in model.parameters()), torch.device("cpu")))
    cost = CostModel(hardware_of(target), backend.fuses_elementwise)
    context = PassContext(target, backend.fused_activations(target), cost)
    pipeline = for_every_call(default_pipeline())
    graph, _ = pipeline.run(capture(model, args, kwargs).graph, context)
    tried = methods or [method for method in lossy_methods() if isinstance(method, TRAINED)]
    search = Compression(model, calibration, budget, tried, bool(methods), pipeline, "passes")
    _, records, spending = search.spend(graph, context, backend, target, BackendOptions())
    log.info("%s", spending)
    by_label = {method.label: method for method in tried}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    nodes = {node.name: node for node in graph.nodes}
    found: list[tuple[LinearPass, list[str]]] = []
    for record in records:
        names: list[str] = []
        sources = [name for rewrite in record.rewrites for name in _sources(graph, nodes[rewrite.root])]
        for weight in (name for name in sources if name in parameters and parameters[name].ndim == 2):
            own = [name for name, linear in linears.items() if linear.weight is parameters[weight]]
            if not own:
                log.warning("%s stays as it is: it is of no linear module", weight)
            names += own
        found.append((by_label[record.lossy], list(dict.fromkeys(names))))
    return found


def _sources(graph: Graph, root: Node) -> list[str]:
    """The names of what the weights of linears are, or were made from."""
    node = root.args[0] if root.target is GETITEM else root
    assert isinstance(node, Node), "items are of nodes"
    linears = Linears.of(node)
    assert linears is not None, "a method for linears rewrote it"
    return sorted(graph.constants.origins(names_of(linears.weights)))
