"""``--budget``: the longest schedule that fits, chosen once, written down, and kept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import Result
from helpers.planted_rates import plant
from helpers.smoke_runs import SMALL, cli

from forethought.config import ConfigError, ModelConfig, build, load, shipped
from forethought.costs import rates
from forethought.pipeline import budget, plan
from forethought.pipeline.budget import BudgetError, BudgetRequest, seconds
from forethought.stats import resolvable, wilson

SCHEDULES = """
[schedules.full]
improve = { steps = 6 }
evaluate = { prefixes = 6 }
[schedules.half]
improve = { steps = 3, prefixes_per_step = 1 }
evaluate.prefixes = 4
[schedules.small]
policy = { model = "tiny-qwen3" }
improve = { steps = 1 }
evaluate = { prefixes = 4 }
"""


@pytest.fixture(autouse=True)
def measured(own_cache: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models that were measured; the planted rates make a run of stage 1 take seconds."""
    return plant(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A config of stage 1 with three schedules."""
    text = (shipped.FOLDER / "smoke.toml").read_text(encoding="utf-8").partition("[interleave]")[0]
    found = tmp_path / "smoke.toml"
    found.write_text(text + SCHEDULES, encoding="utf-8")
    return found


def run(path: Path, *more: str) -> Result:
    """Run the small config, stage 1 only, in a folder beside it."""
    keys = ("audit", "improve.prefixes_per_step", "improve.rollouts", "improve.monitor", "evaluate.nll")
    small = [f"--set={item}" for item in SMALL if item.startswith(keys)]
    return cli("run", path, "--run", path.parent / "run", *small, *more)


def taken(path: Path) -> dict[str, object]:
    """Return the config that the run kept."""
    kept: dict[str, object] = json.loads((path.parent / "run" / "run.json").read_text())["config"]
    return kept


def took(path: Path, schedule: str) -> float:
    """Return the estimate of a schedule, seconds."""
    return plan.total(load(path, (), schedule), rates.here(load(path, (), schedule), lambda line: None))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("25m", 1500), ("90s", 90), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), (" 1h1m1s ", 3661)],
)
def test_times(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "25", "m", "25 minutes", "30m1h", "-5m", "0s", "1d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BudgetError, match="write a time such as 25m, 90s, 2h or 1h30m"):
        seconds(text)


@pytest.mark.parametrize(
    ("schedules", "message"),
    [
        ({"a": {"improve": {"stepz": 3}}}, r"schedules\.a\.improve\.stepz: unknown key\. Known here: adam_betas"),
        ({"a": {}, "b": {"improve": {"steps": 0}}}, r"schedules\.b\.improve\.steps: Input should be greater than 0"),
        ({"a": {"judges": {"s": {"kind": "pairwise"}}}}, r"schedules\.a\.judges\.s: .*exactly one of `model`"),
        ({"a": {"name": "other"}}, r"schedules\.a\.name: a schedule cannot set it"),
        ({"a": 3}, r"schedules\.a: Input should be a valid dictionary"),
    ],
)
def test_every_schedule_must_fit_the_config(schedules: dict[str, object], message: str) -> None:
    plain = {"name": "x", "policy": {"model": "tiny-llama"}, "judges": {"s": {"kind": "shorter"}}}
    with pytest.raises(ConfigError, match=message):
        build({**plain, "schedules": schedules})


def test_a_schedule_replaces_values_and_the_command_line_replaces_those(path: Path) -> None:
    config = load(path, ["improve.steps=2"], "half")
    assert (config.schedule, config.improve.steps, config.improve.prefixes_per_step) == ("half", 2, 1)
    assert (config.evaluate.prefixes, config.evaluate.nll_chunks) == (4, 128)  # what it does not name stays
    assert load(path).improve.steps == 30
    with pytest.raises(ConfigError, match=r"no schedule 'none'\. It has full, half, small"):
        load(path, (), "none")


def test_the_longest_schedule_that_fits_is_taken(path: Path, measured: list[str]) -> None:
    full, half, small = (took(path, name) for name in ("full", "half", "small"))
    assert full > half > small
    measured.clear()
    said: list[str] = []

    def chosen(time: float) -> str:
        request = BudgetRequest(path=path, overrides=(), budget=f"{time:.3f}s", run=path.parent / "none")
        return budget.choose_schedule(request, said.append).schedule

    assert [chosen(full + 1), chosen(full - 0.01), chosen(half - 0.01)] == ["full", "half", "small"]
    assert said[0].startswith("schedule full: about ")
    assert "; small would take " in said[0]
    assert chosen(small / 2) == "small"
    assert said[-1].startswith("no schedule fits ")
    assert "small, the smallest, takes about" in said[-1]
    assert measured == []  # all of it was kept


def test_another_policy_is_measured_only_when_it_is_reached(path: Path, measured: list[str]) -> None:
    request = BudgetRequest(path=path, overrides=(), budget="1h", run=path.parent / "none")
    said: list[str] = []
    assert budget.choose_schedule(request, said.append).schedule == "full"
    assert measured == ["tiny-llama"]
    assert said[0] == "measuring this machine: about half a minute"


def test_a_run_keeps_its_schedule_and_its_budget(path: Path, measured: list[str]) -> None:
    first = run(path, "--budget", "1h")
    assert first.exit_code == 0, first.output
    assert "schedule full: about" in first.output
    kept = taken(path)
    assert (kept["schedule"], kept["budget"]) == ("full", "1h")
    assert kept["improve"]["steps"] == 6  # type: ignore[index]
    measured.clear()

    again = run(path, "--budget", "60m")
    assert again.exit_code == 0, again.output
    assert "schedule full, which this run was started with" in again.output
    assert "starts over" not in again.output
    assert measured == []

    other = run(path, "--budget", "5s")
    assert other.exit_code == 2
    assert "was started with --budget 1h, for which schedule full was chosen" in other.output
    assert "choose another --run for 5s" in other.output

    changed = run(path, "--budget", "1h", "--set=improve.learning_rate=1e-3")
    assert "self-improved/improve starts over: improve.learning_rate" in " ".join(changed.output.split())

    elsewhere = cli("evaluate", path, "--run", path.parent / "run", "--dry-run")
    assert "schedule full, which this run was started with" in elsewhere.output
    status = " ".join(cli("status", path.parent / "run").output.split())
    assert (
        "schedule: full (--budget 1h); 6 held-out prefixes tell a win rate from one half if it is 50.0 points" in status
    )
    summary = json.loads((path.parent / "run" / "summary.json").read_text())
    assert summary["schedule"] == {"name": "full", "budget": "1h", "prefixes": 6, "resolves": 0.5}
    assert "--budget 1h" in (path.parent / "run" / "report.html").read_text()


def test_a_run_that_was_begun_without_a_budget_is_no_run_for_one(path: Path) -> None:
    (path.parent / "run").mkdir()
    config = load(path).model_dump(mode="json")
    (path.parent / "run" / "run.json").write_text(json.dumps({"version": "0", "config": config}))
    refused = run(path, "--budget", "1h")
    assert refused.exit_code == 2
    assert "was started without --budget: leave --budget out to resume it, or choose another --run" in " ".join(
        refused.output.split()
    )


def test_the_plan_is_that_of_the_schedule(path: Path) -> None:
    shown = run(path, "--budget", "1h", "--dry-run")
    assert "schedule full: about" in shown.output
    assert "6 steps, up to" in shown.output
    assert not (path.parent / "run").exists()


def test_without_schedules_a_budget_is_refused(tmp_path: Path) -> None:
    refused = cli("run", "smoke", "--budget", "1h", "--run", tmp_path / "run")
    assert refused.exit_code == 2
    assert "no [schedules.NAME] table for --budget to choose from" in " ".join(refused.output.split())


def test_what_votes_can_resolve() -> None:
    assert resolvable(3) is None
    assert resolvable(6) == 0.5
    assert resolvable(64) == 8 / 64
    for n in (10, 32, 48, 192):
        gap = resolvable(n)
        assert gap is not None
        wins = round((0.5 + gap) * n)
        assert wilson(wins, n).low > 0.5 >= wilson(wins - 1, n).low


def test_the_demo_keeps_all_stages_in_every_schedule() -> None:
    demo = load("demo")
    assert demo.schedules
    for name in demo.schedules:
        one = load("demo", (), name)
        assert None not in (one.interleave, one.sft, one.rlmt)
        assert one.improve.control
        assert one.evaluate.prefixes >= 48
        assert "sampled" in one.evaluate.conditions
        assert isinstance(one.policy, ModelConfig)


def test_a_schedule_that_needs_more_memory_than_is_free_is_not_taken(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    too_large = plan.too_large
    monkeypatch.setattr(plan, "too_large", lambda at: "improve needs 9 GiB" if at.config.schedule == "full" else "")
    assert "schedule half: about" in run(path, "--budget", "1h", "--dry-run").output
    monkeypatch.setattr(plan, "too_large", too_large)
    monkeypatch.setattr(plan, "available", lambda at: (2**30, 2**20))
    shown = " ".join(run(path, "--budget", "1h", "--dry-run").output.split())
    assert "no schedule fits the memory that is free: small, the smallest: " in shown
    assert "are free of 1.0 GiB. Lower improve.micro_tokens and improve.sample_rows" in shown
