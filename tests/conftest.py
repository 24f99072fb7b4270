"""Tests that run beside one another share the cores, and no cache."""

from __future__ import annotations

import os

import pytest
import torch

os.environ["TXGRAPH_CACHE"] = "0"  # what a test compiles is not what another one finds


def pytest_configure(config: pytest.Config) -> None:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        threads = max(1, torch.get_num_threads() // workers)
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # of the processes that tests start
