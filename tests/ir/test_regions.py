"""Repeated layers are found by structure alone, whole, and one of them computes what it did in the graph."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.fx import Node
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2Model,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5Model,
)

from tests.helpers import normal
from tests.small import bits, graph_of, traced
from txgraph import PassContext, default_pipeline
from txgraph.ir import Graph, Region, check_spec, find_regions, interpret, outline, packet_of, type_of

Tensor = torch.Tensor

# -- what a region must be, whatever finds it ----------------------------------------------------------------------


def assert_regions(graph: Graph) -> tuple[Region, ...]:
    """The regions of a graph: disjoint, their copies equal, each copy computes alone what it computes in the graph."""
    regions = find_regions(graph)
    names = [name for region in regions for copy in region.instances for name in copy]
    assert len(names) == len(set(names))
    for region in regions:
        assert region.count == len(region.instances) == len(region.inputs) == len(region.outputs) >= 2
        assert len(region.instances[0]) >= 2
        assert_loop(graph, region)
    return regions


def assert_loop(graph: Graph, region: Region) -> None:
    """Every copy is the first one with other inputs, and gets these from before the loop or from the copy before."""
    nodes = {n.name: n for n in graph.nodes}
    outputs = {name: (k, j) for k, names in enumerate(region.outputs) for j, name in enumerate(names)}
    first = dict(enumerate((*region.inputs[0], *region.instances[0])))
    for k in range(region.count):
        this = (*region.inputs[k], *region.instances[k])
        assert len(this) == len(first)
        same = {nodes[first[j]]: nodes[name] for j, name in enumerate(this)}
        inside = {nodes[name] for name in region.instances[k]}
        for a, b in ((nodes[x], nodes[y]) for x, y in zip(region.instances[0], region.instances[k], strict=True)):
            assert a.op == b.op == "call_function"
            assert a.target is b.target
            assert type_of(a) == type_of(b)
            mapped = torch.fx.node.map_arg((a.args, dict(a.kwargs)), same.__getitem__)
            assert repr(mapped) == repr((b.args, dict(b.kwargs)))
        used = {n for n in inside if any(user not in inside for user in n.users)}
        assert used <= {nodes[name] for name in region.outputs[k]}
    loop = {nodes[name] for copy in region.instances for name in copy}
    needs_loop = set(loop)
    for node in graph.nodes:
        if not needs_loop.isdisjoint(node.all_input_nodes):
            needs_loop.add(node)
    carried = 0
    for column in zip(*region.inputs, strict=True):
        assert len({str(type_of(nodes[name])) for name in column}) == 1
        if column[1] in outputs:
            _, j = outputs[column[1]]
            assert [outputs.get(name) for name in column[1:]] == [(k, j) for k in range(region.count - 1)]
            column = column[:1]
            carried += 1
        assert needs_loop.isdisjoint(nodes[name] for name in column)
    assert carried


def values_of(graph: Graph, inputs: list[Tensor]) -> dict[str, Any]:
    """Every value of a run, by the name of its node."""
    whole = graph.copy()
    nodes = [n for n in whole.nodes if n.op != "output"]
    whole.output.args = (tuple(nodes),)
    return dict(zip((n.name for n in nodes), interpret(whole, inputs), strict=True))


def assert_outlined(graph: Graph, region: Region, inputs: list[Tensor]) -> None:
    """Each copy by itself, and the first one with the inputs of another, computes the values of the whole graph."""
    values = values_of(graph, inputs)
    for k in range(region.count):
        expected = [values[name] for name in region.outputs[k]]
        for outlined in (outline(graph, region), outline(graph, region, k)):
            check_spec(outlined)
            results = interpret(outlined, [values[name] for name in region.inputs[k]])
            assert len(results) == len(expected) > 0
            assert all(bits(a).equal(bits(b)) for a, b in zip(results, expected, strict=True))


def operators(graph: Graph, names: tuple[str, ...]) -> list[str]:
    """The operators of some nodes."""
    nodes = {n.name: n for n in graph.nodes}
    return [str(packet_of(nodes[name])).removeprefix("aten.") for name in names]


def outside(graph: Graph) -> list[Node]:
    """The operators that are in no region."""
    names = {name for region in find_regions(graph) for copy in region.instances for name in copy}
    return [n for n in graph.calls() if n.name not in names]


# -- Transformers --------------------------------------------------------------------------------------------------

_WORDS: dict[str, Any] = {"vocab_size": 50, "attn_implementation": "eager"}
_ENCODER: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, **_WORDS}
_PRODUCTS = {"linear", "addmm", "matmul", "bmm", "scaled_dot_product_attention"}


@dataclass(frozen=True)
class Case:
    """A model and its regions: how many copies, in which module the last copy is, and the products outside of them."""

    make: Callable[[], nn.Module]
    copies: dict[str, int]
    products: int
    decoder: bool = False
    floating: bool = False

    def inputs(self, batch: int = 2, length: int = 7) -> dict[str, Tensor]:
        if self.floating:
            return {"src": normal(batch, length, 16)}
        ids = torch.arange(batch * length).reshape(batch, length) % 43 + 3
        mask = torch.ones_like(ids)
        mask[1, -2:] = 0
        tokens = {"input_ids": ids, "attention_mask": mask}
        return {**tokens, "decoder_input_ids": ids[:, : length - 2].clone()} if self.decoder else tokens


def bert(layers: int = 4) -> nn.Module:
    return BertModel(BertConfig(num_hidden_layers=layers, **_ENCODER))


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=4, n_head=2, bos_token_id=0, eos_token_id=2, **_WORDS))


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=5, num_key_value_heads=1, **_ENCODER))


def t5() -> nn.Module:
    return T5Model(T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=4, num_decoder_layers=5, num_heads=2, **_WORDS))


def local_and_global() -> nn.Module:
    sizes: dict[str, Any] = {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4, "pad_token_id": 0}
    return Gemma2Model(Gemma2Config(num_hidden_layers=6, **sizes, **_ENCODER))


def transformer_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
    return nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)


CASES = {
    "bert": Case(bert, {"encoder.layer.3": 4}, products=1),
    "gpt2": Case(gpt2, {"transformer.h.3": 4}, products=1),
    "llama": Case(llama, {"model.layers.4": 5}, products=2),
    "t5": Case(t5, {"encoder.block.3.layer": 4, "decoder.block.4.layer": 5}, products=1, decoder=True),
    "local-and-global": Case(local_and_global, {"layers": 3}, products=1),
    "nn.TransformerEncoder": Case(transformer_encoder, {"layers.3": 4}, products=0, floating=True),
}
STATIC_OR_DYNAMIC = [(name, dynamic) for name in CASES for dynamic in (False, True)]
STATIC_OR_DYNAMIC.remove(("local-and-global", True))  # takes half a minute, and its layers are those of llama
REWRITTEN = pytest.mark.parametrize("rewritten", [False, True], ids=["captured", "rewritten"])


def captured(name: str, dynamic: bool) -> Graph:
    torch.manual_seed(0)
    inputs = CASES[name].inputs()
    axes = {key: {0: Dim.AUTO, 1: Dim.AUTO} for key in inputs} if dynamic else None
    return graph_of(CASES[name].make().eval(), dynamic_shapes=axes, **inputs)


@dataclass(frozen=True)
class Made:
    """The graph of a model as captured, and after the default pipeline."""

    case: Case
    dynamic: bool
    captured: Graph
    after: Graph


@pytest.fixture(
    scope="module", params=STATIC_OR_DYNAMIC, ids=lambda each: f"{each[0]}-{'dynamic' if each[1] else 'static'}"
)
def made(request: pytest.FixtureRequest) -> Made:
    """One at a time: tests of the same one run after each other."""
    name, dynamic = request.param
    graph = captured(name, dynamic)
    return Made(CASES[name], dynamic, graph, default_pipeline().run(graph, PassContext())[0])


@REWRITTEN
def test_layers_of_models(made: Made, rewritten: bool) -> None:
    graph, case = made.after if rewritten else made.captured, made.case
    regions = assert_regions(graph)
    assert {r.module(graph, r.count - 1): r.count for r in regions} == case.copies
    left = [n.name for n in outside(graph) if str(packet_of(n)).removeprefix("aten.") in _PRODUCTS]
    assert len(left) <= case.products, left
    for region in regions:
        assert_outlined(graph, region, list(case.inputs().values()))
        if made.dynamic:
            assert_outlined(graph, region, list(case.inputs(3, 9).values()))


def test_captured_copies_are_the_whole_modules(made: Made) -> None:
    """The first copy apart: what all layers share, such as the bias of positions, is computed in its module."""
    graph = made.captured
    nodes = {n.name: n for n in graph.nodes}
    for region in find_regions(graph):
        for k in range(1, region.count):
            stacks = [nodes[n].meta["nn_module_stack"].values() for n in region.instances[k]]
            layers = {path for stack in stacks for path, _ in stack if path.rpartition(".")[2].isdecimal()}
            lists = min(path.count(".") for path in layers)
            layers = {path for path in layers if path.count(".") == lists}
            whole = {
                n.name
                for n in graph.calls()
                if any(path in layers for path, _ in n.meta.get("nn_module_stack", {}).values())
            }
            assert whole == set(region.instances[k])


@REWRITTEN
def test_more_layers_are_more_copies(rewritten: bool) -> None:
    """Nothing of a layer is left outside: what is left does not grow with the layers."""
    inputs = CASES["bert"].inputs()
    left = []
    for layers in (2, 6):
        torch.manual_seed(0)
        graph = graph_of(bert(layers).eval(), **inputs)
        if rewritten:
            graph, _ = default_pipeline().run(graph, PassContext())
        (region,) = assert_regions(graph)
        assert region.count == layers
        left.append(len(outside(graph)))
    assert left[0] == left[1]


# -- what makes layers equal ---------------------------------------------------------------------------------------

X, MASK = normal(3, 4), normal(4)
Layer = Callable[[Tensor, Tensor], Tensor]


def weights(*shape: int, count: int) -> dict[str, Tensor]:
    """Constants with different values."""
    return {f"w{i}": normal(*shape) + i for i in range(count)}


def with_weights(model: Callable[..., Any], *inputs: Tensor, **constants: Tensor) -> Graph:
    """The graph of a function of some inputs and a list of constants."""

    def function(*values: Tensor) -> Any:
        return model(*values[: len(inputs)], list(values[len(inputs) :]))

    names = [*(f"x{i}" for i in range(len(inputs))), *constants]
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return traced(function, *inputs, **constants)


def chain(*layers: Layer) -> Graph:
    """A graph of one layer after the other, each with a weight of its own."""

    def model(x: Tensor, ws: list[Tensor]) -> Tensor:
        for layer, w in zip(layers, ws, strict=True):
            x = layer(x, w)
        return x

    return with_weights(model, X, **weights(4, 4, count=len(layers)))


def plain(x: Tensor, w: Tensor) -> Tensor:
    """A small layer."""
    return x + torch.relu(x @ w) * 0.5


def other(x: Tensor, w: Tensor) -> Tensor:
    """Another small layer."""
    return x + torch.tanh(x @ w) * 0.5


PLAIN, OTHER = ["add", "matmul", "mul", "relu"], ["add", "matmul", "mul", "tanh"]


def found(graph: Graph) -> list[tuple[int, list[str]]]:
    """Count and operators of each region."""
    return [(region.count, sorted(operators(graph, region.instances[0]))) for region in assert_regions(graph)]


def test_constants_may_have_other_values() -> None:
    graph = chain(*[plain] * 4)
    assert found(graph) == [(4, PLAIN)]
    (region,) = find_regions(graph)
    hidden = ["x0", *(names[0] for names in region.outputs[:-1])]
    assert region.inputs == tuple((x, f"w{k}") for k, x in enumerate(hidden))
    assert_outlined(graph, region, [X])


def test_one_constant_for_all() -> None:
    graph = with_weights(lambda x, ws: plain(plain(plain(x, ws[0]), ws[0]), ws[0]), X, w=normal(4, 4))
    assert found(graph) == [(3, PLAIN)]


@pytest.mark.parametrize(
    "different",
    [
        other,
        lambda x, w: x + torch.relu(x @ w) * 0.25,
        lambda x, w: x + torch.relu(x @ w).neg() * 0.5,
        lambda x, w: torch.relu(x @ w) * 0.5 + x,
        lambda x, w: x + torch.relu(w @ x.T).T * 0.5,
        lambda x, w: x + torch.relu(x @ w) * x,
        lambda x, w: (x + torch.relu(x.bfloat16() @ w.bfloat16()) * 0.5).float(),
    ],
    ids=["activation", "scale", "more operators", "argument order", "transposed", "other argument", "dtype"],
)
def test_two_different_layers_are_no_region(different: Layer) -> None:
    assert found(chain(plain, different)) == []


def test_constants_must_have_one_type() -> None:
    def model(x: Tensor, ws: list[Tensor]) -> Tensor:
        for w in ws:
            x = x + torch.relu(x * w)
        return x

    row, table = normal(4), normal(3, 4)
    assert found(with_weights(model, X, a=row, b=row + 1)) == [(2, ["add", "mul", "relu"])]
    assert found(with_weights(model, X, a=row, b=table)) == []


def test_a_region_ends_where_layers_change() -> None:
    assert found(chain(plain, plain, plain, other, other, other)) == [(3, PLAIN), (3, OTHER)]


def test_a_region_with_two_values_handed_on_ends_where_layers_change() -> None:
    def model(x: Tensor, y: Tensor, ws: list[Tensor]) -> tuple[Tensor, Tensor]:
        for k, w in enumerate(ws):
            new = (torch.relu if k < 3 else torch.tanh)(x)
            x, y = (x @ w).sin().cos() * new + y, new
        return x, y

    graph = with_weights(model, X, X, **weights(4, 4, count=6))
    assert found(graph) == [(3, sorted([*PLAIN, "sin", "cos"])), (3, sorted([*OTHER, "sin", "cos"]))]
    for region in find_regions(graph):
        assert [len(names) for names in region.outputs] == [2] * 3
        assert_outlined(graph, region, [X, X])


def test_layers_that_take_another_output_of_the_one_before_differ() -> None:
    def model(x: Tensor, y: Tensor, ws: list[Tensor]) -> Tensor:
        for k, w in enumerate(ws):
            hidden = torch.relu(x @ w)
            half = hidden * 0.5
            x, y = x + half * y, (hidden if k % 2 else half)
        return x

    graph = with_weights(model, X, X, **weights(4, 4, count=6))
    assert found(graph) == [(3, sorted([*PLAIN, "mul"] * 2))]
    assert_outlined(graph, find_regions(graph)[0], [X, X])


def test_the_first_and_the_last_layer_may_differ() -> None:
    graph = chain(other, plain, plain, plain, plain, other)
    assert found(graph) == [(4, PLAIN)]
    (region,) = find_regions(graph)
    assert [names[-1] for names in region.inputs] == ["w1", "w2", "w3", "w4"]


def test_alternating_layers_have_period_two() -> None:
    assert found(chain(*[plain, other] * 3)) == [(3, sorted(PLAIN + OTHER))]


def test_the_period_that_leaves_least_wins() -> None:
    graph = chain(*[plain, plain, plain, other] * 3, plain, plain)
    assert found(graph) == [(3, sorted([*PLAIN * 3, *OTHER])), (2, PLAIN)]


def test_an_operator_alone_is_no_layer() -> None:
    assert found(traced(lambda x: x.sin().sin().sin().sin().sin(), X)) == []
    assert found(traced(lambda x: x.sin().cos().sin().cos(), X)) == [(2, ["cos", "sin"])]


def test_what_is_not_handed_on_is_no_region() -> None:
    """Not two towers, and not layers with something between them that is never the same."""
    two_towers = with_weights(lambda x, y, ws: (plain(x, ws[0]), plain(y, ws[1])), X, X, **weights(4, 4, count=2))
    assert found(two_towers) == []
    between = chain(plain, lambda x, _: x.sin(), plain, lambda x, _: x.cos(), plain)
    assert found(between) == []


# -- what layers take and give -------------------------------------------------------------------------------------


def masked(masks: str) -> Graph:
    """Layers that each add one of two values."""

    def model(x: Tensor, m: Tensor, ws: list[Tensor]) -> Tensor:
        given = {"a": m * 2, "b": m * 3}
        for mask, w in zip(masks, ws, strict=True):
            x = plain(x, w) + given[mask]
        return x

    return with_weights(model, X, MASK, **weights(4, 4, count=len(masks)))


def test_a_shared_value_stays_outside() -> None:
    graph = masked("aaa")
    (region,) = assert_regions(graph)
    (mask,) = outside(graph)
    assert operators(graph, (mask.name,)) == ["mul"]
    assert all(mask.name in names for names in region.inputs)
    assert_outlined(graph, region, [X, MASK])


@pytest.mark.parametrize(
    ("masks", "regions"),
    [
        ("ababab", [(3, 10)]),
        ("aaabbb", [(3, 5), (3, 5)]),
        ("abbb", [(3, 5)]),
        ("aaab", [(3, 5)]),
        ("abaa", [(2, 5)]),
        ("aaabaaabaaabaa", [(3, 20), (2, 5)]),
    ],
)
def test_layers_with_other_shared_values_differ(masks: str, regions: list[tuple[int, int]]) -> None:
    assert [(count, len(names)) for count, names in found(masked(masks))] == regions


def test_regions_do_not_share_a_node() -> None:
    """Layers 2 and 3 use one transposed weight: it is in the first region, so layer 3 is not in the second."""

    def model(x: Tensor, ws: list[Tensor]) -> Tensor:
        turned = [w.t() for w in ws]
        turned.insert(3, turned[2])
        for k, w in enumerate(turned):
            x = x.sin().cos().sin() + (torch.relu if k < 3 else torch.tanh)(x @ w)
        return x

    graph = with_weights(model, X, **weights(4, 4, count=5))
    both = ["add", "cos", "matmul", "sin", "sin", "t"]
    assert found(graph) == [(3, sorted([*both, "relu"])), (2, sorted([*both, "tanh"]))]


def test_a_layer_may_have_a_value_of_its_own() -> None:
    """A part of a joint product, or an input such as the state of a cache."""

    def model(x: Tensor, y: Tensor, a: Tensor, b: Tensor, ws: list[Tensor]) -> Tensor:
        parts = (y @ ws[0]).split(4, -1)
        for part, state, w in zip(parts, (a, b), ws[1:], strict=True):
            x = plain(x + state, w) * part
        return x

    graph = with_weights(model, X, X, X, X + 1, joint=normal(4, 8), **weights(4, 4, count=2))
    assert found(graph) == [(2, sorted([*PLAIN, "add", "mul"]))]
    (region,) = find_regions(graph)
    assert [{"x2", "x3"} & set(names) for names in region.inputs] == [{"x2"}, {"x3"}]
    assert_outlined(graph, region, [X, X, X, X + 1])


def test_what_a_layer_makes_of_outer_values_is_in_it() -> None:
    """As the keys that a decoder makes of the encoder's output: the hidden state does not lead to them."""

    def model(x: Tensor, y: Tensor, ws: list[Tensor]) -> Tensor:
        for w in ws:
            x = plain(x, w.t()) * (y @ w).sin()
        return x

    graph = with_weights(model, X, X, **weights(4, 4, count=3))
    assert found(graph) == [(3, sorted([*PLAIN, "mul", "matmul", "sin", "t"]))]


