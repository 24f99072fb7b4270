"""What txgraph does, in a few minutes: two models made faster, checked and drawn; one is measured against its peers.

python examples/demo.py

BERT-base with random weights, and the trained all-MiniLM-L6-v2 on real sentences, which is measured. The pictures go to
out/.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for benchmarks/, which is not installed

import torch
from rich.console import Console
from torch import nn
from transformers.utils.logging import disable_progress_bar

import txgraph
from benchmarks.compare import compare
from benchmarks.minilm import SENTENCES, load_minilm, sentence_embeddings
from benchmarks.rows import bert_base_1x128
from benchmarks.table import print_row, wide_console
from txgraph.bench import DEFAULT_COMPETITORS, Inputs, Settings

OUT = Path("out")
LARGEST_COSINE_DIFFERENCE = 1e-5
SHORT = Settings(rounds=5, threads=torch.get_num_threads(), warm_up_calls=2)


def optimize_and_draw(model: nn.Module, inputs: Inputs, name: str, console: Console) -> txgraph.OptimizedModel:
    """Optimize ahead of time, print the report, and write the graphs before and after."""
    console.rule(f"txgraph.optimize: {name}")
    started = time.perf_counter()
    with txgraph.show_progress():
        fast = txgraph.optimize(model, kwargs=inputs)
    console.print(f"optimized in {time.perf_counter() - started:.1f} s")
    print(fast.report)
    for suffix in ("svg", "html"):
        written = fast.render(OUT / f"{name}.{suffix}")
        console.print(f"graphs before and after: {written}")
    return fast


def bert_base(console: Console) -> None:
    model, inputs = bert_base_1x128.make()
    fast = optimize_and_draw(model, inputs, "bert_base", console)
    eager, ours = model(**inputs).last_hidden_state, fast(**inputs).last_hidden_state
    console.print(f"largest difference to eager: {(ours - eager).abs().max().item():.1e}")


def minilm(console: Console) -> None:
    model, inputs = load_minilm()
    fast = optimize_and_draw(model, inputs, "minilm", console)
    mask = inputs["attention_mask"]
    eager = sentence_embeddings(model(**inputs).last_hidden_state.double(), mask)
    ours = sentence_embeddings(fast(**inputs).last_hidden_state.double(), mask)
    difference = (1 - (eager * ours).sum(-1)).abs().max().item()
    console.print(
        f"{len(SENTENCES)} sentences: the embeddings' cosine differs from eager's by {difference:.1e} at most"
    )
    if difference > LARGEST_COSINE_DIFFERENCE:
        raise SystemExit(f"that is over {LARGEST_COSINE_DIFFERENCE}")
    best = int((ours @ ours.T).fill_diagonal_(-1).argmax())
    one, other = divmod(best, len(SENTENCES))
    console.print(f"the closest two: {SENTENCES[one]!r} and {SENTENCES[other]!r}")


def main() -> None:
    disable_progress_bar()
    console = wide_console()
    OUT.mkdir(exist_ok=True)
    with torch.no_grad():
        bert_base(console)
        minilm(console)
    console.rule("speed: a process each, taking turns")
    with txgraph.show_progress():
        result = compare(["minilm-real-32"], DEFAULT_COMPETITORS, SHORT)
    for row in result["rows"]:
        print_row(row, result, console)
    console.print("More rows and rounds: make bench")


if __name__ == "__main__":
    main()
