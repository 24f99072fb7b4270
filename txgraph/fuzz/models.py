"""Random small Transformer-like models as data: a recipe gives the source of a model, its weights and its inputs."""

from __future__ import annotations

import dataclasses
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from txgraph.fuzz.attention import Attention
from txgraph.fuzz.block import Block
from txgraph.fuzz.blocks import Activation, BatchNorm, Experts, FeedForward, LayerNorm, Linear, RmsNorm
from txgraph.fuzz.choices import Choices, one_of, part
from txgraph.fuzz.plumbing import Arithmetic, Identity, InPlace, Unused
from txgraph.fuzz.source import Writer, main_part, namespace_of, text_of

_WORDS = 11
_INNER = (Linear, Attention, Attention, FeedForward, Activation, Arithmetic, Experts, InPlace)


@dataclass(frozen=True)
class Residual(Block):
    """A block with a residual connection and a norm."""

    inner: Block = part(*_INNER)
    norm: Block = part(LayerNorm, RmsNorm)
    order: str = one_of("plain", "pre", "post", "swapped", "scaled", "no_sum", "dropout", "sandwich")

    def write(self, w: Writer, x: str) -> str:
        start = x
        if self.order in ("pre", "no_sum", "sandwich"):
            with w.inside("norm"):
                start = self.norm.write(w, x)
        with w.inside("inner"):
            y = self.inner.write(w, start)
        if self.order == "no_sum":
            return y
        if self.order == "sandwich":
            with w.inside("second"):
                y = self.norm.write(w, y)
        x = w.let(
            {
                "swapped": f"{y} + {x}",
                "scaled": f"{x} * 0.5 + {y}",
                "dropout": f"{x} + F.dropout({y}, 0.1, self.training)",
            }.get(self.order, f"{x} + {y}")
        )
        if self.order == "post":
            with w.inside("norm"):
                return self.norm.write(w, x)
        return x


@dataclass(frozen=True)
class Parallel(Block):
    """Two blocks on one input, added up."""

    left: Block = part(*_INNER)
    right: Block = part(*_INNER)
    norm: Block = part(LayerNorm, RmsNorm)
    normed: bool = one_of(False, True)
    kept: bool = one_of(False, True)

    def write(self, w: Writer, x: str) -> str:
        start = x
        if self.normed:
            with w.inside("norm"):
                start = self.norm.write(w, x)
        with w.inside("left"):
            left = self.left.write(w, start)
        with w.inside("right"):
            right = self.right.write(w, start)
        return w.let(f"{x} + {left} + {right}" if self.kept else f"{left} + {right}")


BLOCKS: tuple[type[Block], ...] = (
    *(Residual,) * 5,
    Parallel,
    *(Attention,) * 6,
    *(LayerNorm,) * 2,
    *(RmsNorm,) * 2,
    Activation,
    *(FeedForward,) * 2,
    *(Linear,) * 2,
    BatchNorm,
    Experts,
    *(Identity,) * 2,
    *(Arithmetic,) * 3,
    *(InPlace,) * 2,
    Unused,
)


