"""Attention as people write it by hand: each form is found, static and dynamic, and the numbers stay."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import txgraph
from txgraph.ir import arguments, op_name
from txgraph.verify import check_gates, reference

B, H, S, D = 2, 4, 24, 8
E = H * D
INF = math.inf
Tensor = torch.Tensor


class Attention(nn.Module):
    """The linears, and what the forms below share."""

    tril: Tensor

    def __init__(self, form: Callable[[Attention, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v, self.o = (nn.Linear(E, E) for _ in range(4))
        self.register_buffer("tril", torch.tril(torch.ones(64, 64)))
        self.form = form
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self, x)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, H, D).transpose(1, 2)

    def qkv(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))

    def flat(self, x: Tensor) -> list[Tensor]:
        return [t.reshape(-1, t.shape[2], D) for t in self.qkv(x)]

    def out(self, y: Tensor) -> Tensor:
        return self.o(y.transpose(1, 2).reshape(y.shape[0], -1, E))


Form = Callable[[Attention, Tensor], Tensor]
FOUND: dict[str, tuple[Form, bool]] = {}
KEPT: dict[str, tuple[Form, str]] = {}


def found(form: Form) -> Form:
    FOUND[form.__name__] = (form, False)
    return form


def found_causal(form: Form) -> Form:
    FOUND[form.__name__] = (form, True)
    return form


def kept(reason: str) -> Callable[[Form], Form]:
    def register(form: Form) -> Form:
        KEPT[form.__name__] = (form, reason)
        return form

    return register


@found
def plain(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    return self.out((q @ k.transpose(-2, -1) / math.sqrt(D)).softmax(-1) @ v)


@found
def scale_on_q(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    return self.out(((q / math.sqrt(D)) @ k.transpose(-2, -1)).softmax(-1) @ v)


@found
def scale_on_both(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    return self.out(((q * D**-0.25) @ (k * D**-0.25).transpose(-2, -1)).softmax(-1) @ v)


@found_causal
def gpt_tril(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    T = x.shape[1]
    a = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(D))
    a = a.masked_fill(self.tril[:T, :T] == 0, -INF)
    return self.out(F.softmax(a, dim=-1) @ v)


@found_causal
def tril_min(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    T = x.shape[1]
    a = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(D))
    m = torch.tril(torch.ones(T, T, dtype=torch.bool))
    a = torch.where(m, a, torch.finfo(a.dtype).min)
    return self.out(F.softmax(a, dim=-1) @ v)


@found_causal
def triu_full(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    T = x.shape[1]
    m = torch.triu(torch.full((T, T), -INF), diagonal=1)
    return self.out(((q @ k.transpose(-2, -1)) / math.sqrt(D) + m).softmax(-1) @ v)


@found
def mask_before_scale(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    T = x.shape[1]
    m = torch.triu(torch.full((T, T), -1e4), diagonal=1)
    return self.out((((q @ k.transpose(-2, -1)) + m) / math.sqrt(D)).softmax(-1) @ v)


@found_causal
def arange_causal(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    T = x.shape[1]
    i = torch.arange(T)
    m = i[:, None] >= i[None, :]
    return self.out(((q @ k.transpose(-2, -1)) / math.sqrt(D)).masked_fill(~m, -INF).softmax(-1) @ v)


@found
def einsum_bhid(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    a = torch.einsum("bhid,bhjd->bhij", q, k) / math.sqrt(D)
    return self.out(torch.einsum("bhij,bhjd->bhid", a.softmax(-1), v))


@found
def einsum_bqhd(self: Attention, x: Tensor) -> Tensor:
    q, k, v = (f(x).view(x.shape[0], -1, H, D) for f in (self.q, self.k, self.v))
    a = torch.einsum("bqhd,bkhd->bhqk", q, k) * D**-0.5
    return self.o(torch.einsum("bhqk,bkhd->bqhd", a.softmax(-1), v).reshape(x.shape[0], -1, E))


@found
def bmm_flat(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.flat(x)
    a = torch.bmm(q, k.transpose(1, 2)) / math.sqrt(D)
    y = torch.bmm(a.softmax(-1), v)
    return self.out(y.view(x.shape[0], H, -1, D))


@found_causal
def bmm_flat_mask4d(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.flat(x)
    T = x.shape[1]
    a = torch.bmm(q, k.transpose(1, 2)) / math.sqrt(D)
    m = torch.triu(torch.full((T, T), torch.finfo(torch.float32).min), diagonal=1)[None, None]
    a = (a.view(x.shape[0], H, T, T) + m).view(-1, T, T)
    y = torch.bmm(a.softmax(-1), v)
    return self.out(y.view(x.shape[0], H, -1, D))


@found
def baddbmm_alibi(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.flat(x)
    T = x.shape[1]
    slopes = torch.tensor([2.0 ** -(i + 1) for i in range(H)])
    alibi = (slopes[:, None, None] * torch.arange(T)[None, None, :]).repeat(x.shape[0], 1, 1)
    a = torch.baddbmm(alibi, q, k.transpose(1, 2), beta=1.0, alpha=1 / math.sqrt(D)).view(x.shape[0], H, T, T)
    m = torch.triu(torch.full((T, T), torch.finfo(torch.float32).min), diagonal=1)[None, None]
    y = torch.bmm((a + m).softmax(-1).view(-1, T, T), v)
    return self.out(y.view(x.shape[0], H, -1, D))


@found
def loop_heads(self: Attention, x: Tensor) -> Tensor:
    q, k, v = (f(x) for f in (self.q, self.k, self.v))
    ys = []
    for h in range(H):
        a, b, c = (t[:, :, h * D : (h + 1) * D] for t in (q, k, v))
        ys.append((a @ b.transpose(1, 2) / math.sqrt(D)).softmax(-1) @ c)
    return self.o(torch.cat(ys, -1))


@found
def chunk_heads(self: Attention, x: Tensor) -> Tensor:
    q, k, v = (f(x).chunk(H, -1) for f in (self.q, self.k, self.v))
    return self.o(
        torch.cat([(a @ b.transpose(1, 2) / math.sqrt(D)).softmax(-1) @ c for a, b, c in zip(q, k, v, strict=True)], -1)
    )


@found
def sliding(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    T = x.shape[1]
    i = torch.arange(T)
    m = (i[:, None] >= i[None, :]) & (i[:, None] - i[None, :] < 3)
    return self.out(((q @ k.transpose(-2, -1)) / math.sqrt(D)).masked_fill(~m, -INF).softmax(-1) @ v)


@found
def softcap(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    a = (q @ k.transpose(-2, -1)) * D**-0.5
    return self.out((50 * torch.tanh(a / 50)).softmax(-1) @ v)


@found
def gqa_repeat_interleave(self: Attention, x: Tensor) -> Tensor:
    q = self.heads(self.q(x))
    k, v = (self.heads(f(x))[:, :2].repeat_interleave(2, dim=1) for f in (self.k, self.v))
    return self.out(((q @ k.transpose(-2, -1)) / math.sqrt(D)).softmax(-1) @ v)


@found
def gqa_expand(self: Attention, x: Tensor) -> Tensor:
    q = self.heads(self.q(x))
    k, v = (
        self.heads(f(x))[:, :2, None].expand(-1, 2, 2, -1, D).reshape(x.shape[0], H, -1, D) for f in (self.k, self.v)
    )
    return self.out(((q @ k.transpose(-2, -1)) / math.sqrt(D)).softmax(-1) @ v)


@found
def safe_softmax(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    a = (q @ k.transpose(-2, -1)) * D**-0.5
    e = (a - a.amax(-1, keepdim=True)).exp()
    return self.out((e / e.sum(-1, keepdim=True)) @ v)


@found
def safe_softmax_max(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    a = (q @ k.transpose(-2, -1)) * D**-0.5
    e = torch.exp(a - a.max(dim=-1, keepdim=True)[0])
    return self.out((e / e.sum(dim=-1, keepdim=True)) @ v)


@found
def fp32_softmax(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    a = (q @ k.transpose(-2, -1)) * D**-0.5
    return self.out(F.softmax(a, dim=-1, dtype=torch.float32).to(q.dtype) @ v)


@found
def t5_bias(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    T = x.shape[1]
    bias = (torch.arange(T)[None, :] - torch.arange(T)[:, None]).clamp(-2, 2).float()[None, None] * self.q.bias[
        :H
    ].view(1, H, 1, 1)
    return self.out(((q @ k.transpose(-2, -1)) + bias).softmax(-1) @ v)


@found
def qkv_packed(self: Attention, x: Tensor) -> Tensor:
    q, k, v = (
        torch.cat([self.q(x), self.k(x), self.v(x)], -1).view(x.shape[0], -1, 3, H, D).permute(2, 0, 3, 1, 4).unbind(0)
    )
    a = (q @ k.transpose(-2, -1)) * D**-0.5
    return self.out(a.softmax(-1) @ v)


@found
def key_permuted(self: Attention, x: Tensor) -> Tensor:
    q, v = self.heads(self.q(x)), self.heads(self.v(x))
    k = self.k(x).view(x.shape[0], -1, H, D).permute(0, 2, 3, 1)
    return self.out((torch.matmul(q, k) / math.sqrt(D)).softmax(-1) @ v)


@kept("found %div")
def wrong_softmax(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    a = (q @ k.transpose(-2, -1)) * D**-0.5
    return self.out((a.exp() / a.exp().sum(-1, keepdim=True)) @ v)


@kept("expected matmul, found %sub")
def mult_mask(self: Attention, x: Tensor) -> Tensor:
    q, k, v = self.qkv(x)
    T = x.shape[1]
    b = self.tril[:T, :T].view(1, 1, T, T)
    w = (q @ k.transpose(-2, -1)) / math.sqrt(D)
    w = w * b - 1e10 * (1 - b)
    return self.out(w.softmax(-1) @ v)


ATTENTIONS = ("scaled_dot_product_attention", "txgraph::softcap_attention", "txgraph::window_attention")
DYNAMIC = ({0: Dim("b", min=2), 1: Dim("s", min=2, max=60)},)


def optimized(form: Form, dynamic: bool) -> txgraph.OptimizedModel:
    x = torch.randn(B, S, E, generator=torch.Generator().manual_seed(1))
    return txgraph.optimize(
        Attention(form), args=(x,), backend="reference", verify="off", dynamic_shapes=DYNAMIC if dynamic else None
    )


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", FOUND)
def test_found(name: str, dynamic: bool) -> None:
    form, causal = FOUND[name]
    fast = optimized(form, dynamic)
    attentions = [n for n in fast.graph_after.calls() if op_name(n) in ATTENTIONS]
    assert [arguments(n).get("is_causal", False) for n in attentions] == [causal]
    assert not {"softmax", "matmul", "bmm", "einsum"} & fast.graph_after.count().keys()
    for shape in ((B, S), (3, 7), (5, 33)) if dynamic else ((B, S),):
        x = torch.randn(*shape, E)
        truth = reference(Attention(form), (x,), {})
        failed = [str(gate) for gate in check_gates([fast(x)], truth.eager, truth.oracle) if not gate.passed]
        assert not failed, failed


@pytest.mark.parametrize("name", KEPT)
def test_kept_with_a_reason(name: str) -> None:
    form, reason = KEPT[name]
    explanation = optimized(form, dynamic=False).explain("fuse-attention")
    assert explanation.rewrites == ()
    assert reason in explanation.near_misses[0].reason
    assert explanation.near_misses[0].location.startswith("test_attention_variants.py:")
