"""The model as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from txgraph.bench.competitors import Competitor, Run


class Eager(Competitor):
    """What all others are compared with."""

    name = "eager"

    def build(self, model: nn.Module, inputs: Mapping[str, Any]) -> Run:
        return lambda inputs: model(**inputs)
