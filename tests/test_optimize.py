"""The drop-in model: what it forwards, when it compiles, and that it never answers with stale weights."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree
from transformers import DynamicCache, EncoderDecoderCache

import txgraph
from tests.small import BITWISE, MLP, Encoder, Linear, assert_as_eager, module
from tests.threads import in_threads
from tests.zoo import ZOO, tokens

X = torch.arange(8.0).reshape(2, 4)


def optimized(model: nn.Module, **options: Any) -> txgraph.OptimizedModel:
    return txgraph.optimize(model, **{"backend": "reference", **options})


@pytest.fixture
def encoder() -> nn.Module:
    return Encoder()


@pytest.fixture
def bert() -> nn.Module:
    return ZOO["bert-sdpa"].model()


def test_attributes_are_the_originals(bert: nn.Module) -> None:
    fast = optimized(bert)
    assert fast.config is bert.config
    assert fast.encoder is bert.encoder
    assert list(fast.state_dict()) == list(bert.state_dict())
    assert [id(p) for p in fast.parameters()] == [id(p) for p in bert.parameters()]
    assert callable(optimized(ZOO["gpt2-sdpa"].model()).generate)
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = fast.no_such_thing


def test_train_and_eval_switch_the_original(bert: nn.Module) -> None:
    fast = optimized(bert)
    assert fast.train() is fast
    assert bert.training
    assert bert.encoder.training
    assert fast.training
    assert fast.eval() is fast
    assert not bert.training
    assert not fast.training


def test_every_mixture_of_arguments_uses_one_graph(encoder: nn.Module) -> None:
    fast, inputs = optimized(encoder, verify="off"), tokens(2, 8)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    calls = (
        lambda m: m(ids, mask),
        lambda m: m(ids, attention_mask=mask),
        lambda m: m(attention_mask=mask, input_ids=ids),
        lambda m: m(input_ids=ids, attention_mask=mask, token_type_ids=None),
    )
    for call in calls:
        assert_as_eager(call(fast), encoder, **inputs)
    assert len(fast.report.graphs) == 1


def test_batch_and_sequence_become_dynamic_at_the_second_shape(encoder: nn.Module) -> None:
    fast = optimized(encoder, verify="off")
    for batch, length in ((2, 8), (2, 11), (3, 8), (7, 13), (2, 8)):
        inputs = tokens(batch, length)
        assert_as_eager(fast(**inputs), encoder, **inputs)
    assert [g.inputs[0] for g in fast.report.graphs] == ["input_ids: i64[2, 8]", "input_ids: i64[B, S]"]


def test_batch_one_gets_its_own_graph(encoder: nn.Module) -> None:
    fast = optimized(encoder, verify="off")
    for batch, length in ((2, 8), (3, 9), (1, 9), (1, 12), (1, 7)):
        inputs = tokens(batch, length)
        assert_as_eager(fast(**inputs), encoder, **inputs)
    assert len(fast.report.graphs) == 3


def test_declared_dynamic_shapes(encoder: nn.Module) -> None:
    batch, length = Dim("batch", min=2, max=16), Dim("length", min=2, max=64)
    shapes = {name: {0: batch, 1: length} for name in ("input_ids", "attention_mask")}
    fast = optimized(encoder, kwargs=tokens(2, 8), dynamic_shapes=shapes, verify="off")
    for at in ((2, 8), (5, 13), (16, 64)):
        assert_as_eager(fast(**tokens(*at)), encoder, **tokens(*at))
    assert len(fast.report.graphs) == 1
    fast(**tokens(17, 8))  # outside the declared range: a new graph, never a wrong answer
    assert len(fast.report.graphs) == 2


def test_positional_dynamic_shapes() -> None:
    fast = optimized(MLP(), args=(X,), dynamic_shapes=({0: Dim("rows", min=1, max=100)},))
    fast(torch.ones(50, 4))
    assert len(fast.report.graphs) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.layer.weight.data.mul_(2),
        lambda m: m.load_state_dict({n: t * 2 for n, t in m.state_dict().items()}),
        lambda m: setattr(m.layer.weight, "data", m.layer.weight.data * 2),
        lambda m: setattr(m.layer, "weight", nn.Parameter(m.layer.weight.detach() * 2)),
        lambda m: setattr(m, "layer", nn.Linear(4, 4)),
        lambda m: m.to(torch.float64),
    ],
    ids=["data in place", "load_state_dict", "assignment to data", "parameter replaced", "module replaced", "to"],
)
def test_changed_weights_are_never_stale(change: Any) -> None:
    model = Linear().eval()
    fast = optimized(model, args=(X,))
    change(model)
    x = X.to(next(model.parameters()).dtype)
    assert torch.equal(fast(x), model(x))


class Scaled(nn.Module):
    """A linear whose result is scaled: the graph holds a scaled copy of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) * 0.3 * self.second(x)


