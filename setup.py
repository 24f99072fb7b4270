"""Compiles kernels for CPUs; everything else about the package is in pyproject.toml.

Without a compiler, elsewhere than on Linux with x86-64, or with TXGRAPH_COMPILE_KERNELS=0, each of them is compiled when
it is first needed.
"""

import os
import platform
import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup

FOLDER = Path("backends/kernels")
binaries = runpy.run_path(str(FOLDER / "binaries.py"))
wanted = sys.platform == "linux" and platform.machine() == "x86_64"

setup(
    ext_modules=[
        Extension(
            f"txgraph.backends.kernels.{each.name}",
            [str(FOLDER / f"{each.library}.cpp")],
            depends=sorted(map(str, FOLDER.glob("*.h"))),
            extra_compile_args=[*binaries["FLAGS"], *each.flags],
            extra_link_args=["-fopenmp", "-s"],
            language="c++",
            optional=True,
        )
        for each in binaries["BINARIES"]
        if wanted and os.environ.get("TXGRAPH_COMPILE_KERNELS") != "0"
    ]
)
