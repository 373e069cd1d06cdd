"""A changed config redoes what depends on the change, says so before, and loses nothing; parts run alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.smoke_runs import CONFIG, SMALL, Finished, Kill, assert_same, cli, lifecycle, made, smoke

from forethought.run.store import Run

FEWER = ("improve.steps=4", "improve.control=false", "sft.control=false")
LATE = "self-improved/evaluate, self-improved-think/sft, shared/evaluate-sft, "
LATE += "self-improved-rlmt/rlmt, shared/evaluate-rlmt, shared/reasoning"

LEFT = ("base", "base-think", "base-rlmt")
"""Arms that stage 1 does not concern."""


@pytest.fixture(scope="module")
def first(finished: Finished) -> tuple[Path, dict[str, Any]]:
    """A finished run without controls, and what it made; tests leave it as they found it."""
    folder = finished((*SMALL, *FEWER[1:]))
    return folder, made(folder)


def times(folder: Path) -> dict[str, int]:
    paths = folder.glob("*/*/manifest.json")
    return {str(path.parent.relative_to(folder)): path.stat().st_mtime_ns for path in paths}


@pytest.mark.slow
def test_a_changed_key_redoes_what_depends_on_it_and_back_again(
    first: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, before = first
    stamps = times(folder)
    changed = smoke("run", folder, *FEWER)
    assert changed.exit_code == 0, changed.output
    assert f"self-improved/improve starts over: improve.steps: 6 is now 4; after it: {LATE}" in changed.stderr
    assert changed.stderr.index("starts over") < changed.stderr.index("self-improved/improve (")
    kept = {name for name, stamp in times(folder).items() if stamps[name] == stamp}
    assert {name for name in kept if "/reasoning-" not in name} == {
        "shared/chunk",
        "shared/audit",
        "shared/interleave",
        "base-think/sft",
        "shared/calibrate",
        "base-rlmt/rlmt",
    }
    assert {name for name in kept if "/reasoning-" in name} == {f"{arm}/reasoning-procedural" for arm in LEFT}
    fresh = tmp_path / "fresh"
    assert smoke("run", fresh, *FEWER).exit_code == 0
    assert_same(made(folder), made(fresh))
    back = smoke("run", folder, *FEWER[1:])
    assert back.exit_code == 0
    assert back.stderr.count("comes back: this config had made it before") == 10  # three of them answers of an arm
    assert " of 13" not in back.stderr  # nothing was computed
    assert_same(made(folder), before)


@pytest.mark.slow
def test_figures_of_what_was_replaced_do_not_linger(first: tuple[Path, dict[str, Any]]) -> None:
    folder, before = first
    fewer = ("audit.prefixes=3", 'evaluate.conditions=["greedy"]')
    assert smoke("run", folder, *FEWER[1:], *fewer).exit_code == 0
    figures = Run.open(folder).measurements()
    assert {one.condition for one in figures if (one.stage, one.metric) == ("evaluate", "win_rate")} == {"greedy"}
    assert max(one.n for one in figures if one.stage == "audit" and one.metric == "accuracy") == 3
    assert smoke("run", folder, *FEWER[1:]).exit_code == 0
    assert_same(made(folder), before)


@pytest.mark.slow
def test_a_change_that_stops_half_way_leaves_no_stale_figure_and_goes_on(
    first: tuple[Path, dict[str, Any]],
) -> None:
    folder, before = first
    longer = ("improve.steps=5", *FEWER[1:])
    assert lifecycle(folder, (*SMALL, *longer), Kill("write", "self-improved/improve/pools.jsonl", 3)) == -9
    figures = Run.open(folder).measurements()
    assert not [one for one in figures if one.stage == "evaluate" or one.arm == "self-improved-think"]
    assert smoke("run", folder, *FEWER[1:]).exit_code == 0
    assert_same(made(folder), before)
    again = smoke("improve", folder, *longer)
    assert "self-improved/improve comes back" in again.stderr
    steps = [row["step"] for row in Run.open(folder).look("self-improved", "improve").read("metrics")]
    assert steps == [0, 1, 2, 3, 4, 5]  # it went on at its checkpoint
    assert smoke("run", folder, *FEWER[1:]).exit_code == 0
    assert_same(made(folder), before)


def test_force_starts_what_it_names_over_and_nothing_else(first: tuple[Path, dict[str, Any]]) -> None:
    folder, before = first
    stamps = times(folder)
    options = [f"--set={item}" for item in (*SMALL, *FEWER[1:])]
    forced = cli("run", CONFIG, "--run", folder, "--only", "base-rlmt/rlmt", "--force", *options)
    assert forced.exit_code == 0, forced.output
    assert "base-rlmt/rlmt starts over: --force\n" in forced.stderr
    assert [name for name, stamp in times(folder).items() if stamps[name] != stamp] == ["base-rlmt/rlmt"]
    assert_same(made(folder), before)


def test_only_runs_only_that_and_says_what_is_missing(tmp_path: Path) -> None:
    options = [f"--set={item}" for item in SMALL]
    folder = tmp_path / "run"
    refused = cli("run", CONFIG, "--run", folder, "--only", "self-improved/improve", *options)
    assert refused.exit_code == 2
    assert "these steps are needed and not done: shared/chunk,shared/audit." in refused.stderr
    assert "forethought run CONFIG --only shared/chunk,shared/audit`" in refused.stderr
    assert cli("run", CONFIG, "--run", folder, "--only", "chunk,audit", *options).exit_code == 0
    assert cli("run", CONFIG, "--run", folder, "--only", "self-improved/improve", *options).exit_code == 0
    assert {str(path.parent.relative_to(folder)) for path in folder.glob("*/*/manifest.json")} == {
        "shared/chunk",
        "shared/audit",
        "self-improved/improve",
    }
    stale = cli("run", CONFIG, "--run", folder, "--only", "improve", *options, "--set", "chunk.suffix_tokens=9")
    assert stale.exit_code == 2
    assert "shared/chunk is needed and was made with another config (chunk.suffix_tokens: 12 is now 9)" in stale.stderr
    assert Run.open(folder).look("self-improved", "improve").done


def test_until_stops_there_and_both_at_once_are_refused(tmp_path: Path) -> None:
    options = [f"--set={item}" for item in SMALL]
    assert cli("run", CONFIG, "--run", tmp_path / "run", "--until", "audit", *options).exit_code == 0
    assert set(times(tmp_path / "run")) == {"shared/chunk", "shared/audit"}
    both = cli("run", CONFIG, "--run", tmp_path / "run", "--until", "audit", "--only", "chunk", *options)
    assert both.exit_code == 2
    assert "choose one of them" in both.stderr
    unknown = cli("run", CONFIG, "--run", tmp_path / "run", "--until", "imrpove", *options)
    assert unknown.exit_code == 2
    assert "imrpove: no such step in this config. Did you mean improve? Stages: chunk, audit, improve" in unknown.stderr


def test_the_config_of_a_run_can_be_run_again(tmp_path: Path) -> None:
    assert smoke("chunk", tmp_path / "run").exit_code == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["improve"]["steps"] == 6
    again = cli("chunk", tmp_path / "run" / "run.json", "--run", tmp_path / "run")
    assert again.exit_code == 0, again.output
    assert "starts over" not in again.stderr
