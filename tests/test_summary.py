"""The terminal table and summary.json: every figure of the run, with interval and denominator."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from forethought.records import Measurement, from_dict
from forethought.report.curves import phase_seconds, read_curves, trend
from forethought.report.summary import render, summarise, write_summary
from forethought.run.store import Run


def measured(metric: str, value: float, n: int = 64, **fields: Any) -> Measurement:
    known = {"stage": "evaluate", "arm": "self-improved", "unit": "share of prefixes; Wilson", "subject": "hash"}
    return Measurement(metric=metric, value=value, n=n, **(known | fields))


def comparison(condition: str, judge: str = "unseen") -> list[Measurement]:
    pair = {"against": "base", "condition": condition}
    return [
        measured("repetition", 0.021, low=0.01, high=0.03, **pair),
        measured("distinct_2", 0.9, low=0.88, high=0.92, **pair),
        measured("characters", 201.4, low=190.0, high=210.0, **pair),
        measured("entropy", 2.5, low=2.4, high=2.6, **pair),
        measured("repetition", 0.018, low=0.01, high=0.02, arm="base", against="self-improved", condition=condition),
        measured("win_rate", 0.625, low=0.5, high=0.73, judge=judge, **pair),
        measured("tie_rate", 0.25, low=0.16, high=0.37, judge=judge, **pair),
        measured("sign_test_p", 0.0123, n=48, judge=judge, unit="p", **pair),
        measured("unscored_rate", 0.03, n=66, judge=judge, low=0.01, high=0.1, **pair),
    ]


MEASUREMENTS = [
    *comparison("sampled"),
    *comparison("entropy-matched"),
    measured("matching_temperature", 0.8125, against="base", condition="entropy-matched", unit="temperature"),
    measured("entropy_gap", 0.31, against="base", condition="entropy-matched", unit="nats per token"),
    measured("unscored_rate", 1.0, n=5, against="base", condition="greedy", judge="dead"),
    measured("suffix_nll", 3.0951, arm="base", low=3.0, high=3.2, n=128),
    measured("suffix_nll", 3.201, low=3.1, high=3.3, n=128),
    measured("suffix_nll_change", 0.1059, against="base", low=0.09, high=0.12, n=128),
    measured(
        "accuracy",
        0.92,
        stage="audit",
        unit="share of pairs",
        condition="shuffled",
        judge="unseen",
        n=32,
        low=0.76,
        high=0.98,
    ),
    measured("first_position", 0.5, stage="audit", judge="unseen", n=64, unit="share of decided verdicts"),
    measured("seconds", 252.0, stage="run", arm="", condition="evaluate", n=1, unit="seconds"),
    measured("peak_memory_bytes", 5.5 * 2**30, stage="run", arm="", n=1, unit="bytes"),
]

CURVES = {
    "self-improved": [
        {
            "step": step,
            "improve/selection_rate": 0.5 + 0.01 * step,
            "improve/selection_null": 16 / 17,
            "improve/margin": 0.1 * step,
            "improve/seconds_sample": 2.0,
            "improve/seconds_judge": 6.0,
        }
        | ({"improve/suffix_nll": 3.0 + 0.01 * step} if step % 10 == 0 else {})
        for step in range(31)
    ],
    "continued": [{"step": 0, "improve/suffix_nll": 3.0, "improve/seconds_train": 90.0}],
}


def shown(measurements: list[Measurement], curves: Any) -> str:
    stream = io.StringIO()
    Console(file=stream, width=100).print(render(measurements, curves))
    return stream.getvalue()


def line(text: str, *words: str) -> str:
    found = [one for one in text.splitlines() if all(word in one for word in words)]
    assert len(found) == 1, (words, found)
    return found[0]


def test_wins_carry_interval_and_denominator_and_the_temperature_has_a_table() -> None:
    text = shown(MEASUREMENTS, {})
    assert "self-improved against base, held-out" in text
    for part in ("62.5% of 64", "25.0% of 64", "0.012 of 48", "3.0% of 66"):
        assert part in line(text, "sampled", "unseen")
    assert text.count("[50.0, 73.0]") == 2
    assert "100.0% of 5" in line(text, "greedy", "dead", "–")
    assert "+0.310" in line(text, "0.812", "entropy-matched")


def test_sides_nll_audit_and_durations() -> None:
    text = shown(MEASUREMENTS, {})
    for part in ("2.50", "2.1%", "90.0%", "201", "64"):
        assert part in line(text, "sampled", "self-improved")
    for part in ("[2.40, 2.60]", "[1.0, 3.0]", "[88.0, 92.0]", "[190, 210]"):
        assert text.count(part) == 2
    [written] = [one for one in text.splitlines() if "1.8%" in one and "sampled" not in one and "matched" not in one][
        :1
    ]
    assert " base " in written
    assert "128" in line(text, "base", "3.095")
    assert "+0.106" in line(text, "3.201")
    assert "[+0.090, +0.120]" in line(text, "[3.100, 3.300]")
    assert "92.0% of 32 pairs" in line(text, "unseen", "accuracy", "shuffled")
    assert "50.0% of 64 decided verdicts" in line(text, "first position")
    assert "4:12" in line(text, "evaluate ", "–")
    assert "5.50 GiB" in text


def test_training_curves_stand_next_to_their_null() -> None:
    text = shown([], CURVES)
    selection = line(text, "chosen is a rollout")
    assert "54.5%" in selection  # Mean of steps 0 to 9.
    assert "75.5%" in selection  # Mean of steps 21 to 30.
    assert "10 of 31" in selection
    assert "▁" in selection
    assert "█" in selection
    assert "94.1%" in line(text, "null")
    monitored = line(text, "suffix NLL", "1 of 4")
    assert "3.000" in monitored
    assert "3.300" in monitored
    assert "3:06 (75.0% of 4:08)" in line(text, "training: judge")
    assert "Suffix NLL on" not in text


def test_nothing_measured_is_said() -> None:
    assert "Nothing was measured yet." in shown([], {})
    assert trend([{"step": 0}], "improve/margin") is None


def test_trend_ends_describe_and_have_no_interval() -> None:
    ends = trend(CURVES["self-improved"], "improve/margin")
    assert ends is not None
    assert (ends.first.n, ends.last.n, len(ends.points)) == (10, 10, 31)
    assert ends.first.value == pytest.approx(0.45)
    assert ends.first.low is ends.first.high is None
    assert ends.last.value == pytest.approx(2.55)


def test_summary_json_is_the_run_folder_and_nothing_else(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "demo")
    run.measure(MEASUREMENTS)
    for arm, rows in CURVES.items():
        folder = run.stage(arm, "improve")
        folder.write_config({})
        folder.append("metrics", reversed(rows))
    content = write_summary(run)
    assert json.loads((tmp_path / "demo" / "summary.json").read_text(encoding="utf-8")) == content
    assert [from_dict(Measurement, row) for row in content["measurements"]] == MEASUREMENTS
    figures = summarise(MEASUREMENTS, read_curves(run))
    assert {key: content[key] for key in figures} == figures
    assert content.keys() - figures.keys() == {
        *("config", "versions", "durations", "cost", "schedule"),
        *("primary", "multiplicity"),
    }
    assert content["curves"]["self-improved"]["improve/selection_rate"]["last"]["value"] == pytest.approx(0.755)
    assert content["seconds"] == {"self-improved": {"sample": 62.0, "judge": 186.0}, "continued": {"train": 90.0}}
    assert phase_seconds([]) == {}


def test_half_of_a_character_in_a_figure_ends_no_report(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path)
    run.measure([measured("win_rate", 0.5, against="base", condition="sampled", judge="j\ud800", low=0.4, high=0.6)])
    write_summary(run)
    assert json.loads((tmp_path / "summary.json").read_text())["versions"]["forethought"]


def test_the_report_does_not_import_torch() -> None:
    code = "import sys, forethought.report.summary; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
