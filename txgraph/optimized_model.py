"""The drop-in model that ``txgraph.optimize`` returns."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from txgraph.capture import CallSignature, FlatCall
from txgraph.capture.guards import explain_mismatch
from txgraph.capture.shapes import next_shapes, shapes_by_name
from txgraph.capture.weights import check_weights
from txgraph.compile import compile_call
from txgraph.compiled_call import CompiledCall, ExampleCall
from txgraph.compression import Compression, compression_of
from txgraph.errors import BackendFailed, CaptureFailed, GuardFailed, TxgraphError, UnsupportedOp
from txgraph.explain import Explanation
from txgraph.ir import Graph, Kernel
from txgraph.options import CompileOptions
from txgraph.pipeline import Pipeline
from txgraph.profile import Profile
from txgraph.profiler import profile_call
from txgraph.render import Picture, Stages, read_benchmark, render, render_budget, to_iframe, to_page
from txgraph.report import Fallback, Report
from txgraph.tensorboard import write_events

log = logging.getLogger(__name__)

# torch.export and Inductor keep process-wide state, and a capture replaces a model's parameters for its
# time: one thread compiles at a time, whichever model.
_COMPILING = threading.RLock()

# Attributes of nn.Module that OptimizedModel shares with the original, so that parameters(), to(),
# state_dict(), hooks and the like act on the same tensors under the same names.
_SHARED = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


class OptimizedModel(nn.Module):
    """A drop-in replacement of a model; made by :func:`optimize`.

    Everything but ``forward`` is the original's: parameters, buffers, submodules, ``state_dict``, ``config`` and so
    on. ``generate`` of Hugging Face decoders is the original's, too, with its forwards compiled.

    Attributes:
        report: what was done, checked and decided, for every graph compiled so far.
    """

    report: Report

    def __init__(
        self,
        model: nn.Module,
        pipeline: Pipeline,
        options: CompileOptions,
        report: Report | None = None,
        compression: Compression | None = None,
    ) -> None:
        super().__init__()
        with _COMPILING:
            check_weights(model)
        vars(self)["_original"] = model
        for name in _SHARED:
            vars(self)[name] = vars(model)[name]
        self.training = model.training
        self._pipeline = pipeline
        self._options = options
        self._signature = CallSignature.of(model)
        self._compiled: list[CompiledCall] = []
        self._last: CompiledCall | None = None  # which answered the last call
        self._seen: list[tuple[tuple[Any, ...], list[torch.Size]]] = []
        self._eager_structures: set[tuple[Any, ...]] = set()
        self._generation: Any = None  # made at the first call of generate
        self._compression = compression or compression_of(model, pipeline, options)
        self.report = report or Report(type(model).__name__, options.backend, options.verify)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Answer a call as the original would; the outputs carry no autograd graph."""
        call = self._signature.flatten(args, kwargs)
        compiled = self._fitting(call)
        if compiled is not None and not compiled.state.change():
            vars(self)["_last"] = compiled
            return compiled(call.tensors)
        return self._compile_and_run(args, kwargs, call)

    def again(self, *args: Any, **kwargs: Any) -> Any:
        """As a call, for who knows that the model and its modes are as they were at the last one.

        If its graph answers this call, too, only the inputs are looked at: that a model of 150 weights is unchanged
        takes a third of a millisecond to see while memory is busy with the weights.
        """
        call = self._signature.flatten(args, kwargs)
        last = self._last
        if last is not None and last.structure == call.structure and last.guard.accepts(call.tensors):
            return last(call.tensors)
        return self(*args, **kwargs)

    def compile_ahead(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any = None) -> None:
        """Compile for calls like this one; ``dynamic_shapes`` as in :func:`torch.export.export`."""
        call = self._signature.flatten(args, kwargs)
        normal_args, normal_kwargs = self._signature.normalise(args, kwargs)
        shapes = dynamic_shapes if normal_args else shapes_by_name(self._signature, dynamic_shapes, args, normal_kwargs)
        with _COMPILING:
            try:
                self._compile(normal_args, normal_kwargs, call, shapes)
            except (CaptureFailed, UnsupportedOp, BackendFailed) as error:
                if not self._options.backend_options.allow_fallback:
                    raise
                self._fall_back(call, error)

    @property
    def graph_before(self) -> Graph:
        """The captured graph of the latest compilation."""
        return self._latest().before

    @property
    def graph_after(self) -> Graph:
        """The graph of the latest compilation as it was lowered."""
        return self._latest().after

    def explain(self, name: str) -> Explanation:
        """Where a pass rewrote the latest graph, and its near misses with the first condition that failed.

        Raises:
            ValueError: no pass of that name is in the pipeline.
        """
        return self._latest().explain(self._pipeline, name)

    def code(self) -> str:
        """Source that the backend generated in the latest compilation."""
        return self._latest().compiled.code

    def kernels(self) -> tuple[Kernel, ...]:
        """What one call of the latest graph launches, in that order, with the nodes of ``graph_after`` it computes."""
        return self._latest().compiled.kernels

    def profile(self, *args: Any, calls: int = 20, **kwargs: Any) -> Profile:
        """Measure where the time of such a call goes: by kernel, module, pass and kind of kernel.

        The graph that answers the call runs ``calls`` times under torch.profiler; it is compiled first, if need be.
        It is the compiled code itself that runs, with a range of the profiler around each launch: these cost some
        microseconds each, which count as time outside of kernels. On GPUs a kernel's time is that on the device. What
        the model writes to inputs and buffers stays as it was. Not within a torch.profiler of one's own.

        Raises:
            ValueError: ``calls`` is less than one. TxgraphError: such calls run in eager.
        """
        call = self._signature.flatten(args, kwargs)
        with _COMPILING:
            compiled = self._compiled_for(args, kwargs, call)
        if compiled is None:
            raise TxgraphError("such calls run in eager, as report.fallbacks says: there are no kernels to measure")
        return profile_call(compiled, call.tensors, calls, type(self._original).__name__)

    def render(
        self,
        path: str | Path,
        view: str | None = None,
        level: str = "op",
        depth: int | None = None,
        focus: str = "",
        collapse: bool = True,
        profile: Profile | None = None,
        benchmark: str | Path | None = None,
    ) -> Path:
        """Draw the latest graph, before and after the passes: see :class:`txgraph.render.Picture`.

        Args:
            path: ends in .svg, .png, .pdf, .dot or .html.
            profile: of this graph, by :meth:`profile`: then shares of the time are those that were measured, else those
                of ``optimize(..., profile=True)``, else predicted.
            benchmark: a file that ``txgraph bench -o`` wrote, for a table of the .html page.

        Returns:
            The file written: without the ``dot`` program that is the .dot source.

        Raises:
            ValueError: another ending, no such view, level or module, a profile of another graph, or no benchmark.
            OSError: a file cannot be read or written.
        """
        picture = Picture(view, level, depth, focus, collapse)
        stages = self._stages(profile)
        if benchmark is not None:
            stages = replace(stages, benchmark=read_benchmark(benchmark))
        return render(stages, path, picture, type(self._original).__name__)

    def render_budget(self, path: str | Path) -> Path:
        """Draw how the budget was spent on the latest graph: relative error against seconds, and each place.

        Args:
            path: ends in .svg. The .html page of :meth:`render` has these charts, too.

        Raises:
            ValueError: another ending. TxgraphError: there is no budget, or nothing is compiled. OSError: as above.
        """
        self._latest()
        if self.report.budget is None:
            raise TxgraphError("no budget was spent: give optimize() a budget= and a calibration=")
        return render_budget(self.report.budget, path)

    def _repr_html_(self) -> str | None:
        """In notebooks, the page of the latest graph."""
        if not self._compiled:
            return None
        return to_iframe(to_page(self._stages(), Picture(), type(self._original).__name__))

    def _stages(self, profile: Profile | None = None) -> Stages:
        return self._latest().stages(self._pipeline, str(self.report), profile)

    def to_tensorboard(self, logdir: str | Path) -> Path:
        """Write all compiled graphs, before and after, and the report's figures for TensorBoard; returns the folder.

        Raises:
            ImportError: tensorboard is not installed. OSError: the folder cannot be written to.
        """
        self._latest()
        return write_events(logdir, [(each.before, each.after, each.report) for each in self._compiled])

    def train(self, mode: bool = True) -> OptimizedModel:
        """Switch the original, and all its submodules, too."""
        self._original.train(mode)
        self.training = mode
        return self

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = getattr(vars(self)["_original"], name)
            return self._generate if name == "generate" and self._decodes() else value

    def _decodes(self) -> bool:
        """Whether ``generate`` is that of transformers, which need not be installed."""
        return any(k.__module__ == "transformers.generation.utils" for k in type(self._original).__mro__)

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        """``generate`` of the original, on compiled steps."""
        from txgraph.generation import Generation

        if self._generation is None:
            self._generation = Generation(
                self._original,
                lambda step: OptimizedModel(step, self._pipeline, self._options, self.report, self._compression),
                self.report,
            )
        return self._generation(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> OptimizedModel:
        """A copy with its own weights, that compiles anew."""
        return OptimizedModel(copy.deepcopy(self._original, memo), self._pipeline, self._options)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled without its compiled graphs; it compiles anew where it is loaded."""
        return OptimizedModel, (self._original, self._pipeline, self._options)

    def __repr__(self) -> str:
        return f"OptimizedModel({len(self._compiled)} graph(s))\n{self._original!r}"

    def _latest(self) -> CompiledCall:
        if self._eager_structures and not self._compiled:
            raise TxgraphError(
                f"there is no graph: {self.report.fallbacks[-1].what} {self.report.fallbacks[-1].reason}"
            )
        if not self._compiled:
            raise TxgraphError(
                "nothing is compiled yet: call the model once, or give optimize() example inputs (args= or kwargs=)"
            )
        return self._compiled[-1]

    def _fitting(self, call: FlatCall) -> CompiledCall | None:
        """The compiled graph that answers such calls, if there is one."""
        for compiled in self._compiled:
            fits = compiled.structure == call.structure and compiled.guard.accepts(call.tensors)
            if fits and compiled.state.same_mode():
                return compiled
        return None

    def _forget(self, change: str) -> None:
        self._compiled.clear()
        self._last = None
        if self._compression is not None:
            self._compression.forget()
        self.report.notes.append(f"compiled anew because {change}")
        log.warning("%s: %s; compiling anew", type(self._original).__name__, change)

    def _fall_back(self, call: FlatCall, error: TxgraphError) -> None:
        """Run such calls in eager from now on."""
        self._eager_structures.add(call.structure)
        self.report.fallbacks.append(Fallback(type(self._original).__name__, f"runs eager: {error}"))
        log.warning("%s runs eager: %s", type(self._original).__name__, error)

    def _compile_and_run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], call: FlatCall) -> Any:
        if torch.is_grad_enabled() and any(t.requires_grad for t in call.tensors):
            raise GuardFailed(
                "an input requires grad, but an optimized model is for inference: its outputs carry no gradient. "
                "Call it under torch.no_grad(), detach the input, or train the original model."
            )
        with _COMPILING:
            compiled = self._compiled_for(args, kwargs, call)
        return self._original(*args, **kwargs) if compiled is None else compiled(call.tensors)

    def _compiled_for(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], call: FlatCall) -> CompiledCall | None:
        """A compiled graph for the call, made now if need be; ``None`` if it runs in eager."""
        compiled = self._fitting(call)  # another thread may just have made it
        if compiled is not None:
            change = compiled.state.change()  # asked again: a capture going on looked like a change
            if not change:
                return compiled
            self._forget(change)
        if call.structure in self._eager_structures:
            return None
        normal_args, normal_kwargs = self._signature.normalise(args, kwargs)
        shapes = next_shapes(self._signature, normal_args, normal_kwargs, call, self._seen)
        try:
            return self._compile(normal_args, normal_kwargs, call, shapes)
        except (CaptureFailed, UnsupportedOp, BackendFailed) as error:
            if not self._options.backend_options.allow_fallback:
                raise
            self._fall_back(call, error)
            return None

    def _compile(self, args: tuple[Any, ...], kwargs: dict[str, Any], call: FlatCall, shapes: Any) -> CompiledCall:
        options = self._options
        if len(self._compiled) >= options.backend_options.max_graphs:
            last = self._compiled[-1]
            why = "its structure is new"
            if last.structure == call.structure and last.guard.accepts(call.tensors):
                why = "the mode is new: train or eval flags, autocast, or the default dtype"
            elif last.structure == call.structure:
                why = explain_mismatch(last.before, [str(n.target) for n in last.before.inputs], call.tensors)
            raise GuardFailed(
                f"this call needs graph number {len(self._compiled) + 1}, over options={{'max_graphs': "
                f"{options.backend_options.max_graphs}}}: {why}. Declare the varying axes with dynamic_shapes=."
            )
        check_weights(self._original)
        with torch.random.fork_rng({t.device.index for t in call.tensors if t.is_cuda}):  # sampling goes on as in eager
            compiled = compile_call(
                ExampleCall(self._original, args, kwargs, call.tensors, call.structure, shapes),
                self._pipeline,
                options,
                self.report,
                self._compression,
            )
        self._compiled.append(compiled)
        self._seen.append((call.structure, [t.shape for t in call.tensors]))
        return compiled
