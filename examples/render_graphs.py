"""Draw a model's graph before and after, as a picture, as DOT source and as a page with the report.

python examples/render_graphs.py          writes out/*.svg, out/*.dot and out/*.html
python examples/render_graphs.py --full   BERT-base instead of two small layers
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel

import txgraph

OUT = Path("out")
SMALL: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a model's graph before and after.")
    parser.add_argument("--full", action="store_true", help="BERT-base instead of two small layers")
    full = parser.parse_args().full
    torch.manual_seed(0)
    model = BertModel(BertConfig(**({} if full else SMALL))).eval()
    tokens = torch.randint(0, 1000, (1, 32))

    # No compiler is needed to draw: the reference backend interprets the rewritten graph.
    fast = txgraph.optimize(model, args=(tokens,), backend="reference")

    OUT.mkdir(exist_ok=True)
    name = "bert_base" if full else "bert_small"
    for suffix in ("svg", "dot", "html"):
        written = fast.render(OUT / f"{name}.{suffix}")
        print(f"{written}: {written.stat().st_size / 1024:.0f} KiB")
        if written.suffix != f".{suffix}":
            print("  (Graphviz's dot program is not installed: this is the source of the picture)")


if __name__ == "__main__":
    main()