def test_an_optimizer_step_on_folded_weights_compiles_anew() -> None:
    model = Scaled()
    fast = optimized(model, args=(X,))
    assert "first.weight" not in fast.graph_after.constants
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).sum().backward()
    optimizer.step()
    assert_as_eager(fast(X), model, X)
    assert "first.weight was changed in place" in fast.report.notes[0]
    assert len(fast.report.graphs) == 2


def test_writes_through_data_to_folded_weights_are_seen() -> None:
    model = Scaled()
    fast = optimized(model, args=(X,))
    model.first.weight.data.mul_(2)  # bypasses torch's version counter
    assert torch.allclose(fast(X), model(X), rtol=1e-5)
    assert "through .data" in fast.report.notes[0]


def test_autocast_gets_its_own_graph_and_gives_it_back(encoder: nn.Module) -> None:
    fast, inputs = optimized(encoder, verify="off"), tokens(2, 8)
    plain = fast(**inputs)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fast(**inputs)[1], encoder(**inputs)[1])
    assert torch.equal(fast(**inputs)[1], plain)
    assert len(fast.report.graphs) == 2


def test_inference_mode(encoder: nn.Module) -> None:
    fast, inputs = optimized(encoder, verify="off"), tokens(2, 8)
    with torch.inference_mode():
        assert_as_eager(fast(**inputs), encoder, **inputs)
    assert_as_eager(fast(**inputs), encoder, **inputs)


def test_non_contiguous_inputs(encoder: nn.Module) -> None:
    fast, ids = optimized(encoder, verify="off"), tokens(8, 6)["input_ids"]
    assert_as_eager(fast(ids.t()), encoder, ids.t())
    expanded = ids[:1, :6].expand(6, 6)
    assert_as_eager(fast(expanded), encoder, expanded)


@pytest.mark.parametrize(("name", "kind"), [("gpt2-sdpa", DynamicCache), ("t5-sdpa", EncoderDecoderCache)])
def test_caches_come_back_as_caches(name: str, kind: type) -> None:
    architecture = ZOO[name]
    model = architecture.model()
    inputs = architecture.inputs(2, 8)
    ours, eager = optimized(model, passes=BITWISE, verify="final")(**inputs), model(**inputs)
    assert type(ours) is type(eager)
    assert type(ours.past_key_values) is kind
    assert_as_eager(ours, model, **inputs)


class Structured(nn.Module):
    """Outputs of every kind."""

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {"a": x + 1, "nested": (x * 2, [None, x.sum()]), "size": 3, "none": None}


def test_output_structure() -> None:
    ours, eager = optimized(Structured(), args=(X,))(X), Structured()(X)
    assert pytree.tree_structure(ours) == pytree.tree_structure(eager)
    assert torch.equal(ours["nested"][1][1], eager["nested"][1][1])
    assert (ours["size"], ours["none"]) == (3, None)