def test_a_value_that_needs_the_layers_is_not_their_own() -> None:
    """What all layers share is computed inside of the first one: as a loop they could not run."""

    def model(x: Tensor, ws: list[Tensor]) -> Tensor:
        gate = None
        for w in ws:
            hidden = torch.relu(x @ w)
            gate = hidden.sin() if gate is None else gate
            x = x + hidden * gate
        return x

    assert found(with_weights(model, X, **weights(4, 4, count=2))) == []


def test_a_result_of_every_layer_is_in_it() -> None:
    def model(x: Tensor, ws: list[Tensor]) -> list[Tensor]:
        results = []
        for w in ws:
            hidden = x @ w
            results.append(hidden.sin().sum(-1))
            x = x + torch.relu(hidden) * 0.5
        return [x.cos(), *results]

    graph = with_weights(model, X, **weights(4, 4, count=3))
    assert found(graph) == [(3, sorted([*PLAIN, "sin", "sum"]))]
    (region,) = find_regions(graph)
    assert sorted(operators(graph, region.outputs[0])) == ["add", "sum"]
    assert_outlined(graph, region, [X])


def test_what_all_layers_lead_to_is_outside() -> None:
    def model(x: Tensor, ws: list[Tensor]) -> Tensor:
        states = [x := plain(x, w) for w in ws]
        return torch.stack(states)

    graph = with_weights(model, X, **weights(4, 4, count=3))
    assert found(graph) == [(3, PLAIN)]
    assert operators(graph, tuple(n.name for n in outside(graph))) == ["stack"]


