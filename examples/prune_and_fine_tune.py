"""Compress a small language model, train it further, and run it compressed: what each step does to the loss.

python examples/prune_and_fine_tune.py

A GPT-2 over bytes learns the documentation that ships with Python. Then three quarters of the hidden channels of its
feed-forward blocks are pruned, and the attention's weights become products of two factors, which compute in int8. Some
further steps of training make most of that good, and txgraph.optimize takes the result as it is.
"""

import time
from pydoc_data.topics import topics

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import txgraph
from txgraph.passes import Int8, LowRank
from txgraph.retraining import Prune

LENGTH = 64  # bytes of a sequence
CONFIG = GPT2Config(
    vocab_size=256,
    n_positions=LENGTH,
    n_embd=96,
    n_layer=2,
    n_head=4,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
    bos_token_id=None,
    eos_token_id=None,
    use_cache=False,
)


def sequences() -> tuple[torch.Tensor, torch.Tensor]:
    """The text as rows of bytes: those to learn from, and the last ones, held out."""
    text = "".join(topics[name] for name in sorted(topics)).encode()
    rows = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    rows = rows[: len(rows) // LENGTH * LENGTH].view(-1, LENGTH)
    return rows[:-512], rows[-512:]


def train(model: nn.Module, rows: torch.Tensor, steps: int, rate: float) -> None:
    """An ordinary training loop; compressed models need no other."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (16,))]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def loss_of(model: nn.Module, rows: torch.Tensor) -> float:
    """Nats for a byte."""
    losses = []
    for batch in rows.split(64):
        logits = model(input_ids=batch).logits
        losses.append(nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten()))
    return float(torch.stack(losses).mean())


def main() -> None:
    torch.manual_seed(0)
    learned, held_out = sequences()
    model = GPT2LMHeadModel(CONFIG)
    started = time.perf_counter()
    train(model, learned, steps=300, rate=6e-3)
    print(f"trained in {time.perf_counter() - started:.0f} s")
    dense = loss_of(model, held_out)
    print(f"loss on held-out text:                {dense:.3f}")

    calibration = [{"input_ids": batch} for batch in learned[:256].split(32)]
    small = txgraph.compress(
        model,
        Prune(0.75, structure="channels"),
        LowRank(rank=16, modules="*.attn.c_*"),
        Int8(modules="*.attn.c_*"),
        calibration=calibration,
    )
    compressed = loss_of(small, held_out)
    print(f"compressed:                           {compressed:.3f}")

    train(small, learned, steps=100, rate=3e-3)
    tuned = loss_of(small, held_out)
    print(f"fine-tuned:                           {tuned:.3f}")

    fast = txgraph.optimize(small, kwargs={"input_ids": held_out[:64]})
    final = loss_of(fast, held_out)
    print(f"optimized:                            {final:.3f}")
    print(fast.report)

    counts = fast.graph_after.count()
    assert counts["txgraph::int8_linears"] == 8, counts  # two factors of two weights in two layers
    assert all(p.status != "rolled back" for p in fast.report.graphs[0].passes), "a gate broke"
    assert not fast.report.fallbacks, fast.report.fallbacks
    assert compressed - tuned > 0.7 * (compressed - dense), "fine-tuning recovers most of the loss"
    assert abs(final - tuned) < 1e-3, "optimize() changes rounding at most"
    assert loss_of(model, held_out) == dense, "the model itself was changed"


if __name__ == "__main__":
    main()