class Counter(nn.Module):
    """Writes to a buffer and to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        x.mul_(2)
        return x + self.count


@pytest.mark.parametrize("backend", ["reference", "inductor"])
def test_writes_reach_the_buffer_and_the_input(backend: str) -> None:
    model, twin = Counter(), Counter()
    fast = optimized(model, args=(X.clone(),), backend=backend)
    assert model.count.item() == 0  # neither compiling nor checking left a trace
    for _ in range(3):
        ours, eager = X.clone(), X.clone()
        assert torch.equal(fast(ours), twin(eager))
        assert torch.equal(ours, eager)
    assert model.count.item() == twin.count.item() == 3


def test_copies_and_pickles_compile_anew() -> None:
    model = MLP()
    fast = optimized(model, args=(X,))
    twin = copy.deepcopy(fast)
    assert next(twin.parameters()) is not next(model.parameters())
    loaded = pickle.loads(pickle.dumps(fast))
    for other in (twin, loaded):
        assert other.report.graphs == []
        assert torch.equal(other(X), model(X))


def test_threads_share_one_graph() -> None:
    model = MLP()
    fast = optimized(model)
    answers = in_threads(*[lambda: fast(X)] * 8)
    assert all(torch.equal(a, model(X)) for a in answers)
    assert len(fast.report.graphs) == 1


def test_the_report_as_data(bert: nn.Module) -> None:
    fast = optimized(bert, kwargs=tokens(2, 8))
    report = fast.report.to_dict()
    assert {"passes", "rewrites", "verification", "fallbacks", "graphs", "backend", "seconds"} <= set(report)
    applied = {p["name"]: p["rewrites"] for p in report["passes"] if p["status"] == "applied"}
    assert applied["fuse-shared-input-linears"] == 2
    joined = [r for r in report["rewrites"] if r["rule"] == "fuse-shared-input-linears"]
    assert joined[0]["module"] == "encoder.layer.0.attention.self.query"
    assert joined[0]["location"].startswith("modeling_bert.py:")
    stages = [v["stage"] for v in report["verification"]]
    assert stages[0] == "capture"
    assert stages[-1] == "backend"
    assert set(applied) <= set(stages)
    assert all(
        v["passed"] and {g["gate"] for g in v["gates"]} == {"G0", "G1", "G2", "G3"} for v in report["verification"]
    )
    assert report["seconds"]["total"] >= report["seconds"]["capture"] > 0
    text = str(fast.report)
    assert "fuse-shared-input-linears" in text
    assert "pass  G2" in text


@pytest.mark.parametrize(("verify", "stages"), [("off", []), ("final", ["capture", "backend"])])
def test_levels_of_verification(verify: str, stages: list[str], encoder: nn.Module) -> None:
    fast = optimized(encoder, kwargs=tokens(2, 8), verify=verify)
    assert [v["stage"] for v in fast.report.to_dict()["verification"]] == stages


class ForgetTheMask(txgraph.RewritePass):
    """A wrong rule: attention without its mask."""

    def pattern(self, p: Any) -> Any:
        return p.aten.scaled_dot_product_attention(
            p.any("q"), p.any("k"), p.any("v"), p.any("mask"), scale=p.any("scale")
        )

    def check(self, match: txgraph.Match) -> txgraph.Accept | txgraph.Reject:
        return txgraph.Accept() if match["mask"] is not None else txgraph.Reject("there is no mask")

    def rewrite(self, match: txgraph.Match, g: Any) -> Any:
        return g.aten.scaled_dot_product_attention(match["q"], match["k"], match["v"], scale=match["scale"])


def test_a_wrong_pass_is_rolled_back_alone(encoder: nn.Module) -> None:
    inputs = tokens(2, 8)
    pipeline = txgraph.default_pipeline().insert_before("fuse-shared-input-linears", ForgetTheMask())
    fast = optimized(encoder, kwargs=inputs, passes=pipeline)
    statuses = {p["name"]: p for p in fast.report.to_dict()["passes"]}
    assert statuses["forget-the-mask"]["status"] == "rolled back"
    assert "G2 output" in statuses["forget-the-mask"]["reason"]
    assert " > " in statuses["forget-the-mask"]["reason"]  # both numbers
    assert statuses["fuse-shared-input-linears"]["status"] == "applied"
    assert_as_eager(fast(**inputs), encoder, **inputs)
    unchecked = optimized(encoder, kwargs=inputs, passes=pipeline, verify="off")
    with pytest.raises(AssertionError, match="G2"):
        assert_as_eager(unchecked(**inputs), encoder, **inputs)


def test_an_empty_pipeline_rewrites_nothing(encoder: nn.Module) -> None:
    fast = optimized(encoder, kwargs=tokens(2, 8), passes=txgraph.Pipeline(()))
    assert fast.report.to_dict()["passes"] == []
    assert fast.graph_after.count() == fast.graph_before.count()


def test_a_backend_that_is_replaced_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from txgraph.backends.reference import ReferenceBackend

    class Wrong(ReferenceBackend):
        def lower(self, graph: Any, target: Any, options: Any) -> Any:
            compiled = super().lower(graph, target, options)
            return type(compiled)(lambda tensors: [v + 1 for v in compiled.run(tensors)])

    monkeypatch.setattr("txgraph.compile.choose_backend", lambda name: Wrong("wrong"))
    fast = optimized(MLP(), args=(X,))
    assert torch.equal(fast(X), MLP()(X))
    assert [v["stage"] for v in fast.report.to_dict()["verification"]][-2:] == ["backend", "backend reference"]
    text = str(fast.report)
    assert "backend tried" in text
    assert "FAIL" in text
    assert "backend reference" in text


# -- what else a drop-in model must do -----------------------------------------------------------------------------


def test_generate_is_the_originals() -> None:
    model = ZOO["gpt2-sdpa"].model()
    ids = tokens(2, 5)["input_ids"]
    fast = optimized(model, verify="off")
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(fast.generate(ids, **options), model.generate(ids, **options))


def test_state_dicts_are_loaded_and_saved_as_the_originals() -> None:
    model, other = MLP(), MLP()
    with torch.no_grad():
        other.up.weight.add_(1)
    fast = optimized(model, args=(X,), passes=BITWISE)
    assert str(fast.load_state_dict(optimized(other).state_dict())) == "<All keys matched successfully>"
    assert torch.equal(model.up.weight, other.up.weight)
    assert torch.equal(fast(X), other(X))


def test_attributes_set_through_the_wrapper_reach_the_original() -> None:
    model = Linear()
    fast = optimized(model, args=(X,), passes=BITWISE)
    fast.layer = nn.Linear(4, 2)
    assert model.layer is fast.layer
    assert torch.equal(fast(X), model(X))
    assert fast(X).shape == (2, 2)


def test_moving_to_another_dtype_moves_the_original() -> None:
    model = Linear()
    fast = optimized(model, args=(X,), passes=BITWISE)
    assert fast.to(torch.bfloat16) is fast
    assert model.layer.weight.dtype is torch.bfloat16
    x = X.to(torch.bfloat16)
    assert torch.equal(fast(x), model(x))
    assert fast(x).dtype is torch.bfloat16
    with pytest.raises(RuntimeError, match="must have the same dtype"):  # as in eager
        fast(X)


def test_a_saved_model_can_be_loaded(tmp_path: Any) -> None:
    model = MLP()
    fast = optimized(model, args=(X,), passes=BITWISE)
    torch.save(fast, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert type(loaded) is txgraph.OptimizedModel
    assert torch.equal(loaded(X), model(X))


def test_a_copy_does_not_follow_the_original() -> None:
    model = MLP()
    fast = optimized(model, args=(X,), passes=BITWISE)
    expected = model(X)
    twin = copy.deepcopy(fast)
    with torch.no_grad():
        model.up.weight.zero_()
    assert torch.equal(twin(X), expected)
    assert torch.equal(fast(X), model(X))
    assert not torch.equal(fast(X), expected)


def test_repr_shows_the_original_and_the_graphs() -> None:
    fast = optimized(MLP(), args=(X,))
    assert repr(fast).startswith("OptimizedModel(1 graph(s))\nMLP(")


def test_graphs_and_code() -> None:
    fast = optimized(MLP(), args=(X,), passes=BITWISE)
    assert fast.graph_before.count() == {"clone": 1, "gelu": 1, "linear": 2, "mul": 1}
    assert fast.graph_after.count() == {"gelu": 1, "linear": 2}  # times one is nothing
    assert fast.code() == str(fast.graph_after)
    fast(torch.ones(3, 4))
    assert str(fast.graph_before).startswith("%0: f32[B, 4] = input x")


def test_results_repeat_and_are_not_reused() -> None:
    fast = optimized(MLP(), args=(X,))
    first = fast(X)
    kept = first.clone()
    first.zero_()
    assert torch.equal(fast(X), kept)


def test_outputs_carry_no_gradient() -> None:
    fast = optimized(MLP(), args=(X,))
    assert torch.is_grad_enabled()
    assert not fast(X).requires_grad
    assert torch.is_grad_enabled()


# -- calls ---------------------------------------------------------------------------------------------------------


class Positional(nn.Module):
    """Positional-only, and any number of arguments."""

    def forward(self, x: torch.Tensor, /, *others: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return sum(others, x) * scale


def test_positional_arguments() -> None:
    model = Positional()
    fast = optimized(model)
    for args in ((X,), (X, X), (X, X, X + 1), (X,)):
        assert torch.equal(fast(*args), model(*args))
    assert torch.equal(fast(X, X, scale=0.5), model(X, X, scale=0.5))
    assert len(fast.report.graphs) == 4
    assert torch.equal(fast(torch.ones(3, 4), torch.ones(3, 4)), torch.full((3, 4), 2.0))


def test_arguments_that_forward_takes_as_keywords() -> None:
    model = ZOO["bert-sdpa"].model()
    fast = optimized(model, passes=BITWISE, verify="off")
    for batch, length in ((2, 8), (3, 9)):
        output = fast(**tokens(batch, length), output_hidden_states=True)
        assert len(output.hidden_states) == 3
        assert_as_eager(output, model, **tokens(batch, length), output_hidden_states=True)
    assert fast.report.graphs[1].inputs[0] == "input_ids: i64[B, S]"


class Keywords(nn.Module):
    """Takes whatever it is given."""

    def forward(self, x: torch.Tensor, **others: Any) -> torch.Tensor:
        return x * others.get("scale", 1) + others.get("shift", 0)


def test_arguments_without_a_parameter() -> None:
    model = Keywords()
    fast = optimized(model)
    for rows in (2, 3, 4):
        x = torch.ones(rows, 4)
        assert torch.equal(fast(x, scale=3), x * 3)
    assert len(fast.report.graphs) == 2
    for rows in (2, 3):  # tensors among them: torch.export takes no dynamic shapes for these
        x = torch.ones(rows, 4)
        assert torch.equal(fast(x, shift=x), x + x)
    assert "forward" not in vars(model)
    shapes = {"x": {0: Dim("rows", min=2)}}
    assert (
        optimized(model, args=(X,), kwargs={"scale": 3}, dynamic_shapes=shapes)(torch.ones(9, 4), scale=3).sum() == 108
    )


def test_declared_shapes_of_any_number_of_arguments() -> None:
    rows = Dim("rows", min=2)
    fast = optimized(Positional(), args=(X, X, X), dynamic_shapes=({0: rows}, ({0: rows}, {0: rows})))
    assert torch.equal(fast(*[torch.ones(5, 4)] * 3), torch.full((5, 4), 3.0))
    assert len(fast.report.graphs) == 1


def test_containers_of_tensors() -> None:
    model = module(lambda pair, named: {"sum": pair[0] + named["a"], "rest": [pair[1] * 2]})
    fast = optimized(model)
    for rows in (2, 3, 4):
        x = torch.ones(rows, 4)
        assert torch.equal(fast((x, 3), {"a": x})["sum"], x + x)
        assert fast((x, 3), {"a": x})["rest"] == [6]
    assert len(fast.report.graphs) == 2
    assert fast((X, 4), {"a": X})["rest"] == [8]
    assert len(fast.report.graphs) == 3


def test_unused_and_missing_inputs() -> None:
    model = module(lambda x, unused=None, mask=None: x if mask is None else x * mask)
    fast = optimized(model)
    assert torch.equal(fast(X, X), X)
    assert torch.equal(fast(X, None, X), X * X)
    assert torch.equal(fast(X, unused=3), X)
    assert len(fast.report.graphs) == 3


def test_other_dtypes_and_ranks_get_their_own_graphs() -> None:
    model = module(lambda x: x * 2 + 1)
    fast = optimized(model)
    inputs = [X, X.double(), X.long(), X[0], X[None], X.bool()]
    for x in (*inputs, *inputs):
        assert torch.equal(fast(x), model(x))
        assert fast(x).dtype is model(x).dtype
    assert len(fast.report.graphs) == len(inputs)


@pytest.mark.parametrize("rows", [0, 1])
def test_empty_and_single_batches(rows: int) -> None:
    model = MLP()
    fast = optimized(model, passes=BITWISE)
    for count in (3, 5, rows, 7, rows):
        x = torch.ones(count, 4)
        assert torch.equal(fast(x), model(x))
    assert len(fast.report.graphs) == 3


def test_a_declared_range_from_one() -> None:
    model = MLP()
    shapes = {"x": {0: Dim("rows", min=1, max=8)}}
    fast = optimized(model, args=(torch.ones(3, 4),), dynamic_shapes=shapes, passes=BITWISE)
    for rows in (1, 8, 3):
        x = torch.randn(rows, 4)
        assert torch.equal(fast(x), model(x))
    assert len(fast.report.graphs) == 1


def test_dynamic_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"dynamic_shapes names \['y'\], but the example inputs are \['x'\]"):
        optimized(MLP(), args=(X,), dynamic_shapes={"y": {0: Dim("rows")}})
    with pytest.raises(txgraph.CaptureFailed, match="rows"):
        optimized(MLP(), args=(X,), dynamic_shapes={"x": {1: Dim("rows", min=2)}})


def test_the_limit_on_graphs() -> None:
    fast = optimized(MLP(), options={"max_graphs": 2}, verify="off")
    fast(X)
    fast(X[:, :].repeat(2, 1))
    fast(X.repeat(7, 1))
    with pytest.raises(txgraph.GuardFailed, match=r"needs graph number 3, over options={'max_graphs': 2}: x is f64"):
        fast(X.double())
    with pytest.raises(txgraph.GuardFailed, match="its structure is new"):
        fast(X, scale=2.0)
    assert len(fast.report.graphs) == 2


# -- what the model, or its inputs, hold ---------------------------------------------------------------------------


def decode(model: nn.Module, steps: int) -> list[torch.Tensor]:
    """Greedy steps, each with the cache that the one before gave."""
    with torch.no_grad():
        output = model(tokens(2, 5)["input_ids"], use_cache=True)
        logits = [output.logits]
        for _ in range(steps):
            output = model(output.logits[:, -1:].argmax(-1), past_key_values=output.past_key_values, use_cache=True)
            logits.append(output.logits)
    return logits


def test_a_cache_as_input() -> None:
    model = ZOO["gpt2-sdpa"].model()
    fast = optimized(model, passes=BITWISE)
    assert [torch.equal(a, b) for a, b in zip(decode(fast, 4), decode(model, 4), strict=True)] == [True] * 5
    assert len(fast.report.graphs) == 3  # the prompt, the first step, and one of any length


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.first.weight.mul_(2),
        lambda m: m.first.weight.data.mul_(2),
        lambda m: m.load_state_dict({n: t * 2 for n, t in m.state_dict().items()}),
        lambda m: setattr(m.second.bias, "data", m.second.bias * 2),
        lambda m: setattr(m, "second", nn.Linear(4, 4)),
        lambda m: m.first.weight.copy_(m.second.weight),
        lambda m: nn.init.zeros_(m.first.weight),
        lambda m: m.double(),
    ],
    ids=["in place", "data in place", "load_state_dict", "data", "module", "copy_", "init", "dtype"],
)
def test_changed_weights_that_are_folded(change: Any) -> None:
    model = Scaled()
    fast = optimized(model, args=(X,), verify="off")
    fast(X)
    with torch.no_grad():
        change(model)
    x = X.to(model.first.weight.dtype)
    assert_as_eager(fast(x), model, x)
    assert len(fast.report.graphs) == 2


def test_a_change_back_and_forth_is_always_seen() -> None:
    model = Scaled()
    fast = optimized(model, verify="off")
    for scale in (2.0, 0.5, 3.0):
        with torch.no_grad():
            model.first.weight.mul_(scale)
        assert_as_eager(fast(X), model, X)
    assert len(fast.report.graphs) == 3
    assert len(fast.report.notes) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "table", torch.full((4,), 3.0)),
        lambda m: m.table.mul_(3),
        lambda m: m.layers.append(nn.Linear(4, 4)),
        lambda m: m.layers.insert(0, nn.ReLU()),
        lambda m: setattr(m.layers[0], "bias", nn.Parameter(torch.ones(4))),
    ],
    ids=["plain tensor replaced", "plain tensor in place", "module added", "module inserted", "bias added"],
)
def test_changes_beside_the_weights(change: Any) -> None:
    model = module(lambda x: model.layers(x) * (model.table + 1), table=torch.ones(4))
    model.layers = nn.Sequential(nn.Linear(4, 4, bias=False))
    fast = optimized(model, args=(X,), passes=BITWISE)
    change(model)
    assert torch.equal(fast(X), model(X))


def test_train_and_eval_have_their_own_graphs() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    twin = copy.deepcopy(model)
    fast = optimized(model, passes=BITWISE)
    for mode in (False, True, False, True):
        fast.train(mode)
        twin.train(mode)
        assert torch.equal(fast(X), twin(X))
    assert len(fast.report.graphs) == 2
    assert torch.equal(model[1].running_mean, twin[1].running_mean)
    assert model[1].num_batches_tracked.item() == 2


class Replaces(nn.Module):
    """Puts a new tensor in the place of its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total = self.total + x.sum(0)
        return x + self.total


