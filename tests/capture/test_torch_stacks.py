"""Encoders of torch that leave padding out in eager: the captured graph gives the same zeros."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import txgraph
from tests.helpers import normal
from tests.padded import OPTIONS, assert_close, is_packed, leaves, optimized
from txgraph.capture.torch_stacks import without_branches_on_values
from txgraph.ir import arguments

LENGTHS = torch.tensor([6, 4, 1])
RIGHT = torch.arange(6) >= LENGTHS[:, None]  # true: padding
MASKS = {
    "behind the tokens": RIGHT,
    "shorter than the input": torch.arange(6) >= torch.tensor([4, 2, 3])[:, None],
    "a row of nothing else": torch.arange(6) >= torch.tensor([6, 0, 3])[:, None],
    "before the tokens": RIGHT.flip(1),
    "holes": torch.tensor([[0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1]]).bool(),
    "none": torch.zeros(3, 6, dtype=torch.bool),
    "numbers": torch.zeros(3, 6).masked_fill(RIGHT, -torch.inf),
    "a small bias": torch.zeros(3, 6).masked_fill(RIGHT, -0.5),  # eager leaves these out, too
}
X = normal(3, 6, 16)


def encoder(norm: bool = True, check: bool = True, nested: bool = True, **layer: Any) -> nn.TransformerEncoder:
    """Two layers of torch's encoder."""
    torch.manual_seed(0)
    one = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, **layer)
    return nn.TransformerEncoder(one, 2, nn.LayerNorm(16) if norm else None, nested, check).eval()


def assert_as_eager(model: nn.Module, *args: Any, **kwargs: Any) -> txgraph.OptimizedModel:
    """Optimized, it gives what eager gives without gradients, and the references of its check agree."""
    fast = txgraph.optimize(model, args=args, kwargs=kwargs, backend="reference", options=OPTIONS)
    with torch.no_grad():
        assert_close(fast(*args, **kwargs), model(*args, **kwargs))
    assert not [note for note in fast.report.notes if "disagree" in note]
    return fast


@pytest.mark.parametrize("norm", [True, False], ids=["norm", "no norm"])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_masks(mask: torch.Tensor, norm: bool) -> None:
    model = encoder(norm)
    held = dict(vars(model))
    assert_as_eager(model, X, src_key_padding_mask=mask)
    assert vars(model) == held


@contextlib.contextmanager
def without_fast_path() -> Any:
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


DENSE: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], Callable[[], Any]]] = {
    "another mask": (encoder, {"mask": torch.ones(6, 6).tril().log()}, contextlib.nullcontext),
    "norm first": (lambda: encoder(norm_first=True), {}, contextlib.nullcontext),
    "no bias": (lambda: encoder(norm=False, bias=False), {}, contextlib.nullcontext),
    "not wanted": (lambda: encoder(nested=False), {}, contextlib.nullcontext),
    "no fast path": (encoder, {}, without_fast_path),
}


@pytest.mark.parametrize(("make", "more", "mode"), DENSE.values(), ids=DENSE)
def test_where_eager_computes_padding(
    make: Callable[[], nn.Module], more: dict[str, Any], mode: Callable[[], Any]
) -> None:
    """There are values at padding, and they are eager's."""
    model = make()
    mask = torch.zeros(3, 6).masked_fill(RIGHT, -torch.inf) if more else RIGHT
    with mode():
        fast = assert_as_eager(model, X, src_key_padding_mask=mask, **more)
        assert fast(X, src_key_padding_mask=mask, **more)[RIGHT].std(-1).min() > 0.1
    assert "txgraph::is_left_aligned" not in fast.graph_before.count()


def test_autocast() -> None:
    """That of GPUs keeps eager from nested tensors, on whatever device."""
    model = encoder()
    torch.set_autocast_enabled("cuda", True)
    try:
        with torch.no_grad(), without_branches_on_values(model):
            hidden = model(X, src_key_padding_mask=RIGHT)
        with torch.no_grad():
            torch.testing.assert_close(hidden, model(X, src_key_padding_mask=RIGHT))
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert hidden[RIGHT].std(-1).min() > 0.1


def test_training() -> None:
    """Layers in training mode compute padding."""
    model = encoder(dropout=0.0)
    model.layers.train()
    fast = assert_as_eager(model, X, src_key_padding_mask=RIGHT)
    assert "txgraph::is_left_aligned" not in fast.graph_before.count()


