"""The command line: every option documented, plans that write nothing, exit codes, and a quiet output."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from helpers.smoke_runs import CONFIG, SMALL, Finished, cli, rows, smoke
from rich.console import Console

from forethought import __version__
from forethought.cli.app import app
from forethought.report.curves import read_curves
from forethought.report.independence import judges_of
from forethought.report.summary import render
from forethought.run.store import Run
from forethought_offline import MODELS

COMMANDS: dict[str, click.Command] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
STAGES = ("run", "chunk", "audit-judge", "improve", "interleave", "sft", "rlmt", "evaluate")
READERS = ("show", "report", "status", "verify", "compare", "aggregate", "export", "export-data", "try")


@pytest.fixture(scope="module")
def done(finished: Finished) -> Path:
    """A finished run."""
    return finished()


def test_these_are_the_commands() -> None:
    assert set(COMMANDS) == {*STAGES, *READERS, "sweep", "doctor", "models", "validate"}
    shown = cli("--help")
    assert shown.exit_code == 0
    for name, command in COMMANDS.items():
        assert command.help
        assert name in shown.stdout


@pytest.mark.parametrize(
    ("name", "parameter"),
    [(name, parameter) for name, command in COMMANDS.items() for parameter in command.params],
    ids=lambda one: getattr(one, "name", one),
)
def test_every_option_says_what_it_does(name: str, parameter: click.Parameter) -> None:
    shown = cli(name, "--help")
    assert shown.exit_code == 0
    assert len(getattr(parameter, "help", "") or "") > 8
    words = re.findall(r"\w+", parameter.help)[:3]  # type: ignore[attr-defined]
    assert all(word in shown.stdout for word in words)
    if isinstance(parameter, click.Option):
        assert parameter.opts[0] in shown.stdout


def test_the_version() -> None:
    result = cli("--version")
    assert (result.exit_code, result.stdout) == (0, f"{__version__}\n")


def test_no_arguments_show_the_help() -> None:
    assert "Usage" in cli().output


@pytest.mark.parametrize("command", STAGES)
def test_a_dry_run_writes_nothing(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # no cell of the plan is wrapped
    result = cli(command, "smoke", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "480 rollouts of 12 tokens" in result.stdout
    assert "600 verdicts" in result.stdout
    assert "30 steps, up to 6,720 tokens" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_plan_is_what_then_happens(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6 steps of 2 prefixes, 4 rollouts and the original."""
    monkeypatch.setenv("COLUMNS", "200")
    result = cli("run", CONFIG, "--run", done, "--dry-run", *(f"--set={item}" for item in SMALL))
    pools = rows(done, "self-improved/improve/pools.jsonl")
    rollouts = sum(one["origin"] == "rollout" for row in pools for one in row["candidates"])
    verdicts = sum(len(said) for row in pools for said in row["verdicts"].values())
    assert (rollouts, verdicts) == (48, 60)
    assert "48 rollouts of 12 tokens" in result.stdout
    assert "60 verdicts" in result.stdout
    chunks = rows(done, "shared/chunk/chunks.improve.jsonl")
    prefixes = {row["id"]: len(row["prefix_ids"]) for row in chunks}
    trained = sum(prefixes[row["chunk_id"]] + 2 * 12 for row in pools)
    planned, *_ = re.findall(r"6 steps, up to ([\d,]+) tokens", result.stdout)
    assert 0.7 * int(planned) < trained <= int(planned)
    assert "self-improved/improve (done)" in " ".join(result.stdout.split())


def test_a_dry_run_refuses_what_a_run_would_refuse(tmp_path: Path) -> None:
    result = cli("run", CONFIG, "--run", tmp_path / "run", "--dry-run", "--set", "corpus.path=nowhere.jsonl")
    assert result.exit_code == 2
    assert "nowhere.jsonl" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_show_prints_the_table_of_a_run(done: Path) -> None:
    result = cli("show", done)
    assert result.exit_code == 0
    opened = Run.open(done)
    expected = Console(file=io.StringIO(), width=80)
    expected.print(render(opened.measurements(), read_curves(opened), judges_of(opened)))
    assert isinstance(expected.file, io.StringIO)
    assert result.stdout.startswith(expected.file.getvalue())
    assert "self-improved" in result.stdout


def test_a_terminal_that_cannot_show_it_gets_question_marks(done: Path) -> None:
    command = [sys.executable, "-m", "forethought", "show", str(done)]
    shown = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, check=False)
    assert shown.returncode == 0, shown.stderr
    assert b"self-improved" in shown.stdout
    assert b"?" in shown.stdout


def test_show_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    result = cli("show", tmp_path / "nothing")
    assert result.exit_code == 2
    assert "no such run folder" in result.stderr


def test_the_list_of_models() -> None:
    result = cli("models")
    assert result.exit_code == 0
    for name in (*MODELS, "tiny-llama", "tiny-qwen3", "tiny-gemma3"):
        assert name[:6] in result.stdout


def test_a_config_that_is_not_there(tmp_path: Path) -> None:
    result = cli("run", tmp_path / "typo.toml")
    assert result.exit_code == 2
    assert "typo.toml: no such config file. Shipped configs: article, demo" in result.stderr


def test_an_unknown_option_is_an_error_of_usage() -> None:
    assert cli("run", CONFIG, "--dryrun").exit_code == 2


@pytest.mark.slow
def test_stages_run_alone_bring_what_they_need(tmp_path: Path) -> None:
    assert smoke("chunk", tmp_path / "run").exit_code == 0
    assert not (tmp_path / "run" / "shared" / "audit").exists()
    # With the control's lineage, its arms take part in the later evaluations.
    assert smoke("evaluate", tmp_path / "run", "improve.control_lineage=false").exit_code == 0
    assert (tmp_path / "run" / "self-improved" / "evaluate" / "manifest.json").exists()
    assert not (tmp_path / "run" / "continued").exists()


def test_what_is_said_is_ours_and_paths_stay_in_one_piece(tmp_path: Path) -> None:
    """Results go to stdout and talk to stderr; the bars of the libraries below go nowhere."""
    deep = tmp_path / ("a" * 60) / ("b" * 60)
    result = smoke("chunk", deep)
    assert result.exit_code == 0
    assert not re.search(r"Loading weights|Writing model shards|it/s", result.output)
    again = smoke("chunk", deep, "chunk.suffix_tokens=9")
    assert again.exit_code == 0
    assert f"what it made is kept in {deep}/.replaced/shared/chunk/" in again.stderr


def test_a_bug_is_not_dressed_up_as_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ValueError("a bug of ours")

    monkeypatch.setattr("forethought.pipeline.plan.plan", broken)
    result = cli("run", CONFIG, "--dry-run")
    assert isinstance(result.exception, ValueError)
    assert result.exit_code == 1
