"""The benchmarks run: tiny random models, every benchmark but vLLM, results and page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import results
from benchmarks.__main__ import BENCHMARKS
from benchmarks.measure import CheckError, Pairs, relative_error

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_benchmark_runs_and_writes_its_rows(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--device", "cpu", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "benchmarks.json").read_text())
    assert {row["benchmark"] for row in rows} == set(BENCHMARKS)
    compared = [row for row in rows if row["kind"] == "comparison"]
    assert len(compared) == 7
    assert all(row["ratio"][0] > 0 and row["checked"] for row in compared)
    page = (tmp_path / "benchmarks.md").read_text()
    assert all(row["what"] in page for row in rows)
    assert "no CUDA device" in page


def row(benchmark: str, opponent: str, ratio: float, device: str = "cpu") -> dict[str, object]:
    pairs = Pairs((1.0, 2.0, 1.0), (ratio, 2 * ratio, 3 * ratio))
    made = results.Row(
        benchmark=benchmark, what=benchmark, model="m", opponent=opponent, **results.compared(pairs, None, 0.5)
    )
    stamp = {"device": device, "date": "d", "machine": "x", "versions": {}, "command": "c"}
    return {"kind": "comparison", **{name: getattr(made, name) for name in made.__slots__}, **stamp}


def test_the_ratio_is_the_median_of_pairs_with_its_spread() -> None:
    pairs = Pairs((1.0, 2.0, 1.0), (4.0, 4.0, 3.0))
    assert pairs.ratio == (3.0, 2.0, 4.0)


def test_a_later_row_replaces_its_own_and_no_other() -> None:
    page = results.render([row("a", "p", 2.0), row("a", "q", 3.0), row("b", "p", 4.0), row("a", "p", 5.0)])
    assert "5.00x [5.00, 15.00]" in page
    assert "2.00x" not in page
    assert "3.00x" in page
    assert "4.00x" in page
    assert "there was no CUDA device" in page


def test_what_differs_is_not_timed() -> None:
    import torch

    assert relative_error({"w": torch.tensor([3.0, 4.0])}, {"w": torch.tensor([3.0, 5.0])}) == pytest.approx(34**-0.5)
    with pytest.raises(CheckError, match="different names"):
        relative_error({"w": torch.ones(1)}, {"v": torch.ones(1)})
