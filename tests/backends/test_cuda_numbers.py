"""The code that is compiled for a GPU computes what eager does: its kernels run in Triton's interpreter, on a CPU.

bfloat16 is left out: the interpreter truncates where a GPU rounds.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.backends.cuda_models import bert, gpt2, llama
from tests.backends.test_cuda import IDS, axes, check_machine_code, compiled, pytestmark
from tests.small import assert_as_eager
from txgraph.backends.inductor import cuda_adapter, lower
from txgraph.backends.inductor.generated import Generated

__all__ = ["pytestmark"]


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is compiled for a GPU runs in Triton's interpreter, instead of refusing."""

    def compile_for(*args: Any) -> Generated:
        made = cuda_adapter.compile_for(*args)
        return replace(made, function=lambda *tensors: run(made.source, tensors, tmp_path))

    monkeypatch.setattr(lower, "compile_for", compile_for)


def run(code: str, tensors: Sequence[torch.Tensor], folder: Path) -> Sequence[torch.Tensor]:
    paths = [folder / name for name in ("code.py", "inputs.pt", "outputs.pt")]
    paths[0].write_text(code)
    torch.save([t.detach() for t in tensors], paths[1])
    done = subprocess.run(
        [sys.executable, "-m", "tests.backends.interpreted", *map(str, paths)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outputs: Sequence[torch.Tensor] = torch.load(paths[2])
    return outputs


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    ("make", "dynamic", "dtype"),
    [(bert, True, torch.float32), (gpt2, False, torch.float16), (llama, True, torch.float32)],
)
def test_as_eager(make: Callable[[], nn.Module], dynamic: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = make().to(dtype)
    batch = {"input_ids": IDS, "attention_mask": (IDS < 20).long()}
    fast = compiled(model, kwargs=batch, dynamic_shapes=axes(batch) if dynamic else None)
    check_machine_code(fast)
    assert_as_eager(fast(**batch), model, **batch)
    if dynamic:
        ids = torch.arange(27).reshape(3, 9)
        other = {"input_ids": ids, "attention_mask": (ids < 25).long()}
        assert_as_eager(fast(**other), model, **other)
        assert len(fast.report.graphs) == 1
