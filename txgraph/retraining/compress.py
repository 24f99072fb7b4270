"""``txgraph.compress``."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from txgraph.lossy import Budget, Calibration
from txgraph.lossy.calibration import Call
from txgraph.optimized_model import OptimizedModel
from txgraph.retraining.channels import hidden_channels
from txgraph.retraining.layers import CompressedLinear, LowRankLinear
from txgraph.retraining.linears import evaluating, linears_of, matching, observe, put, weight_of
from txgraph.retraining.methods import TRAINED, Unfit, changed, masked, silence
from txgraph.retraining.prune import Prune, kept_channels
from txgraph.retraining.search import chosen
from txgraph.rewrite import LinearPass, Observed

log = logging.getLogger(__name__)


def compress(
    model: nn.Module,
    *methods: LinearPass | Prune,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    calibration: Iterable[Any] | None = None,
    budget: Budget | None = None,
    backend: str = "inductor",
) -> nn.Module:
    """A copy of ``model`` in a smaller form that trains further; ``model`` itself is not changed.

    After training, :func:`txgraph.optimize` takes the copy without further loss. Its linears are of other classes:
    quantized ones (``Int8``, ``WeightOnly``) round weights and inputs in the forward, and gradients pass as if they did
    not; low-rank ones have two factors as parameters; pruned ones keep their zeros. The forward is the same in training
    and in inference.

    Args:
        model: any ``nn.Module`` with ``nn.Linear``, or the ``Conv1D`` of transformers.
        methods: ``txgraph.passes.Int8``, ``WeightOnly`` and ``LowRank``, and :class:`txgraph.retraining.Prune`, done in
            this order: one works on what those before have made. Each is for the linears whose names are like its
            ``modules``; with ``"*"``, the default, for all that it fits.
        args, kwargs: example inputs of one call; the first batch of the calibration, if none are given. Needed to
            find hidden channels; and with ``budget`` it is the call whose time counts.
        calibration: batches of data like that the model will see, such as a ``DataLoader``. Methods then know what
            matters for such inputs.
        budget: let the search of ``optimize`` choose where the methods are used; without any, what is faster of all.
        backend: that the search measures times with.

    Returns:
        A module of the class of ``model``, in its mode.

    Raises:
        TypeError: an argument of another type. ValueError: no method, no linear that one is for, one that does not fit
            where it was asked for by name, or after what was done before; a budget without a calibration.
        CaptureFailed: hidden channels or a budget were asked for, and the model cannot be captured.
    """
    _check(model, methods, args)
    if not methods and budget is None:
        raise ValueError("compress() needs methods, such as txgraph.passes.Int8(), or budget= and calibration=")
    if budget is not None and calibration is None:
        raise ValueError("budget= needs calibration=: data to choose by")
    calls = None if calibration is None else Calibration.of(calibration)
    example = Call(args, dict(kwargs or {})) if args or kwargs else calls.calls[0] if calls is not None else None
    work = _Work(copy.deepcopy(model), None if calls is None else calls.calls, example)
    if budget is None:
        for method in methods:
            work.apply(method)
    else:
        assert calls is not None and example is not None, "asked above"  # noqa: PT018
        passes = [method for method in methods if isinstance(method, LinearPass)]
        if len(passes) < len(methods):
            raise ValueError("Prune has no place in the search of a budget: compress with it before, or after")
        with evaluating(work.model):
            steps = chosen(work.model, example, calls, budget, passes, backend, linears_of(work.model))
        for each, names in steps:
            work.apply_to(each, {name: linears_of(work.model)[name] for name in names}, explicit=False)
    _leave_fast_path(work.model)
    return work.model


class _Work:
    """The copy of a model, and what is known of its calls."""

    def __init__(self, model: nn.Module, calls: Sequence[Call] | None, example: Call | None) -> None:
        self.model, self._calls, self._example = model, calls, example

    def apply(self, method: LinearPass | Prune) -> None:
        """Use a method wherever its pattern allows."""
        if isinstance(method, Prune) and method.structure == "channels":
            self._prune_channels(method)
            return
        self.apply_to(method, matching(self.model, method.modules), explicit=method.modules != "*")

    def apply_to(self, method: LinearPass | Prune, linears: Mapping[str, nn.Module], explicit: bool) -> None:
        """Use a method on some linears.

        Raises:
            ValueError: it does not fit one that was asked for by name, or none of them.
        """
        unfit: list[Unfit] = []
        unknown: list[Mapping[str, Observed | None]] = [dict.fromkeys(linears)]
        for group in unknown if self._calls is None else observe(self.model, linears, self._calls):
            for name, observed in group.items():
                try:
                    new = changed(method, name, linears[name], observed)
                except Unfit as reason:
                    if explicit:
                        raise
                    unfit.append(reason)
                    log.warning("stays as it is: %s", reason)
                    continue
                self.model = put(self.model, linears[name], new)
        if unfit and len(unfit) == len(linears):
            raise unfit[0]

    def _prune_channels(self, method: Prune) -> None:
        if self._example is None:
            raise ValueError("Prune(structure='channels') must run the model once: give args=, kwargs= or calibration=")
        linears = linears_of(self.model)
        with evaluating(self.model):
            blocks = hidden_channels(self.model, self._example, linears)
        wanted = [b for b in blocks if any(fnmatchcase(name, method.modules) for name in (*b.before, b.after))]
        if not wanted:
            found = ", ".join(block.after for block in blocks[:3]) or "none"
            raise ValueError(
                f"no hidden channels are between linears like modules={method.modules!r}; found before: {found}"
            )
        readers = {block.after: linears[block.after] for block in wanted}
        seen: dict[str, Observed | None] = {}
        for group in () if self._calls is None else observe(self.model, readers, self._calls):
            seen.update(group)
        for block in wanted:
            weights = {name: weight_of(linears[name]) for name in (*block.before, block.after)}
            before = [weights[name] for name in block.before]
            kept = kept_channels(before, [weights[block.after]], method.fraction, seen.get(block.after))
            for name in block.before:
                silence(linears[name], ~kept)
            for name, weight in weights.items():
                mask = kept.expand_as(weight) if name == block.after else kept[:, None].expand_as(weight)
                self.model = put(self.model, linears[name], masked(linears[name], name, mask))


def _check(model: object, methods: Sequence[object], args: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"compress() expects a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, OptimizedModel):
        raise TypeError("this model is optimized already: compress the original, train it, and optimize that")
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple of positional inputs, got {type(args).__name__}: write args=(x,)")
    for method in methods:
        if not isinstance(method, (*TRAINED, Prune)):
            raise TypeError(
                f"compress() has no {type(method).__name__} that trains: expected txgraph.passes.Int8, WeightOnly, "
                f"LowRank, or txgraph.retraining.Prune"
            )


def _leave_fast_path(model: nn.Module) -> None:
    """Keep torch's encoder layers from the kernel for inference that reads the weights past their modules."""
    for module in model.modules():
        if not any(isinstance(part, CompressedLinear | LowRankLinear) for part in module.modules()):
            continue
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
        elif isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0  # that of neither
