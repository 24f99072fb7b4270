"""All that needs an NVIDIA GPU: the tests in ``tests/cuda``, and the benchmarks of suite ``cuda``.

    python scripts/gpu.py [what pytest is told]

Needs torch with CUDA and Triton, transformers, networkx, numpy, pytest, and rich and graphviz, which are Python alone
and can be brought along in ``build/gpu-packages`` (``make gpu-packages``). This project need not be installed: it is
taken from where this file is. Without a GPU, or one of these, it says what is missing, and its exit code is 1.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREE = ROOT / "build" / "gpu"  # the project as it is installed, of links
PACKAGES = ("torch", "triton", "transformers", "networkx", "numpy", "pytest")
BROUGHT = ROOT / "build" / "gpu-packages"
IN_PYTHON = ("rich", "graphviz")
SETTINGS = "[pytest]\nmarkers =\n    cuda: needs an NVIDIA GPU\n"  # without those of packages that need not be here


def missing() -> list[str]:
    """What this needs and is not here, a line for each."""
    lines = [] if sys.version_info >= (3, 11) else [f"Python 3.11 or newer: this is {sys.version.split()[0]}"]
    lines += [f"the package {name}" for name in PACKAGES if importlib.util.find_spec(name) is None]
    sys.path.append(str(BROUGHT))
    lines += [
        f"the package {name}: pip install {name}, or, where there is a network, make gpu-packages, and bring {BROUGHT}"
        for name in IN_PYTHON
        if importlib.util.find_spec(name) is None
    ]
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.version.cuda is None:
            lines.append(f"torch for CUDA: this is torch {torch.__version__}, for CPUs")
        if not torch.cuda.is_available():
            lines.append("an NVIDIA GPU that torch can use: torch.cuda.is_available() is false")
    return lines


def link_tree() -> None:
    """Make ``build/gpu/txgraph`` of links to what ``pyproject.toml`` maps into that package, and tests beside it."""
    package = TREE / "txgraph"
    shutil.rmtree(TREE, ignore_errors=True)
    package.mkdir(parents=True)
    for part in (*(ROOT / "txgraph").iterdir(), ROOT / "passes", ROOT / "backends"):
        if part.name != "__pycache__":
            (package / part.name).symlink_to(part)
    for name in ("tests", "benchmarks"):
        (TREE / name).symlink_to(ROOT / name)
    (TREE / "pytest.ini").write_text(SETTINGS)


def main() -> None:
    """Run the tests, and then the benchmarks, even if a test fails."""
    lines = missing()
    if lines:
        sys.exit("\n".join(["the tests and benchmarks for GPUs did not run. What is missing here:", *lines]))
    link_tree()
    path = os.pathsep.join(filter(None, (str(TREE), os.environ.get("PYTHONPATH", ""), str(BROUGHT))))
    environment = {**os.environ, "PYTHONPATH": path}
    tests = ["-m", "pytest", "-ra", "-q", "-m", "cuda", "tests/cuda", *sys.argv[1:]]
    codes = [
        subprocess.run([sys.executable, *command], cwd=TREE, env=environment, check=False).returncode
        for command in (tests, ["-m", "benchmarks.compare", "--suite", "cuda"])
    ]
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
