"""What runs on an NVIDIA GPU: ``make gpu``.

These tests, and what they import, need no packages but pytest, torch with Triton, transformers, networkx and numpy.
"""

from __future__ import annotations

import pytest
import torch

ON_GPU = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that torch can use"),
]
