"""What the caller asked for, as frozen values that are handed down explicitly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

if TYPE_CHECKING:
    from txgraph.cost import Hardware
    from txgraph.lossy import Budget, Calibration

VerifyLevel = Literal["off", "final", "passes", "rewrites"]
MeasureLevel = Literal["off", "rewrites"]
CudaGraphs = Literal[False, True, "overwrite"]

_TARGET = re.compile(r"^(?P<kind>cpu|cuda)(:(?P<detail>sm_\d+[a-z]?|\d+))?$")


@dataclass(frozen=True)
class Target:
    """The device that code is generated for.

    ``kind`` is ``"cpu"`` or ``"cuda"``; ``arch`` a CUDA architecture such as ``"sm_90"``; ``index``
    the ordinal of the CUDA device.
    """

    kind: str
    arch: str | None = None
    index: int | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``"cpu"``, ``"cuda"``, ``"cuda:0"`` or ``"cuda:sm_90"``.

        >>> Target.parse("cuda:sm_90")
        Target(kind='cuda', arch='sm_90', index=None)

        Raises:
            ValueError: the text is none of these.
        """
        match = _TARGET.match(text)
        if match is None or (match["kind"] == "cpu" and match["detail"]):
            raise ValueError(f'unknown target {text!r}: expected "cpu", "cuda", "cuda:<index>" or "cuda:sm_<NN>"')
        detail = match["detail"]
        if detail is None:
            return cls(match["kind"])
        if detail.startswith("sm_"):
            return cls(match["kind"], arch=detail)
        return cls(match["kind"], index=int(detail))

    @classmethod
    def of(cls, device: torch.device) -> Target:
        """The target that runs on ``device``."""
        return cls(device.type, index=device.index)

    @property
    def is_absent(self) -> bool:
        """Whether this machine has no such device: code for it can be made here, and not run."""
        return self.kind == "cuda" and not torch.cuda.is_available()

    def __str__(self) -> str:
        detail = self.arch if self.arch is not None else self.index
        return self.kind if detail is None else f"{self.kind}:{detail}"


@dataclass(frozen=True)
class BackendOptions:
    """What ``optimize(options={...})`` may hold.

    Attributes:
        allow_fallback: run eager, and count it in ``report.fallbacks``, where a model cannot be
            captured or lowered; by default that is an error.
        max_graphs: graphs compiled for one model before a further new shape is an error.
        inductor: settings for ``torch._inductor.config``, by their names there.
        layers: compile a repeated layer once and call it for each copy: ``True`` of any size, ``False`` never, ``None``
            where the copies take long enough. Saves compile time; nothing is fused across the borders of layers.
        hardware: the machine that rewrites are weighed for; by default the description that fits the target best.
            ``txgraph.cost.calibrate()`` measures this one.
        cache: keep compiled graphs on disk, and take what another process kept, once it is verified on the call at
            hand; see docs/warm-start.md. The environment variable ``TXGRAPH_CACHE=0`` turns it off for all.
        choose_seconds: with ``backend="auto"``, seconds after which no further way is compiled to be compared. What has
            begun is finished.
        cuda_graphs: record compiled graphs of static sizes as CUDA graphs, and replay them in each call: ``True`` gives
            outputs as clones, ``"overwrite"`` in memory that the next call overwrites; see docs/cuda.md.
    """

    allow_fallback: bool = False
    max_graphs: int = 16
    inductor: Mapping[str, Any] = field(default_factory=dict)
    layers: bool | None = None
    hardware: Hardware | None = None
    cache: bool = True
    choose_seconds: float = 60.0
    cuda_graphs: CudaGraphs = False

    def __post_init__(self) -> None:
        if not isinstance(self.cuda_graphs, bool) and self.cuda_graphs != "overwrite":
            raise ValueError(f"unknown cuda_graphs {self.cuda_graphs!r}: expected one of {get_args(CudaGraphs)}")

    @classmethod
    def parse(cls, options: Mapping[str, Any] | BackendOptions | None) -> BackendOptions:
        """Read the mapping given by the user.

        Raises:
            ValueError: an option of that name does not exist, or has no such value.
        """
        if options is None:
            return cls()
        if isinstance(options, BackendOptions):
            return options
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ValueError(f"unknown options {unknown}: expected some of {known}")
        return cls(**options)


@dataclass(frozen=True)
class CompileOptions:
    """Everything that ``optimize`` was asked for, except the model, its inputs and the passes."""

    backend: str = "inductor"
    target: Target | None = None
    verify: VerifyLevel = "passes"
    measure: MeasureLevel = "off"
    backend_options: BackendOptions = field(default_factory=BackendOptions)
    budget: Budget | None = None
    calibration: Calibration | None = None

    @classmethod
    def parse(
        cls,
        *,
        backend: str,
        target: str | Target | None,
        padding: str,
        budget: Budget | None,
        calibration: Calibration | None,
        verify: str,
        measure: str,
        options: Mapping[str, Any] | BackendOptions | None,
    ) -> CompileOptions:
        """Check the arguments of ``optimize``; nothing is silently ignored.

        Raises:
            ValueError: a value that txgraph does not accept.
        """
        if padding not in ("exact", "zeros"):
            raise ValueError(f'unknown padding {padding!r}: expected "exact" or "zeros"')
        if (budget is None) != (calibration is None):
            given, missing = ("calibration", "budget") if budget is None else ("budget", "calibration")
            raise ValueError(
                f"{given}= is given without {missing}=: lossy rewrites need both, a limit and data to check it on"
            )
        if verify not in get_args(VerifyLevel):
            raise ValueError(f"unknown verify {verify!r}: expected one of {get_args(VerifyLevel)}")
        if measure not in get_args(MeasureLevel):
            raise ValueError(f"unknown measure {measure!r}: expected one of {get_args(MeasureLevel)}")
        if target is not None and not isinstance(target, Target | str):
            raise TypeError(f"target must be a str or txgraph.Target, not {type(target).__name__}")
        return cls(
            backend=backend,
            target=Target.parse(target) if isinstance(target, str) else target,
            verify=verify,  # type: ignore[arg-type]  # narrowed by get_args above
            measure=measure,  # type: ignore[arg-type]  # likewise
            budget=budget,
            calibration=calibration,
            backend_options=BackendOptions.parse(options),
        )