def test_a_buffer_that_is_replaced() -> None:
    model, twin = Replaces(), Replaces()
    fast = optimized(model, args=(X,))
    assert model.total.dtype is torch.float32
    assert torch.equal(model.total, torch.zeros(4))
    for _ in range(3):
        assert torch.equal(fast(X), twin(X))
        assert torch.equal(model.total, twin.total)
    assert len(fast.report.graphs) == 1


def test_a_failed_check_leaves_the_buffers_alone() -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        model.count.add_(1)
        if x.dtype is torch.float64:
            raise RuntimeError("no double")
        return x + model.count

    model = module(forward)
    model.register_buffer("count", torch.zeros(()))
    with pytest.raises(txgraph.VerificationFailed, match="no double"):
        optimized(model, args=(X,))
    assert model.count.item() == 0
    assert model.count.dtype is torch.float32


def test_writes_reach_non_contiguous_inputs() -> None:
    model = module(lambda x: x.add_(1).sum())
    fast = optimized(model, args=(torch.zeros(3, 4),))
    x = torch.zeros(4, 3).t()
    assert fast(x).item() == 12
    assert torch.equal(x, torch.ones(3, 4))


def test_outputs_that_are_inputs_or_weights() -> None:
    model = module(lambda x: (x, x.t(), model.weight), weight=nn.Parameter(torch.ones(2)))
    outputs = optimized(model)(X)
    assert [o.data_ptr() for o in outputs] == [X.data_ptr(), X.data_ptr(), model.weight.data_ptr()]


