"""Compiles what is written in C and C++; everything else about the package is in pyproject.toml.

Without a compiler, or elsewhere than on Linux with x86-64, kernels are compiled when they are first needed.
"""

import platform
import runpy
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

BINARIES = runpy.run_path("txgraph/binaries.py")["BINARIES"]
FOLDERS = {"txgraph.backends.kernels": Path("backends/kernels"), "txgraph.capture": Path("txgraph/capture")}


class BuildOnce(build_ext):
    """Takes what an editable installation has compiled: the name is that of these sources and flags."""

    def get_ext_filename(self, fullname: str) -> str:
        """Of an extension, whose name cannot have dots that are not those of packages."""
        return super().get_ext_filename(fullname).replace("__", ".")

    def build_extension(self, ext: Extension) -> None:
        """Copy or compile one library."""
        path = Path(self.get_ext_fullpath(ext.name))
        made = FOLDERS[ext.name.rpartition(".")[0]] / path.name
        if made.exists() and not (path.exists() and made.samefile(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(made, path)
        else:
            super().build_extension(ext)


def _extension(binary) -> Extension:
    folder = FOLDERS[binary.package]
    openmp = ["-fopenmp"] if "-fopenmp" in binary.flags else []
    return Extension(
        f"{binary.package}.{binary.name(folder).replace('.', '__')}",
        [str(folder / binary.source)],
        depends=sorted(map(str, folder.glob("*.h"))),
        extra_compile_args=list(binary.flags),
        extra_link_args=[*openmp, "-s"],
        language="c++" if binary.source.endswith(".cpp") else "c",
        optional=True,
    )


on_linux = sys.platform == "linux" and platform.machine() == "x86_64"
setup(cmdclass={"build_ext": BuildOnce}, ext_modules=[_extension(each) for each in BINARIES if on_linux])
