"""Where the time of a call goes: by launch, and summed by module, pass and kind."""

from __future__ import annotations

import gzip
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import txgraph
from tests.helpers import normal
from tests.small import MLP, Encoder
from txgraph import Kernel, OptimizedModel, Profile, TxgraphError
from txgraph.ir import provenance_of

IDS = torch.arange(24).reshape(2, 12)


SLEEP = 0.02  # seconds


@torch.library.custom_op("txgraph_test::sleep", mutates_args=())
def sleep(x: torch.Tensor) -> torch.Tensor:
    """Twice ``x``, after a while."""
    time.sleep(SLEEP)
    return x * 2


@sleep.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Sleepy(nn.Module):
    """Has an operator that takes long."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = sleep(x)
        return result


class Slow(nn.Module):
    """Of three modules one takes long."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.sleepy, self.last = nn.Linear(8, 8), Sleepy(), nn.LayerNorm(8)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.last(self.sleepy(self.first(x)))
        return result


@pytest.fixture(scope="module")
def fast() -> OptimizedModel:
    return txgraph.optimize(Encoder(), args=(IDS,), backend="inductor", profile=True)


@pytest.mark.parametrize("backend", ["inductor", "reference"])
def test_each_launch_has_its_time(backend: str) -> None:
    fast = txgraph.optimize(Slow(), args=(normal(4, 8),), backend=backend)
    profile = fast.profile(normal(4, 8), calls=3)
    assert (profile.model, profile.device, profile.calls) == ("Slow", "cpu", 3)
    assert tuple(launch.kernel for launch in profile.launches) == fast.kernels()
    assert [launch.number for launch in profile.launches] == list(range(len(fast.kernels())))
    assert all(launch.seconds > 0 for launch in profile.launches)
    (slow,) = [launch for launch in profile.launches if launch.kernel.name == "txgraph_test.sleep"]
    assert slow.module == "sleepy"
    assert slow.location.startswith("test_profile.py:")
    assert profile.seconds > slow.seconds >= SLEEP
    assert 0 < profile.outside < profile.seconds - SLEEP
    assert profile.by_module["sleepy"] == slow.seconds


def test_sums(fast: OptimizedModel) -> None:
    """Each splits the same seconds; a module counts with all that is below it, a kernel for each of its passes."""
    profile = fast.report.graphs[0].profile
    assert profile is not None
    total = sum(launch.seconds for launch in profile.launches)
    assert math.isclose(sum(profile.by_kind.values()), total)
    assert math.isclose(profile.by_module[""], total)
    assert set(profile.by_kind) == {kernel.kind for kernel in fast.kernels()}
    origins = {node.name: provenance_of(node) for node in fast.graph_after.nodes}
    for launch in profile.launches:
        modules = {origins[name].module for name in launch.kernel.nodes}
        assert all(module == launch.module or module.startswith(launch.module) for module in modules)
        assert set(launch.passes) == {made for name in launch.kernel.nodes for made in origins[name].passes}
    fused = [launch.seconds for launch in profile.launches if "fuse-shared-input-linears" in launch.passes]
    assert math.isclose(profile.by_pass["fuse-shared-input-linears"], sum(fused))


def launch_times(*rows: tuple[str, str, float, tuple[str, ...]]) -> Profile:
    """Made by hand: names, modules, seconds and passes."""
    launches = [
        txgraph.profile.LaunchTime(at, Kernel(name, (f"n{at}",), "library"), seconds, module, "model.py:3", passes)
        for at, (name, module, seconds, passes) in enumerate(rows)
    ]
    return Profile("Model", "cpu", 4, 0.010, 0.0025, tuple(launches))


def test_text() -> None:
    """The slowest first; what does not fit is one row."""
    names = [(f"kernel_{at}", "encoder.layer.0" if at % 2 else "encoder", 1e-4 * at, ("fuse-a",)) for at in range(25)]
    lines = str(launch_times(*names)).splitlines()
    assert lines[0] == "Model on cpu: 10.000 ms a call under the profiler (median of 4), 25 kernels"
    assert lines[1].split() == ["share", "ms", "launches", "kernel", "nodes", "module", "source"]
    assert lines[2].split() == ["7.4", "%", "2.400", "kernel_24", "1", "encoder", "model.py:3"]
    assert lines[3].split()[3] == "kernel_23"
    assert lines[22].split() == ["3.1", "%", "1.000", "x5", "more", "kernels"]
    assert lines[23].split() == ["7.7", "%", "2.500", "outside", "of", "kernels"]
    text = "\n".join(lines)
    assert "44.3 %  14.400  encoder.layer.0" in text
    assert "92.3 %  30.000  fuse-a" in text