def test_writing_to_an_output_changes_no_later_answer() -> None:
    weight = nn.Parameter(torch.ones(2, 4))
    model = module(lambda x: (x + 1, model.weight * 2, (model.weight * 3).t(), x.exp(), x.exp().t()), weight=weight)
    fast = optimized(model, args=(X,))
    for _ in range(2):
        outputs = fast(X)
        assert_as_eager(outputs, model, X)
        outputs[3].zero_()
        assert torch.equal(outputs[4], X.exp().t())
        for output in outputs:
            output.zero_()


# -- fallbacks and failures ----------------------------------------------------------------------------------------


class Branch(nn.Module):
    """Depends on a tensor's value in Python."""

    def forward(self, x: torch.Tensor, shift: int = 1) -> torch.Tensor:
        return x + shift if x.sum() > 0 else x - shift


@pytest.mark.parametrize("ahead", [True, False])
def test_fallbacks_are_counted_once_for_each_structure(ahead: bool) -> None:
    fast = optimized(Branch(), args=(X,) if ahead else (), options={"allow_fallback": True})
    for x in (X, -X, torch.ones(3)):
        assert torch.equal(fast(x), Branch()(x))
    assert len(fast.report.fallbacks) == 1
    assert torch.equal(fast(X, 5), X + 5)
    assert len(fast.report.fallbacks) == 2
    assert fast.report.graphs == []


