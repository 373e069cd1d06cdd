"""Rates of this machine: measured with the real engine, scaled by operations, kept, and never in the way."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest
import torch
from helpers.planted_rates import PLANTED, plant

from forethought import config, machine, models
from forethought.config import ModelConfig
from forethought.costs import rates
from forethought.costs.work import Pace, decoding, scoring, training
from forethought.models import Shape
from forethought.run.files import cache_root

TINY = ModelConfig(model="tiny-llama")
SMOKE = config.load("smoke")
SHAPE = Shape(weights=300, layers=200, head=50, depth=2, hidden=8, inner=16, kept=16, vocabulary=5)


@pytest.fixture(autouse=True)
def _own(own_cache: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was measured on this machine before counts, and tests beside these do not make it busy."""
    monkeypatch.setattr(machine, "others_seconds", lambda: None)


def kept() -> Path:
    return cache_root() / "rates.json"


def test_a_tiny_model_is_measured_with_the_engine_itself() -> None:
    start = time.perf_counter()
    found = rates.measure(SMOKE.model_copy(update={"dtype": "float32"}), seconds=3.0)
    assert time.perf_counter() - start < 20  # of a loaded machine
    assert found.how.startswith("measured here with this engine")
    shape = models.shape(TINY)
    assert shape is not None
    assert (found.weights, found.depth) == (shape.layers + shape.head, 2)
    for pace in (found.sample, found.score, found.train):
        assert 1e6 < pace.rate < 1e13
        assert 0 <= pace.call < 1
    assert 0 < found.seconds(scoring(shape, 1000, 1000)) < 60


def test_operations_count_the_vocabulary_where_a_token_meets_it() -> None:
    assert decoding(SHAPE, 3, 7, 2).flops == 2 * (200 + 50) * 3 * 7 * 2
    assert decoding(SHAPE, 3, 7, 2).calls == 14
    assert scoring(SHAPE, 100, 10).flops == 2 * (200 * 100 + 50 * 10)  # the embedding is looked up, which is nothing
    assert training(SHAPE, 100, 10, 3).flops == 6 * 200 * 100 + 8 * 50 * 10
    assert training(SHAPE, 100, 10, 3).calls == 3


def test_another_model_takes_its_share() -> None:
    work = decoding(SHAPE, 1, 1)
    half = dataclasses.replace(PLANTED, weights=500, sample=Pace(rate=1e3, call=0.2))
    assert half.seconds(work) == pytest.approx(500 / 1e3 + 0.2 * 250 / 500)
    gpu = dataclasses.replace(half, device="cuda", depth=8)
    assert gpu.seconds(work) == pytest.approx(500 / 1e3 + 0.2 * 2 / 8)


@pytest.mark.parametrize(
    ("small", "large", "rate", "call"),
    [
        ((10.0, 1.1), (110.0, 2.1), 100.0, 1.0),
        ((10.0, 3.0), (110.0, 2.0), 55.0, 0.0),  # noise: the small one took longer
        ((100.0, 0.5), (200.0, 2.5), 50.0, 0.0),
    ],
)
def test_two_amounts_give_a_pace(
    small: tuple[float, float], large: tuple[float, float], rate: float, call: float
) -> None:
    found = rates._pace(small, large)
    assert (found.rate, found.call) == (pytest.approx(rate), pytest.approx(call))


def test_a_second_plan_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, said = plant(monkeypatch), list[str]()
    assert rates.here(SMOKE, said.append) == PLANTED
    assert rates.here(SMOKE, said.append) == PLANTED
    assert rates.known(SMOKE) == PLANTED
    assert (measured, said) == (["tiny-llama"], ["measuring this machine: about half a minute"])
    other = SMOKE.model_copy(update={"policy": ModelConfig(model="tiny-qwen3")})
    rates.here(other, said.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    rates.here(SMOKE, said.append)
    assert measured == ["tiny-llama", "tiny-qwen3", "tiny-llama"]
    assert len(json.loads(kept().read_text())) == 3


def test_rates_of_a_busy_machine_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "measure", lambda *given: time.sleep(0.05) or PLANTED)
    taken = iter([0.0, 0.05 * machine.machine().cores * 0.9])
    monkeypatch.setattr(machine, "others_seconds", lambda: next(taken))
    said: list[str] = []
    assert rates.here(SMOKE, said.append) == PLANTED
    assert "other processes took" in said[-1]
    assert not kept().exists()
    taken = iter([0.0, 0.0])
    rates.here(SMOKE, said.append)
    assert kept().exists()


def test_what_others_compute_is_told_apart_from_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    before = machine.others_seconds()
    if before is None:
        pytest.skip("cannot be shown on this machine: it does not tell what others compute")
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    after = machine.others_seconds()
    assert after is not None
    assert -0.15 < after - before < 60


@pytest.mark.parametrize(
    ("text", "readable"), [("", False), ("{", False), ("[]", False), ('"x"', False), ('{"a": 3}', True)]
)
def test_a_broken_file_is_said_and_replaced(text: str, readable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, said = plant(monkeypatch), list[str]()
    kept().write_text(text)
    assert rates.here(SMOKE, said.append) == PLANTED
    assert rates.here(SMOKE, said.append) == PLANTED
    assert measured == ["tiny-llama"]
    assert any("not used, since it cannot be read" in line for line in said) is not readable


def test_a_broken_row_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, said = plant(monkeypatch), list[str]()
    rates.here(SMOKE, said.append)
    rows = json.loads(kept().read_text())
    kept().write_text(json.dumps({name: {"sample": 3} for name in rows}))
    assert rates.here(SMOKE, said.append) == PLANTED
    assert measured == ["tiny-llama", "tiny-llama"]


def test_a_folder_that_cannot_be_written_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plant(monkeypatch)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FORETHOUGHT_CACHE", str(tmp_path / "file" / "below"))
    said: list[str] = []
    assert rates.here(SMOKE, said.append) == PLANTED
    assert "cannot be written" in said[-1]
    assert "the next plan measures again" in said[-1]


def test_what_cannot_be_built_here_is_guessed_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forethought.machine.memory", lambda: (1000, 1000))
    found = rates.measure(SMOKE)
    assert found.how.startswith("guessed from a matrix product")
    assert found.sample.rate < found.score.rate
    assert rates.known(SMOKE).how.startswith("guessed from a matrix product")
    assert not kept().exists()
