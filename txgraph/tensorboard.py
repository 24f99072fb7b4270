"""Graphs and figures as event files that TensorBoard shows. The only place that imports tensorboard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.fx import Node

from txgraph.ir import Graph, op_name, provenance_of, type_of
from txgraph.report import GraphReport


def write_events(logdir: str | os.PathLike[str], graphs: Sequence[tuple[Graph, Graph, GraphReport]]) -> Path:
    """Write graphs, each before and after the passes, and the figures of their reports; returns the folder.

    A graph is a run of its own, ``graph_0/before`` and ``graph_0/after``; the figures are scalars of the run
    ``report``, whose steps are the graphs.

    Raises:
        ImportError: tensorboard is not installed. OSError: the folder cannot be written to.
    """
    try:
        from torch.utils.tensorboard import FileWriter, SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"TensorBoard's files need the package tensorboard ({error}): pip install 'txgraph[tensorboard]', or pip "
            f"install tensorboard"
        ) from error
    from tensorboard.compat.proto.config_pb2 import RunMetadata

    folder = Path(logdir)
    with SummaryWriter(str(folder / "report")) as scalars:
        for at, (before, after, report) in enumerate(graphs):
            for name, graph in (("before", before), ("after", after)):
                writer = FileWriter(str(folder / f"graph_{at}" / name))
                writer.add_graph((graph_def(graph), RunMetadata()))
                writer.close()
            for tag, value in _figures(report).items():
                scalars.add_scalar(tag, value, at)
    return folder


def graph_def(graph: Graph) -> Any:
    """A graph as TensorBoard's ``GraphDef``: names are paths of modules, which open one in another.

    An operator is called ``encoder/layer.0/attention/linear_2``, an input ``inputs/input_ids``, a constant by its own
    path, and the outputs ``outputs``.
    """
    from tensorboard.compat.proto.attr_value_pb2 import AttrValue
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.compat.proto.node_def_pb2 import NodeDef
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.compat.proto.versions_pb2 import VersionDef

    names: dict[Node, str] = {}
    taken: set[str] = set()
    nodes = []
    for node in graph.nodes:
        name = _name(node)
        names[node] = name if name not in taken else f"{name}.{node.name}"
        taken.add(names[node])
        made = NodeDef(name=names[node], op=op_name(node), input=[names[source] for source in node.all_input_nodes])
        tensor_type = type_of(node)
        if tensor_type is not None:
            sizes = [TensorShapeProto.Dim(size=n if isinstance(n, int) else -1) for n in tensor_type.shape]
            shapes = AttrValue.ListValue(shape=[TensorShapeProto(dim=sizes)])
            made.attr["_output_shapes"].CopyFrom(AttrValue(list=shapes))
        origin = provenance_of(node)
        for key, text in (("source", origin.location), ("passes", ", ".join(origin.passes))):
            if text:
                made.attr[key].CopyFrom(AttrValue(s=text.encode()))
        nodes.append(made)
    return GraphDef(node=nodes, versions=VersionDef(producer=22))


def _name(node: Node) -> str:
    if node.op == "placeholder":
        return f"inputs/{node.target}"
    if node.op == "get_attr":
        module, _, last = str(node.target).rpartition(".")
        return "/".join((*_scopes(module), last))
    return "outputs" if node.op == "output" else "/".join((*_scopes(provenance_of(node).module), node.name))


def _scopes(module: str) -> list[str]:
    """The modules on a path; a list and a place in it are one: ``encoder``, ``layer.0``, ``attention``."""
    scopes: list[str] = []
    for part in filter(None, module.split(".")):
        if part.isdigit() and scopes:
            scopes[-1] += f".{part}"
        else:
            scopes.append(part)
    return scopes


def _figures(report: GraphReport) -> dict[str, float]:
    """Seconds by stage, operators, errors by gate and stage, and the profile if there is one."""
    figures: dict[str, float] = {f"seconds/{stage}": value for stage, value in report.seconds.items()}
    figures |= {"operators/before": report.nodes_before, "operators/after": report.nodes_after}
    for record in report.verification:
        for gate in record.gates:  # of each output
            name = f"error {gate.gate}/{record.stage}"
            figures[name] = max(figures.get(name, 0.0), gate.actual)
    profile = report.profile
    if profile is not None:
        figures |= {"profile/call": profile.seconds, "profile/outside of kernels": profile.outside}
        figures |= {f"profile by kind/{kind}": value for kind, value in profile.by_kind.items()}
        figures |= {f"profile by module/{name}": value for name, value in profile.by_module.items() if name}
    return figures
