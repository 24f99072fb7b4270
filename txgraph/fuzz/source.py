"""The Python file that defines a model: blocks write their lines into it, and it is run to build the model."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

_HEAD = '''"""A model made by txgraph.fuzz."""

import math
import zlib

import torch
import torch.nn.functional as F
from torch import nn

SEED = {seed}
DTYPE = torch.{dtype}


def weight(name, *shape, around=0.0, scale=0.4):
    generator = torch.Generator().manual_seed(zlib.crc32(f"{{SEED}}.{{name}}".encode()))
    return around + scale * torch.randn(*shape, generator=generator)


def linear(weight, bias=None):
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    made.weight = nn.Parameter(weight)
    if bias is not None:
        made.bias = nn.Parameter(bias)
    return made


def filled(module, **values):
    for name, value in values.items():
        getattr(module, name).data.copy_(value)
    return module


class Model(nn.Module):
    written = {written}  # buffers that a call writes to

    def __init__(self):
        super().__init__()
{setup}

    def forward(self, {parameters}):
{forward}


def build():
    return Model().to(DTYPE).eval()


def inputs(batch={batch}, length={length}, seed=0):
    generator = torch.Generator().manual_seed(seed)
{inputs}
    return {given}
'''

_MAIN = """

if __name__ == "__main__":
    import txgraph

    torch.set_num_threads(1)
    model = build()
    fast = txgraph.optimize(model, args=inputs(){shapes}, backend="{backend}"{options})
    print(fast.report)
    for seed in range(3):
        print("eager    ", model(*inputs(seed=seed)))
        print("optimized", fast(*inputs(seed=seed)))
"""


class Writer:
    """Collects the lines of a model.

    Attributes:
        width, heads: of the model. dtype: its name in torch.
        mask: kind of the input ``keep``, ``"none"`` without it. memory: whether there is an input ``memory``.
        setup, forward: lines of ``__init__`` and ``forward``.
        extra: names of values that blocks offer as further outputs. written: names of buffers that are written to.
    """

    def __init__(self, width: int, heads: int, dtype: str, mask: str = "none", memory: bool = False) -> None:
        self.width, self.heads, self.dtype, self.mask, self.memory = width, heads, dtype, mask, memory
        self.setup: list[str] = []
        self.forward: list[str] = []
        self.extra: list[str] = []
        self.written: list[str] = []
        self._path: list[str] = []
        self._count = 0

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Weights made meanwhile have names under ``name``: the same for each form of a block."""
        self._path.append(name)
        try:
            yield
        finally:
            self._path.pop()

    def let(self, value: str, stem: str = "x") -> str:
        """Assign a value to a new name."""
        self._count += 1
        name = f"{stem}{self._count}"
        self.forward.append(f"{name} = {value}")
        return name

    def do(self, statement: str) -> None:
        """Add a statement to ``forward``."""
        self.forward.append(statement)

    def values(self, name: str, *shape: int, around: float = 0.0, scale: float = 0.4) -> str:
        """The expression of seeded numbers."""
        options = f", around={around}" if around else ""
        options += f", scale={scale}" if scale != 0.4 else ""
        return f'weight("{".".join((*self._path, name))}", {", ".join(map(str, shape))}{options})'

    def attribute(self, name: str, value: str) -> str:
        """Keep a module in the model; how ``forward`` calls it."""
        attribute = "_".join(("b" + self._path[0], *self._path[1:], name)) if self._path else name
        self.setup.append(f"self.{attribute} = {value}")
        return f"self.{attribute}"

    def parameter(self, name: str, *shape: int, around: float = 0.0, scale: float = 0.4) -> str:
        """A seeded parameter."""
        return self.attribute(name, f"nn.Parameter({self.values(name, *shape, around=around, scale=scale)})")

    def buffer(self, name: str, value: str, written: bool = False) -> str:
        """A buffer; ``written`` says that a call writes to it."""
        attribute = "_".join(("b" + self._path[0], *self._path[1:], name)) if self._path else name
        self.setup.append(f'self.register_buffer("{attribute}", {value})')
        if written:
            self.written.append(attribute)
        return f"self.{attribute}"

    def matrix(self, name: str, rows: int, columns: int) -> str:
        """The expression of a weight of a linear."""
        return self.values(f"{name}.weight", rows, columns)

    def offset(self, name: str, rows: int) -> str:
        """The expression of a bias of a linear."""
        return self.values(f"{name}.bias", rows)

    def linear(self, name: str, columns: int, rows: int, bias: bool) -> str:
        """A linear module."""
        return self.attribute(
            name, f"linear({self.matrix(name, rows, columns)}{', ' + self.offset(name, rows) if bias else ''})"
        )


def text_of(writer: Writer, seed: int, parameters: str, made: list[str], sizes: tuple[int, int]) -> str:
    """The text of the module that defines the model and its inputs, without a main part."""
    return _HEAD.format(
        seed=seed,
        dtype=writer.dtype,
        written=repr(tuple(writer.written)),
        setup=_indented(writer.setup or ["pass"], 8),
        forward=_indented(writer.forward, 8),
        parameters=parameters,
        inputs=_indented(made, 4),
        given=f"({parameters},)",
        batch=sizes[0],
        length=sizes[1],
    )


def main_part(shapes: str, backend: str, options: str = "") -> str:
    """What the file does when it is run."""
    return _MAIN.format(shapes=f", dynamic_shapes={shapes}" if shapes else "", backend=backend, options=options)


@functools.lru_cache(maxsize=8)
def namespace_of(text: str) -> dict[str, Any]:
    """The names that a source text defines."""
    namespace: dict[str, Any] = {"__name__": "txgraph_fuzz_model"}
    exec(compile(text, "<model made by txgraph.fuzz>", "exec"), namespace)
    return namespace


def _indented(lines: list[str], by: int) -> str:
    return "\n".join(" " * by + line for line in lines)
