"""What setup.py compiles: for which processors, what is made of it, and when it is left alone."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from txgraph.backends.kernels import build, calls
from txgraph.backends.kernels.sparse_linear import pack, sparse_linears_native
from txgraph.binaries import BINARIES, Binary, installed

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "backends" / "kernels"
HASWELL = {"avx2", "fma3", "f16c", "bmi2", "lzcnt"}
SKYLAKE_X = HASWELL | {"avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_cd"}
PROCESSORS = {
    "Sandy Bridge": (set[str](), []),
    "Haswell": (HASWELL, ["kernels_avx2", "sparse_avx2", "quantized_avx2"]),
    "Alder Lake": (HASWELL | {"avx_vnni"}, ["kernels_avx2", "sparse_avx2"]),
    "Skylake-X": (SKYLAKE_X, ["kernels_avx512", "sparse_avx512"]),
    "Zen 4": (SKYLAKE_X | {"avx512_vnni"}, ["kernels_avx512", "sparse_avx512", "quantized_avx512vnni"]),
    "Sapphire Rapids": (
        SKYLAKE_X | {"avx512_vnni", "avx_vnni"},
        ["kernels_avx512", "sparse_avx512", "quantized_avx512vnni"],
    ),
}
on_linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="elsewhere each kernel is compiled when needed"
)


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_processor_runs_what_is_fastest_on_it_or_nothing(processor: str) -> None:
    """Where the source has better code than any binary, that is compiled later."""
    has, expected = PROCESSORS[processor]
    fitting = [each for each in BINARIES if each.fits(dict.fromkeys(has, True))]
    assert {f"{each.library}_{each.kind}" for each in fitting} == {*expected, "unchanged_"}
    assert len({each.library for each in fitting}) == len(fitting)


@on_linux
@pytest.mark.parametrize(
    "each", [each for each in BINARIES if each.kind], ids=lambda each: f"{each.library}_{each.kind}"
)
def test_flags_turn_on_what_the_source_asks_for(each: Binary) -> None:
    """The macros that choose the code: those of its kind of processor, and none of a better one."""
    command = [os.environ.get("CXX", "g++"), *each.flags, "-dM", "-E", "-x", "c++", os.devnull]
    macros = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = ("AVX2", "FMA", "AVX512F", "AVX512BW", "AVX512VNNI", "AVXVNNI")
    expected = {"avx2": {"AVX2", "FMA"}, "avx512": {"AVX2", "FMA", "AVX512F", "AVX512BW"}}
    expected["avx512vnni"] = expected["avx512"] | {"AVX512VNNI"}
    assert {name for name in names if f"__{name}__" in macros} == expected[each.kind]


def test_a_changed_source_leaves_binaries_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path in (*KERNELS.glob("*.cpp"), *KERNELS.glob("*.h")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(HASWELL, True))
    (binary,) = [each for each in BINARIES if (each.library, each.kind) == ("kernels", "avx2")]
    binary.path(tmp_path).touch()
    assert installed("kernels", tmp_path) == binary.path(tmp_path)
    assert installed("sparse", tmp_path) is None
    with (tmp_path / "vectors.h").open("a") as file:
        file.write("// changed\n")
    assert installed("kernels", tmp_path) is None


def test_a_torch_that_does_not_tell_what_the_processor_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert installed("kernels", KERNELS) is None


BUILD = """
import runpy, setuptools
from setuptools import Distribution
folders = {"txgraph": "txgraph", "txgraph.backends": "backends"}
packages = {"package_dir": folders, "packages": ["txgraph.backends.kernels", "txgraph.capture"]}
def setup(ext_modules, cmdclass):
    small = [each for each in ext_modules if ".sparse_" in each.name or ".unchanged_" in each.name]
    command = Distribution({**packages, "ext_modules": small, "cmdclass": cmdclass}).get_command_obj("build_ext")
    command.build_lib, command.build_temp, command.parallel = OUT, OUT + "/objects", 2
    command.ensure_finalized()
    command.run()
setuptools.setup = setup
runpy.run_path("setup.py")
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an installation puts what is compiled; the smallest libraries, of other files than those in use."""
    folder = tmp_path_factory.mktemp("built")
    run = [sys.executable, "-c", f"OUT = {str(folder)!r}\n{BUILD}"]
    subprocess.run(run, cwd=ROOT, check=True, capture_output=True)
    return folder / "txgraph"


@on_linux
def test_an_installation_compiles_what_is_looked_for(built: Path) -> None:
    wanted = {each.path(KERNELS).name for each in BINARIES if each.library == "sparse"}
    assert {path.name for path in (built / "backends" / "kernels").iterdir()} == wanted
    (check,) = [each.path(ROOT / "txgraph" / "capture").name for each in BINARIES if each.library == "unchanged"]
    assert [path.name for path in (built / "capture").iterdir()] == [check]


@on_linux
def test_it_computes_what_is_compiled_here(
    built: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    fitting = [each for each in BINARIES if each.library == "sparse" and each.fits(torch.cpu.get_capabilities())]
    if not fitting:
        pytest.skip("this processor runs none of them")
    path = built / "backends" / "kernels" / fitting[0].path(KERNELS).name
    torch.manual_seed(0)
    x, weight = torch.randn(9, 64), torch.randn(48, 64) * (torch.rand(48, 64) < 0.2)
    packed, results = pack(weight, 4, 32), list[torch.Tensor]()
    request.addfinalizer(calls.function_of.cache_clear)
    for found in (path, None):
        monkeypatch.setattr(build, "_started", {})
        monkeypatch.setattr(build, "installed", lambda name, folder, found=found: found)
        calls.function_of.cache_clear()
        assert (build.load("sparse")._name == str(path)) == (found is path)
        results += sparse_linears_native(x, [packed], [None], "", [48], 32)
    assert torch.equal(*results)
    torch.testing.assert_close(results[0], x @ weight.t())


@on_linux
def test_what_cannot_be_loaded_is_compiled_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as a wheel from a system with a newer C library."""
    foreign = tmp_path / "foreign.so"
    foreign.write_bytes(b"not a library")
    monkeypatch.setattr(build, "installed", lambda name, folder: foreign)
    monkeypatch.setattr(build, "_started", {})
    with caplog.at_level(logging.WARNING, "txgraph"):
        assert callable(build.load("parallel").parallel_launch)
    assert "parallel is compiled anew" in caplog.text
