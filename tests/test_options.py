"""Every argument of optimize() is checked; nothing is silently ignored."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch

import txgraph
from tests.small import Linear
from txgraph import BackendOptions, Target
from txgraph.options import CompileOptions


def parse(**changed: Any) -> CompileOptions:
    arguments: dict[str, Any] = {
        "backend": "inductor",
        "target": None,
        "padding": "exact",
        "budget": None,
        "calibration": None,
        "verify": "passes",
        "measure": "off",
        "options": None,
    }
    return CompileOptions.parse(**(arguments | changed))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("cpu", Target("cpu")),
        ("cuda", Target("cuda")),
        ("cuda:0", Target("cuda", index=0)),
        ("cuda:12", Target("cuda", index=12)),
        ("cuda:sm_90", Target("cuda", arch="sm_90")),
        ("cuda:sm_90a", Target("cuda", arch="sm_90a")),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert Target.parse(text) == target
    assert str(target) == text
    assert parse(target=text).target == target
    assert parse(target=target).target is target


@pytest.mark.parametrize(
    "text", ["tpu", "", "cpu:0", "cpu:sm_90", "cuda:", "cuda:sm", "cuda:x", "CPU", "cuda:0:1", " cpu"]
)
def test_unknown_targets(text: str) -> None:
    with pytest.raises(
        ValueError, match=r'unknown target .*: expected "cpu", "cuda", "cuda:<index>" or "cuda:sm_<NN>"'
    ):
        Target.parse(text)
    with pytest.raises(ValueError, match="unknown target"):
        txgraph.optimize(Linear(), target=text)


def test_targets_of_another_type() -> None:
    with pytest.raises(TypeError, match=r"target must be a str or txgraph.Target, not device"):
        txgraph.optimize(Linear(), target=torch.device("cpu"))


def test_the_target_of_a_device() -> None:
    assert Target.of(torch.device("cpu")) == Target("cpu")
    assert Target.of(torch.device("cuda", 1)) == Target("cuda", index=1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"backend": "xla"},
            ValueError,
            r"unknown backend 'xla': expected one of \['auto', 'inductor', 'tvm'",
        ),
        ({"verify": "some"}, ValueError, r"unknown verify 'some': expected one of \('off', 'final', 'passes'"),
        ({"padding": "ones"}, ValueError, r'unknown padding \'ones\': expected "exact" or "zeros"'),
        ({"options": {"max_graph": 3, "a": 1}}, ValueError, r"unknown options \['a', 'max_graph'\]: expected some of"),
        (
            {"options": {"cuda_graphs": "always"}},
            ValueError,
            r"unknown cuda_graphs 'always': expected one of \(False, True, 'overwrite'\)",
        ),
        ({"options": {"cuda_graphs": 1}}, ValueError, r"unknown cuda_graphs 1: expected one of"),
        ({"budget": 0.01}, TypeError, r"budget must be a txgraph.Budget, got float"),
        ({"budget": txgraph.Budget(relative_error=0.1)}, ValueError, r"budget= is given without calibration="),
        ({"calibration": [(torch.ones(2, 4),)] * 2}, ValueError, r"calibration= is given without budget="),
    ],
)
def test_refused(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        txgraph.optimize(Linear(), **arguments)


def test_defaults() -> None:
    assert parse() == CompileOptions("inductor", None, "passes", "off", BackendOptions(False, 16, {}))


@pytest.mark.parametrize("level", ["off", "final", "passes"])
def test_levels_of_verification(level: str) -> None:
    assert parse(verify=level).verify == level


def test_backend_options() -> None:
    assert BackendOptions.parse(None) == BackendOptions()
    given = BackendOptions(max_graphs=2)
    assert BackendOptions.parse(given) is given
    assert BackendOptions.parse({"max_graphs": 2, "allow_fallback": True}) == BackendOptions(True, 2)
    assert BackendOptions().cuda_graphs is False
    assert [BackendOptions.parse({"cuda_graphs": v}).cuda_graphs for v in (True, "overwrite")] == [True, "overwrite"]
    assert BackendOptions.parse({"inductor": {"max_autotune": True}}).inductor == {"max_autotune": True}


def test_options_are_frozen() -> None:
    for options, name in ((parse(), "backend"), (Target("cpu"), "kind"), (BackendOptions(), "max_graphs")):
        with pytest.raises(FrozenInstanceError):
            setattr(options, name, "other")