@dataclass(frozen=True)
class Ends(Choices):
    """What goes in and what comes out.

    Attributes:
        given: floats, or ids of tokens with one kind of positions or another. mask: kind of the input ``keep``.
        full_rows: whether ``keep`` may hide all keys. memory: whether there is a second input of floats.
        pool: which tokens are left. head: what follows. outputs: how they are given back, and which others.
    """

    given: str = one_of("floats", "ids", "positions", "table", "position_ids", "scaled", "types")
    mask: str = one_of("none", "bool", "int64", "float")
    full_rows: bool = one_of(False, True)
    memory: bool = one_of(False, True)
    pool: str = one_of("none", "first", "last", "mean", "masked", "select", "picked", "max", "slice", "each_last")
    head: str = one_of("none", "linear", "tanh", "tied", "softmax")
    outputs: str = one_of("tensor", "tuple", "dict", "nested", "view", "input", "same", "plain", "hidden", "weight")

    def write_start(self, w: Writer) -> str:
        """The lines up to the first value of [B, S, E]."""
        E = w.width
        if self.mask != "none":
            w.do(
                "seen = keep"
                if self.mask == "bool"
                else "seen = keep != 0"
                if self.mask == "int64"
                else "seen = keep > 0.5"
            )
        if self.given == "floats":
            return "x"
        words = w.attribute("words", f"filled(nn.Embedding({_WORDS}, {E}), weight={w.values('words', _WORDS, E)})")
        x = w.let(f"{words}(x)")
        table = f"filled(nn.Embedding(16, {E}), weight={w.values('positions', 16, E)})"
        if self.given == "positions":
            return w.let(f"{x} + {w.attribute('positions', table)}(torch.arange(x.shape[1]))")
        if self.given == "position_ids":
            ids = w.buffer("position_ids", "torch.arange(16)[None]")
            return w.let(f"{x} + {w.attribute('positions', table)}({ids}[:, : x.shape[1]])")
        if self.given == "table":
            return w.let(f"{x} + {w.parameter('table', 1, 16, E)}[:, : x.shape[1], :]")
        if self.given == "types":
            return w.let(f"{x} + {w.attribute('types', table)}(torch.zeros_like(x))")
        return w.let(f"{x} * math.sqrt({E})") if self.given == "scaled" else x

    def write_end(self, w: Writer, x: str) -> None:
        """Pooling, the head, and the return."""
        E, hidden = w.width, x
        masked = f"seen[:, :, None].to({x}.dtype)" if w.mask != "none" else f"torch.ones_like({x})"
        pools = {
            "first": f"{x}[:, 0]",
            "last": f"{x}[:, -1, :]",
            "mean": f"{x}.mean(dim=1)",
            "masked": f"({x} * {masked}).sum(1) / {masked}.sum(1).clamp(min=1e-6)",
            "select": f"{x}.index_select(1, torch.tensor([0, 2]))",
            "picked": f"{x}[:, [0, -1]]",
            "max": f"{x}.max(1)[0]",
            "slice": f"{x}[:, 1:3]",
            "each_last": f"{x}[torch.arange({x}.shape[0]), {'seen.sum(1) - 1' if w.mask != 'none' else -1}]",
        }
        x = w.let(pools[self.pool]) if self.pool != "none" else x
        if self.head in ("linear", "tanh"):
            x = w.let(f"{w.linear('head', E, 3, self.head == 'tanh')}({x})")
            x = w.let(f"torch.tanh({x})") if self.head == "tanh" else x
        elif self.head == "tied" and self.given != "floats":
            x = w.let(f"F.linear({x}, self.words.weight)")
        elif self.head == "softmax":
            x = w.let(f"{x}.softmax(-1)")
        w.do(f"return {self._outputs(w, x, hidden)}")

    def _outputs(self, w: Writer, x: str, hidden: str) -> str:
        if self.outputs == "weight":
            return f"{x}, {w.parameter('returned', 3)}[1:]"
        flags = "x > 3" if self.given != "floats" else "x.isnan()"
        named = {"last": x, **{f"extra{at}": value for at, value in enumerate(w.extra)}, "flags": flags}
        return {
            "tuple": ", ".join((x, *w.extra, *(() if w.extra else (hidden,)))),
            "dict": "{" + ", ".join(f'"{name}": {value}' for name, value in named.items()) + "}",
            "nested": f"({x}, [{', '.join([hidden, *w.extra])}], {{'size': {hidden}.shape[1], 'none': None}})",
            "view": f"{x}, {x}.transpose(0, 1), {x}[:1]",
            "input": f"{x}, x",
            "same": f"{x}, {x}",
            "plain": f"{x}, {x}.shape[0], 1.5, {flags}",
            "hidden": f"{x}, {hidden}[:, 0], {hidden}",
        }.get(self.outputs, x)


