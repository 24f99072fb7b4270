"""Linears of weights that are mostly zeros, beside the fastest dense one: ``python -m benchmarks.sparse_linears``.

For each shape, pattern and share of numbers that are not zero, all take turns: torch's linear, oneDNN's, our dense
kernel, our sparse kernel with lists for one row and for four, and torch's own products of sparse layouts (CSR, and BSR
where there are blocks), which want the input transposed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F

from txgraph.backends.calls.onednn import onednn_linear
from txgraph.backends.kernels.linear import linears_native
from txgraph.backends.kernels.sparse_linear import GROUPS, WIDEST, pack, sparse_linears_native
from txgraph.cost import best_seconds

SHAPES = ((768, 768), (768, 3072), (3072, 768))  # K, N
ROWS = (1, 32, 128, 512)
SHARES = (0.5, 0.3, 0.2, 0.1, 0.05)
PATTERNS = ((1, 1), (4, 1), (16, 1), (16, 16), (32, 32))  # rows and columns of a block
DENSE = ("aten", "oneDNN", "txgraph")


def weight(n: int, k: int, share: float, rows: int, columns: int) -> torch.Tensor:
    """Normal numbers in blocks that are there, each with this probability, or zeros."""
    kept = (torch.rand(n // rows, k // columns) < share).float()
    return torch.randn(n, k) * kept.repeat_interleave(rows, 0).repeat_interleave(columns, 1)


def ways(
    x: torch.Tensor, w: torch.Tensor, share: float, block: tuple[int, int]
) -> Iterator[tuple[str, Callable[[], object]]]:
    """All that can compute ``x @ w.T``, by name."""
    onednn = onednn_linear()
    yield "aten", lambda: F.linear(x, w)
    if onednn is not None:
        yield "oneDNN", lambda: onednn(x, w, None, "none", [], "")
    yield "txgraph", lambda: linears_native(x, [w], [None], "")
    columns = WIDEST // 2 if share > 0.25 else WIDEST
    for group in GROUPS:
        held = pack(w, group, columns)
        yield (
            f"sparse, lists of {group}",
            lambda held=held: sparse_linears_native(x, [held], [None], "", [len(w)], columns),
        )
    compressed = w.to_sparse_csr()
    yield "torch CSR", lambda: compressed @ x.t()
    if block[0] == block[1] > 1:
        blocks = w.to_sparse_bsr(block)
        yield "torch BSR", lambda: blocks @ x.t()


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each row of the table")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="tokens")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of numbers that are not zero")
    parser.add_argument("--shapes", type=int, nargs="+", default=range(len(SHAPES)), help="which of the shapes")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    other = torch.randn(1 << 21)  # is read before each run: the weight comes from memory, as in a model
    print(
        "| M | K | N | blocks | not zero | dense µs | by 1 | by 4 | CSR | BSR |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for k, n in (SHAPES[at] for at in given.shapes):
        for m in given.rows:
            x = torch.randn(m, k)
            for block in PATTERNS:
                for share in given.shares:
                    each = dict(ways(x, weight(n, k, share, *block), share, block))
                    with torch.no_grad():
                        times = best_seconds(
                            *each.values(), seconds=given.seconds, before=lambda: (other.sum(), x.sum()), rounds=5
                        )
                    seconds = dict(zip(each, times, strict=True))
                    dense = min(seconds[way] for way in DENSE if way in seconds)
                    ratios = [
                        f"{dense / seconds[way]:.2f}x" if way in seconds else ""
                        for way in (*(f"sparse, lists of {g}" for g in GROUPS), "torch CSR", "torch BSR")
                    ]
                    print(
                        f"| {m} | {k} | {n} | {block[0]}x{block[1]} | {share:.0%} | {dense * 1e6:.0f} | {' | '.join(ratios)} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
