"""Compiles kernels for CPUs; everything else about the package is in pyproject.toml.

Without a compiler, or elsewhere than on Linux with x86-64, each is compiled when it is first needed.
"""

import platform
import runpy
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = Path("backends/kernels")
binaries = runpy.run_path(str(FOLDER / "binaries.py"))


class BuildOnce(build_ext):
    """Takes what an editable installation has compiled: the name is that of these sources and flags."""

    def build_extension(self, ext: Extension) -> None:
        """Copy or compile one library."""
        path = Path(self.get_ext_fullpath(ext.name))
        made = FOLDER / path.name
        if made.exists() and not (path.exists() and made.samefile(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(made, path)
        else:
            super().build_extension(ext)


setup(
    cmdclass={"build_ext": BuildOnce},
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
        if sys.platform == "linux" and platform.machine() == "x86_64"
    ],
)
