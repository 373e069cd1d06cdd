"""The reasoning loop: resumable by problem, paired between arms, the same through a server, private where needed."""

from __future__ import annotations

import dataclasses
import json
import math
import multiprocessing
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.endpoint import Server
from helpers.smoke_runs import CONFIG, SMALL, Finished, Kill, cli, rows
from rich.console import Console

from forethought.config import ConfigError, EndpointConfig, ReasoningConfig, build, reasoning_overrides
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.engine.scorer import TorchScorer
from forethought.evals.reasoning import figures, gpqa
from forethought.evals.reasoning.answers import (
    Answer,
    EndpointAnswerer,
    EvalArm,
    ModelAnswerer,
    Question,
    answered,
    cut,
    votes,
)
from forethought.evals.reasoning.catalogue import TASKS
from forethought.evals.reasoning.task import Grade, Reading, TaskError
from forethought.keys import Key
from forethought.llm.endpoint import Endpoint
from forethought.models.model import Model, Parts
from forethought.records import Measurement
from forethought.report import tables
from forethought.run.store import Run
from forethought.stats import estimate, macro
from forethought.tags import Tags
from forethought.testing import ScriptedSampler, UniformScorer, byte_tokenizer, tiny_model

TAGS = Tags("<think>", "</think>")
QUICK = ("reasoning.problems=6", "reasoning.samples=3", "reasoning.max_tokens=8", "reasoning.sample_rows=6")
_server = multiprocessing.get_context("forkserver")


def arguments(folder: Path, *more: str) -> list[str]:
    settings = [f"--set={one}" for one in (*SMALL, *QUICK)]
    return ["evaluate", str(CONFIG), "--run", str(folder), "--model", "tiny-llama", *settings, *more]


def _killed(folder: Path, kill: Kill) -> None:
    from forethought.cli.app import app

    kill.plant(folder)
    app(arguments(folder))


LOG = "tiny-llama/reasoning-procedural/answers.jsonl"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reasoning") / "run"
    found = cli(*arguments(folder, "--tasks", "procedural"))
    assert found.exit_code == 0, found.output
    assert "Reasoning: procedural" in found.output
    return folder


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made: list[Server] = []

    def serve(behave: Any) -> Server:
        made.append(Server(behave))
        return made[-1]

    yield serve
    for one in made:
        one.close()


def ask(
    answerer: ModelAnswerer | EndpointAnswerer,
    prompt: str,
    *,
    thought: bool = False,
    private: bool = False,
    **more: Any,
) -> list[Answer]:
    """Return the answers to one prompt of a task whose answers end with the line."""
    settings: dict[str, Any] = {"samples": 2, "temperature": 0.6, "max_tokens": 8, "thought_tokens": 4}
    task = dataclasses.replace(TASKS["procedural"], stops=more.pop("stops", ("\n",)), private=private)
    config = ReasoningConfig(**settings | more)
    [answers] = answerer.answer([Question("p", prompt, "")], task, config, Key(0, "test"), thought=thought)
    return answers


def test_a_model_is_evaluated_without_training_anything(done: Path) -> None:
    found = rows(done, LOG)
    assert len(found) == 6
    assert {len(row["right"]) for row in found} == {3}
    assert sorted(path.name for path in done.iterdir() if path.is_dir()) == ["tiny-llama"]
    measured = {(one.metric, one.condition): one for one in Run.open(done).measurements() if one.stage == "reasoning"}
    assert measured["mean@3", "procedural/plain"].n == 6
    names = {"mean@3", "pass@2", "pass@3", "majority@3", "no_answer_rate", "truncation_rate", "extraction_rate"}
    for condition in ("procedural/plain", "macro/plain"):
        assert {metric for metric, where in measured if where == condition} == {*names, "gold_bits_per_byte"}


