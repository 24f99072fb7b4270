"""A BERT whose feed-forward weights were pruned: which linears leave the zeros out, and what that saves.

python examples/pruned_bert.py                       two layers
python examples/pruned_bert.py --layers 12 --rounds 15
"""

import argparse
import copy

import torch
from transformers import BertConfig, BertModel

import txgraph
from txgraph.cost import best_seconds

KEPT = 0.1  # of the weights


def prune_numbers(weight: torch.Tensor) -> None:
    """The smallest numbers become zeros, wherever they are."""
    least = weight.abs().flatten().kthvalue(int((1 - KEPT) * weight.numel())).values
    weight[weight.abs() <= least] = 0


def prune_blocks(weight: torch.Tensor, size: int = 16) -> None:
    """The blocks of the smallest norms become zeros."""
    blocks = weight.unflatten(0, (-1, size)).unflatten(2, (-1, size))
    norms = blocks.square().sum((1, 3))
    blocks *= (norms > norms.flatten().kthvalue(int((1 - KEPT) * norms.numel())).values)[:, None, :, None]


def pruned(model: BertModel, prune) -> BertModel:
    model = copy.deepcopy(model)
    for layer in model.encoder.layer:
        prune(layer.intermediate.dense.weight.data)
        prune(layer.output.dense.weight.data)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    given = parser.parse_args()

    torch.manual_seed(0)
    dense = BertModel(BertConfig(num_hidden_layers=given.layers)).eval()
    call = {"input_ids": torch.randint(1000, 20000, (1, given.tokens))}
    models = {"dense": dense, "pruned": pruned(dense, prune_numbers), "pruned by blocks": pruned(dense, prune_blocks)}
    ways = {}
    for name, model in models.items():
        fast = txgraph.optimize(model, kwargs=call)
        for what, choice in fast.report.graphs[0].choices.items():
            if "not zero" in what:
                print(f"{name}: {what}: {choice.partition('; not zero')[0]}")
        assert not fast.report.fallbacks
        ways[f"{name}, txgraph"] = lambda fast=fast: fast(**call)
        ways[f"{name}, eager"] = lambda model=model: model(**call)
    with torch.no_grad():
        times = dict(zip(ways, best_seconds(*ways.values(), seconds=1, rounds=given.rounds), strict=True))
    for name, seconds in times.items():
        print(f"{name:25} {seconds * 1e3:7.1f} ms   {times['dense, txgraph'] / seconds:.2f}x")


if __name__ == "__main__":
    main()
