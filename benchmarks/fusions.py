"""Fusions that are left to the backend, and those that are not: ``python -m benchmarks.fusions``.

Each row is a piece of a Transformer, compiled by the Inductor backend without any pass of ours. *Kernels* are the loops
that it generates; *bound* is the time to read the piece's inputs and to write its outputs once, at the bandwidth of a
large copy on this machine. Where there is another way to write the piece, such as a joint product, it is measured, too.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import nn

import txgraph
from benchmarks.table import wide_console
from txgraph.bench.hardware import describe_hardware, versions
from txgraph.cost import best_seconds, calibrate

Tensor = torch.Tensor
B, S, H, D, E = 8, 128, 12, 64, 768


@dataclass(frozen=True)
class Piece:
    """A piece of a model as models write it, its inputs, and another way to write it."""

    name: str
    function: Callable[..., Any]
    inputs: Sequence[Tensor]
    other: Callable[..., Any] | None = None
    other_name: str = ""


class Wrapped(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def rms_norm(x: Tensor, w: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * w


def capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = torch.tanh(q @ k.transpose(-2, -1) * (0.1 / 50)) * 50
    return (scores + mask).softmax(-1) @ v


def capped_as_one(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return torch.ops.txgraph.softcap_attention(q, k, v, mask, 0.1, 50.0)


def repeated_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1)


def heads_as_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q.reshape(*k.shape[:2], -1, q.shape[-1]), k, v).reshape(q.shape)


def shared_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def pieces() -> list[Piece]:
    torch.manual_seed(0)
    x, y, w, b = torch.randn(B, S, E), torch.randn(B, S, E), torch.randn(E), torch.randn(E)
    q, k = torch.randn(B, H, S, D), torch.randn(B, H, S, D)
    cos, sin, head = torch.randn(S, D), torch.randn(S, D), torch.randn(D)
    ids, words, places = torch.randint(1000, (B, S)), torch.randn(1000, E), torch.randn(S, E)
    wide = torch.randn(B, S, 4 * E), torch.randn(B, S, 4 * E)
    tokens, weights = torch.randn(3, S, E), torch.randn(3, E, E)
    joint = weights.transpose(1, 2).contiguous()
    found = [
        Piece("residual + LayerNorm", lambda x, y, w, b: F.layer_norm(x + y, [E], w, b), (x, y, w, b)),
        Piece("bias + residual + RMSNorm", lambda x, y, b, w: rms_norm(x + b + y, w), (x, y, b, w)),
        Piece(
            "embeddings + LayerNorm",
            lambda i, t, p, w, b: F.layer_norm(t[i] + p, [E], w, b),
            (ids, words, places, w, b),
        ),
        Piece("RoPE of query and key", lambda q, k, c, s: (rotate(q, c, s), rotate(k, c, s)), (q, k, cos, sin)),
        Piece(
            "QK-norm + RoPE",
            lambda q, k, c, s, w: (rotate(rms_norm(q, w), c, s), rotate(rms_norm(k, w), c, s)),
            (q, k, cos, sin, head),
        ),
        Piece("SwiGLU gate", lambda g, u: F.silu(g) * u, wide),
        Piece("GEGLU gate", lambda g, u: F.gelu(g) * u, wide),
        Piece(
            "LayerNorm + linear",
            lambda x, w, b: F.linear(F.layer_norm(x, [E], w, b), weights[0]),
            (x, w, b),
            lambda x, w, b: F.linear(F.layer_norm(x, [E]), weights[0]),
            "without the affine part",
        ),
        Piece(
            "3 linears of 3 values",
            lambda *xs: tuple(F.linear(x, w) for x, w in zip(xs, weights, strict=True)),
            tokens.unbind(),
            lambda *xs: torch.stack(xs) @ joint,
            "one batched product",
        ),
    ]
    experts = torch.randn(8, 1024, 512)
    found += [
        Piece(
            f"8 experts, {rows} rows",
            lambda x, e: (experts[e] @ x.unsqueeze(-1)).squeeze(-1),
            (torch.randn(rows, 512), torch.randint(8, (rows,))),
            lambda x, e: torch.ops.txgraph.expert_linear(x, experts, e),
            "a product for each expert",
        )
        for rows in (16, 64, 256)
    ]
    for dtype, queries, keys, otherwise, title in (
        (torch.float32, 1, 1024, heads_as_rows, "heads as rows"),
        (torch.bfloat16, 1, 1024, heads_as_rows, "heads as rows"),
        (torch.float32, 512, 512, shared_heads, "shared keys"),
    ):
        q, (k, v) = torch.randn(1, 32, queries, D, dtype=dtype), torch.randn(2, 1, 8, keys, D, dtype=dtype)
        name = f"32 heads over 8, {queries} x {keys} {str(dtype).removeprefix('torch.')}"
        found.append(Piece(name, repeated_heads, (q, k, v), otherwise, title))
    for length in (128, 512, 1024, 2048):
        q, k, v = torch.randn(3, 1, 8, length, D).unbind()
        mask = torch.zeros(length, length).masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
        found.append(
            Piece(f"capped attention, {length} tokens", capped, (q, k, v, mask), capped_as_one, "FlexAttention")
        )
    return found


def measure(seconds: float) -> dict[str, Any]:
    """Best times in microseconds; all ways to compute a piece take turns."""
    bandwidth = calibrate().bandwidth
    rows = []
    with torch.no_grad():
        for piece in pieces():
            compiled = [_compiled(f, piece.inputs) for f in (piece.function, piece.other) if f is not None]
            eager = piece.function(*piece.inputs)
            runs = [partial(f, *piece.inputs) for f in (piece.function, *compiled)]
            times = [1e6 * t for t in best_seconds(*runs, seconds=seconds)]
            results = eager if isinstance(eager, tuple) else (eager,)
            moved = sum(t.nbytes for t in (*piece.inputs, *results))
            rows.append(
                {
                    "piece": piece.name,
                    "eager_us": times[0],
                    "backend_us": times[1],
                    "kernels": len(re.findall(r"^\s+(?:cpp_fused|kernel)\w*\(", compiled[0].code(), re.MULTILINE)),
                    "bound_us": 1e6 * moved / bandwidth,
                    "other": piece.other_name,
                    "other_us": times[2] if piece.other else None,
                }
            )
    return {
        "hardware": describe_hardware(),
        "versions": versions(),
        "settings": {"seconds": seconds, "threads": torch.get_num_threads(), "bandwidth": bandwidth},
        "rows": rows,
    }


def _compiled(function: Callable[..., Any], inputs: Sequence[Tensor]) -> txgraph.OptimizedModel:
    return txgraph.optimize(Wrapped(function).eval(), tuple(inputs), passes=txgraph.Pipeline(()))


def main() -> None:
    """The command line; prints a table, then the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of running, for each piece")
    result = measure(parser.parse_args().seconds)
    table = Table("piece", "eager µs", "backend µs", "kernels", "bound µs", "otherwise")
    for row in result["rows"]:
        other = f"{row['other']}: {row['other_us']:.0f} µs" if row["other"] else ""
        times = [f"{row[key]:.0f}" for key in ("eager_us", "backend_us")]
        table.add_row(row["piece"], *times, str(row["kernels"]), f"{row['bound_us']:.0f}", other)
    wide_console().print(table)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
