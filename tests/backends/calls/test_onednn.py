"""Tells when the private operator of torch moves, or changes its form."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from txgraph.backends.calls.onednn import onednn_linear


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")
def test_onednn_linear_has_its_schema() -> None:
    operator: Any = onednn_linear()
    assert str(operator._schema) == (
        "mkldnn::_linear_pointwise(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm)"
        " -> Tensor Y"
    )


def test_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert onednn_linear() is None
