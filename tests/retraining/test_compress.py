"""``txgraph.compress``: copies that train, and what optimize makes of them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import txgraph
from tests.helpers import normal
from txgraph.ir.quantized import quantize_rows, quantize_weight, quantize_weight_grouped
from txgraph.passes import Int8, LowRank, WeightOnly
from txgraph.retraining import CompressedLinear, LowRankLinear, Prune

X = normal(3, 5, 64)
CALIBRATION = [(normal(2, 5 + at, 64),) for at in range(4)]


class Block(nn.Module):
    """A feed-forward block with a norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.up, self.down = nn.LayerNorm(64), nn.Linear(64, 96), nn.Linear(96, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


CASES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "int8": ((Int8(),), {}),
    "int8 calibrated": ((Int8(),), {"calibration": CALIBRATION}),
    "8-bit weights": ((WeightOnly(),), {}),
    "4-bit weights": ((WeightOnly(bits=4),), {}),
    "low rank": ((LowRank(rank=16),), {"calibration": CALIBRATION}),
    "elements": ((Prune(0.6),), {"calibration": CALIBRATION}),
    "channels": ((Prune(0.5, structure="channels"),), {"args": (X,)}),
    "low rank in int8": ((LowRank(rank=16), Int8()), {}),
    "pruned in 4 bits": ((Prune(0.5), WeightOnly(bits=4)), {}),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def small(request: pytest.FixtureRequest) -> nn.Module:
    methods, options = request.param
    model = Block().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = txgraph.compress(model, *methods, **options)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items()), "the original changed"
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in made.parameters()}
    assert not made.training
    return made


def train(model: nn.Module, steps: int = 4) -> list[float]:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1)
    wanted, losses = Block()(X).detach() + 0.1 * normal(3, 5, 64), []
    for _ in range(steps):
        loss = F.mse_loss(model(X), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    return losses


def zeros_of(model: nn.Module) -> dict[str, torch.Tensor]:
    parts = {name: part for name, part in model.named_modules() if isinstance(part, CompressedLinear)}
    return {name: part.effective_weight() == 0 for name, part in parts.items() if part.mask is not None}


def test_it_trains_and_keeps_its_zeros(small: nn.Module) -> None:
    zeros, before = zeros_of(small), {name: p.clone() for name, p in small.named_parameters()}
    losses = train(small)
    assert losses[-1] < losses[0]
    assert all(not p.equal(before[name]) for name, p in small.named_parameters()), "a parameter does not train"
    assert all((now | ~zeros[name]).all() for name, now in zeros_of(small).items()), "a zero is gone"


def test_forward_is_the_same_in_train_and_eval(small: nn.Module) -> None:
    with torch.no_grad():
        assert small.train()(X).equal(small.eval()(X))


def test_it_is_copied_pickled_and_loaded(small: nn.Module) -> None:
    expected = small(X)
    other = pickle.loads(pickle.dumps(small))
    assert other(X).equal(expected)
    train(other)
    assert not other(X).equal(expected)
    other.load_state_dict(small.state_dict())
    assert other(X).equal(expected)
    assert copy.deepcopy(small)(X).equal(expected)


def test_optimize_takes_it_without_loss(small: nn.Module) -> None:
    train(small, 2)
    fast = txgraph.optimize(small, args=(X,), backend="reference")
    (report,) = fast.report.graphs
    assert all(record.status in ("applied", "unchanged") for record in report.passes)
    assert not any("fake" in name for name in fast.graph_after.count())
    torch.testing.assert_close(fast(X), small(X).detach(), rtol=1e-5, atol=1e-5)  # float32 sums of 96 products
    layers = [part for part in small.modules() if isinstance(part, CompressedLinear) and part.bits]
    quantized = [n for n in fast.graph_after.count() if "int8_linears" in n or "weight_only" in n]
    assert bool(layers) == bool(quantized)
    inner = [part for part in small.modules() if isinstance(part, LowRankLinear)]
    if inner and not layers:
        assert fast.graph_after.count()["linear"] + fast.graph_after.count().get("txgraph::linear_activation", 0) == 4


def test_int8_is_what_the_operators_define() -> None:
    model = Block()
    layer = txgraph.compress(model, Int8(), calibration=CALIBRATION).up
    values, scales = quantize_rows(X, layer.divisor)
    integers, steps = quantize_weight(model.up.weight * layer.divisor)
    (expected,) = torch.ops.txgraph.int8_linears(values, scales, [integers], [steps], [model.up.bias], "")
    torch.testing.assert_close(layer(X), expected, rtol=1e-5, atol=1e-6)  # sums of 64 in float32, or exact
    assert (layer(X) - model.up(X)).abs().max() > 1e-4, "nothing is rounded"


def test_4_bits_are_what_the_operators_define() -> None:
    model = Block()
    layer = txgraph.compress(model, WeightOnly(bits=4, group=64, modules="up")).up
    pair = quantize_weight_grouped(model.up.weight, 4, 64)
    (expected,) = torch.ops.txgraph.weight_only_linears(X, [pair[0]], [pair[1]], [model.up.bias], "", 4, 64)
    assert layer(X).equal(expected)


def test_a_calibration_makes_low_rank_better() -> None:
    model = Block().eval()
    spread = torch.linspace(-3, 1, 64).exp()
    model.norm.weight.data *= spread
    wanted = model(X)
    plain, aware = (
        txgraph.compress(model, LowRank(rank=16, modules="up"), calibration=calls)(X) for calls in (None, [(X,), (X,)])
    )
    assert (aware - wanted).norm() < 0.9 * (plain - wanted).norm()


def test_methods_are_for_the_modules_they_name() -> None:
    model = txgraph.compress(Block(), LowRank(rank=16, modules="up"), Int8(modules="up"))
    assert isinstance(model.down, nn.Linear)
    assert isinstance(model.up.first, CompressedLinear)
    assert model.up.first.quantizes_rows
    assert model.up.second.quantizes_rows


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(50, 64), nn.Linear(64, 50, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embed(ids))

    model = txgraph.compress(Tied(), Int8())
    assert model.head.weight is model.embed.weight
    assert isinstance(model.head, CompressedLinear)


def test_a_module_used_in_two_places_stays_one() -> None:
    linear = nn.Linear(64, 64)
    model = txgraph.compress(nn.Sequential(linear, nn.ReLU(), linear), Int8())
    assert isinstance(model[0], CompressedLinear)
    assert model[0] is model[2]


def test_a_linear_by_itself() -> None:
    assert isinstance(txgraph.compress(nn.Linear(64, 64), Int8()), CompressedLinear)


def test_torchs_encoder_layer_runs_what_it_trained() -> None:
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 96, dropout=0.0, batch_first=True), 2).eval()
    model = txgraph.compress(layers, Int8())
    assert isinstance(model.layers[0].self_attn.out_proj, nn.Linear)  # its weight is read past it
    padding = torch.tensor([[False] * 5, [False] * 5, [False] * 3 + [True] * 2])
    trained = model(X, src_key_padding_mask=padding)  # with gradients torch takes no fast path
    with torch.no_grad():
        run = model(X, src_key_padding_mask=padding)
    torch.testing.assert_close(run[:2], trained[:2], rtol=1e-4, atol=2e-5)
    with torch.no_grad():
        assert (layers(X) - model(X)).abs().max() > 1e-3


