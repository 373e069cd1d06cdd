"""A sweep makes its data once, its seeds differ in training alone, and together they have intervals over seeds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from forethought import config, graph
from forethought.cli.app import app
from forethought.pipeline.sweep import SweepError, data_steps, sweep
from forethought.records import Measurement
from forethought.report.aggregate import AggregateError, Repetitions, find_primary, tables, verdict
from forethought.run.store import Run

SMALL = ("dtype=float32", "audit.prefixes=4", "improve.steps=3", "sft.steps=3", "rlmt.steps=3", "sft.control=false",
         "improve.control_lineage=false", "rlmt.control=false", "evaluate.prefixes=4", "evaluate.nll_chunks=4",
         "evaluate.conditions=['sampled']", "evaluate.thoughts.conditions=[]", "thinking.probe_samples=0",
         "reasoning.problems=1", "reasoning.arms=['base']",
         'primary={arm="self-improved-rlmt", against="base-rlmt"}')  # fmt: skip
ASKED = [word for override in SMALL for word in ("--set", override)]
ARM, AGAINST, METRIC = "self-improved-rlmt", "base-rlmt", "gate score difference of differences"


def test_what_no_training_comes_before_is_shared() -> None:
    steps = data_steps(config.load("smoke"))
    assert [step.name for step in steps] == [
        "shared/chunk", "shared/audit", "shared/interleave", "shared/calibrate",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sweep") / "all"
    done = CliRunner().invoke(app, ["sweep", "smoke", "--seeds", "2", "--run", str(place), *ASKED])
    assert done.exit_code == 0, done.output
    assert f"forethought aggregate {place}/seed-0 {place}/seed-1" in done.output
    return place


def groups(run: Path) -> bytes:
    return (run / "base-rlmt/rlmt/groups.jsonl").read_bytes()


def test_seeds_share_data_and_differ_in_training(swept: Path) -> None:
    first, second = swept / "seed-0", swept / "seed-1"
    for name in ("chunk/chunks.improve.jsonl", "interleave/rows.sft.jsonl", "calibrate/manifest.json"):
        assert (first / "shared" / name).read_bytes() == (second / "shared" / name).read_bytes()
    thresholds = [json.loads((run / "shared/calibrate/manifest.json").read_text())["summary"] for run in
                  (first, second, swept / "data")]  # fmt: skip
    assert thresholds[0] == thresholds[1] == thresholds[2]
    kept = [run / "shared/evaluate-rlmt/windows.jsonl" for run in (first, second)]
    windows = [json.loads(path.read_text().splitlines()[0])["windows"] for path in kept]
    assert windows[0] == windows[1]
    assert groups(first) != groups(second)
    assert not list(swept.glob("seed-*/*/*/checkpoints/final"))  # figures stay, weights go
    assert (first / "summary.json").exists()


def test_a_finished_sweep_does_nothing_again(swept: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in swept.glob("seed-*/*/*/manifest.json")}
    again = CliRunner().invoke(app, ["sweep", "smoke", "--seeds", "2", "--run", str(swept), *ASKED])
    assert again.exit_code == 0, again.output
    assert {path: path.stat().st_mtime_ns for path in swept.glob("seed-*/*/*/manifest.json")} == before


def test_a_seed_with_other_data_is_refused(swept: Path, tmp_path: Path) -> None:
    place = shutil.copytree(swept, tmp_path / "other")
    manifest = place / "seed-1/shared/calibrate/manifest.json"
    changed = json.loads(manifest.read_text().replace('"threshold": ', '"threshold": 1'))
    del changed["checksum"]  # made elsewhere, not damaged
    manifest.write_text(json.dumps(changed))
    with pytest.raises(SweepError, match=r"seed-1: shared/calibrate is not that of .*data"):
        sweep(config.load("smoke", SMALL), place, [1], lambda *given: None, keep_weights=False, say=print)


def test_an_arm_whose_weights_the_sweep_removed_is_not_exported(swept: Path, tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["export", str(swept / "seed-0"), "self-improved", str(tmp_path / "model")])
    assert refused.exit_code == 2
    assert "a sweep removes the trained models of a finished seed" in " ".join(refused.stderr.split())
    assert not (tmp_path / "model").exists()


def test_two_seeds_are_put_together(swept: Path, tmp_path: Path) -> None:
    runs = [str(swept / f"seed-{seed}") for seed in (0, 1)]
    done = CliRunner().invoke(app, ["aggregate", *runs, "--out", str(tmp_path / "page")])
    assert done.exit_code == 0, done.output
    content = json.loads((tmp_path / "page/aggregate.json").read_text())
    assert content["training_seeds"] == [0, 1]
    [primary] = content["primary"]
    assert (primary["metric"], primary["arm"], primary["against"]) == (METRIC, ARM, AGAINST)
    assert primary["over_seeds"] is None  # two seeds say nothing of their spread
    assert primary["mean"] == pytest.approx(sum(primary["values"].values()) / 2)
    page = (tmp_path / "page/aggregate.html").read_text()
    assert "2 seeds are too few to tell" in page


def test_other_configs_and_equal_seeds_are_refused(swept: Path, tmp_path: Path) -> None:
    first = Run(swept / "seed-0")
    with pytest.raises(AggregateError, match="at least two"):
        Repetitions([first])
    with pytest.raises(AggregateError, match="both have training seed 0"):
        Repetitions([first, Run(shutil.copytree(swept / "seed-0", tmp_path / "again"))])
    other = shutil.copytree(swept / "seed-1", tmp_path / "other")
    asked = json.loads((other / "run.json").read_text())["config"]
    asked["improve"]["beta"] = 0.5
    Run(other).save_config(asked)
    with pytest.raises(AggregateError, match=r"is no repetition of .*improve\.beta"):
        Repetitions([first, Run(other)])


def planted(place: Path, effects: list[float], judges: Mapping[str, float] | None = None) -> Repetitions:
    """Runs of which the gate's difference of differences is known: one per seed, on sixty windows.

    ``judges``: by name, what each adds to the effects.
    """
    judges, spread, runs = judges or {"letters >= 0.500": 0.0}, 0.02, []
    asked = config.load("smoke", [*SMALL, "thinking.judges.other={kind='beyond-prefix', embedder='letters'}"])
    for seed, effect in enumerate(effects):
        run = Run.create_or_open(place / f"seed-{seed}")
        run.save_config(asked.model_copy(update={"training_seed": seed}).model_dump(mode="json"))
        names = {"stage": "evaluate-rlmt", "arm": ARM, "against": AGAINST, "condition": "entropy-matched"}
        hard = [spread * ((n * 7) % 11 - 5) / 5 for n in range(60)]
        folder = run.stage("shared", "evaluate-rlmt")
        for judge, more in judges.items():
            of = {**names, "judge": judge, "n": 60, "unit": "score", "subject": "x"}
            value = effect + more
            run.measure([
                Measurement(**of, metric=METRIC, value=value, low=value - 0.01, high=value + 0.01),
                Measurement(**of, metric=f"{METRIC} smallest detectable difference", value=0.02 + effect / 10),
                Measurement(**of, metric="gate score smallest detectable difference", value=0.02 + effect / 10),
            ])  # fmt: skip
            scores = {"base": hard, "self-improved": hard, AGAINST: hard, ARM: [value + 2 * one for one in hard]}
            folder.append("windows", [
                {"arm": arm, "condition": "entropy-matched", "judge": judge, "score": row, "reward": row}
                for arm, row in scores.items()
            ])  # fmt: skip
        runs.append(run)
    return Repetitions(runs)


def test_a_judge_that_rewarded_does_not_speak_for_the_primary_endpoint(tmp_path: Path) -> None:
    """It stays in the table; and what a single run would detect is no figure of several."""
    repetitions = planted(tmp_path, [0.03, 0.04, 0.05], judges={"similarity-letters@0 >= 0.500": -0.02,
                                                               "beyond-prefix-letters@0 >= 0.400": 0.0})  # fmt: skip
    rows = repetitions.pooled()
    assert [row.figure.judge.partition("@")[0] for row in find_primary(repetitions, rows)] == [
        "beyond-prefix-letters", "similarity-letters",
    ]  # fmt: skip
    assert {row.figure.metric for row in rows} == {METRIC}
    [table, *_] = tables(repetitions)
    assert table.note == (
        "beyond-prefix-letters@0 >= 0.400: trained nothing; similarity-letters@0 >= 0.500: rewarded stage 3"
    )


@pytest.mark.parametrize(
    ("effects", "says"),
    [
        ([0.05, 0.04, 0.06, 0.05, 0.055, 0.045], "above zero over 6 seeds"),
        ([-0.05, -0.04, -0.06, -0.05, -0.055, -0.045], "below zero over 6 seeds"),
        ([0.05, -0.04, 0.02, -0.05, 0.03, -0.01], "inside the noise of 6 seeds, which show +0.0"),
        ([0.05, 0.06], "2 seeds are too few to tell"),
    ],
)
def test_seeds_say_what_is_true(tmp_path: Path, effects: list[float], says: str) -> None:
    repetitions = planted(tmp_path, effects)
    [primary] = find_primary(repetitions, repetitions.pooled())
    assert verdict(primary).startswith(says)
    assert primary.mean == pytest.approx(sum(effects) / len(effects))
    if len(effects) > 2:
        assert primary.both is not None
        assert primary.seeds is not None
        # Windows differ, too: over both the interval is wider than over seeds alone.
        widths = [one.ends[1] - one.ends[0] for one in (primary.seeds, primary.both)]
        assert widths[0] <= widths[1] * 1.05


def test_the_graph_knows_the_primary_endpoint() -> None:
    graph.check_primary(config.load("smoke", SMALL))
    with pytest.raises(graph.SelectionError, match=r"primary\.metric = 'gate mark'"):
        graph.check_primary(config.load("smoke", [*SMALL, "primary.metric=gate mark"]))
    with pytest.raises(graph.SelectionError, match=r"primary\.against = 'continued-rlmt'.*control_lineage"):
        graph.check_primary(config.load("smoke", [*SMALL, "primary.against=continued-rlmt"]))


def test_a_dry_run_refuses_an_endpoint_that_is_not_there(tmp_path: Path) -> None:
    asked = ["run", "smoke", "--dry-run", "--run", str(tmp_path / "run"), "--set", 'primary={arm="somebody"}']
    refused = CliRunner().invoke(app, asked)
    assert refused.exit_code == 2
    assert "primary.arm = 'somebody': no arm of this config" in " ".join(refused.stderr.split())
