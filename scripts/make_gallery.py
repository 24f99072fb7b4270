"""Draw the models of docs/gallery/, and write its index.

python scripts/make_gallery.py            draws all; needs Graphviz
python scripts/make_gallery.py --check    fails if a picture or the index is stale; needs no Graphviz

Each picture ends with the hash of the DOT source that it was drawn from. That is what is compared: where boxes stand
depends on the version of Graphviz, what they say does not.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from gallery_models import SHOWN, Attention, Shown

import txgraph
from txgraph.cost import HARDWARE, CostModel
from txgraph.ir.ops import ACTIVATIONS
from txgraph.options import Target
from txgraph.render import Picture, Stages, render
from txgraph.rewrite import PassContext

ROOT = Path(__file__).resolve().parents[1]
GALLERY = ROOT / "docs" / "gallery"
INDEX = GALLERY / "README.md"
HASH = re.compile(r"<!-- drawn from DOT source (?P<hash>[0-9a-f]{64}) -->\s*$")

# The passes are weighed for one described machine, whichever this is, and may fuse what our own kernels compute.
MACHINE = PassContext(
    Target("cpu"),
    fused_activations=frozenset(ACTIVATIONS),
    cost=CostModel(HARDWARE["cpu-avx512"].on_cores(2), fuses_elementwise=True),
)

HEAD = """\
# Gallery

Models before and after the passes, drawn by txgraph itself. This page and its pictures are made by
`make gallery`; change `scripts/gallery_models.py` instead. Weights are random, nothing is compiled, and the passes are
weighed for two cores of `cpu-avx512`. `txgraph render bert-base -o bert.svg` draws such a picture of your model.

Open a picture by itself to read it: point at a box for the whole call, its source line and the passes that made it.
How to read them: [read a drawing](../how-to/read-a-drawing.md).
"""


def renderer(picture: Shown) -> Callable[..., Path]:
    """Draws the model before and after the passes to the ``path`` it is given."""
    torch.manual_seed(0)
    model, inputs = picture.make()
    nothing = txgraph.Pipeline(())  # optimize() then only captures
    before = txgraph.optimize(
        model.eval(), kwargs=inputs, passes=nothing, backend="reference", verify="off", options={"cache": False}
    ).graph_before
    context = replace(MACHINE, inputs=inputs)  # their masks say what is padding
    after, records = txgraph.default_pipeline().run(before, context)
    rewrites = [rewrite for record in records for rewrite in record.rewrites]
    stages = Stages.of(txgraph.default_pipeline(), before, after, rewrites, context)
    return partial(render, stages, picture=Picture(), title=type(model).__name__)


def source_hash(to: Callable[..., Path]) -> str:
    """SHA-256 of the DOT source."""
    with tempfile.TemporaryDirectory() as folder:
        return hashlib.sha256(to(path=Path(folder) / "graph.dot").read_bytes()).hexdigest()


def draw(picture: Shown) -> None:
    """Draw one picture, with the hash of its source at the end."""
    to, path = renderer(picture), file_of(picture)
    if to(path=path) != path:
        raise SystemExit("the gallery is drawn by Graphviz, and its program dot is not on the PATH")
    with path.open("a", encoding="utf-8") as file:
        file.write(f"<!-- drawn from DOT source {source_hash(to)} -->\n")


def is_stale(picture: Shown) -> bool:
    """Whether the picture would be drawn from another source today."""
    path = file_of(picture)
    found = HASH.search(path.read_text(encoding="utf-8")) if path.exists() else None
    return found is None or found["hash"] != source_hash(renderer(picture))


def file_of(picture: Shown) -> Path:
    """Where a picture is kept."""
    return GALLERY / f"{picture.name}.svg"


def index() -> str:
    """The text of docs/gallery/README.md, from the pictures that are there."""
    parts = [HEAD]
    for picture in SHOWN:
        path = file_of(picture)
        parts.append(f"## {picture.title}\n\n{picture.words}\n")
        if picture.name == "attention":
            parts.append(f"```python no-run\n{inspect.getsource(Attention).rstrip()}\n```\n")
        parts.append(f"[![{picture.title}, before and after]({path.name})]({path.name})\n")
        parts.append(f"[{path.name}]({path.name}), {path.stat().st_size / 1e3:.0f} kB\n")
    return "\n".join(parts)


def main() -> int:
    """Draw the gallery, or tell what is stale."""
    parser = argparse.ArgumentParser(description="Draw the models of docs/gallery/.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something is stale")
    if not parser.parse_args().check:
        GALLERY.mkdir(exist_ok=True)
        for picture in SHOWN:
            draw(picture)
        INDEX.write_text(index(), encoding="utf-8")
        return 0
    stale = [file_of(picture) for picture in SHOWN if is_stale(picture)]
    if not stale and INDEX.read_text(encoding="utf-8") != index():
        stale = [INDEX]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is stale: run make gallery", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