@dataclass(frozen=True)
class Recipe:
    """A model as data.

    Attributes:
        seed: of weights and of random forms. width, heads: the heads' width is ``width // heads``.
        dtype: of weights and activations, by its name in torch. ends: inputs and outputs.
        dynamic: ``"static"``; which axes vary: ``"batch"``, ``"both"``; or ``"lazy"``: seen at the second call.
        batch, length: sizes of the example inputs. eager_costs: rewrites are weighed with what starting a kernel costs,
            which decides over models as small as these.
    """

    seed: int = 0
    width: int = 8
    heads: int = 2
    dtype: str = "float32"
    ends: Ends = Ends()
    blocks: tuple[Block, ...] = ()
    dynamic: str = "static"
    batch: int = 2
    length: int = 4
    eager_costs: bool = False

    @property
    def parameters(self) -> list[str]:
        """Names of the inputs."""
        return ["x", *(["keep"] if self.ends.mask != "none" else []), *(["memory"] if self.ends.memory else [])]

    def definition(self) -> str:
        """The text of the module that defines the model and its inputs."""
        w = Writer(self.width, self.heads, self.dtype, self.ends.mask, self.ends.memory)
        x = self.ends.write_start(w)
        for at, block in enumerate(self.blocks):
            with w.inside(str(at)):
                x = block.write(w, x)
        self.ends.write_end(w, x)
        return text_of(w, self.seed, ", ".join(self.parameters), self._input_lines(), (self.batch, self.length))

    def source(self, backend: str = "reference") -> str:
        """A stand-alone file that defines the model and, when it is run, optimizes it and prints both results."""
        shapes = self.dynamic_shapes()
        return self.definition() + main_part("" if shapes is None else _dims_text(shapes), backend)

    def build(self) -> nn.Module:
        """The model, in eval mode."""
        model: nn.Module = namespace_of(self.definition())["build"]()
        return model

    def inputs(self, batch: int | None = None, length: int | None = None, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Seeded inputs; by default of the sizes of the example."""
        made: tuple[torch.Tensor, ...] = namespace_of(self.definition())["inputs"](
            self.batch if batch is None else batch, self.length if length is None else length, seed
        )
        return made

    def dynamic_shapes(self) -> Any:
        """As :func:`torch.export.export` takes them."""
        if self.dynamic in ("static", "lazy"):
            return None
        axes = {0: Dim.AUTO} if self.dynamic == "batch" else {0: Dim.AUTO, 1: Dim.AUTO}
        return tuple(dict(axes) for _ in self.parameters)

    def twin(self, seed: int) -> Recipe:
        """The same function with the same weights, each block in another form."""
        rng = random.Random(f"{self.seed} {seed}")
        full_rows = self.ends.full_rows and self.ends.mask != "none"
        return replace(self, blocks=tuple(block.rewritten(rng, full_rows) for block in self.blocks))

    def chosen(self) -> Iterator[tuple[str, str, Any]]:
        """Every choice made in it: class, field, value."""
        for name in ("width", "heads", "dtype", "dynamic", "batch", "length", "eager_costs"):
            yield ("Recipe", name, getattr(self, name))
        yield from self.ends.chosen()
        for block in self.blocks:
            yield ("Recipe", "blocks", type(block).__name__)
            yield from block.chosen()

    def _input_lines(self) -> list[str]:
        size = "batch, length"
        lines = [
            f"x = torch.randint({_WORDS}, ({size}), generator=generator)"
            if self.ends.given != "floats"
            else f"x = torch.randn({size}, {self.width}, generator=generator).to(DTYPE)"
        ]
        if self.ends.mask != "none":
            lines.append(f"keep = torch.rand({size}, generator=generator) > 0.4")
            lines += ["keep[:, 0] = True"] if not self.ends.full_rows else ["keep[0] = False"]
            lines += {"bool": [], "int64": ["keep = keep.long()"], "float": ["keep = keep.to(DTYPE)"]}[self.ends.mask]
        if self.ends.memory:
            lines.append(f"memory = torch.randn(batch, length + 2, {self.width}, generator=generator).to(DTYPE)")
        return lines


def random_recipe(seed: int) -> Recipe:
    """The recipe of this number: always the same."""
    rng = random.Random(zlib.crc32(f"recipe {seed}".encode()))
    width, heads = rng.choice(((8, 2), (8, 2), (12, 2), (16, 4), (8, 4), (8, 1), (12, 3)))
    dtype = rng.choices(("float32", "bfloat16", "float16", "float64"), (70, 12, 12, 6))[0]
    plain = rng.choice((0.3, 0.7, 0.9, 0.9))  # what is combined with little else is found by the most rules
    blocks = tuple(rng.choice(BLOCKS).draw(rng, plain) for _ in range(rng.choice((1, 1, 2, 2, 3))))
    return Recipe(
        seed=seed,
        width=width,
        heads=heads,
        dtype=dtype,
        ends=Ends.draw(rng, plain),
        blocks=blocks,
        dynamic=rng.choices(("static", "batch", "both", "lazy"), (91, 3, 4, 2))[0],
        batch=rng.choice((1, 2, 2, 3)),
        length=rng.choice((3, 4, 5, 7)),
        eager_costs=rng.random() < 0.3,
    )


def simpler_recipes(recipe: Recipe) -> Iterator[Recipe]:
    """Recipes with one thing less, the largest steps first."""
    blocks = recipe.blocks
    for at in range(len(blocks)):
        yield replace(recipe, blocks=(*blocks[:at], *blocks[at + 1 :]))
    for at, block in enumerate(blocks):
        for inner in (inner for _, inner in block.parts() if isinstance(inner, Block)):
            yield replace(recipe, blocks=(*blocks[:at], inner, *blocks[at + 1 :]))
    plain = Recipe()
    for each in dataclasses.fields(Recipe):
        if each.name not in ("seed", "blocks") and getattr(recipe, each.name) != getattr(plain, each.name):
            yield replace(recipe, **{each.name: getattr(plain, each.name)})
    yield from (replace(recipe, ends=ends) for ends in recipe.ends.simpler())
    for at, block in enumerate(blocks):
        yield from (replace(recipe, blocks=(*blocks[:at], other, *blocks[at + 1 :])) for other in block.simpler())


def _dims_text(shapes: tuple[dict[int, Any], ...]) -> str:
    axes = ", ".join(f"{axis}: torch.export.Dim.AUTO" for axis in shapes[0])
    return f"({{{axes}}},) * {len(shapes)}"