def test_gpt2_with_all_of_it() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=90, n_positions=16, n_embd=64, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=None
    )
    model = GPT2LMHeadModel(config).eval()
    ids = torch.arange(16)[None] * 5 % 90
    kwargs = {"input_ids": ids, "use_cache": False}
    methods = (Prune(0.5, structure="channels"), LowRank(rank=16, modules="*.attn.*"), Int8())
    small = txgraph.compress(model, *methods, kwargs=kwargs)
    assert small.lm_head.weight is small.transformer.wte.weight
    small(**kwargs, labels=ids).loss.backward()
    hidden = small.transformer.h[0].mlp
    assert ((hidden.c_proj.effective_weight() == 0).all(0)).sum() == 128
    assert hidden.c_fc.weight.grad[:, (hidden.c_proj.effective_weight() == 0).all(0)].abs().max() == 0
    fast = txgraph.optimize(small, kwargs=kwargs, backend="reference")
    counts = fast.graph_after.count()
    assert counts["txgraph::int8_linears"] == 7
    assert "linear" not in counts
    torch.testing.assert_close(fast(**kwargs).logits, small(**kwargs).logits.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ((), "needs methods"),
        ((Int8(modules="upp"),), "no linear is like modules='upp': the nearest names are up, down"),
        ((Int8(), WeightOnly()), "up is quantized already"),
        ((Int8(), Prune()), "up is quantized already: give Prune before"),
        ((Prune(), Prune()), "up is pruned already"),
        ((Prune(), LowRank(rank=8)), "up is pruned already, .* give LowRank first"),
        ((WeightOnly(bits=4, group=64, modules="down"),), "down has 96 columns, no multiple of group=64: use another"),
        ((WeightOnly(bits=4, group=128),), "up has 64 columns"),
        ((LowRank(rank=60, modules="up"),), "up: rank 60 of .* saves less .* use a smaller rank"),
        ((Prune(structure="channels"),), "give args=, kwargs= or calibration="),
    ],
)
def test_errors_say_where_and_what_to_do(methods: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        txgraph.compress(Block(), *methods)


def test_what_fits_in_some_places_is_done_there(caplog: pytest.LogCaptureFixture) -> None:
    model = txgraph.compress(Block(), WeightOnly(bits=4, group=64))
    assert isinstance(model.up, CompressedLinear)
    assert isinstance(model.down, nn.Linear)
    assert "down has 96 columns" in caplog.text


def test_weights_in_16_bits() -> None:
    with pytest.raises(ValueError, match=r"up has weights in torch.bfloat16: .*model.float()"):
        txgraph.compress(Block().bfloat16(), Int8())


def test_weights_that_another_library_quantized() -> None:
    class Linear8(nn.Linear):  # as bitsandbytes has it
        def __init__(self) -> None:
            super().__init__(64, 96)
            self.weight = nn.Parameter(torch.zeros(96, 64, dtype=torch.int8), requires_grad=False)

    model = Block()
    model.up = Linear8()
    with pytest.raises(ValueError, match=r"up \(Linear8\) is quantized already: compress the model before that"):
        txgraph.compress(model, Int8())


def test_arguments_of_other_types() -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        txgraph.compress(lambda x: x, Int8())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="optimized already"):
        txgraph.compress(txgraph.optimize(Block().eval(), backend="reference"), Int8())
    with pytest.raises(TypeError, match="has no FuseGelu that trains"):
        txgraph.compress(Block(), txgraph.passes.FuseGelu())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"write args=\(x,\)"):
        txgraph.compress(Block(), Int8(), args=X)  # type: ignore[arg-type]
