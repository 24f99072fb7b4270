"""Which tiling of a generated linear is the fastest on this machine: they are compiled and timed, in this process.

It is one of its own, as a code generator may crash. It reads the names of folders, see ``codegen.py``.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from txgraph.backends.calls.fastest import fastest
from txgraph.backends.tvm.codegen import JOB, library_of, serve
from txgraph.backends.tvm.library import load_functions
from txgraph.backends.tvm.tiling import Problem, tilings

CHOSEN = "chosen.json"  # the numbers of a tiling
SECONDS = 0.2  # for each problem
OTHER = 1 << 21  # numbers that are read before each run: the weight comes from memory, as in a model


def search(folder: Path) -> None:
    """Time all tilings of a problem, and write down which is the fastest."""
    job = json.loads((folder / JOB).read_text())
    torch.set_num_threads(job["threads"])
    problem = Problem(**job["problem"])
    from txgraph.backends.tvm.gemm import linear_function  # imports tvm

    several = {str(tiling): tiling for tiling in tilings(problem)}
    sizes = [problem.m, problem.k]
    code = {
        name: linear_function(name, [], sizes, problem.n, problem.columns, False, "", t) for name, t in several.items()
    }
    x, y, other = (torch.randn(size) for size in ((problem.m, problem.k), (problem.m, problem.n), (OTHER,)))
    weight = torch.randn((problem.k, problem.n) if problem.columns else (problem.n, problem.k))
    functions = load_functions(library_of(code), list(code))
    ways = {name: (lambda run=run: run(x, weight, y)) for name, run in functions.items()}
    chosen, _ = fastest(ways, SECONDS, problem.about if job["remembers"] else "", lambda: (other.sum(), x.sum()))
    (folder / CHOSEN).write_text(json.dumps(several[chosen].numbers))


if __name__ == "__main__":
    serve(search)