def test_without_permission_there_is_no_fallback() -> None:
    fast = optimized(Branch())
    for _ in range(2):
        with pytest.raises(txgraph.CaptureFailed, match=r"test_optimize.py:\d+ in forward: `return x \+ shift if"):
            fast(X)
    assert fast.report.fallbacks == []


def test_eagers_own_errors_come_through() -> None:
    fast = optimized(nn.Embedding(3, 4))
    with pytest.raises(IndexError, match="index out of range"):
        fast(torch.tensor([7]))
    assert torch.equal(fast(torch.tensor([2])), fast.weight[2:3])


# -- threads -------------------------------------------------------------------------------------------------------


def test_threads_with_new_shapes() -> None:
    model = MLP()
    fast = optimized(model, passes=BITWISE)
    inputs = [torch.randn(2 + at % 3, 4) for at in range(6)]
    results = in_threads(*(lambda x=x: fast(x) for x in inputs))
    for result, x in zip(results, inputs, strict=True):
        assert_as_eager(result, model, x)
    assert len(fast.report.graphs) == 2
    assert fast.report.notes == []


@pytest.mark.parametrize("shared", [True, False], ids=["one model", "a model each"])
def test_threads_that_optimize_at_once(shared: bool) -> None:
    models = [MLP()] * 4 if shared else [MLP() for _ in range(4)]
    for result in in_threads(*(lambda m=m: optimized(m, args=(X,), passes=BITWISE)(X) for m in models)):
        assert_as_eager(result, models[0], X)
