"""``txgraph.optimize``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from txgraph.backends import backend_names
from txgraph.check import check_own
from txgraph.cost import Hardware
from txgraph.lossy import Budget, Calibration
from txgraph.optimized_model import OptimizedModel
from txgraph.options import BackendOptions, CompileOptions, Target
from txgraph.passes import default_pipeline, with_zero_padding
from txgraph.pipeline import Pipeline


def optimize(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    backend: str = "inductor",
    target: str | Target | None = None,
    passes: Pipeline | None = None,
    padding: str = "exact",
    budget: Budget | None = None,
    calibration: Iterable[Any] | None = None,
    verify: str = "passes",
    measure: str = "off",
    profile: bool = False,
    options: Mapping[str, Any] | BackendOptions | None = None,
) -> OptimizedModel:
    """Make a faster drop-in replacement of ``model`` for inference, checked against it by numbers.

    Without ``args`` and ``kwargs`` the model is captured at its first call; batch and sequence become
    dynamic when a second shape is seen. With them it is captured and compiled now. ``model`` itself is
    not changed. Its weights are shared; only those that a rewrite joins (query, key and value) are copied.

    Args:
        model: any ``nn.Module``; usually in eval mode.
        args, kwargs: example inputs of one call, to compile ahead of time.
        dynamic_shapes: which axes may vary, as in :func:`torch.export.export`.
        backend: ``"inductor"``, ``"tvm"``, ``"reference"`` (eager interpreter) or ``"auto"``: of Inductor and TVM what
            measures faster, for the graph or layer by layer (docs/auto.md); it compiles several times.
        target: ``"cpu"``, ``"cuda"``, ``"cuda:sm_90"`` or a :class:`Target`; default: where the weights are. A GPU that
            this machine has not is compiled for, too, with ``verify="off"``: to be read, not called (docs/cuda.md).
        passes: the pipeline to run; default :func:`txgraph.default_pipeline`.
        padding: ``"exact"``: outputs are eager's, also where the padding mask says that there is no token; such values
            are then computed. ``"zeros"``: your word that nobody uses them: outputs with a batch and a sequence axis
            are zeros there, and the work is skipped.
        budget: how far outputs may move: lower precision, low rank and sparsity are then used where they are faster,
            within this :class:`txgraph.Budget` (docs/lossy.md). Nothing lossy happens without.
        calibration: batches of data like that the model will see, such as a ``DataLoader``: mappings by name, tuples,
            or tensors. Half of them choose what is done, the others only check it.
        verify: ``"passes"`` checks the capture, each pass that changed something and the compiled
            result against eager and float64; ``"rewrites"`` each rewrite by itself, too, and the user's own rules
            before all (:func:`txgraph.check`); ``"final"`` only the capture and the result; ``"off"`` nothing.
        measure: ``"off"`` trusts the cost model's predictions; ``"rewrites"`` compiles and times each kind of rewrite
            by itself, before and after, and keeps those that are no slower. Takes seconds for each kind.
        profile: measure, too, where the time of a call with the example inputs goes; it stands in the report.
        options: see :class:`txgraph.options.BackendOptions`.

    Returns:
        A module that is called, moved and saved as ``model`` is. Its ``report`` says what was done.

    Raises:
        TypeError: ``model`` is not a module, or the example inputs do not fit its ``forward``.
        ValueError: a value that does not exist; NotImplementedError: one that is not available yet.
        CheckFailed: a rule of the user's own is wrong by itself.
        CaptureFailed, PassFailed, UnsupportedOp, BackendFailed, VerificationFailed: see :mod:`txgraph.errors`.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"optimize() expects a torch.nn.Module, got {type(model).__name__}. "
            f"Wrap a function in a module whose forward() calls it."
        )
    if isinstance(model, OptimizedModel):
        raise TypeError("this model is optimized already: optimize the original instead")
    if not isinstance(args, tuple):
        raise TypeError(f"args must be a tuple of positional inputs, got {type(args).__name__}: write args=(x,)")
    if passes is not None and not isinstance(passes, Pipeline):
        raise TypeError(
            f"passes must be a txgraph.Pipeline, got {type(passes).__name__}; start from txgraph.default_pipeline()"
        )
    if not isinstance(profile, bool):
        raise TypeError(f"profile must be True or False, got {type(profile).__name__}")
    if budget is not None and not isinstance(budget, Budget):
        raise TypeError(f"budget must be a txgraph.Budget, got {type(budget).__name__}: Budget(relative_error=0.02)")
    pipeline = default_pipeline() if passes is None else passes
    if pipeline.lossy and budget is None:
        raise ValueError(f"{pipeline.lossy[0].name} is lossy: say how far it may go, by budget= and calibration=")
    parsed = CompileOptions.parse(
        backend=backend,
        target=target,
        padding=padding,
        budget=budget,
        calibration=None if calibration is None else Calibration.of(calibration),
        verify=verify,
        measure=measure,
        options=options,
    )
    hardware = parsed.backend_options.hardware
    if hardware is not None and not isinstance(hardware, Hardware):
        raise TypeError(
            f"options['hardware'] must be a txgraph.cost.Hardware, got {type(hardware).__name__}; "
            f"take one of txgraph.cost.HARDWARE, or txgraph.cost.calibrate()"
        )
    if backend not in backend_names():
        raise ValueError(f"unknown backend {backend!r}: expected one of {backend_names()}")
    if padding == "zeros":
        pipeline = with_zero_padding(pipeline)
    optimized = OptimizedModel(model, pipeline, parsed)
    if parsed.verify == "rewrites":
        optimized.report.notes += check_own(optimized._pipeline)
    if args or kwargs:
        optimized.compile_ahead(args, kwargs or {}, dynamic_shapes)
        if profile and optimized.report.graphs:  # else it runs in eager
            optimized.report.graphs[-1].profile = optimized.profile(*args, **(kwargs or {}))
    elif dynamic_shapes is not None or profile:
        name = "profile" if profile else "dynamic_shapes"
        raise ValueError(f"{name} needs example inputs: give args or kwargs, too")
    return optimized