def test_equal_layers_are_one_row() -> None:
    rows = [("kernel", f"encoder.layer.{at}.{part}", 1e-4, ()) for at in range(12) for part in ("query", "key")]
    lines = str(launch_times(*rows, ("kernel", "head", 1e-4, ()))).splitlines()
    assert [line.split()[2:] for line in lines[2:5]] == [
        ["1.200", "x12", "kernel", "1", "encoder.layer.*.query", "model.py:3"],
        ["1.200", "x12", "kernel", "1", "encoder.layer.*.key", "model.py:3"],
        ["0.100", "kernel", "1", "head", "model.py:3"],
    ]


def test_module_and_pass_of_several_nodes() -> None:
    profile = launch_times(("a", "m.0", 1.0, ("p", "q")), ("b", "m.1", 2.0, ()), ("c", "", 4.0, ("q",)))
    assert profile.by_module == {"": 7.0, "m": 3.0, "m.0": 1.0, "m.1": 2.0}
    assert profile.by_pass == {"p": 1.0, "q": 5.0, "": 2.0}
    assert profile.by_kind == {"library": 7.0}


def test_in_the_report(fast: OptimizedModel) -> None:
    data: dict[str, Any] = fast.report.to_dict()["graphs"][0]["profile"]
    assert json.loads(json.dumps(data)) == data
    assert [kernel["name"] for kernel in data["kernels"]] == [kernel.name for kernel in fast.kernels()]
    assert [tuple(kernel["nodes"]) for kernel in data["kernels"]] == [kernel.nodes for kernel in fast.kernels()]
    assert data["calls"] == 20
    assert "Encoder on cpu: " in str(fast.report)
    assert "outside of kernels" in str(fast.report)
    without = txgraph.optimize(MLP(), args=(normal(2, 4),), backend="reference")
    assert without.report.to_dict()["graphs"][0]["profile"] is None
    assert "outside of kernels" not in str(without.report)


def test_trace(fast: OptimizedModel, tmp_path: Path) -> None:
    """Torch's own, with a range for each launch of each call; as often as asked for."""
    profile = fast.profile(IDS, calls=3)
    plain, packed = tmp_path / "trace.json", tmp_path / "trace.json.gz"
    assert profile.export_chrome_trace(plain) == plain
    profile.export_chrome_trace(packed)
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    events = json.loads(plain.read_text())["traceEvents"]
    ranges = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert ranges.count("txgraph call") == 3
    for number, kernel in enumerate(fast.kernels()):
        assert ranges.count(f"{kernel.name} #{number}") == 3


def test_what_the_model_writes_stays() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls.add_(1)
            return x * self.calls

    for backend in ("inductor", "reference"):
        model = Counter().eval()
        fast = txgraph.optimize(model, args=(normal(4),), backend=backend)
        fast(normal(4))
        fast.profile(normal(4), calls=2)
        assert model.calls == 1
        torch.testing.assert_close(fast(normal(4)), normal(4) * 2)


def test_a_call_without_a_graph_is_compiled_first() -> None:
    fast = txgraph.optimize(MLP(), backend="reference")
    assert fast.profile(normal(2, 4), calls=1).launches
    assert fast.profile(normal(5, 4), calls=1).launches
    assert len(fast.report.graphs) == 2
    x = normal(2, 4).requires_grad_()
    assert fast.profile(x, calls=1).calls == 1


def test_wrong_arguments() -> None:
    model, x = MLP(), normal(2, 4)
    with pytest.raises(TypeError, match="profile must be True or False, got str"):
        txgraph.optimize(model, args=(x,), profile="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="profile needs example inputs"):
        txgraph.optimize(model, profile=True)
    fast = txgraph.optimize(model, args=(x,), backend="reference")
    for calls in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="calls must be a number of calls, one or more"):
            fast.profile(x, calls=calls)  # type: ignore[arg-type]
    with pytest.raises(TxgraphError, match="nothing is compiled yet"):
        txgraph.optimize(model).kernels()


def test_what_runs_in_eager_has_no_kernels() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    fast = txgraph.optimize(Branch(), args=(normal(3),), options={"allow_fallback": True}, profile=True)
    assert not fast.report.graphs
    with pytest.raises(TxgraphError, match="such calls run in eager"):
        fast.profile(normal(3))