def test_a_step_back_of_two_layers_makes_the_period_two() -> None:
    def model(x: Tensor, ws: list[Tensor]) -> Tensor:
        before = x.sin()
        for w in ws:
            x, before = plain(x, w) * before, x
        return x

    graph = with_weights(model, X, **weights(4, 4, count=6))
    (region,) = assert_regions(graph)
    assert len(region.instances[0]) == 2 * 5
    assert [len(names) for names in region.outputs] == [2] * region.count
    assert_outlined(graph, region, [X])


# -- the result ----------------------------------------------------------------------------------------------------


def test_names_play_no_part(made: Made) -> None:
    graph = made.captured
    renamed = graph.copy()
    new = {}
    for i, node in enumerate(renamed.nodes):
        new[node.name] = f"node_{(i * 7919) % 10007}"
        node.name = new[node.name]
        node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
        if node.op == "get_attr":
            node.target = f"constant_{(i * 7919) % 10007}"

    def named(tuples: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(new[n] for n in names) for names in tuples)

    regions = find_regions(graph)
    assert regions == find_regions(graph)
    assert find_regions(renamed) == tuple(
        Region(named(r.instances), named(r.inputs), named(r.outputs)) for r in regions
    )
    assert [r.module(renamed, 0) for r in find_regions(renamed)] == [""] * len(regions)


