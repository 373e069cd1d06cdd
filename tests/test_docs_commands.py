"""Every command and every example of the docs is run, on a tiny model in a folder of its own.

What is replaced is said here, and what cannot be run is listed here with the reason.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import datasets
import pytest
from helpers.commands import parsed
from helpers.smoke_runs import CONFIG, SMALL, Finished, cli
from pages import ROOT, SPAN, blocks, shell_lines, tables
from rich.console import Group
from rich.table import Table

from forethought import graph, stages
from forethought.config.shipped import config_names
from forethought.evals.reasoning.catalogue import TASKS
from forethought.report.curves import read_curves
from forethought.report.summary import render
from forethought.run.store import Run

SHARED = "runs/smoke"
"""The run of the shipped configs: all of them are stand-ins for one, so that it is made once."""
OTHER_RUNS = ("runs/second", "runs/other", "runs/pilot")
"""Runs that commands make themselves, with other values; of these only stage 1 is run."""
STAGE_ONE = "stage-one.toml"
"""The smoke config without the tables of stages 2 and 3."""
OWN_CONFIGS = ("my.toml", "mine.toml")
"""Configs that a page has its reader write: as text they are checked by test_docs.py, here stage 1 stands in."""

LATER = ("interleave.", "sft.", "rlmt.", "thinking.")
"""Keys that a config without stages 2 and 3 cannot have."""

NOT_RUN = {
    "make setup": "installs packages; `make -n` only",
    "make demo": "half an hour on a real model; `make -n` only",
    "make test": "runs this test; `make -n` only",
    "forethought sweep study --seeds 8": "eight runs; test_sweep.py makes two",
    "forethought aggregate runs/study-sweep/seed-*": "the runs of a sweep; test_sweep.py puts two together",
    "source .venv/bin/activate": "the environment of the tests is another one",
    "vllm serve Qwen/Qwen3-4B-Instruct-2507 --port 8000 --max-model-len 8192": "vLLM is no dependency",
    "llama-server -m Qwen3-4B-Instruct-2507-Q8_0.gguf --port 8000 -c 65536 -np 16": "llama.cpp is no dependency",
}
"""Commands that are not run, with the reason."""

LINES = shell_lines()


def stand_in(line: str) -> list[str]:
    """Return the arguments of a ``forethought`` command with a tiny model in place of the one that it names."""
    _, given = parsed(line)
    arguments = shlex.split(line)[1:]
    if "config" in given:
        place = arguments.index(str(given["config"]))
        short = given["run_"] is not None or str(given["config"]) in OWN_CONFIGS
        if given["run_"] is not None:
            arguments[place] = STAGE_ONE
        sizes = [item for item in SMALL if not short or not item.startswith(LATER)]
        arguments[place + 1 : place + 1] = [f"--set={item}" for item in sizes]  # before its own, which win
    return [
        SHARED + "/".join(["", *one.split("/")[2:]]).rstrip("/") if re.match(r"runs/\w", one) and not made(one) else one
        for one in arguments
    ]


def made(place: str) -> bool:
    """Return whether ``place`` lies in a run that a command of the docs makes under that name."""
    return place.startswith((*OTHER_RUNS, *(f"runs/{Path(name).stem}" for name in OWN_CONFIGS)))


def without_later_stages(text: str) -> str:
    """Return a config without its tables of stages 2 and 3, and of reasoning, whose arms they make."""
    parts = re.split(r"^(?=\[)", text, flags=re.MULTILINE)
    gone = ("[interleave", "[sft", "[rlmt", "[thinking", "[evaluate.thoughts", "[reasoning")
    return "".join(part for part in parts if not part.startswith(gone))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every shipped config is the smoke config: a file that is there wins over a shipped one."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    smoke = CONFIG.read_text()
    for name in config_names():
        (folder / name).write_text(smoke)
    (folder / STAGE_ONE).write_text(without_later_stages(smoke))
    for name in OWN_CONFIGS:
        own = without_later_stages(smoke).replace('name = "smoke"', f'name = "{Path(name).stem}"')
        (folder / name).write_text(own)
    return folder


@pytest.fixture(scope="module")
def run(place: Path, finished: Finished) -> Path:
    """The shared run; the command that makes it finds it finished."""
    (place / SHARED).parent.mkdir()
    finished().rename(place / SHARED)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        again = cli(*stand_in("forethought run smoke"))
    assert again.exit_code == 0
    assert "starts over" not in again.stderr
    return place / SHARED


def test_there_are_commands() -> None:
    assert sum(line.startswith("forethought ") for _, line in LINES) > 20
    assert stand_in("forethought run demo --run runs/second --set seed=1")[1] == STAGE_ONE
    assert stand_in("forethought show runs/demo") == ["show", "runs/smoke"]
    assert stand_in("forethought show runs/second") == ["show", "runs/second"]


@pytest.mark.slow
def test_every_command_runs(place: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    done: set[tuple[str, ...]] = set()
    for page, line in LINES:
        if line in NOT_RUN:
            continue
        words = shlex.split(line)
        assert words[0] in ("forethought", "python"), f"{page.name}: run {line!r}, or say in NOT_RUN why not"
        arguments = stand_in(line) if words[0] == "forethought" else words[1:]
        if (words[0], *arguments) in done:
            continue
        done.add((words[0], *arguments))
        code, said = ours(arguments) if words[0] == "forethought" else python(arguments)
        assert code == 0, f"{page.name}: {line}\n{shlex.join(arguments)}\n{said}"
    assert len(done) > 15


def ours(arguments: Sequence[str]) -> tuple[int, str]:
    result = cli(*arguments)
    return result.exit_code, f"{result.output[-2000:]}\n{result.exception!r}"


def python(arguments: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr


def test_a_command_that_fails_is_noticed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    code, said = ours(["show", "runs/nowhere"])
    assert code == 2
    assert "no such run folder" in said
    assert python(["scripts/write_docs.py", "--no-such-option"])[0] == 2


def test_what_is_not_run_stands_in_the_docs_and_has_a_reason() -> None:
    assert {line for _, line in LINES} >= set(NOT_RUN)
    assert all(len(reason) > 10 for reason in NOT_RUN.values())


@pytest.mark.parametrize("line", [line for line in NOT_RUN if line.startswith("make ")])
def test_targets_could_be_made(line: str) -> None:
    done = subprocess.run([*line.split(), "-n"], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", sorted({block.page for block in blocks("python")}), ids=lambda page: page.name)
def test_every_example_runs(page: Path, place: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(place / "cache"))
    # What an example adds is gone for the tests that follow in this process.
    monkeypatch.setattr(graph, "STEPS", graph.STEPS)
    monkeypatch.setattr(stages, "__path__", [*stages.__path__])
    monkeypatch.setattr(sys, "path", [*sys.path, str(place)])
    names: dict[str, object] = {}
    examples = [block.text for block in blocks("python") if block.page == page]
    for number, example in enumerate(examples):
        file = re.match(r"# (\w+\.py)\n", example)
        if file:  # a file that its reader writes, and that later examples import
            (place / file[1]).write_text(example)
            continue
        code = compile(example.replace("runs/demo/", f"{SHARED}/"), f"{page.name}, example {number + 1}", "exec")
        with mock.patch.dict(TASKS):
            exec(code, names)


def documented(page: str, head: str) -> str:
    """Return the first cells of the tables of a page whose first column is called ``head``."""
    return "\n".join(row[0] for first, *found in tables(ROOT / "docs" / page) if first[0] == head for row in found)


def test_everything_that_stage_one_logs_is_on_its_page(run: Path) -> None:
    names = SPAN.findall(documented("self-improving.md", "Metric"))
    logged = {
        key.removeprefix("improve/")
        for row in map(dict, read_curves(Run.open(run))["self-improved"])
        for key in row
        if key != "step"
    }
    for key in logged:
        assert any(re.fullmatch(name.replace("*", r"\w+"), key) for name in names), key
    assert {"margin", "selection_null", "suffix_nll", "seconds_sample"} <= logged


def test_every_table_of_a_run_is_explained(run: Path) -> None:
    opened = Run.open(run)
    shown = render(opened.measurements(), read_curves(opened))
    assert isinstance(shown, Group)
    titles = [str(one.title) for one in shown.renderables if isinstance(one, Table)]
    cells = re.findall(r"\*([^*]+)\*", documented("evaluation.md", "Table"))
    named = [re.sub(r"^X against Y, | X$", "", cell) for cell in cells]
    for title in titles:
        assert any(name in title for name in named), title
    # Differences of so few units are not counted.
    for name in set(named) - {"Many comparisons"}:
        assert any(name in title for title in titles), name
