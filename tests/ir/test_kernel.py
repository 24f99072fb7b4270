"""What is said of operators that no kernel computes."""

from __future__ import annotations

import pickle

import torch
from torch.export import Dim

from tests.helpers import normal
from tests.small import MLP, graph_of
from txgraph.ir import Kernel, without_kernel
from txgraph.ir.kernel import kind_of_call, operator_path


def test_why_an_operator_has_no_kernel() -> None:
    def function(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first, second = x.split(2, -1)
        return first + 1, second.transpose(0, 1), x.new_zeros(x.shape[0])

    graph = graph_of(function, normal(3, 4), dynamic_shapes=({0: Dim.AUTO},))
    (add,) = (node.name for node in graph.calls() if node.target is torch.ops.aten.add.Tensor)
    reasons = without_kernel(graph, [Kernel("cpp_fused_add_0", (add,), "generated")])
    operators = {node.name: operator_path(node) for node in graph.calls()}
    assert {operators[name]: reason for name, reason in reasons.items()} == {
        "aten.split": "view",
        "getitem": "item",
        "aten.transpose": "view",
        "aten.sym_size": "size",
        "aten.new_zeros": "removed",
    }
    assert add not in reasons


def test_kernels_of_our_own_are_known_by_their_names() -> None:
    assert kind_of_call("txgraph.linears_native", "library") == "txgraph"
    assert kind_of_call("txgraph.linear_onednn", "library") == "library"
    assert kind_of_call("aten.linear", "interpreted") == "interpreted"


def test_kernels_are_plain_data() -> None:
    kernel = Kernel("cpp_fused_add_0", ("add", "add_1"), "generated", "int main;")
    assert pickle.loads(pickle.dumps(kernel)) == kernel


def test_operators_are_named_by_their_paths() -> None:
    names = [operator_path(node) for node in graph_of(MLP(), normal(2, 4)).calls()]
    assert names[:2] == ["aten.linear", "aten.gelu"]
