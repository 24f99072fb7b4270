"""``generate`` of Hugging Face decoders on compiled graphs: one for prompts, one for all steps of a token.

transformers' own ``generate`` runs: sampling, beams, stopping and streaming are its code. In place of the model it
gets a stand-in that runs each forward as a compiled :class:`Step` on a cache of fixed size, which the step writes in
place. This module imports transformers, and with it private names of its ``GenerationMixin``:
``_prepare_generation_config``, ``_prepare_static_cache`` and ``_get_static_cache_init_shape``.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from transformers.cache_utils import Cache, StaticCache, StaticLayer, StaticSlidingWindowLayer

from txgraph.errors import CaptureFailed
from txgraph.report import Report

log = logging.getLogger(__name__)

CACHE_MULTIPLE = 64  # tokens: calls of similar lengths share the first, static graphs
MODES = ("greedy_search", "sample", "beam_search", "beam_sample")
_CALL = "_txgraph_call"  # attributes of a stand-in
_CACHE = "_txgraph_cache"
_SEEN = "_txgraph_seen"


class WholeLayer(StaticLayer):  # type: ignore[no-untyped-call]  # of its __init_subclass__
    """A layer with sliding attention that keeps all tokens: its mask hides those that left the window.

    transformers' own layer counts tokens in Python, and rolls: a graph for every token.
    """

    is_sliding = True


class StepLayer(StaticLayer):  # type: ignore[no-untyped-call]  # of its __init_subclass__
    """A cache layer within one step. All layers of a step write to the same places.

    Args:
        keys, values: ``[B, G, T, D]``, written in place. length: tokens before this step, an i64 scalar.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, length: torch.Tensor, is_sliding: bool) -> None:
        self._rows = keys, values
        self.keys, self.values, self.cumulative_length = keys, values, length
        self.dtype, self.device = keys.dtype, keys.device
        self.max_cache_len, self.is_sliding, self.is_initialized = keys.shape[-2], is_sliding, True
        self.updates = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put the new keys and values ``[B, G, S, D]`` behind the others; gives all of them ``[B, G, T, D]``."""
        places = torch.arange(key_states.shape[-2], device=self.device) + self.cumulative_length
        keys, values = self._rows
        self.updates += 1
        return keys.index_copy_(2, places, key_states), values.index_copy_(2, places, value_states)


class Step(nn.Module):
    """One forward of a decoder, as a function of plain tensors: what is compiled.

    Args:
        sliding: for each layer of the cache, whether its attention is.
    """

    def __init__(self, model: nn.Module, sliding: Sequence[bool]) -> None:
        super().__init__()
        self.model = model
        self.sliding = tuple(sliding)
        self.training = model.training

    def forward(
        self, inputs: dict[str, Any], keys: list[torch.Tensor], values: list[torch.Tensor], length: torch.Tensor
    ) -> Any:
        """What ``model(**inputs)`` gives, without the cache. Writes ``keys`` and ``values``.

        Args:
            inputs: the arguments of the model, tokens ``[B, S]`` among them.
            keys, values: for each layer ``[B, G, T, D]``.
            length: tokens that are in the cache already: a scalar of int64, written, too.
        """
        layers = [StepLayer(k, v, length, s) for k, v, s in zip(keys, values, self.sliding, strict=True)]
        cache = object.__new__(StaticCache)  # its own __init__ makes other layers
        Cache.__init__(cache, layers=[*layers])
        outputs = self.model(**inputs, past_key_values=cache)
        if any(layer.updates != 1 for layer in layers):
            raise CaptureFailed(f"{type(self.model).__name__} does not write each layer of its cache once in a step")
        tokens = inputs.get("input_ids")
        length += (inputs["inputs_embeds"] if tokens is None else tokens).shape[1]
        return type(outputs)(**{name: value for name, value in outputs.items() if name != "past_key_values"})


class CompiledStep(Protocol):
    """What runs a :class:`Step`."""

    def __call__(self, *args: Any) -> Any:
        """Run it."""

    def again(self, *args: Any) -> Any:
        """The same, where the model is as it was at the last call."""


class Generation:
    """Runs ``generate`` of one decoder.

    Args:
        compiled: makes what runs a :class:`Step` compiled; for prompts, and for single tokens.
        report: where it is noted that a call runs the original's own ``generate``.
    """

    def __init__(self, model: nn.Module, compiled: Callable[[nn.Module], CompiledStep], report: Report) -> None:
        self._model = model
        self._report = report
        self._compiled = compiled
        self._steps: dict[tuple[bool, tuple[bool, ...]], CompiledStep] = {}

    def __call__(self, inputs: Any = None, generation_config: Any = None, *others: Any, **kwargs: Any) -> Any:
        """As ``model.generate``: same arguments, same results.

        Raises:
            What the original's ``generate`` raises, and what calls of an optimized model do.
        """
        model: Any = self._model
        reason = "arguments by position" if others else self._why_not(generation_config, kwargs)
        if reason:
            self._note(f"generate ran the original's eager forward: {reason}")
            return model.generate(inputs, generation_config, *others, **kwargs)
        options: dict[str, Any] = {"disable_compile": True}  # or transformers would compile the steps itself
        if kwargs.get("past_key_values") is None:
            options["cache_implementation"] = "static"
        if generation_config is None:
            kwargs |= options
        else:  # transformers takes no options beside it
            generation_config = copy.deepcopy(generation_config)
            vars(generation_config).update(options)
        stand_in = _stand_in(model, self._forward)
        try:
            return stand_in.generate(inputs, generation_config, **kwargs)
        finally:
            cache = vars(stand_in).get(_CACHE)
            if cache is not None:  # the user may go on with it
                for layer in cache.layers:
                    layer.cumulative_length = layer.cumulative_length.clone()

    def _why_not(self, generation_config: Any, kwargs: Mapping[str, Any]) -> str:
        """What of a call, or of the model, has no compiled steps; an empty text if nothing."""
        model: Any = self._model
        assistant = kwargs.get("assistant_model")
        settings = {name: value for name, value in kwargs.items() if name != "assistant_model"}
        config, others = model._prepare_generation_config(generation_config, **settings)
        mode = str(config.get_generation_mode(assistant).value)
        device = next(model.parameters()).device
        unsupported = {
            "it is in training mode": any(module.training for module in model.modules()),
            "it is an encoder-decoder": bool(model.config.is_encoder_decoder),
            "custom_generate is given": kwargs.get("custom_generate") is not None,
            f"{mode.replace('_', ' ')} is not among the modes that are compiled": mode not in MODES,
            "use_cache is off": not config.use_cache,
            f"the cache is {config.cache_implementation}": config.cache_implementation not in (None, "static"),
            "guidance_scale is given": config.guidance_scale not in (None, 1),
            "autocast is on": torch.is_autocast_enabled(device.type),
        }
        reason = next((text for text, holds in unsupported.items() if holds), "")
        given = others.get("past_key_values")
        if not reason and given is not None and not _is_kept(given):
            reason = f"past_key_values is a {type(given).__name__} that is not made of StaticLayer"
        return reason or self._why_no_cache()

    def _why_no_cache(self) -> str:
        """What of the model's own cache cannot be kept as keys and values of all tokens."""
        model: Any = self._model
        if not model._supports_default_dynamic_cache():
            return "it takes no cache of transformers' usual kind"
        config = model.config.get_text_config(decoder=True)
        if getattr(config, "attention_chunk_size", None) is not None:
            return "its attention is chunked"
        kinds = {type(layer) for layer in StaticCache(config=config, max_cache_len=1).layers}
        other = sorted(kind.__name__ for kind in kinds - {StaticLayer, StaticSlidingWindowLayer})
        if other:
            return f"its cache has layers of kind {', '.join(other)}"
        return "" if model._get_static_cache_init_shape() is not None else "the sizes of its cache are not known ahead"

    def _note(self, note: str) -> None:
        if note not in self._report.notes:
            self._report.notes.append(note)
        log.warning("%s: %s", type(self._model).__name__, note)

    def _forward(self, stand_in: Any, inputs: dict[str, Any]) -> Any:
        """One forward that transformers asks for."""
        cache = inputs.pop("past_key_values", None)
        if not _is_kept(cache):
            self._note("a forward of generate ran in eager: it came with another cache")
            return self._model(**inputs, past_key_values=cache)
        tokens = inputs.get("input_ids")
        tokens = inputs["inputs_embeds"] if tokens is None else tokens
        if vars(stand_in).get(_CACHE) is not cache:
            vars(stand_in)[_CACHE] = cache
            self._initialize(cache, tokens.shape[0])
        layers = cache.layers
        step = self._step(tokens.shape[1] == 1, tuple(layer.is_sliding for layer in layers))
        inputs = {name: value for name, value in inputs.items() if value is not None}
        seen = vars(stand_in).setdefault(_SEEN, set())  # steps of this generate(): the model does not change meanwhile
        run = step.again if step in seen else step
        seen.add(step)
        outputs = run(
            inputs, [layer.keys for layer in layers], [layer.values for layer in layers], layers[0].cumulative_length
        )
        outputs["past_key_values"] = cache
        return outputs

    def _initialize(self, cache: Any, batch: int) -> None:
        """Allocate the cache, and give its layers one length: every step adds to all alike."""
        model: Any = self._model
        heads, features = model._get_static_cache_init_shape()
        cache.early_initialization(batch, heads, features, model.dtype, model.device)
        for layer in cache.layers:
            layer.cumulative_length = cache.layers[0].cumulative_length

    def _step(self, single: bool, sliding: tuple[bool, ...]) -> CompiledStep:
        key = (single, sliding)
        if key not in self._steps:
            self._steps[key] = self._compiled(Step(self._model, sliding))
        return self._steps[key]


