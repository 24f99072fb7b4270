"""Capture by torch.export, and the conversion of its program into the IR."""

from __future__ import annotations

import contextlib
import functools
import logging
import sysconfig
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx import Node
from torch.utils import _pytree as pytree

from txgraph.capture.calls import CallSignature
from txgraph.capture.functional import functional
from txgraph.capture.pytrees import register_caches
from txgraph.capture.state import attributes_kept
from txgraph.capture.torch_stacks import without_branches_on_values
from txgraph.errors import CaptureFailed, InvalidGraph
from txgraph.ir import (
    ConstantStore,
    Graph,
    GraphBuilder,
    Mutation,
    check_spec,
    describe,
    is_random,
    provenance_of,
    type_of,
)

log = logging.getLogger(__name__)

_aten = torch.ops.aten
_OWNED = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_TORCH_ROOT = str(Path(torch.__file__).parent)
_PYTHON_ROOT = sysconfig.get_path("stdlib")
_OWN_ROOT = str(Path(__file__).parent.parent)
_WHAT_TO_DO = (
    "What to do: check that model(...) runs in eager with these inputs. A branch or loop over tensor values, "
    ".item() and data-dependent shapes cannot be captured: move them out of forward(), compute with tensors "
    "(torch.where, a mask), or optimize the submodules that do the work. With options={'allow_fallback': True} the "
    "model runs eager and the report counts it as a fallback."
)


@dataclass(frozen=True)
class Capture:
    """A captured graph with the structure of its outputs.

    Attributes:
        graph: the graph; its inputs are the call's tensors in order.
        out_spec: how the output leaves are put together.
    """

    graph: Graph
    out_spec: pytree.TreeSpec


