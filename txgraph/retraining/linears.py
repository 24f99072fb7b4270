"""The linears of a model, by name: which there are, what flows into them, and how others take their places."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn

from txgraph.capture.state import attributes_kept
from txgraph.lossy.calibration import Call
from txgraph.lossy.observe import MOST_BYTES
from txgraph.progress import track
from txgraph.retraining.layers import CompressedLinear, LowRankLinear
from txgraph.rewrite import Observed


def linears_of(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model that are linears and are called as such, by name.

    Those of ``nn.MultiheadAttention`` are not: it reads their weights by itself.
    """
    own = {
        id(part) for module in model.modules() if isinstance(module, nn.MultiheadAttention) for part in module.modules()
    }
    return {name: module for name, module in model.named_modules() if id(module) not in own and _is_linear(module)}


def matching(model: nn.Module, pattern: str) -> dict[str, nn.Module]:
    """The linears whose names, or those of the low-rank linear that they are part of, are like a pattern.

    Raises:
        ValueError: there are none, or one has quantized weights.
    """
    found = linears_of(model)
    inner = {name: isinstance(model.get_submodule(name.rpartition(".")[0]), LowRankLinear) for name in found}
    names = {name: (name, name.rpartition(".")[0]) if inner[name] else (name,) for name in found}
    for name, module in model.named_modules():
        if fnmatchcase(name, pattern) and _is_quantized(module):
            raise ValueError(
                f"{name} ({type(module).__name__}) is quantized already: compress the model before that, or leave it "
                f"out by modules="
            )
    taken = {name: found[name] for name, known in names.items() if any(fnmatchcase(each, pattern) for each in known)}
    if not taken:
        raise ValueError(f"no linear is like modules={pattern!r}: {_nearest(pattern, list(found))}")
    return taken


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear keeps its weight as ``[K, N]``."""
    return module.transposed if isinstance(module, CompressedLinear) else _is_conv1d(module)


def weight_of(module: nn.Module) -> torch.Tensor:
    """What a linear multiplies by, ``[N, K]``, before it is quantized."""
    weight = module.weight
    assert isinstance(weight, torch.Tensor), "a linear"
    if isinstance(module, CompressedLinear) and module.mask is not None:
        weight = weight * module.mask
    return (weight.t() if is_transposed(module) else weight).detach()


def put(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """The model with a module in the place of another, wherever that is used."""
    new.train(old.training)
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = new
    return new if model is old else model


def observe(
    model: nn.Module, modules: Mapping[str, nn.Module], calls: Sequence[Call]
) -> Iterator[Mapping[str, Observed | None]]:
    """What flows into linears over calls, ``None`` for one that is not called: as many at a time as memory holds."""
    group: dict[str, nn.Module] = {}
    held = 0
    for name, module in modules.items():
        size = 4 * weight_of(module).shape[1] ** 2
        if group and held + size > MOST_BYTES:
            yield _observe(model, group, calls)
            group, held = {}, 0
        group[name] = module
        held += size
    if group:
        yield _observe(model, group, calls)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A model in eval mode, for a time."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with attributes_kept(model), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _observe(model: nn.Module, modules: Mapping[str, nn.Module], calls: Sequence[Call]) -> dict[str, Observed | None]:
    rows = dict.fromkeys(modules, 0)
    largest: dict[str, torch.Tensor] = {}
    sums: dict[str, torch.Tensor] = {}

    def look(name: str, input: torch.Tensor) -> None:
        x = input.detach().reshape(-1, input.shape[-1]).float()
        if name not in sums:
            largest[name], sums[name] = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1], x.shape[1])
        if len(x):
            largest[name] = largest[name].maximum(x.abs().amax(0))
            sums[name] += x.T @ x
            rows[name] += len(x)

    with contextlib.ExitStack() as hooks, evaluating(model):
        for name, module in modules.items():
            hook = module.register_forward_pre_hook(lambda _, args, name=name: look(name, args[0]))
            hooks.callback(hook.remove)
        for call in track(calls, "compress", lambda _: "calibration"):
            model(*call.args, **call.kwargs)
    return {name: Observed(count, largest[name], sums[name] / count) if count else None for name, count in rows.items()}


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, CompressedLinear):
        return True
    plain = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
    weight = module._parameters.get("weight") if plain or _is_conv1d(module) else None
    return weight is not None and weight.ndim == 2 and weight.is_floating_point()


def _is_conv1d(module: nn.Module) -> bool:
    """Whether it is the linear of GPT-2 in transformers, which need not be installed."""
    return type(module).__name__ == "Conv1D" and type(module).__module__ == "transformers.pytorch_utils"


def _is_quantized(module: nn.Module) -> bool:
    """Whether it is a linear of another library, with integers as weights."""
    if type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
        return "Linear" in type(module).__name__
    weight = getattr(module, "_parameters", {}).get("weight")
    return isinstance(module, nn.Linear) and weight is not None and not weight.is_floating_point()


def _nearest(pattern: str, names: Iterable[str]) -> str:
    names = list(names)
    if not names:
        return "the model has no linear"
    near = difflib.get_close_matches(pattern, names, 3, 0.0)
    return f"the nearest names are {', '.join(near)}"
