"""Descriptions of machines, and which of them a target is."""

from __future__ import annotations

import pytest
import torch

from txgraph.cost import HARDWARE, Hardware, hardware_of
from txgraph.options import Target

TOY = Hardware("toy", {torch.float32: 100.0}, bandwidth=10.0, launch_seconds=1.0, source="made up")


@pytest.mark.parametrize("name", HARDWARE)
def test_every_description_has_a_source_and_positive_numbers(name: str) -> None:
    described = HARDWARE[name]
    assert described.name == name
    assert len(described.source) > 20
    assert {torch.float32} <= set(described.flops)
    assert all(peak > 1e9 for peak in described.flops.values())
    assert described.bandwidth > 1e9
    assert 0 < described.launch_seconds < 1e-4


def test_narrow_matrices_are_faster_where_there_are_units_for_them() -> None:
    for name in ("cpu-amx", "a100", "h100", "h200"):
        peak = HARDWARE[name].peak
        assert peak(torch.int8) > peak(torch.bfloat16) > peak(torch.float32) >= peak(torch.float64)


def test_dtypes_that_are_not_in_the_table() -> None:
    expected = {
        torch.float32: 100,
        torch.float64: 50,
        torch.bfloat16: 100,
        torch.float16: 100,
        torch.int64: 100,
        torch.bool: 100,
        torch.complex64: 25,
        torch.complex128: 12.5,
    }
    assert {dtype: TOY.peak(dtype) for dtype in expected} == expected


def test_more_cores_have_more_bandwidth_up_to_a_limit() -> None:
    one = Hardware("cpu", {torch.float32: 100.0}, 10.0, 1.0, "made up", bandwidth_limit=25.0)
    two, four = one.on_cores(2), one.on_cores(4)
    assert (two.peak(torch.float32), two.bandwidth, two.launch_seconds, two.cores) == (200, 20, 1, 2)
    assert (four.peak(torch.float32), four.bandwidth) == (400, 25)
    assert two.on_cores(1) == one


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"flops": {torch.bfloat16: 1.0}}, "no FLOP/s for float32"),
        ({"flops": {torch.float32: 1.0, torch.bfloat16: 0.0}}, "not positive"),
        ({"bandwidth": 0.0}, "not positive"),
        ({"launch_seconds": -1.0}, "not positive"),
        ({"source": ""}, "no source"),
    ],
)
def test_descriptions_that_make_no_sense(wrong: dict[str, object], said: str) -> None:
    given = {"name": "x", "flops": {torch.float32: 1.0}, "bandwidth": 1.0, "launch_seconds": 1.0, "source": "s"}
    with pytest.raises(ValueError, match=said):
        Hardware(**(given | wrong))


@pytest.mark.parametrize(
    ("capability", "amx", "name"),
    [
        ("AVX2", False, "cpu-avx2"),
        ("AVX512", False, "cpu-avx512"),
        ("AVX512", True, "cpu-amx"),
        ("AVX2", True, "cpu-avx2"),
    ],
)
def test_a_cpu_is_what_torch_uses_of_it(capability: str, amx: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr("txgraph.cost.hardware.has_amx", lambda: amx)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert hardware_of(Target("cpu")) == HARDWARE[name].on_cores(3)


def gpu_here(monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=None: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: capability)


@pytest.mark.parametrize(
    ("found", "name"),
    [("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200")],
)
def test_a_gpu_here_goes_by_its_name(found: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_here(monkeypatch, found, (9, 0))
    assert hardware_of(Target("cuda", index=0)) is HARDWARE[name]
    assert hardware_of(Target("cuda", arch="sm_90")) is HARDWARE[name]
    assert hardware_of(Target("cuda", arch="sm_80")) is HARDWARE["a100"]  # not the GPU that is here


def test_an_absent_gpu_goes_by_its_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert hardware_of(Target.parse("cuda:sm_80")) is HARDWARE["a100"]
    assert hardware_of(Target.parse("cuda:sm_90")) is HARDWARE["h100"]


@pytest.mark.parametrize("target", ["cuda", "cuda:sm_75"])
def test_an_unknown_absent_gpu_is_taken_for_an_a100(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert hardware_of(Target.parse(target)) is HARDWARE["a100"]


def test_an_unknown_gpu_here_is_taken_for_an_a100(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_here(monkeypatch, "NVIDIA GH200 480GB", (9, 0))  # not an H200
    assert hardware_of(Target("cuda", index=0)) is HARDWARE["a100"]


def test_an_unknown_cpu_has_short_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SVE256")
    assert hardware_of(Target("cpu")).name == "cpu-128-bit"


def test_other_kinds_of_device() -> None:
    with pytest.raises(ValueError, match=r"no description of mps.*known are.*calibrate"):
        hardware_of(Target("mps"))
