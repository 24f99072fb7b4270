"""Hugging Face caches as inputs and outputs: taken apart and put together by their attributes."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.utils import _pytree as pytree
from transformers import DynamicCache, EncoderDecoderCache, cache_utils

import txgraph
from tests.small import module
from txgraph.capture.pytrees import register_caches

register_caches()


def filled(layers: int = 2, length: int = 3) -> DynamicCache:
    cache = DynamicCache()
    for layer in range(layers):
        keys = torch.full((1, 2, length, 4), float(layer))
        cache.update(keys, keys + 0.5, layer)
    return cache


def test_round_trip() -> None:
    cache = filled()
    leaves, spec = pytree.tree_flatten(cache)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    assert [float(t.flatten()[0]) for t in tensors] == [0.0, 0.5, 1.0, 1.5]
    again = pytree.tree_unflatten(leaves, spec)
    assert type(again) is DynamicCache
    assert again is not cache
    assert again.get_seq_length() == 3
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in cache.layers]
    assert vars(again.layers[1]).keys() == vars(cache.layers[1]).keys()
    assert again.layers[1].keys is cache.layers[1].keys


def test_a_rebuilt_cache_goes_on_growing_apart_from_the_first() -> None:
    cache = filled()
    again = pytree.tree_map(lambda leaf: leaf, cache)
    again.update(torch.ones(1, 2, 1, 4), torch.ones(1, 2, 1, 4), 0)
    assert (again.get_seq_length(), cache.get_seq_length()) == (4, 3)


def test_nested_caches() -> None:
    cache = EncoderDecoderCache(filled(1), filled(1, 5))
    leaves, spec = pytree.tree_flatten(cache)
    again = pytree.tree_unflatten(leaves, spec)
    assert type(again) is EncoderDecoderCache
    assert again.self_attention_cache.get_seq_length() == 3
    assert again.cross_attention_cache.get_seq_length() == 5
    assert again.is_updated == cache.is_updated


def test_structures_are_equal_for_equal_settings() -> None:
    specs = [pytree.tree_structure(filled(layers, length)) for layers, length in ((2, 3), (2, 5), (1, 3))]
    assert specs[0] == specs[1]
    assert specs[0] != specs[2]
    assert pytree.tree_structure(DynamicCache()) != specs[0]


def sliding(length: int) -> DynamicCache:
    cache = DynamicCache()
    cache.layers.append(cache_utils.DynamicSlidingWindowLayer(sliding_window=4))
    cache.update(torch.ones(2, 2, length, 4), torch.ones(2, 2, length, 4), 0)
    return cache


def test_counts_of_tokens_are_leaves() -> None:
    """So that caches of one model have one structure, whatever number of tokens they hold."""
    caches = [sliding(3), sliding(5)]
    assert pytree.tree_structure(caches[0]) == pytree.tree_structure(caches[1])
    counts = [[leaf for leaf in pytree.tree_leaves(cache) if isinstance(leaf, int)] for cache in caches]
    assert [3 in counts[0], 5 in counts[1]] == [True, True]
    again = pytree.tree_map(lambda leaf: leaf, caches[1])
    assert again.layers[0].cumulative_length == 5


def test_counts_of_tokens_with_dynamic_sizes() -> None:
    """A count is symbolic in the graph, and a plain number in the caches that a call takes and gives."""

    def forward(x: torch.Tensor, cache: DynamicCache) -> tuple[torch.Tensor, DynamicCache]:
        return cache.update(x, x + 1, 0)[0] * 2, cache

    fast = txgraph.optimize(module(forward), backend="reference")
    for length in (7, 5, 6):
        given = torch.randn(2, 2, length, 4)
        ours, theirs = fast(given, sliding(6)), forward(given, sliding(6))
        assert torch.equal(ours[0], theirs[0])
        assert type(ours[1].layers[0].cumulative_length) is int
        assert vars(ours[1].layers[0]).keys() == vars(theirs[1].layers[0]).keys()
        assert ours[1].layers[0].cumulative_length == 6 + length
    assert len(fast.report.graphs) == 2


def test_every_cache_class_is_registered_and_again_changes_nothing() -> None:
    bases = (cache_utils.Cache, cache_utils.CacheLayerMixin)
    classes = [k for k in vars(cache_utils).values() if isinstance(k, type) and issubclass(k, bases)]
    assert DynamicCache in classes
    assert [k for k in classes if k not in pytree.SUPPORTED_NODES] == []
    count = len(pytree.SUPPORTED_NODES)
    register_caches()
    assert len(pytree.SUPPORTED_NODES) == count


def test_paths_name_the_attributes() -> None:
    paths = [
        pytree.keystr(path)
        for path, leaf in pytree.tree_flatten_with_path(filled(1))[0]
        if isinstance(leaf, torch.Tensor)
    ]
    assert paths == [".layers[0].keys", ".layers[0].values"]


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    count = len(pytree.SUPPORTED_NODES)
    monkeypatch.delitem(sys.modules, "transformers.cache_utils")
    register_caches()
    assert len(pytree.SUPPORTED_NODES) == count
