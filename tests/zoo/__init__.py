"""The architectures that txgraph is tested on: real code, small configurations, seeded random weights."""

from __future__ import annotations

from itertools import chain

from tests.zoo.architecture import OPTIONS, Architecture, tokens
from tests.zoo.audio import audio
from tests.zoo.decoders import decoders
from tests.zoo.encoder_decoders import encoder_decoders
from tests.zoo.encoders import encoders
from tests.zoo.layers import layers
from tests.zoo.vision import vision

__all__ = ["OPTIONS", "ZOO", "Architecture", "tokens"]

ZOO: dict[str, Architecture] = {
    a.name: a for a in chain(encoders(), decoders(), encoder_decoders(), vision(), audio(), layers())
}