def test_one_sequence_without_a_batch() -> None:
    assert_as_eager(encoder(), X[0])
    model = encoder()
    with torch.no_grad(), without_branches_on_values(model):  # torch takes such a mask of one sequence
        hidden = model(X[0], src_key_padding_mask=RIGHT[1])
    with torch.no_grad():
        torch.testing.assert_close(hidden, model(X[0], src_key_padding_mask=RIGHT[1]))


def test_an_unchecked_mask() -> None:
    """``mask_check=False`` is its author's word that tokens come first; where that is wrong the references disagree."""
    assert_as_eager(encoder(check=False), X, src_key_padding_mask=RIGHT)
    inputs = {"src": X, "src_key_padding_mask": MASKS["holes"]}
    fast = txgraph.optimize(encoder(check=False), kwargs=inputs, backend="reference", options=OPTIONS)
    assert any(note.startswith("eager and float64 disagree on output 0 by ") for note in fast.report.notes)


def test_a_decoder_reads_the_zeros() -> None:
    """Of torch's whole model: without a mask of its own, the decoder attends to what the encoder gives at padding."""
    torch.manual_seed(0)
    model = nn.Transformer(16, 2, 2, 2, 32, batch_first=True).eval()
    assert_as_eager(model, X, normal(3, 4, 16), src_key_padding_mask=RIGHT)


def test_an_encoder_with_a_forward_of_its_own() -> None:
    """It is captured as it is written."""

    class Twice(nn.TransformerEncoder):
        def forward(self, src: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # what users do
            return 2 * super().forward(src)

    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    assert_as_eager(Twice(layer, 1).eval(), X)


def test_packed_where_padding_is_left_out() -> None:
    """Outputs stay eager's at padding, and nothing is computed there; another graph answers other masks."""
    model = encoder()
    fast = optimized(model, src=X, src_key_padding_mask=RIGHT)
    assert is_packed(fast)
    for name in ("shorter than the input", "behind the tokens", "holes", "before the tokens", "none"):
        inputs = {"src": X, "src_key_padding_mask": MASKS[name]}
        with torch.no_grad():
            assert_close(fast(**inputs), model(**inputs))
        assert len(fast.report.graphs) == (1 if name in ("shorter than the input", "behind the tokens") else 2)
    assert not is_packed(fast)


def test_not_packed_for_a_mask_with_holes() -> None:
    fast = optimized(encoder(), src=X, src_key_padding_mask=MASKS["holes"])
    assert not is_packed(fast)
    assert "a row has padding before a token" in str(fast.explain("remove-padding"))


def test_compiled() -> None:
    """By Inductor, both graphs."""
    model = encoder()
    inputs = {"src": X, "src_key_padding_mask": RIGHT}
    fast = txgraph.optimize(model, kwargs=inputs, options=OPTIONS)
    for name in ("behind the tokens", "holes", "a row of nothing else"):
        inputs["src_key_padding_mask"] = MASKS[name]
        with torch.no_grad():
            (ours,), (theirs,) = leaves(fast(**inputs)), leaves(model(**inputs))
        assert_close(ours, theirs)


CAUSAL = nn.Transformer.generate_square_subsequent_mask(6)
WINDOW = CAUSAL + torch.full((6, 6), -torch.inf).tril(-3)


@pytest.mark.parametrize("said", [None, True, False], ids=["to be seen", "causal", "not said"])
@pytest.mark.parametrize("mask", [CAUSAL, CAUSAL.isinf(), WINDOW], ids=["causal", "boolean", "window"])
def test_masks_of_encoders(mask: torch.Tensor, said: bool | None) -> None:
    """Eager looks at the values of a mask, unless it is told whether that is the causal one."""
    is_wrong = mask is WINDOW and said is True  # a hint that torch may heed
    if not is_wrong:
        assert_as_eager(encoder(), X, mask=mask, is_causal=said)


def test_a_language_model_that_makes_its_mask() -> None:
    """As tutorials of torch have it; the mask is seen to be causal."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = encoder()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x, nn.Transformer.generate_square_subsequent_mask(x.shape[1]))

    fast = assert_as_eager(Model().eval(), X)
    (node, *_) = [n for n in fast.graph_after.calls() if "scaled_dot_product" in str(n.target)]
    assert arguments(node)["is_causal"]


@pytest.mark.parametrize("mask", [CAUSAL[:4, :4], WINDOW[:4, :4]], ids=["causal", "window"])
def test_masks_of_decoders(mask: torch.Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Transformer(16, 2, 2, 2, 32, batch_first=True).eval()
    assert_as_eager(model, X, normal(3, 4, 16), tgt_mask=mask, src_mask=WINDOW)
    assert_as_eager(model, X, normal(3, 4, 16), tgt_mask=mask, tgt_is_causal=False)
