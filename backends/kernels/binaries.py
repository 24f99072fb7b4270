"""Kernels that are compiled when txgraph is installed, and which of them this processor runs.

Needs nothing but Python: setup.py reads it before there is anything else. Where no binary fits, the source is compiled
when it is first needed (:mod:`txgraph.backends.kernels.build`).
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
# Rounding as the source says it: nothing is contracted or reordered. Without optimizations by -O3 some kernels take
# twice as long; torch brings the OpenMP runtime.
FLAGS = (
    *("-O3", "-g0", "-DNDEBUG", "-std=c++20", "-fopenmp"),
    *("-ffp-contract=off", "-fno-trapping-math", "-fno-signed-zeros", "-fno-tree-loop-vectorize"),
)


@dataclass(frozen=True)
class Binary:
    """A library for one kind of processor.

    Attributes:
        library: the name of its ``.cpp`` file here. vectors: a name for the kind of processor.
        flags: for GCC and Clang, beside :data:`FLAGS`.
        needs: what the processor must have, as :func:`torch.cpu.get_capabilities` calls it.
        better: what it must not have, since the source has faster code for it.
    """

    library: str
    vectors: str
    flags: tuple[str, ...]
    needs: tuple[str, ...]
    better: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its file, without the suffix. It changes with every source here, so that an old binary is left alone."""
        return f"{self.library}_{self.vectors}_{_digest()}"

    def fits(self, capabilities: Mapping[str, object]) -> bool:
        """Whether a processor with these capabilities runs it, and the source has nothing faster for it."""
        return all(map(capabilities.get, self.needs)) and not any(map(capabilities.get, self.better))

    def path(self, folder: Path = FOLDER) -> Path:
        """Where an installation puts it."""
        return folder / (self.name + str(sysconfig.get_config_var("EXT_SUFFIX")))


_AVX2 = ("avx2", "fma3", "f16c", "bmi2", "lzcnt")
_AVX512 = (*_AVX2, "avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_cd")
_FLAGS2, _FLAGS512 = ("-march=x86-64-v3",), ("-march=x86-64-v4", "-mprefer-vector-width=512")

BINARIES = (
    *(Binary(each, "avx512", _FLAGS512, _AVX512) for each in ("kernels", "sparse")),
    *(Binary(each, "avx2", _FLAGS2, _AVX2, better=("avx512_f",)) for each in ("kernels", "sparse")),
    Binary("quantized", "avx512vnni", (*_FLAGS512, "-mavx512vnni"), (*_AVX512, "avx512_vnni")),
    Binary("quantized", "avx2", _FLAGS2, _AVX2, better=("avx512_f", "avx_vnni")),
)


def installed(library: str, folder: Path = FOLDER) -> Path | None:
    """The file of a library that was compiled for this processor from the sources as they are, if there is one."""
    import torch  # setup.py does not get here

    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older versions do not tell
    paths = [each.path(folder) for each in BINARIES if each.library == library and each.fits(capabilities)]
    return next((path for path in paths if path.exists()), None)


def _digest() -> str:
    sources = sorted(path for kind in ("*.cpp", "*.h") for path in FOLDER.glob(kind))
    parts = [repr((FLAGS, _FLAGS2, _FLAGS512)).encode(), *(path.read_bytes() for path in sources)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]
