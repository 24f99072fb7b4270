"""The drop-in model: what it forwards, when it compiles, and that it never answers with stale weights."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree
from transformers import DynamicCache, EncoderDecoderCache

import txgraph
from tests.small import MLP, Linear
from tests.zoo import ZOO, tokens

X = torch.arange(8.0).reshape(2, 4)


def optimized(model: nn.Module, **options: Any) -> txgraph.OptimizedModel:
    return txgraph.optimize(model, **{"backend": "reference", **options})


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


def test_every_mixture_of_arguments_uses_one_graph(bert: nn.Module) -> None:
    fast, inputs = optimized(bert, verify="off"), tokens(2, 8)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    calls = (
        lambda m: m(ids, mask),
        lambda m: m(ids, attention_mask=mask),
        lambda m: m(attention_mask=mask, input_ids=ids),
        lambda m: m(input_ids=ids, attention_mask=mask, token_type_ids=None),
    )
    for call in calls:
        assert torch.allclose(call(fast)[0], call(bert)[0], rtol=0, atol=1e-6)
    assert len(fast.report.graphs) == 1


def test_batch_and_sequence_become_dynamic_at_the_second_shape(bert: nn.Module) -> None:
    fast = optimized(bert, verify="off")
    for batch, length in ((2, 8), (2, 11), (3, 8), (7, 13), (2, 8)):
        inputs = tokens(batch, length)
        assert torch.allclose(fast(**inputs)[0], bert(**inputs)[0], rtol=0, atol=1e-6)
    assert [g.inputs[0] for g in fast.report.graphs] == ["input_ids: i64[2, 8]", "input_ids: i64[B, S]"]


def test_batch_one_gets_its_own_graph(bert: nn.Module) -> None:
    fast = optimized(bert, verify="off")
    for batch, length in ((2, 8), (3, 9), (1, 9), (1, 12), (1, 7)):
        inputs = tokens(batch, length)
        assert torch.allclose(fast(**inputs)[0], bert(**inputs)[0], rtol=0, atol=1e-6)
    assert len(fast.report.graphs) == 3


def test_declared_dynamic_shapes(bert: nn.Module) -> None:
    batch, length = Dim("batch", min=2, max=16), Dim("length", min=2, max=64)
    shapes = {name: {0: batch, 1: length} for name in ("input_ids", "attention_mask")}
    fast = optimized(bert, kwargs=tokens(2, 8), dynamic_shapes=shapes, verify="off")
    for at in ((2, 8), (5, 13), (16, 64)):
        assert torch.allclose(fast(**tokens(*at))[0], bert(**tokens(*at))[0], rtol=0, atol=1e-6)
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


class Projections(nn.Module):
    """Two linears on one input: joined into one, so that their values are folded into the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) * self.second(x)


def test_an_optimizer_step_on_folded_weights_compiles_anew() -> None:
    model = Projections()
    fast = optimized(model, args=(X,))
    assert fast.graph_after.count()["linear"] == 1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(X).sum().backward()
    optimizer.step()
    assert torch.allclose(fast(X), model(X), rtol=1e-5)
    assert "first.weight was changed in place" in fast.report.notes[0]
    assert len(fast.report.graphs) == 2


def test_autocast_gets_its_own_graph_and_gives_it_back(bert: nn.Module) -> None:
    fast, inputs = optimized(bert, verify="off"), tokens(2, 8)
    plain = fast(**inputs)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fast(**inputs)[1], bert(**inputs)[1])
    assert torch.equal(fast(**inputs)[1], plain)
    assert len(fast.report.graphs) == 2


def test_inference_mode(bert: nn.Module) -> None:
    fast, inputs = optimized(bert, verify="off"), tokens(2, 8)
    with torch.inference_mode():
        assert torch.allclose(fast(**inputs)[0], bert(**inputs)[0], rtol=0, atol=1e-6)
    assert torch.allclose(fast(**inputs)[0], bert(**inputs)[0], rtol=0, atol=1e-6)


def test_non_contiguous_inputs(bert: nn.Module) -> None:
    fast, ids = optimized(bert, verify="off"), tokens(8, 6)["input_ids"]
    assert torch.allclose(fast(ids.t())[0], bert(ids.t())[0], rtol=0, atol=1e-6)
    expanded = ids[:1, :6].expand(6, 6)
    assert torch.allclose(fast(expanded)[0], bert(expanded)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "kind"), [("gpt2-sdpa", DynamicCache), ("t5-sdpa", EncoderDecoderCache)])
def test_caches_come_back_as_caches(name: str, kind: type) -> None:
    architecture = ZOO[name]
    model = architecture.model()
    inputs = architecture.inputs(2, 8)
    ours, eager = optimized(model)(**inputs), model(**inputs)
    assert type(ours) is type(eager)
    assert type(ours.past_key_values) is kind
    leaves, spec = pytree.tree_flatten(ours)
    eager_leaves, eager_spec = pytree.tree_flatten(eager)
    assert spec == eager_spec
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(leaves, eager_leaves, strict=True))


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
    answers: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: answers.append(fast(X))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(answers) == 8
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
def test_levels_of_verification(verify: str, stages: list[str], bert: nn.Module) -> None:
    fast = optimized(bert, kwargs=tokens(2, 8), verify=verify)
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


def test_a_wrong_pass_is_rolled_back_alone(bert: nn.Module) -> None:
    inputs = tokens(2, 8)
    pipeline = txgraph.default_pipeline().insert_before("fuse-shared-input-linears", ForgetTheMask())
    fast = optimized(bert, kwargs=inputs, passes=pipeline)
    statuses = {p["name"]: p for p in fast.report.to_dict()["passes"]}
    assert statuses["forget-the-mask"]["status"] == "rolled back"
    assert "G2 output" in statuses["forget-the-mask"]["reason"]
    assert " > " in statuses["forget-the-mask"]["reason"]  # both numbers
    assert statuses["fuse-shared-input-linears"]["status"] == "applied"
    assert torch.allclose(fast(**inputs)[0], bert(**inputs)[0], rtol=0, atol=1e-6)
    unchecked = optimized(bert, kwargs=inputs, passes=pipeline, verify="off")
    assert not torch.allclose(unchecked(**inputs)[0], bert(**inputs)[0], atol=1e-3)


def test_an_empty_pipeline_rewrites_nothing(bert: nn.Module) -> None:
    fast = optimized(bert, kwargs=tokens(2, 8), passes=txgraph.Pipeline(()))
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
