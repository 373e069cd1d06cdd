"""Rows of metrics and their sinks."""

import math
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forethought.config import ConfigError, LogConfig
from forethought.run.metric_log import MetricLog, peak_memory
from forethought.run.store import Run, StageFolder


@pytest.fixture
def folder(tmp_path: Path) -> StageFolder:
    folder = Run.create_or_open(tmp_path / "demo").stage("self-improved", "improve")
    folder.write_config({"steps": 2})
    return folder


def test_a_row_holds_values_phases_and_memory(folder: StageFolder) -> None:
    with MetricLog(folder, LogConfig(), peak=lambda: 3 * 2**30) as metrics:
        with metrics.timer("sample"):
            time.sleep(0.02)
        with metrics.timer("sample"):
            time.sleep(0.02)
        metrics.count("sample", tokens=60)
        metrics.count("sample", tokens=40)
        with metrics.timer("judge"):
            pass
        row = metrics.log(1, {"improve/margin": np.float32(0.5), "improve/ties": 0, "improve/gap": math.nan})
        second = metrics.log(2, {"improve/margin": None})
    assert row["improve/seconds_sample"] == pytest.approx(0.04, abs=0.02)
    rate = row["improve/tokens_per_second_sample"]
    assert rate == pytest.approx(100 / row["improve/seconds_sample"], rel=0.01)
    assert "improve/tokens_per_second_judge" not in row
    assert second == {"step": 2, "improve/margin": None, "improve/peak_memory_gib": 3.0}
    assert list(folder.read("metrics")) == [
        {
            "step": 1,
            "improve/margin": 0.5,
            "improve/ties": 0,
            "improve/gap": None,
            "improve/seconds_sample": row["improve/seconds_sample"],
            "improve/tokens_per_second_sample": rate,
            "improve/seconds_judge": row["improve/seconds_judge"],
            "improve/peak_memory_gib": 3.0,
        },
        second,
    ]


def test_a_phase_that_fails_is_timed_all_the_same(folder: StageFolder) -> None:
    metrics = MetricLog(folder, LogConfig())
    with pytest.raises(KeyError), metrics.timer("train"):
        raise KeyError
    assert "improve/seconds_train" in metrics.log(1, {})


def test_peak_memory_is_in_bytes_and_never_falls() -> None:
    before = peak_memory()
    assert 10 * 2**20 < before < 2**40
    block = np.ones(8 * 2**20)
    assert peak_memory() >= before
    assert block[0] == 1


def test_tensorboard_gets_the_scalars(folder: StageFolder) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MetricLog(folder, LogConfig(tensorboard=True)) as metrics:
        metrics.log(1, {"improve/margin": 0.25})
        metrics.log(2, {"improve/margin": None})
        metrics.log(3, {"improve/margin": 0.75})
    events = EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    read = [(event.step, event.tensor_proto.float_val[0]) for event in events.Tensors("improve/margin")]
    assert read == [(1, 0.25), (3, 0.75)]


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_trackers_get_the_same_rows(folder: StageFolder, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    calls: list[Any] = []
    tracker_run = types.SimpleNamespace(
        log=lambda values, step: calls.append((step, values["improve/margin"])), finish=lambda: calls.append("finish")
    )
    module = types.ModuleType(package)
    module.init = lambda **options: calls.append(options) or tracker_run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, package, module)
    with MetricLog(folder, LogConfig(**{package: "words"})) as metrics:
        metrics.log(4, {"improve/margin": 0.5})
    options, *rest = calls
    assert rest == [(4, 0.5), "finish"]
    assert options["project"] == "words"
    assert options["name"] == "demo-self-improved-improve"
    assert options["config"] == {"steps": 2}
    assert options["resume"] == "allow"
    assert ("id" in options) == (package == "wandb")


@pytest.mark.parametrize(("package", "value"), [("wandb", "words"), ("trackio", "words"), ("tensorboard", True)])
def test_a_missing_sink_names_the_command(
    folder: StageFolder, monkeypatch: pytest.MonkeyPatch, package: str, value: Any
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "tensorboard.summary", raising=False)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        MetricLog(folder, LogConfig(**{package: value}))
