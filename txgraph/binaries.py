"""What is compiled when txgraph is installed: kernels, and a check of models that has to be quick.

Needs nothing but Python: setup.py reads it before there is anything else. Kernels for which there is no binary are
compiled when they are first needed (:mod:`txgraph.backends.kernels.build`).
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Rounding as the source says it: nothing is contracted or reordered. With fewer optimizations some kernels take twice
# as long.
_CPP = (
    *("-O3", "-g0", "-DNDEBUG", "-std=c++20", "-fopenmp"),
    *("-ffp-contract=off", "-fno-trapping-math", "-fno-signed-zeros", "-fno-tree-loop-vectorize"),
)
_AVX2 = (*_CPP, "-march=x86-64-v3")
_AVX512 = (*_CPP, "-march=x86-64-v4", "-mprefer-vector-width=512")
_HAS_AVX2 = ("avx2", "fma3", "f16c", "bmi2", "lzcnt")
_HAS_AVX512 = (*_HAS_AVX2, "avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_cd")


@dataclass(frozen=True)
class Binary:
    """A library for one kind of processor.

    Attributes:
        package: that has the source. source: the name of its file.
        kind: of processors; an empty text for all. flags: for GCC and Clang.
        needs: what the processor must have, as :func:`torch.cpu.get_capabilities` calls it.
        better: what it must not have, since the source has faster code for it.
    """

    package: str
    source: str
    kind: str
    flags: tuple[str, ...]
    needs: tuple[str, ...] = ()
    better: tuple[str, ...] = ()

    @property
    def library(self) -> str:
        """What the source is called."""
        return self.source.partition(".")[0]

    def name(self, folder: Path) -> str:
        """Of the file, without the suffix. It changes with the sources in the folder: what is old is left alone.

        It has dots, so that nobody who looks for modules takes it for one.

        Args:
            folder: of the package.
        """
        sources = sorted(path for path in folder.iterdir() if path.suffix in (".c", ".cpp", ".h"))
        parts = [" ".join(self.flags).encode(), *(path.read_bytes() for path in sources)]
        return ".".join(filter(None, (self.library, self.kind, hashlib.sha256(b"\0".join(parts)).hexdigest()[:12])))

    def fits(self, capabilities: Mapping[str, object]) -> bool:
        """Whether a processor with these capabilities runs it, and the source has nothing faster for it."""
        return all(map(capabilities.get, self.needs)) and not any(map(capabilities.get, self.better))

    def path(self, folder: Path) -> Path:
        """Where an installation puts it: beside its source."""
        return folder / (self.name(folder) + str(sysconfig.get_config_var("EXT_SUFFIX")))


_KERNELS = "txgraph.backends.kernels"
BINARIES = (
    Binary("txgraph.capture", "unchanged.c", "", ("-O2", "-g0")),
    Binary(_KERNELS, "kernels.cpp", "avx512", _AVX512, _HAS_AVX512),
    Binary(_KERNELS, "kernels.cpp", "avx2", _AVX2, _HAS_AVX2, better=("avx512_f",)),
    Binary(_KERNELS, "sparse.cpp", "avx512", _AVX512, _HAS_AVX512),
    Binary(_KERNELS, "sparse.cpp", "avx2", _AVX2, _HAS_AVX2, better=("avx512_f",)),
    Binary(_KERNELS, "quantized.cpp", "avx512vnni", (*_AVX512, "-mavx512vnni"), (*_HAS_AVX512, "avx512_vnni")),
    Binary(_KERNELS, "quantized.cpp", "avx2", _AVX2, _HAS_AVX2, better=("avx512_f", "avx_vnni")),
)


def installed(library: str, folder: Path) -> Path | None:
    """The file of a library that was compiled for this processor from the sources as they are, if there is one.

    Args:
        folder: of the library's package.
    """
    import torch  # setup.py does not get here

    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions do not tell
    paths = [each.path(folder) for each in BINARIES if each.library == library and each.fits(capabilities)]
    return next((path for path in paths if path.exists()), None)
