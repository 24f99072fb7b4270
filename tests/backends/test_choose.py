"""Which backend a name means, and what is said where one is missing."""

from __future__ import annotations

import shutil
from importlib.metadata import EntryPoint

import pytest
import torch

import txgraph
from tests.small import Linear
from txgraph import BackendFailed
from txgraph.backends import choose, choose_backend
from txgraph.backends.inductor import InductorBackend
from txgraph.backends.reference import ReferenceBackend

X = torch.ones(2, 4)


def test_built_in_backends() -> None:
    assert isinstance(choose_backend("reference"), ReferenceBackend)
    assert isinstance(choose_backend("inductor"), InductorBackend)
    assert txgraph.backends.backend_names()[:4] == ["auto", "inductor", "tvm", "reference"]


@pytest.mark.parametrize("name", ["inductor", "auto"])
def test_without_a_compiler(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *arguments, **options: None)
    with pytest.raises(BackendFailed, match=r'needs a C\+\+ compiler.*`apt-get install g\+\+`.*backend="reference"'):
        txgraph.optimize(Linear(), (X,), backend=name)
    assert isinstance(choose_backend("reference"), ReferenceBackend)


def test_without_a_compiler_eager_runs_where_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *arguments, **options: None)
    model = Linear()
    fast = txgraph.optimize(model, (X,), options={"allow_fallback": True})
    assert torch.equal(fast(X), model(X))
    assert "needs a C++ compiler" in fast.report.fallbacks[0].reason


def test_a_broken_path_is_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not choose._has_compiler()


class Renamed(ReferenceBackend):
    """A third-party backend."""


def test_backends_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("elsewhere", f"{__name__}:Renamed", "txgraph.backends")
    monkeypatch.setattr(choose, "entry_points", lambda group: [point] if group == "txgraph.backends" else [])
    assert "elsewhere" in txgraph.backends.backend_names()
    assert isinstance(choose_backend("elsewhere"), Renamed)
    model = Linear()
    assert torch.equal(txgraph.optimize(model, (X,), backend="elsewhere")(X), model(X))