def capture(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any = None) -> Capture:
    """Capture one call of ``model`` as a whole graph, without Dynamo.

    Raises:
        CaptureFailed: torch.export cannot capture it; names the user's source line and what to do.
    """
    register_caches()
    args, kwargs = pytree.tree_map_only(torch.Tensor, _plain, (args, dict(kwargs)))
    extra = CallSignature.of(model).without_parameter(kwargs)
    settings = {n: v for n, v in extra.items() if not any(isinstance(t, torch.Tensor) for t in pytree.tree_leaves(v))}
    order = list(kwargs)
    kwargs = {n: v for n, v in kwargs.items() if n not in settings}
    try:
        bound = _settings_bound(model, settings, order)
        with (
            attributes_kept(model),
            without_branches_on_values(model),
            torch.no_grad(),
            bound,
            warnings.catch_warnings(),
        ):
            # torch.export copies tree specs by a constructor that torch itself calls deprecated.
            warnings.filterwarnings("ignore", message="The tensor attributes? .* assigned during export")  # undone
            warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated", category=FutureWarning)
            exported = torch.export.export(model, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
            exported = functional(exported)
    except Exception as error:  # tracing runs the user's code, which may raise anything
        raise CaptureFailed(_explain(model, error)) from error
    graph = _to_graph(exported, model)
    for node in graph.calls():
        if is_random(node):
            raise CaptureFailed(
                f"{type(model).__name__} draws random numbers at {describe(node)}, so that its results cannot be "
                f"checked. If this is dropout in training mode, call model.eval() before optimize()."
            )
    try:
        check_spec(graph)
    except InvalidGraph as error:
        raise CaptureFailed(f"{type(model).__name__} was captured, but not as a functional graph: {error}") from error
    out_spec = exported.call_spec.out_spec
    assert out_spec is not None, "torch.export always gives an output structure"
    return Capture(graph, out_spec)


@contextlib.contextmanager
def _settings_bound(model: nn.Module, settings: Mapping[str, Any], order: Sequence[str]) -> Iterator[None]:
    """Bind plain values that ``**kwargs`` takes: torch.export does not take them beside dynamic shapes.

    Args:
        order: of all keywords in the call; ``forward`` gets them in it.
    """
    if not settings:
        yield
        return
    held, forward = vars(model).get("forward"), model.forward

    @functools.wraps(forward)
    def bound(*args: Any, **given: Any) -> Any:
        every = {**given, **settings}
        return forward(*args, **{name: every[name] for name in order})

    model.forward = bound
    try:
        yield
    finally:
        del model.forward
        if held is not None:
            model.forward = held


def _to_graph(exported: ExportedProgram, model: nn.Module) -> Graph:
    """Turn lifted weights into owned constants and mutations into the first outputs."""
    fx = exported.graph
    signature = exported.graph_signature
    constants = ConstantStore()
    owner: dict[tuple[object, ...], str] = {}
    names: dict[str, str] = {}
    placeholders = {n.name: n for n in fx.nodes if n.op == "placeholder"}
    for spec in signature.input_specs:
        node = placeholders[spec.arg.name]
        if spec.kind is InputKind.USER_INPUT:
            if isinstance(spec.arg, ConstantArgument):
                node.replace_all_uses_with(spec.arg.value)
                fx.erase_node(node)
            elif not isinstance(spec.arg, TensorArgument):
                raise CaptureFailed(f"{type(model).__name__}: input {node.name} is no tensor; only tensors may vary")
        elif spec.target is None or spec.kind not in _OWNED:
            raise CaptureFailed(f"{type(model).__name__}: input {node.name} of kind {spec.kind.name} is not supported")
        else:
            names[spec.target] = _own(node, spec.target, _tensor_of(exported, spec.target), constants, owner)
    for node in list(fx.nodes):
        if node.target is _aten._assert_tensor_metadata.default:
            fx.erase_node(node)
        elif node.target is _aten.view.default:  # torch.export's strides need not be those that operators really give
            node.target = _aten.reshape.default
    graph = Graph(fx, constants, _lift_mutations(fx, signature.output_specs, names))
    graph.symbols = _name_symbols(graph)
    graph.eliminate_dead_code()
    _refuse_values(graph, model)
    sizes = _symbols_of_inputs(graph)
    graph.ranges = {str(s): _bounds(r) for s, r in exported.range_constraints.items() if s in sizes}
    return graph


def _refuse_values(graph: Graph, model: nn.Module) -> None:
    """Refuse sizes and numbers that only a tensor's values decide; not where nothing comes of them.

    torch.export holds such a number as a symbol that no input's type binds; a guard and a backend know none of these.
    """
    node = next((n for n in graph.calls() if n.meta.get("unbacked_bindings")), None)
    if node is None:
        return
    origin = provenance_of(node)
    place = f" at {origin.file}:{origin.line}: `{origin.code}`" if origin.file else ""
    raise CaptureFailed(
        f"{type(model).__name__} could not be captured as one graph{place}\n"
        f"  {describe(node)} gives a number or a size that only a tensor's values decide\n  {_WHAT_TO_DO}"
    )


def _symbols_of_inputs(graph: Graph) -> set[Any]:
    sizes = (size for node in graph.inputs for size in node.meta["val"].shape if isinstance(size, torch.SymInt))
    return {symbol for size in sizes for symbol in size.node.expr.free_symbols}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Graphs are captured for contiguous inputs without autograd; calls bring theirs into this form."""
    return tensor.detach().contiguous()


def _tensor_of(exported: ExportedProgram, name: str) -> torch.Tensor:
    value = exported.state_dict[name] if name in exported.state_dict else exported.constants[name]
    if not isinstance(value, torch.Tensor):
        raise CaptureFailed(f"constant {name} is {type(value).__name__}, not a tensor")
    return value


def _key(tensor: torch.Tensor) -> tuple[object, ...]:
    """Equal for two views of the same elements: tied weights."""
    if tensor.layout is not torch.strided or tensor.numel() == 0 or tensor.device.type == "meta":
        return (id(tensor),)
    return (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())


def _own(
    node: Node,
    name: str,
    tensor: torch.Tensor,
    constants: ConstantStore,
    owner: dict[tuple[object, ...], str],
) -> str:
    """Replace a lifted placeholder by a get_attr of the one constant that holds this tensor; its name."""
    unique = owner.setdefault(_key(tensor), name)
    constants.tensors[unique] = tensor.detach()
    with node.graph.inserting_before(node):
        attribute = node.graph.create_node("get_attr", unique)
    attribute.meta = {k: v for k, v in node.meta.items() if k == "val"}
    node.replace_all_uses_with(attribute)
    node.graph.erase_node(node)
    return unique


def _lift_mutations(fx: torch.fx.Graph, specs: Sequence[Any], names: Mapping[str, str]) -> tuple[Mutation, ...]:
    output = fx.output_node()
    values = list(output.args[0])  # type: ignore[arg-type]  # torch.export: a tuple
    written: list[tuple[Mutation, Any]] = []
    leaves = []
    for spec, value in zip(specs, values, strict=True):
        if spec.kind is OutputKind.USER_OUTPUT:
            leaves.append(value)
        elif spec.kind is OutputKind.BUFFER_MUTATION:
            written.append((Mutation("buffer", names[spec.target]), _whole(value, names[spec.target])))
        elif spec.kind is OutputKind.USER_INPUT_MUTATION:
            written.append((Mutation("input", spec.target), _whole(value, spec.target)))
        else:
            raise CaptureFailed(f"output of kind {spec.kind.name} is not supported")
    output.args = ((*(v for _, v in written), *leaves),)
    return tuple(m for m, _ in written)


def _whole(value: Node, target: str) -> Node:
    """A value that is written, in the shape and dtype of what it is written to: ``copy_`` brings it to these."""
    fx = value.graph
    held = next(n for n in fx.nodes if n.op in ("placeholder", "get_attr") and target in (n.target, n.name))
    builder, wanted = GraphBuilder(Graph(fx), fx.output_node(), like=[value]), held.meta["val"]
    if value.meta["val"].dtype != wanted.dtype:
        value = builder.aten._to_copy.default(value, dtype=wanted.dtype)
    if type_of(value) != type_of(held):
        value = builder.aten.expand.default(value, [builder.size(held, axis) for axis in range(wanted.ndim)])
    return value


def _name_symbols(graph: Graph) -> dict[str, str]:
    """B for first axes, S for second axes, D1, D2, ... for others; numbered where sizes may differ."""
    names: dict[str, str] = {}
    usual = {0: "B", 1: "S"}
    for node in graph.inputs:
        tensor_type = type_of(node)
        assert tensor_type is not None, "the spec: inputs are tensors"
        for axis, size in enumerate(tensor_type.shape):
            symbol = str(size)
            if isinstance(size, int) or symbol in names or not symbol.isidentifier():
                continue
            stem = usual.get(axis, "D")
            same = sum(name.startswith(stem) for name in names.values())
            names[symbol] = f"{stem}{same + 1}" if same or stem == "D" else stem
    return names


def _bounds(values: Any) -> tuple[int, int | None]:
    high = values.upper
    return int(values.lower), int(high) if high.is_Integer and high < 2**62 else None


def _explain(model: nn.Module, error: Exception) -> str:
    """The user's line at which capture failed, torch's first sentence, and what to do."""
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        in_python = frame.filename.startswith(_PYTHON_ROOT) and "site-packages" not in frame.filename
        if not in_python and not frame.filename.startswith((_TORCH_ROOT, _OWN_ROOT, "<")):
            place = f" at {frame.filename}:{frame.lineno} in {frame.name}: `{frame.line}`"
    reason = (str(error).strip().splitlines() or [""])[0]
    return (
        f"{type(model).__name__} could not be captured as one graph{place}\n"
        f"  {type(error).__name__}: {reason}\n"
        f"  {_WHAT_TO_DO}"
    )
