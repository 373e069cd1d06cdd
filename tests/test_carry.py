"""Files arrive whole on a machine that is reached piece by piece, or not at all."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def carry(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("carry", Path(__file__).parent.parent / "scripts" / "carry.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PIECE", 1000)
    return module


def test_files_are_split_carried_and_joined(carry: ModuleType, tmp_path: Path) -> None:
    sizes = {"a.whl": 10, "b.whl": 2500, "c.whl": 1000, "d.whl": 1}
    files = []
    for name, size in sizes.items():
        files.append(tmp_path / name)
        files[-1].write_bytes(np.random.default_rng(size).bytes(size))
    pieces, box, staged = tmp_path / "pieces", tmp_path / "box", tmp_path / "staged"
    carry.pack(pieces, files)
    numbers = sorted(int(path.name) for path in pieces.iterdir() if path.is_dir())
    assert numbers == [0, 1, 2, 3]
    for number in numbers:
        carry.load(pieces, number, box)
        assert sum(path.stat().st_size for path in box.iterdir() if path.name != "manifest.json") <= 1000
        carry.receive(box, staged)
    for file in files:
        assert (staged / file.name).read_bytes() == file.read_bytes()


def test_a_damaged_file_is_refused(carry: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"whole")
    carry.pack(tmp_path / "pieces", [tmp_path / "a.whl"])
    carry.load(tmp_path / "pieces", 0, tmp_path / "box")
    part = next(path for path in (tmp_path / "box").iterdir() if path.name != "manifest.json")
    part.write_bytes(b"whale")
    with pytest.raises(SystemExit, match="damaged"):
        carry.receive(tmp_path / "box", tmp_path / "staged")
