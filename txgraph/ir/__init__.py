"""The intermediate representation: a typed view over :class:`torch.fx.Graph`.

Operators are ATen's, as torch.export's pre-dispatch IR gives them (``linear``,
``scaled_dot_product_attention``, ``layer_norm`` are whole), made functional, plus the ``txgraph::``
operators of :mod:`txgraph.ir.ops`. Every graph between two passes runs in eager.
"""

from txgraph.ir import fake_quantized as _fake_quantized  # noqa: F401  (those for training)
from txgraph.ir import ops as _ops  # noqa: F401  (defines the txgraph:: operators)
from txgraph.ir import packed as _packed  # noqa: F401  (those on packed tokens)
from txgraph.ir import quantized as _quantized  # noqa: F401  (those with quantized weights)
from txgraph.ir.builder import GraphBuilder
from txgraph.ir.constants import ConstantStore
from txgraph.ir.graph import Graph, Mutation
from txgraph.ir.interpreter import interpret
from txgraph.ir.kernel import Kernel, without_kernel
from txgraph.ir.node import (
    DTYPE_NAMES,
    Provenance,
    TensorType,
    arguments,
    describe,
    is_impure,
    is_random,
    is_symbolic,
    op_name,
    operator_of,
    packet_of,
    provenance_of,
    same_size,
    type_of,
)
from txgraph.ir.regions import Region, find_regions, outline
from txgraph.ir.spec import check_spec
from txgraph.ir.subgraph import extract

__all__ = [
    "DTYPE_NAMES",
    "ConstantStore",
    "Graph",
    "GraphBuilder",
    "Kernel",
    "Mutation",
    "Provenance",
    "Region",
    "TensorType",
    "arguments",
    "check_spec",
    "describe",
    "extract",
    "find_regions",
    "interpret",
    "is_impure",
    "is_random",
    "is_symbolic",
    "op_name",
    "operator_of",
    "outline",
    "packet_of",
    "provenance_of",
    "same_size",
    "type_of",
    "without_kernel",
]
