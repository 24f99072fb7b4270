"""Machine code for TVM's functions. For GPUs it is made in a process of its own: code generators can crash, or hang.

There this file runs as a script, and imports nothing of txgraph or torch, which take seconds. It reads the names of
folders, one a line, and answers each with a line of JSON once what is there is compiled.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

JOB = "job.json"  # functions: TIR by name; target: TVM's, of a GPU; nvcc: a path, or empty
LIBRARY, SOURCE = "kernels.so", "kernels.cu"  # what runs on the CPU, and what that launches on a GPU
FATBIN, PTX, CUBIN = "kernels.fatbin", "kernels.ptx", "kernels.cubin"
RESOURCES = "resources.txt"  # registers and memory of each kernel, by the assembler's word
LAST_WORDS = 2000  # letters of what nvcc says


def compile_folder(folder: Path) -> None:
    """Compile the functions of a folder; what comes out lies beside them."""
    import tvm

    job = json.loads((folder / JOB).read_text())
    module = tvm.IRModule({name: tvm.script.from_source(text) for name, text in job["functions"].items()})
    compile_module(module, job["target"], folder)
    if job["nvcc"]:
        _assemble(folder, job["nvcc"], job["target"]["arch"])


def compile_module(module: Any, target: dict[str, str] | None, folder: Path) -> None:
    """A library of functions; for a GPU also the source of what it launches there."""
    import tvm

    here = tvm.target.Target.from_device("cpu").export()
    if target is None:  # a product and a sum may be one instruction, as in torch's own kernels
        executable = tvm.compile(module, target=tvm.target.Target({**here, "fast-math-contract": True}))
    else:
        executable = tvm.compile(module, target=tvm.target.Target(target, host=here))
    executable.export_library(str(folder / LIBRARY))
    for imported in executable.mod.imports:
        (folder / SOURCE).write_text(imported.inspect_source())


def library_of(functions: dict[str, Any]) -> bytes:
    """A library of functions for this processor."""
    import tvm

    with tempfile.TemporaryDirectory() as folder:
        compile_module(tvm.IRModule(functions), None, Path(folder))
        return Path(folder, LIBRARY).read_bytes()


def _assemble(folder: Path, nvcc: str, arch: str) -> None:
    """Machine code for an architecture, with PTX for later ones. Functions stay those that were written."""
    options = ["--fatbin", "-O3", f"-arch={arch}", "--ptxas-options=-v", "--keep", f"--keep-dir={folder}"]
    command = [nvcc, *options, "-o", str(folder / FATBIN), str(folder / SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"nvcc failed: {done.stderr.strip()[-LAST_WORDS:]}")
    (folder / RESOURCES).write_text(done.stderr)
    (cubin,) = folder.glob(f"kernels*{arch}.cubin")
    cubin.rename(folder / CUBIN)
    named = folder / f"kernels.compute_{arch.removeprefix('sm_')}.ptx"
    if named.exists():  # for some architectures nvcc makes PTX for others, too
        named.rename(folder / PTX)


def serve(work: Callable[[Path], None]) -> None:
    """Do this in each folder that is named, until nobody asks."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what TVM prints is no answer
    import tvm  # noqa: F401  # before anybody asks

    for line in sys.stdin:
        try:
            work(Path(line.rstrip("\n")))
            answer = {}
        except Exception as error:  # TVM raises whatever its passes raise
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve(compile_folder)