def _is_kept(cache: Any) -> bool:
    """Whether a cache keeps all tokens at fixed places."""
    return isinstance(cache, StaticCache) and all(type(layer) in (StaticLayer, WholeLayer) for layer in cache.layers)


def _stand_in(model: Any, forward: Callable[[Any, dict[str, Any]], Any]) -> Any:
    """An object with all that ``model`` has, whose calls are ``forward``; what is assigned to it stays its own."""
    made: Any = object.__new__(_stand_in_class(type(model)))  # type: ignore[arg-type]  # a class has a hash
    vars(made).update(vars(model))
    vars(made)[_CALL] = forward
    return made


@functools.cache
def _stand_in_class(kind: type) -> type:
    """A subclass of the same name: transformers decides by names, too."""

    def call(self: Any, **inputs: Any) -> Any:
        return vars(self)[_CALL](self, inputs)

    def prepare(self: Any, cache_implementation: str, batch_size: int, max_cache_len: int, **others: Any) -> Any:
        length = -(-max_cache_len // CACHE_MULTIPLE) * CACHE_MULTIPLE
        cache = StaticCache(config=self.config.get_text_config(decoder=True), max_cache_len=length)
        cache.layers = [
            WholeLayer(max_cache_len=length) if isinstance(layer, StaticSlidingWindowLayer) else layer
            for layer in cache.layers
        ]
        return cache

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind,), {**names, "__call__": call, "_prepare_static_cache": prepare})
