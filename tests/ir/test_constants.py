"""Constants are owned once, are the model's own tensors, and remember what they were made from."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.small import MLP, graph_of, module
from txgraph.ir import ConstantStore, check_spec, op_name

IDS = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])
X = torch.ones(2, 4)


def gpt2() -> PreTrainedModel:
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100, bos_token_id=0, eos_token_id=2)
    return GPT2LMHeadModel(config).eval()


def bert() -> PreTrainedModel:
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return BertForMaskedLM(BertConfig(vocab_size=100, **size)).eval()


def t5() -> PreTrainedModel:
    size = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(vocab_size=100, **size)).eval()


@pytest.mark.parametrize(
    ("make", "inputs", "tied"),
    [
        (gpt2, {"input_ids": IDS}, "transformer.wte.weight"),
        (bert, {"input_ids": IDS}, "bert.embeddings.word_embeddings.weight"),
        (t5, {"input_ids": IDS, "decoder_input_ids": IDS}, "shared.weight"),
    ],
)
def test_tied_weights_are_one_constant(
    make: Callable[[], PreTrainedModel], inputs: dict[str, torch.Tensor], tied: str
) -> None:
    model = make()
    shared = model.get_input_embeddings().weight
    names = {name for name, each in model.named_parameters(remove_duplicate=False) if each is shared}
    assert len(names) > 1
    graph = graph_of(model, **inputs)
    assert names & set(graph.constants) == {tied}
    (node,) = [n for n in graph.nodes if n.op == "get_attr" and n.target in names]
    assert {op_name(user) for user in node.users} == {"embedding", "linear"}
    check_spec(graph)
    assert graph.constants[tied].data_ptr() == shared.data_ptr()

    # No second copy of anything else; what the model makes in its forward() are numbers.
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    other = [t for t in graph.constants.values() if t.untyped_storage().data_ptr() not in own]
    assert {t.numel() for t in other} <= {0, 1}
    assert 0 < graph.constants.nbytes() <= sum(t.nbytes for t in [*model.parameters(), *model.buffers(), *other])
    assert not any(t.requires_grad for t in graph.constants.values())


def test_views_of_one_storage_that_differ_are_two_constants() -> None:
    base = torch.arange(8.0)
    model = module(lambda x: x + model.a + model.b)
    model.register_buffer("a", base[:4])
    model.register_buffer("b", base[4:])
    graph = graph_of(model, X)
    assert set(graph.constants) == {"a", "b"}
    assert graph.constants.nbytes() == 8 * 4


def test_buffers_that_share_memory_are_one_constant() -> None:
    base = torch.arange(4.0)
    model = module(lambda x: x + model.a + model.b)
    model.register_buffer("a", base)
    model.register_buffer("b", base.view(4))
    assert set(graph_of(model, X).constants) == {"a"}


def test_plain_tensor_attributes_are_constants() -> None:
    model = module(lambda x: x * model.scale, scale=torch.tensor([2.0]))
    graph = graph_of(model, X)
    assert set(graph.constants) == {"scale"}
    assert graph.constants["scale"].data_ptr() == model.scale.data_ptr()


def test_mapping() -> None:
    graph = graph_of(MLP(), X)
    store = graph.constants
    assert list(store) == ["up.weight", "up.bias", "down.weight", "down.bias"]
    assert len(store) == 4
    assert "up.bias" in store
    with pytest.raises(KeyError):
        store["nothing"]


def test_folded_values_remember_their_origins() -> None:
    store = ConstantStore({"a": torch.ones(1), "b": torch.ones(1)})
    first = store.add_folded("folded", torch.ones(1), ["a"])
    second = store.add_folded("folded", torch.ones(1), [first, "b"])
    assert (first, second) == ("folded", "folded_1")
    assert store.sources == {"folded": {"a"}, "folded_1": {"a", "b"}}
    assert store.origins(["folded_1"]) == {"a", "b"}
    assert store.frozen_values() == {"a", "b"}


def test_observed_values_are_frozen() -> None:
    store = ConstantStore({"a": torch.ones(1), "b": torch.ones(1)})
    folded = store.add_folded("folded", torch.ones(1), ["a"])
    del store.tensors[folded], store.sources[folded]
    assert store.frozen_values() == frozenset()
    store.observe(["b"])
    assert store.frozen_values() == {"b"}


def test_observing_a_folded_value_freezes_what_it_was_made_from() -> None:
    store = ConstantStore({"a": torch.ones(1)})
    folded = store.add_folded("folded", torch.ones(1), ["a"])
    store.observe([folded])
    assert store.observed == {"a"}


def test_a_copy_is_independent() -> None:
    store = ConstantStore({"a": torch.ones(1)})
    copy = store.copy()
    copy.add_folded("folded", torch.ones(1), ["a"])
    copy.observe(["a"])
    assert (list(store), store.sources, store.observed) == (["a"], {}, set())
    assert copy["a"] is store["a"]


def test_size_in_bytes() -> None:
    assert ConstantStore({"a": torch.ones(3), "b": torch.ones(2, dtype=torch.float16)}).nbytes() == 3 * 4 + 2 * 2
