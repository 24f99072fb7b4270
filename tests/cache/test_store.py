"""What is kept comes back with the tensors of the model at hand; what is damaged or for other values does not."""

from __future__ import annotations

import logging
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from txgraph.cache import CannotTell, Store, store

KEY = "k" * 64


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 4)
        self.tied = self.layer.weight
        self.register_buffer("scale", torch.ones(4))
        self.table = torch.arange(3)
        self.register_buffer("nothing", torch.ones(0, 2))


@pytest.fixture
def kept(tmp_path: Path) -> Store:
    return Store(tmp_path)


def all_of(model: Model) -> dict[str, Any]:
    tensors = {"weight": model.layer.weight, "scale": model.scale, "table": model.table, "nothing": model.nothing}
    return {**tensors, "view": model.layer.weight.t(), "new": torch.full((2, 3), 7.0).t(), "plain": (1, "a", None)}


def put(kept: Store, model: Model, value: Any, frozen: Mapping[str, torch.Tensor] | None = None) -> Path:
    return kept.keep(KEY, model, value, frozen or {})


def found(kept: Store, model: nn.Module) -> list[Any]:
    return [value for _, value in kept.find(KEY, model)]


def test_tensors_are_those_of_the_model_at_hand(kept: Store) -> None:
    put(kept, Model(), all_of(Model()) | {"model's": None})
    first, second = Model(), Model()
    put(kept, first, all_of(first))
    with torch.no_grad():
        second.layer.weight.add_(1)
    value = found(kept, second)[0]
    for name, tensor in {"weight": second.layer.weight, "scale": second.scale, "table": second.table}.items():
        assert value[name].data_ptr() == tensor.data_ptr()
        assert not value[name].requires_grad
    assert value["nothing"].shape == (0, 2)
    assert torch.equal(value["view"], first.layer.weight.t())  # another form than the model has: a tensor of its own
    assert torch.equal(value["new"], torch.full((3, 2), 7.0))
    assert value["new"].stride() == (1, 3)
    assert value["plain"] == (1, "a", None)


def test_values_that_were_used_must_be_the_same(kept: Store) -> None:
    model = Model()
    put(kept, model, "value", {"scale": model.scale})
    assert found(kept, Model()) == ["value"]
    other = Model()
    with torch.no_grad():
        other.layer.weight.add_(1)
    assert found(kept, other) == ["value"]
    other.scale[2] = 1.5
    assert found(kept, other) == []


def test_several_for_one_key(kept: Store) -> None:
    for value in ("a", "b", "b"):
        put(kept, Model(), value)
    assert sorted(found(kept, Model())) == ["a", "b"]
    assert list(kept.find("another", Model())) == []


@pytest.mark.parametrize("file", ["call.pickle", "weights.pt"])
@pytest.mark.parametrize("damage", ["cut", "empty", "other bytes"])
def test_damaged_files(kept: Store, file: str, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = put(kept, Model(), all_of(Model()))
    path = folder / file
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "other bytes": data[:-40] + b"x" * 40}[damage])
    with caplog.at_level(logging.WARNING, "txgraph"):
        assert found(kept, Model()) == []
    assert f"{folder} cannot be read and is left aside" in caplog.text


def test_a_missing_file(kept: Store) -> None:
    folder = put(kept, Model(), "value")
    (folder / "weights.pt").unlink()
    assert found(kept, Model()) == []


def test_what_cannot_be_kept(kept: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotTell, match="lambda"):
        put(kept, Model(), lambda: 1)
    monkeypatch.setattr(store, "MOST_BYTES", 1 << 20)
    put(kept, Model(), torch.zeros(1 << 18))
    with pytest.raises(CannotTell, match="its graph holds 1 MB of new weights"):
        put(kept, Model(), torch.zeros(1 + (1 << 18)))
    assert not [path for path in kept.folder.iterdir() if path.name.startswith("writing-")]


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        put(Store(tmp_path / "file"), Model(), "value")


def test_only_the_owner_reads_it(kept: Store) -> None:
    folder = put(kept, Model(), "value")
    assert not stat.S_IMODE(folder.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO)


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TXGRAPH_CACHE_DIR", str(tmp_path / "a"))
    assert Store().folder == tmp_path / "a"
    monkeypatch.delenv("TXGRAPH_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert Store().folder == tmp_path / "b" / "txgraph"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Store().folder == Path.home() / ".cache" / "txgraph"