def test_an_outlined_layer() -> None:
    graph = chain(*[plain] * 3)
    text = str(graph)
    (region,) = find_regions(graph)
    outlined = outline(graph, region, 1)
    assert [n.name for n in outlined.inputs] == list(region.inputs[1])
    assert [str(n.target) for n in outlined.inputs] == list(region.inputs[1])
    assert [n.name for n in outlined.calls()] == list(region.instances[1])
    assert [n.name for n in outlined.outputs] == list(region.outputs[1])
    assert [str(type_of(n)) for n in outlined.inputs] == ["f32[3, 4]", "f32[4, 4]"]
    assert len(outlined.constants) == 0
    assert str(graph) == text


def test_an_outlined_layer_keeps_names_and_symbols() -> None:
    graph = captured("bert", True)
    (region,) = find_regions(graph)
    graph = graph.copy()
    next(n for n in graph.nodes if n.name == region.inputs[0][0]).name = "input"
    (region,) = find_regions(graph)
    outlined = outline(graph, region)
    assert next(iter(outlined.nodes)).name == region.inputs[0][0] == "input"
    assert "f32[B, S, 16] = input input" in str(outlined)
    assert outlined.ranges == graph.ranges


def test_twenty_thousand_nodes_take_seconds() -> None:
    """200 layers of about 100 operators; about 0.6 s on one core."""
    fx, val = torch.fx.Graph(), X

    def add(node: Node) -> Node:
        node.meta["val"] = val
        return node

    def call(operator: Any, *args: Any) -> Node:
        return add(fx.call_function(operator, args))

    x, mask = add(fx.placeholder("x")), add(fx.placeholder("mask"))
    for k in range(200):
        norm = call(torch.ops.aten.mul.Tensor, x, add(fx.create_node("get_attr", f"w{k}")))
        parts = []
        for _ in range(3):
            part = norm
            for i in range(31):
                part = call(torch.ops.aten.sin.default if i % 2 else torch.ops.aten.cos.default, part)
            parts.append(part)
        score = call(torch.ops.aten.add.Tensor, call(torch.ops.aten.mul.Tensor, parts[0], parts[1]), mask)
        x = call(torch.ops.aten.add.Tensor, x, call(torch.ops.aten.mul.Tensor, score, parts[2]))
    fx.output((x,))
    graph = Graph(fx)
    assert len(graph) > 19_000
    started = time.process_time()
    (region,) = find_regions(graph)
    assert time.process_time() - started < 10
    assert (region.count, len(region.instances[0])) == (200, 98)