@pytest.mark.parametrize(
    "kill",
    [
        Kill("write", LOG),
        Kill("write", LOG, 2),
        Kill("write", "tiny-llama/reasoning-procedural/.manifest.json.*"),
        Kill("write", "measurements.jsonl", 2),
    ],
    ids=str,
)
def test_a_killed_evaluation_goes_on_where_it_was(kill: Kill, done: Path, tmp_path: Path) -> None:
    process = _server.Process(target=_killed, args=(tmp_path / "run", kill))
    process.start()
    process.join(120)
    assert process.exitcode == -9
    assert cli(*arguments(tmp_path / "run")).exit_code == 0
    assert (tmp_path / "run" / LOG).read_bytes() == (done / LOG).read_bytes()
    first, second = (
        [one for one in Run.open(path).measurements() if one.stage == "reasoning"] for path in (done, tmp_path / "run")
    )
    assert first == second


def test_what_is_in_the_log_is_not_asked_again(done: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(done, tmp_path / "run")
    log = tmp_path / "run" / LOG
    lines = log.read_bytes().splitlines(keepends=True)
    (log.parent / "manifest.json").unlink()
    marked = lines[0].replace(b'"right": [0, 0, 0]', b'"right": [1, 1, 1]')
    assert marked != lines[0]
    log.write_bytes(marked + lines[1][:20])  # one row, and a torn one
    assert cli(*arguments(tmp_path / "run")).exit_code == 0
    assert log.read_bytes().splitlines(keepends=True) == [marked, *lines[1:]]


def test_a_finished_evaluation_writes_nothing(done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*.jsonl")}
    assert cli(*arguments(done)).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*.jsonl")} == before


def test_another_setting_asks_again_and_drops_the_figures_of_the_first(done: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(done, tmp_path / "run")
    found = cli(*arguments(tmp_path / "run", "--set=reasoning.samples=2"))
    assert found.exit_code == 0
    assert "samples: 3 is now 2" in found.output
    names = {one.metric for one in Run.open(tmp_path / "run").measurements() if one.stage == "reasoning"}
    assert "mean@2" in names
    assert "mean@3" not in names


def test_private_problems_reach_no_file_and_no_terminal(tmp_path: Path) -> None:
    try:
        problems = gpqa.load("package")
    except TaskError as error:
        pytest.skip(str(error))
    found = cli(
        *arguments(tmp_path / "run", "--tasks", "gpqa", "--set=reasoning.thoughts=all", "--set=reasoning.shots=1")
    )
    assert found.exit_code == 0, found.output
    written = found.output + "".join(p.read_text(errors="ignore") for p in tmp_path.rglob("*") if p.is_file())
    log = rows(tmp_path / "run", "tiny-llama/reasoning-gpqa/answers.jsonl")
    assert len(log) == 12
    assert set(log[0]) == {"interface", "problem", "right", "formatted", "truncated", "votes", "gold_bits_per_byte"}
    by_id = {one.id: one for one in problems}
    for row in log:
        one = by_id[row["problem"]]
        assert not any(piece and piece in written for piece in re.findall(r".{40}", one.question + one.solution))


def test_arms_are_compared_on_the_same_problems_and_thinking_ones_both_ways(tmp_path: Path) -> None:
    settings = [f"--set={one}" for one in (*SMALL, *QUICK)]
    command = ["evaluate", str(CONFIG), "--run", str(tmp_path / "run"), *settings, "--arms", "base,base-think"]
    found = cli(*command)
    assert found.exit_code == 0, found.output
    measured = [one for one in Run.open(tmp_path / "run").measurements() if one.stage == "reasoning"]
    mean = {
        (one.arm, one.against, one.condition): one
        for one in measured
        if one.metric == "mean@3" and one.judge == "number"
    }
    assert set(mean) == {
        ("base", "", "procedural/plain"),
        ("base-think", "", "procedural/plain"),
        ("base-think", "base", "procedural/plain"),
        ("base-think", "", "procedural/thought"),
        ("base-think", "base", "procedural/thought"),
        ("base-think", "base-think", "procedural/thought"),
    }
    asked = [
        {row["problem"] for row in rows(tmp_path / "run", f"{arm}/reasoning-procedural/answers.jsonl")}
        for arm in ("base", "base-think")
    ]
    assert asked[0] == asked[1]
    wrong = cli(*command[:-1], "base,bse")
    assert wrong.exit_code == 2
    assert "this run has no bse. Did you mean base? It has base, continued, self-improved" in " ".join(
        wrong.output.split()
    )


def test_forced_answers_are_asked_again(finished: Finished) -> None:
    folder = finished()
    arms = sorted(path.parent.name for path in folder.glob("*/reasoning-procedural"))
    before = [rows(folder, f"{arm}/reasoning-procedural/answers.jsonl") for arm in arms]
    options = [f"--set={one}" for one in SMALL]
    found = cli("run", CONFIG, "--run", folder, "--only", "reasoning", "--force", *options)
    assert found.exit_code == 0, found.output
    assert len(arms) > 1
    for arm in arms:
        assert f"{arm}/reasoning-procedural starts over: --force\n" in found.stderr
    assert [rows(folder, f"{arm}/reasoning-procedural/answers.jsonl") for arm in arms] == before


def grade(key: str | None) -> Grade:
    return Grade(reading=Reading(answer=key), right=key == "right", key=key)


def test_votes_are_counted_and_ties_drawn_by_lot() -> None:
    assert votes([grade("7"), grade("right"), grade(None), grade("7"), grade("8")]) == [1, 0, None, 1, 2]
    assert figures.majority([0, 0, 1]) == 1.0
    assert figures.majority([0, 1, 1]) == 0.0
    assert figures.majority([0, 1, 2, None]) == pytest.approx(1 / 3)
    assert figures.majority([None, None]) == 0.0


def row(problem: str, right: list[int], interface: str = "plain", bits: float | None = 1.0) -> dict[str, Any]:
    return {
        "problem": problem,
        "interface": interface,
        "right": right,
        "formatted": [1] * len(right),
        "truncated": [0] * len(right),
        "votes": [0 if one else 1 for one in right],
        "gold_bits_per_byte": bits,
    }


def test_figures_are_means_over_problems_macro_means_over_tasks_and_paired_between_arms() -> None:
    tasks = [TASKS["gsm8k"], TASKS["procedural"]]
    base, other = (
        EvalArm(name=name, identity=name, answerer=uniform(), against=against)
        for name, against in (("base", ()), ("other", ("base", "absent")))
    )
    rows = {
        "base": {"gsm8k": [row("a", [0, 0]), row("b", [1, 0])], "procedural": [row("c", [1, 1])]},
        "other": {"gsm8k": [row("b", [1, 1]), row("a", [1, 0])], "procedural": [row("c", [0, 1])]},
    }
    found = figures.measure([base, other], rows, tasks, ReasoningConfig(samples=2))
    value = {(one.arm, one.against, one.metric, one.condition, one.judge): one.value for one in found}
    assert value["base", "", "mean@2", "gsm8k/plain", "number"] == 0.25
    assert value["base", "", "mean@2", "macro/plain", "each task's"] == pytest.approx((0.25 + 1.0) / 2)
    assert value["other", "", "pass@2", "gsm8k/plain", "number"] == 1.0
    assert value["other", "base", "mean@2", "gsm8k/plain", "number"] == 0.5
    assert value["other", "base", "mean@2", "macro/plain", "each task's"] == pytest.approx((0.5 - 0.5) / 2)
    change = next(one for one in found if one.against and one.metric == "mean@2" and one.condition == "gsm8k/plain")
    assert change.low is change.high is None  # two problems are too few
    assert not any(one.against == "absent" for one in found)


def test_a_macro_interval_keeps_the_tasks_apart() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.random(200), rng.random(20)
    both = macro([one, two])  # type: ignore[list-item]
    assert both.value == pytest.approx((one.mean() + two.mean()) / 2)
    assert both.n == 220
    error = math.sqrt(one.var() / 200 + two.var() / 20) / 2
    assert both.ends[1] - both.ends[0] == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert macro([one]) == estimate(one)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="none of them empty"):
        macro([[0.5], []])


def uniform(sampler: Any = None, scorer: Any = None, special: tuple[int, ...] = ()) -> ModelAnswerer:
    """Return who answers with stand-ins: letters that are all equally likely, by default."""
    parts = Parts(
        tokenizer=byte_tokenizer(),
        sampler=sampler or ScriptedSampler(),
        scorer=scorer or UniformScorer(),
        special=special,
    )
    return ModelAnswerer(Model("stand-in", "x", parts, TAGS))


def test_answers_are_cut_at_their_stop_and_say_whether_they_were_capped() -> None:
    assert cut("7\nQuestion: more", ("\nQuestion:",)) == "7"
    assert cut("\n 7\n8", ("\n",)) == "\n 7"
    assert cut("7", ()) == "7"
    policy = Policy(tiny_model("llama"))
    answerer = uniform(TorchSampler(policy), TorchScorer(policy), (256, 257, 258))
    letters = tuple("abcdefghijklmnopqrstuvwxyz ")
    stopped = ask(answerer, "1 + 6 =", samples=32, temperature=8.0, stops=letters)
    assert {one.truncated for one in stopped} == {True, False}
    for one in stopped:
        assert not any(letter in one.text for letter in letters)
    thinking = ask(answerer, "1 + 6 =", samples=8, stops=letters, thought=True)
    assert all(len(one.thought.encode("utf-8", "ignore")) > 0 for one in thinking)
    assert ask(answerer, "1 + 6 =", samples=8, stops=letters, thought=True) == thinking


def test_bits_of_the_gold_solution_are_counted() -> None:
    found = uniform().bits([Question("p", "1 + 1 =", " 2"), Question("q", "2 + 2 =", " 4, I think")])
    assert found == pytest.approx([2 * math.log2(259), 11 * math.log2(259)], rel=1e-5)


def test_a_row_says_of_a_problem_whether_its_answers_are_right_and_what_they_were() -> None:
    one = TASKS["procedural"]
    [problem] = one.some("package", 1)
    scripts = {f"procedural/{problem.id}": [tuple(f" {problem.gold}".encode()), (*b" no", 257), tuple(b" 1 or 2")]}
    config = ReasoningConfig(samples=3, max_tokens=7)
    arm = EvalArm(name="x", identity="x", answerer=uniform(ScriptedSampler(scripts)))
    [row] = answered(arm, one, [problem], config, Key(0, "test"), "plain")
    bits = row.pop("gold_bits_per_byte")
    assert bits == pytest.approx(math.log2(259), rel=1e-5)
    assert row == {
        "interface": "plain",
        "problem": problem.id,
        "right": [1, 0, 0],
        "formatted": [1, 0, 0],
        "truncated": [0, 0, 1],
        "votes": [0, None, 1],
        "answers": [f" {problem.gold}", " no", " 1 or 2"],
    }
    [hidden] = answered(arm, dataclasses.replace(one, private=True), [problem], config, Key(0, "test"), "plain")
    assert hidden == {name: value for name, value in row.items() if name != "answers"} | {"gold_bits_per_byte": bits}


def completion(text: str, finish: str = "stop") -> tuple[int, dict[str, str], Any]:
    return 200, {}, {"choices": [{"text": text, "finish_reason": finish}]}


def endpoint(url: str) -> EndpointAnswerer:
    config = EndpointConfig(base_url=url, model="m", retries=0)
    return EndpointAnswerer(Endpoint(config, backoff=0.01), TAGS)


def test_a_server_answers_by_completions_and_thinks_first_where_asked(server: Any) -> None:
    def behave(prompt: str, visit: int) -> Any:
        if prompt.endswith("<think>"):
            return completion("seven")
        if prompt.endswith("</think>"):
            return completion("\n7\nmore", "length")
        return completion("7 and on", "length")

    made = server(behave)
    answerer = endpoint(made.url)
    plain = ask(answerer, "3 + 4 =")
    assert [(one.text, one.truncated) for one in plain] == [("7 and on", True)] * 2
    path, _, body = made.requests[0]
    assert path == "/v1/completions"
    assert body | {"seed": 0} == {
        "model": "m", "prompt": "3 + 4 =", "max_tokens": 8, "temperature": 0.6, "stop": ["\n"], "seed": 0,
    }  # fmt: skip
    assert len({body["seed"] for _, _, body in made.requests}) == 2
    thought = ask(answerer, "3 + 4 =", thought=True)
    assert [(one.text, one.thought, one.truncated) for one in thought] == [("\n7", "seven", False)] * 2
    assert made.requests[-1][2]["prompt"] == "3 + 4 =<think>seven</think>"
    assert "stop" not in made.requests[-1][2]
    assert answerer.bits([Question("p", "a", "b")]) == [None]


def test_a_request_that_failed_is_no_wrong_answer_and_private_ones_are_not_quoted(server: Any) -> None:
    made = server(lambda prompt, visit: (400, {}, {"error": f"too long: {prompt}"}) if visit == 1 else completion("7"))
    answerer = endpoint(made.url)
    with pytest.raises(TaskError, match="too long: 3 \\+ 4"):
        ask(answerer, "3 + 4 =")
    with pytest.raises(TaskError) as caught:
        ask(answerer, "a secret question", private=True)
    assert "secret" not in str(caught.value)


def test_an_evaluation_through_a_server_resumes(server: Any, tmp_path: Path) -> None:
    made = server(
        lambda prompt, visit: completion(f" {sum(map(int, re.findall(r'[0-9]+', prompt.rpartition(chr(10))[2])))}")
    )
    place = "{ base_url = '" + made.url + "', model = 'adder' }"
    settings = [f"--set={one}" for one in (*SMALL, *QUICK, f"reasoning.endpoint={place}", "reasoning.arms=[]")]
    command = ["evaluate", CONFIG, "--run", tmp_path / "run", "--tasks", "procedural", "--arms", "", *settings]
    found = cli(*command)
    assert found.exit_code == 0, found.output
    assert len(made.requests) == 18
    measured = {one.metric: one.value for one in Run.open(tmp_path / "run").measurements() if one.arm == "endpoint"}
    sums = [one for one in TASKS["procedural"].some("package", 6) if "+" in one.question]
    assert measured["mean@3"] == pytest.approx(len(sums) / 6)
    assert "gold_bits_per_byte" not in measured
    assert cli(*command).exit_code == 0
    assert len(made.requests) == 18


def figure(arm: str, metric: str, value: float, width: float, **more: Any) -> Measurement:
    settings: dict[str, Any] = {"condition": "gsm8k/plain", "judge": "number", "n": 48, "unit": "", "against": ""}
    return Measurement(
        stage="reasoning", arm=arm, metric=metric, value=value, low=value - width, high=value + width, subject="x",
        **settings | more,
    )  # fmt: skip


def test_the_tables_say_what_they_can_resolve() -> None:
    change = figure("other", "mean@4", 0.02, 0.1, against="base")
    found = tables.build([
        figure("base", "mean@4", 0.5, 0.1),
        figure("base", "mean@4", 0.4, 0.1, judge="number, strict"),
        figure("other", "mean@4", 0.52, 0.1),
        change,
        figure("other", "mean@4 smallest detectable difference", 0.143, 0, against="base"),
    ])["reasoning"]  # fmt: skip
    console = Console(width=100, record=True)
    for table in found:
        console.print(table.rich())
    text = " ".join(console.export_text().split())
    assert "inside the noise of 48 problems, which show a difference from 14.3 points on" in " ".join(
        re.sub(r"[^\w.,\s]", " ", text).split()
    )
    assert "gsm8k 14.3 points" in text


def test_configs_that_cannot_be_meant_are_refused() -> None:
    base = {"name": "x", "policy": {"model": "tiny-llama"}, "judges": {"s": {"kind": "shorter"}}}
    assert build(base).reasoning is None
    for wrong, message in (
        ({"k": [9]}, "needs at least k samples"),
        ({"tasks": ["gsm8k", "gsm8k"]}, "name each once"),
        ({"tasks": []}, "at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(base | {"reasoning": wrong})
    found = build(base | {"reasoning": {"samples": 6, "problems": {"gsm8k": 5}}}).reasoning
    assert found is not None
    assert found.passes == (2, 4, 6)
    assert (found.count("gsm8k"), found.count("gpqa")) == (5, None)


def test_the_command_line_chooses_models_by_the_last_part_of_their_name() -> None:
    assert reasoning_overrides("a, b", None, ()) == ['reasoning.tasks=["a", "b"]']
    assert reasoning_overrides(None, None, ("owner/Some.Model-1B/",)) == [
        "reasoning.arms=[]",
        'reasoning.models.Some-Model-1B={ model = "owner/Some.Model-1B/" }',
    ]
    assert reasoning_overrides(None, "base", ()) == ['reasoning.arms=["base"]']
    assert json.dumps(reasoning_overrides(None, None, ())) == "[]"
