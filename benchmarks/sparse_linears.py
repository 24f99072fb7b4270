"""Linears of weights that are mostly zeros, beside the fastest dense one: ``python -m benchmarks.sparse_linears``.

For each shape, pattern and share of numbers that are not zero, all take turns: torch's linear, oneDNN's, our dense
kernel, our sparse kernel with lists for one row and for four (by 1, by 4), and torch's own products of sparse layouts
(CSR, and BSR where there are blocks), which want the input transposed.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F

from txgraph.backends.calls.onednn import onednn_linear
from txgraph.backends.calls.sparse import Zeros
from txgraph.backends.kernels.linear import linears_native
from txgraph.backends.kernels.sparse_linear import GROUPS, WIDEST, pack, sparse_linears_native
from txgraph.cost import best_seconds

SHAPES = ((768, 768), (768, 3072), (3072, 768))  # K, N
ROWS = (1, 32, 128, 512)
SHARES = (0.5, 0.3, 0.2, 0.1, 0.05)
PATTERNS = ((1, 1), (4, 1), (16, 1), (16, 16), (32, 32))  # rows and columns of a block
DENSE, SPARSE = ("aten", "oneDNN", "txgraph"), ("by 1", "by 4", "CSR", "BSR")


def weight(n: int, k: int, share: float, rows: int, columns: int) -> torch.Tensor:
    """Normal numbers in blocks that are there, each with this probability, or zeros."""
    kept = (torch.rand(n // rows, k // columns) < share).float()
    return torch.randn(n, k) * kept.repeat_interleave(rows, 0).repeat_interleave(columns, 1)


def ways(x: torch.Tensor, w: torch.Tensor, block: tuple[int, int]) -> Iterator[tuple[str, Callable[[], object]]]:
    """All that can compute ``x @ w.T``, by name."""
    onednn, zeros = onednn_linear(), Zeros.of([w])
    columns = WIDEST if zeros is None else zeros.block
    yield "aten", lambda: F.linear(x, w)
    if onednn is not None:
        yield "oneDNN", lambda: onednn(x, w, None, "none", [], "")
    yield "txgraph", lambda: linears_native(x, [w], [None], "")
    for group in GROUPS:
        held = pack(w, group, columns)
        yield f"by {group}", lambda held=held: sparse_linears_native(x, [held], [None], "", [len(w)], columns)
    compressed = w.to_sparse_csr()
    yield "CSR", lambda: compressed @ x.t()
    if block[0] == block[1] > 1:
        blocks = w.to_sparse_bsr(block)
        yield "BSR", lambda: blocks @ x.t()


def measured(m: int, w: torch.Tensor, block: tuple[int, int], seconds: float) -> list[str]:
    """The fastest dense way in microseconds, and how many times as fast each of the others is."""
    x = torch.randn(m, w.shape[1])
    other = torch.randn(1 << 21)  # is read before each run: the weight comes from memory, as in a model
    each = dict(ways(x, w, block))
    with torch.no_grad():
        times = best_seconds(*each.values(), seconds=seconds, before=lambda: (other.sum(), x.sum()), rounds=5)
    found = dict(zip(each, times, strict=True))
    dense = min(found[way] for way in DENSE if way in found)
    return [f"{dense * 1e6:.0f}", *(f"{dense / found[way]:.2f}x" if way in found else "" for way in SPARSE)]


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
    heads = ["M", "K", "N", "blocks", "not zero", "dense µs", *SPARSE]
    print("|", " | ".join(heads), "|\n|" + "---|" * len(heads))
    for (k, n), m, block in itertools.product([SHAPES[at] for at in given.shapes], given.rows, PATTERNS):
        for share in given.shares:
            row = [f"{m}", f"{k}", f"{n}", f"{block[0]}x{block[1]}", f"{share:.0%}"]
            print(
                "|", " | ".join(row + measured(m, weight(n, k, share, *block), block, given.seconds)), "|", flush=True
            )


if __name__ == "__main__":
    main()
