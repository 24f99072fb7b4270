"""What a kept graph depends on is told apart, and nothing else."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import txgraph
from tests.helpers import normal
from txgraph.cache import CannotTell, fingerprint
from txgraph.ir.digest import digest_of
from txgraph.options import BackendOptions, CompileOptions

X = normal(2, 4)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("scale", torch.ones(4))
        self.table = torch.arange(3)
        self.names = {"b", "a", "c"}
        self.limit: Any = 1.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(x).clamp(max=self.limit)) * self.scale


def test_equal_models_are_equal() -> None:
    assert fingerprint(Model(), [X]) == fingerprint(Model(), [X]) == fingerprint(copy.deepcopy(Model()), [X + 1])


def test_values_of_weights_do_not_count() -> None:
    model = Model()
    with torch.no_grad():
        model.up.weight.mul_(2)
        model.scale.zero_()
    assert fingerprint(model, [X]) == fingerprint(Model(), [X])


def test_how_much_of_a_weight_is_zero_does_count() -> None:
    """Linears are computed differently then, though the graph may hold no value of theirs."""
    model = Model()
    with torch.no_grad():
        model.up.weight[1:] = 0
    assert fingerprint(model, [X]) != fingerprint(Model(), [X])


class Other(Model):
    pass


def _replace(model: nn.Module, name: str, value: Any) -> None:
    setattr(model, name, value)


CHANGES: dict[str, Callable[[Model], Any]] = {
    "an attribute": lambda m: _replace(m, "limit", 2.5),
    "its type": lambda m: _replace(m, "limit", 1),
    "a new attribute": lambda m: _replace(m, "further", None),
    "a set": lambda m: m.names.add("d"),
    "a plain tensor": lambda m: _replace(m, "table", torch.arange(4)),
    "a plain tensor's values": lambda m: _replace(m, "table", torch.arange(3) + 1),
    "the mode": lambda m: m.eval(),
    "the mode of a module": lambda m: m.up.train(False),
    "a dtype": lambda m: m.up.bfloat16(),
    "a shape": lambda m: _replace(m, "up", nn.Linear(4, 4, bias=False)),
    "strides": lambda m: _replace(m.up.weight, "data", m.up.weight.data.t()),
    "a tie": lambda m: _replace(m.down, "weight", m.up.weight),
    "a shared module": lambda m: _replace(m, "down", m.up),
    "another class": lambda m: _replace(m, "__class__", Other),
    "another class inside": lambda m: _replace(m, "up", nn.Bilinear(4, 4, 4)),
    "a hook": lambda m: m.register_forward_hook(_hook),
    "a method of its own": lambda m: _replace(m, "forward", _other_forward),
}


def _hook(*_: Any) -> None:
    pass


def _other_forward(x: torch.Tensor) -> torch.Tensor:
    return x


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_model_is(change: str) -> None:
    model = Model()
    before = fingerprint(model, [X])
    CHANGES[change](model)
    assert fingerprint(model, [X]) != before


@pytest.mark.parametrize("tensors", [[], [X, X], [normal(3, 4)], [X.double()], [X.long()]])
def test_what_a_call_is(tensors: list[torch.Tensor]) -> None:
    assert fingerprint(Model(), tensors) != fingerprint(Model(), [X])


def _options(**options: Any) -> CompileOptions:
    return CompileOptions(backend_options=BackendOptions(**options))


def test_what_else_is_asked_for() -> None:
    one = txgraph.default_pipeline()
    others = [
        (one, _options()),
        (one.without("fuse-gelu"), _options()),
        (one, _options(layers=True)),
        (one, _options(inductor={"max_autotune": True})),
        (one, CompileOptions(verify="off")),
    ]
    assert len({fingerprint(Model(), [X], *each) for each in others}) == len(others)
    assert fingerprint(Model(), [X], txgraph.default_pipeline(), _options()) == fingerprint(Model(), [X], *others[0])


def test_what_torch_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(Model(), [X])
    with torch.autocast("cpu", torch.bfloat16):
        assert fingerprint(Model(), [X]) != before
    with monkeypatch.context() as patched:
        patched.setenv("ATEN_CPU_CAPABILITY", "default")
        assert fingerprint(Model(), [X]) != before
    monkeypatch.setenv("TORCH_LOGS", "txgraph")
    assert fingerprint(Model(), [X]) == before


def test_what_has_no_form_that_another_process_knows() -> None:
    model = Model()
    model.limit = lambda: 1
    with pytest.raises(CannotTell, match="lambda"):
        fingerprint(model, [X])
    model.limit = [nn.Linear(2, 2)]
    with pytest.raises(CannotTell, match="Linear is held by the model, but is none of its modules"):
        fingerprint(model, [X])
    model.limit = itself = []
    itself.append(itself)
    with pytest.raises(CannotTell):
        fingerprint(model, [X])


SCRIPT = """
    import sys, torch
    sys.path.insert(0, {folder!r})
    import model
    from txgraph.cache import fingerprint
    print(fingerprint(model.Model(), [torch.ones(2)]))
"""
HELPER = "FACTOR = 2\n"
MODEL = """
import torch
from helper import FACTOR

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.names = {"a", "b", "c", "d", "e"}
    def forward(self, x):
        return x * FACTOR
"""


def in_a_process(folder: Path, seed: int) -> str:
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    script = textwrap.dedent(SCRIPT).format(folder=str(folder))
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.strip()


def test_processes_agree_until_a_file_changes(tmp_path: Path) -> None:
    """The order of sets is another in each; a file counts that the model's file takes something from."""
    run = partial(in_a_process, tmp_path)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "helper.py").write_text(HELPER)
    first = run(1)
    assert len(first) == 64
    assert run(2) == first
    (tmp_path / "helper.py").write_text(HELPER.replace("2", "3"))
    second = run(1)
    (tmp_path / "model.py").write_text(MODEL.replace("x * FACTOR", "x + FACTOR"))
    assert len({first, second, run(1)}) == 3


def test_installed_packages_are_not_read(tmp_path: Path) -> None:
    """Not even those parts of them that have no file, or that say that they have one."""
    (tmp_path / "helper.py").write_text(HELPER)
    (tmp_path / "model.py").write_text(MODEL.replace("import torch", "import torch\nfrom torch import classes, ops", 1))
    assert in_a_process(tmp_path, 1) == in_a_process(tmp_path, 2)


def test_contents() -> None:
    x = normal(3, 4)
    different = [x, x + 1, x.double(), x.reshape(4, 3), x.bfloat16(), torch.tensor(1)]
    different += [torch.zeros(0), torch.zeros(0, 2)]
    assert len({digest_of(t) for t in different}) == len(different)
    assert digest_of(x.t().contiguous().t()) == digest_of(x.clone())
    assert digest_of(nn.Parameter(x)) == digest_of(x)
