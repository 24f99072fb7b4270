"""Compiled calls that another process kept.

A graph that was kept is taken where all that it depends on is as it was, as far as that can be told, and where its
guard accepts the call. It is then verified on that call like a new one, against eager and float64.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from txgraph.backends import Backend
from txgraph.cache import CannotTell, Store, fingerprint, is_on
from txgraph.capture import InputGuard
from txgraph.compiled_call import CompiledCall, ExampleCall, frozen_tensors
from txgraph.errors import BackendFailed
from txgraph.ir import Graph
from txgraph.options import CompileOptions
from txgraph.pipeline import Pipeline
from txgraph.report import GraphReport

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """What is kept of a compiled call.

    Attributes:
        compiled: what the backend restores it from. frozen: names of the tensors whose values it holds.
        vetoes: rewrites that were taken out. notes: what the report was told. The rest: see :class:`CompiledCall`.
    """

    before: Graph
    after: Graph
    guard: InputGuard
    compiled: Any
    out_spec: pytree.TreeSpec
    report: GraphReport
    notes: tuple[str, ...]
    vetoes: Mapping[tuple[str, str], str]
    frozen: tuple[str, ...]


@dataclass(frozen=True)
class WarmStart:
    """What is kept for calls like ``call``.

    Attributes:
        key: the fingerprint of all that decides; empty where nothing is kept.
    """

    call: ExampleCall
    key: str

    @classmethod
    def of(cls, call: ExampleCall, backend: Backend, pipeline: Pipeline, options: CompileOptions) -> WarmStart:
        """Nothing is kept where the options or the environment say so, or where the model cannot be known again."""
        if not options.backend_options.cache or not is_on():
            return cls(call, "")
        others = call.structure, call.dynamic_shapes, pipeline, options, backend.name, backend.settings
        try:
            return cls(call, fingerprint(call.model, call.tensors, *others))
        except CannotTell as error:
            log.info("%s is not kept for other processes: %s", type(call.model).__name__, error)
            return cls(call, "")

    def fitting(self, tensors: Sequence[torch.Tensor]) -> Iterator[tuple[Path, Kept]]:
        """What was kept and accepts these tensors, with its folder."""
        if self.key:
            for folder, kept in Store().find(self.key, self.call.model):
                if kept.guard.accepts(tensors):
                    yield folder, kept

    def keep(self, made: CompiledCall) -> None:
        """Keep a compiled call, where its backend can restore it."""
        if not self.key or made.compiled.keep is None:
            return
        frozen = frozen_tensors(made.before, made.after, made.compiled)
        try:
            kept = Kept(
                made.before,
                made.after,
                made.guard,
                made.compiled.keep(),
                made.out_spec,
                made.report,
                made.notes,
                made.context.vetoes,
                tuple(frozen),
            )
            folder = Store().keep(self.key, self.call.model, kept, frozen)
        except (CannotTell, BackendFailed) as error:
            log.info("%s is not kept for other processes: %s", type(self.call.model).__name__, error)
        except OSError as error:
            log.warning("%s cannot be kept for other processes: %s", type(self.call.model).__name__, error)
        else:
            log.info("%s is kept for other processes in %s", type(self.call.model).__name__, folder)
