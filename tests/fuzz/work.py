"""The outcomes of many models, by several processes."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch

from txgraph.fuzz import Outcome, fuzz


def outcomes(graphs: int, seed: int, backend: str, pairs: bool, shrinks: bool, jobs: int) -> Iterator[Outcome]:
    """The outcomes in the order of their numbers."""
    one = partial(_one, backend=backend, pairs=pairs, shrinks=shrinks)
    numbers = range(seed, seed + graphs)
    if jobs == 1:
        prepare()
        yield from map(one, numbers)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), prepare) as pool:
        yield from pool.map(one, numbers, chunksize=4)


def prepare() -> None:
    """One thread, no log, and a collector that does not look at torch's own objects again and again."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)


def _one(number: int, backend: str, pairs: bool, shrinks: bool) -> Outcome:
    (outcome,) = fuzz(1, number, backend, pairs, shrinks)
    return outcome
