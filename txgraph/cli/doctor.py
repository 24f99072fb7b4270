"""``txgraph doctor``: what is installed, what is missing, and the command that brings it."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from txgraph.backends import kernels
from txgraph.binaries import BINARIES, installed
from txgraph.cache import Store, is_on
from txgraph.progress import say, show_progress

TESTED = ((2, 11), (2, 13))  # the oldest and the newest torch that the tests run with
PACKAGES = {
    "transformers": "Hugging Face models",
    "onnxruntime": "`txgraph bench` against ONNX Runtime",
    "openvino": "`txgraph bench` against OpenVINO",
    "onnxscript": "`txgraph bench` against either of these",
    "tensorboard": "`to_tensorboard()`",
    "triton": "code for NVIDIA GPUs",
    "apache-tvm": '`backend="tvm"`',
}
"""Packages that txgraph itself does not need, and what they are for."""

JsonOption = Annotated[bool, typer.Option("--json", help="Plain data. Default: text.")]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        found: what is there; empty if it is missing. needed: whether nothing can be optimized without it.
        advice: what to do where it is missing, or not as it should be.
    """

    name: str
    found: str
    needed: bool = False
    advice: str = ""


def doctor(as_json: JsonOption = False) -> None:
    """Say what works here, what is missing, and how to get it.

    Our kernels are compiled to see whether the compiler works. Packages that are not needed are listed with what
    they are for.

    Exit code 1 if something is missing without which models cannot be compiled.
    """
    with show_progress(disable=as_json):
        findings = [*_software(), *_machine(), _cache()]
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(each) for each in findings], indent=2))
    else:
        _print(findings)
    if any(each.needed and not each.found for each in findings):
        raise typer.Exit(1)


def _print(findings: list[Finding]) -> None:
    # Lines as long as they are: what to do can be copied.
    console = Console(soft_wrap=True, highlight=False, markup=False)
    width = max(len(each.name) for each in findings) + 2
    for each in findings:
        style = None if each.found else "bold" if each.needed else "dim"
        text = f"{each.name:{width}}{each.found or 'missing'}"
        console.print(f"{text}; {each.advice}" if each.advice else text, style=style)


def _software() -> Iterator[Finding]:
    yield Finding("txgraph", _version("txgraph") or "not installed: imported from a folder", needed=True)
    yield Finding("Python", platform.python_version(), needed=True)
    yield _torch()
    yield _compiler()
    yield _kernels()
    dot = shutil.which("dot")
    yield Finding("Graphviz", dot or "", advice="" if dot else "for pictures: apt-get install graphviz")
    for package, use in PACKAGES.items():
        found = _version(package)
        yield Finding(package, found, advice="" if found else f"for {use}: pip install {package}")


def _torch() -> Finding:
    parts = torch.__version__.split("+")[0].split(".")
    oldest, newest = TESTED
    tested = f"{oldest[0]}.{oldest[1]} to {newest[0]}.{newest[1]}"
    inside = oldest <= (int(parts[0]), int(parts[1])) <= newest
    return Finding("torch", torch.__version__, needed=True, advice="" if inside else f"tested with {tested}")


def _compiler() -> Finding:
    """Compiles one of our smallest sources, as an optimization compiles what Inductor writes."""
    from txgraph.backends.kernels.build import compiled  # with all of Inductor

    name = os.environ.get("CXX", "g++")
    say("compile", "a small kernel of our own")
    try:
        compiled("parallel")
    except RuntimeError as error:
        advice = f"apt-get install g++ python3-dev, or set CXX ({str(error).strip().splitlines()[0]})"
        return Finding("C++ compiler", "", needed=True, advice=advice)
    return Finding("C++ compiler", shutil.which(name) or name, needed=True)


def _kernels() -> Finding:
    folder = Path(kernels.__file__).parent
    libraries = dict.fromkeys(each.library for each in BINARIES if each.package == kernels.__name__)
    late = [library for library in libraries if installed(library, folder) is None]
    advice = f"{', '.join(late)}: compiled when first needed, for seconds; to have it done now, install txgraph again"
    return Finding("kernels", "" if late else "compiled for this processor", advice=advice if late else "")


def _machine() -> Iterator[Finding]:
    vectors = torch.backends.cpu.get_cpu_capability()
    slow = vectors not in ("AVX2", "AVX512") and platform.machine() == "x86_64"
    yield Finding(
        "processor",
        f"{platform.machine()}, {vectors}, {os.cpu_count()} cores, torch runs {torch.get_num_threads()} threads",
        advice="without AVX2 expect little" if slow else "",
    )
    onednn = torch.backends.mkldnn.is_available()
    yield Finding("oneDNN", "in this torch" if onednn else "", advice="" if onednn else "a torch built with it")
    gpus = [torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())]
    yield Finding("CUDA", ", ".join(gpus), advice="" if gpus else "only for models on a GPU")


def _cache() -> Finding:
    folder = Store().folder
    if not is_on():
        return Finding("cache", "", advice="turned off by TXGRAPH_CACHE=0")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix="writing-"):
            pass
    except OSError as error:
        return Finding("cache", "", advice=f"set TXGRAPH_CACHE_DIR to a folder that can be written to ({error})")
    files = [path for path in folder.rglob("*") if path.is_file()]
    graphs = sum(path.name == "call.pickle" for path in files)
    return Finding("cache", f"{folder}: {graphs} graphs, {_megabytes(files)} MB")


def _megabytes(files: list[Path]) -> int:
    return sum(path.stat().st_size for path in files) >> 20


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
