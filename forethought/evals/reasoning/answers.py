"""Who answers: a model in this process, or a server; and a row for each problem that says what came of it.

Prompts are texts, and answers are cut by their text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from forethought.config import ReasoningConfig
from forethought.engine import Group, Prompt
from forethought.evals.reasoning.task import Grade, Problem, Task, TaskError
from forethought.keys import Key
from forethought.llm.endpoint import Endpoint
from forethought.llm.replies import Reply
from forethought.metrics import PLAIN, THOUGHT
from forethought.models.model import Ended, Model
from forethought.tags import Tags, strip

Row = dict[str, Any]


class Question(NamedTuple):
    """A problem as it is asked."""

    id: str
    """Names its random numbers."""
    prompt: str
    solution: str
    """The worked solution, as it would follow the prompt."""


class Answer(NamedTuple):
    """What was written after a prompt: without the thought, and without the text that ended it."""

    text: str
    truncated: bool
    """Whether it reached the limit of tokens."""
    thought: str = ""


@dataclass(frozen=True, slots=True)
class ModelAnswerer:
    """A model with tags, loaded when it first answers.  The samples of a prompt are branches of one prefix."""

    model: Model

    def answer(
        self, questions: Sequence[Question], task: Task, config: ReasoningConfig, key: Key, *, thought: bool
    ) -> list[list[Answer]]:
        """Return ``config.samples`` answers to each question, after a thought if ``thought``."""
        model, eos = self.model, self.model.tokenizer.eos_token_id
        stop_ids, ended = () if eos is None else (eos,), _ended(model.tokenizer, task.stops)
        prompts = [Prompt(id=q.id, token_ids=self._ids(q.prompt)) for q in questions]
        options: dict[str, Any] = {"key": key, "temperature": config.temperature, "max_tokens": config.max_tokens}
        options |= {"stop_ids": stop_ids, "ended": ended}

        def answer(ids: Sequence[int], thought: str = "") -> Answer:
            text = model.tokenizer.decode(list(ids), skip_special_tokens=True)
            # The token at the cap may be the one that ends the answer: then nothing was cut.
            truncated = len(ids) == config.max_tokens and ids[-1] not in stop_ids and not ended(ids)
            return Answer(strip(cut(text, task.stops), model.thoughts.tags), truncated, thought)

        if not thought:
            completions = model.sample(prompts, config.samples, **options)
            return [[answer(completion.token_ids) for completion in row] for row in completions]
        rollouts = model.think(prompts, config.samples, thought_tokens=config.thought_tokens, **options)
        return [[answer(r.token_ids[r.thought_tokens :], r.thought) for r in row] for row in rollouts]

    def bits(self, questions: Sequence[Question]) -> list[float]:
        """Return the bits of each question's worked solution."""
        groups = [Group(prefix=self._ids(q.prompt), branches=(self.model.encode(q.solution),)) for q in questions]
        return [float(-logprobs.sum()) / math.log(2) for [logprobs] in self.model.logprobs(groups)]

    def _ids(self, prompt: str) -> tuple[int, ...]:
        return self.model.bos + self.model.encode(prompt)


@dataclass(frozen=True, slots=True)
class EndpointAnswerer:
    """A server's `/completions`.  It shares the prefix of equal prompts if it has a prefix cache."""

    endpoint: Endpoint
    tags: Tags

    def answer(
        self, questions: Sequence[Question], task: Task, config: ReasoningConfig, key: Key, *, thought: bool
    ) -> list[list[Answer]]:
        """Return ``config.samples`` answers to each question, after a thought if ``thought``.

        A request that the server left unanswered is a :class:`TaskError`, not a wrong answer.
        """
        n, opened, closed = config.samples, self.tags.open, self.tags.close
        texts = [question.prompt for question in questions for _ in range(n)]
        # Not every server takes larger seeds.
        seeds = [key.integer(question.id, k) % 2**31 for question in questions for k in range(n)]

        def complete(max_tokens: int, stops: tuple[str, ...]) -> list[Reply]:
            replies = self.endpoint.complete(
                texts, max_tokens=max_tokens, temperature=config.temperature, stop=stops, seeds=seeds
            )
            errors = [reply.error for reply in replies if reply.error is not None]
            if errors:
                reason = "its words are left out, for they may quote a problem" if task.private else errors[0]
                raise TaskError(
                    f"{self.endpoint.config.base_url}: {len(errors)} of {len(replies)} requests were not answered "
                    f"({reason}). What was answered before is kept: run the same command again"
                )
            return replies

        thoughts = [""] * len(texts)
        if thought:
            texts = [text + opened for text in texts]
            thoughts = [cut(reply.text, (closed,)) for reply in complete(config.thought_tokens, (closed,))]
            texts = [text + words + closed for text, words in zip(texts, thoughts, strict=True)]
        # A server would end at a newline that only separates an answer from the thought before it.
        stops = tuple(stop for stop in task.stops if stop.strip() or not thought)
        answers = []
        for reply, words in zip(complete(config.max_tokens, stops), thoughts, strict=True):
            kept = cut(reply.text, task.stops)
            answers.append(Answer(strip(kept, self.tags), reply.finish == "length" and kept == reply.text, words))
        return [answers[start : start + n] for start in range(0, len(answers), n)]

    def bits(self, questions: Sequence[Question]) -> list[None]:
        return [None] * len(questions)  # servers do not agree on how a given text is scored


@dataclass(frozen=True, slots=True)
class EvalArm:
    """An arm, another model or a server that answers."""

    name: str
    identity: str
    """Hash of its weights, or of a server's address and model."""
    answerer: ModelAnswerer | EndpointAnswerer
    interfaces: tuple[str, ...] = (PLAIN,)
    """How it is asked: plainly, and perhaps to think first, too."""
    against: tuple[str, ...] = ()
    """Arms that it is compared with, if they answer, too."""


def answered(
    arm: EvalArm, task: Task, problems: Sequence[Problem], config: ReasoningConfig, key: Key, interface: str
) -> list[Row]:
    """Have ``problems`` answered by one interface, and return their rows; private ones hold no text."""
    questions = [
        Question(f"{task.name}/{problem.id}", task.prompt(problem, config.shots), " " + problem.solution)
        for problem in problems
    ]
    answers_by_problem = arm.answerer.answer(questions, task, config, key, thought=interface == THOUGHT)
    # Once: the solution is scored after the bare prompt, however the arm is asked.
    scored = config.gold and interface == PLAIN
    bits = arm.answerer.bits(questions) if scored else [None] * len(questions)
    rows = []
    for problem, question, answers, gold in zip(problems, questions, answers_by_problem, bits, strict=True):
        grades = [task.grade(problem, answer.text) for answer in answers]
        row: Row = {
            "interface": interface,
            "problem": problem.id,
            "right": [int(grade.right) for grade in grades],
            "formatted": [int(grade.reading.formatted) for grade in grades],
            "truncated": [int(answer.truncated) for answer in answers],
            "votes": votes(grades),
            "gold_bits_per_byte": None if gold is None else round(gold / len(question.solution.encode()), 6),
        }
        if not task.private:
            row["answers"] = [answer.text for answer in answers]
            if any(answer.thought for answer in answers):
                row["thoughts"] = [answer.thought for answer in answers]
        rows.append(row)
    return rows


def votes(grades: Sequence[Grade]) -> list[int | None]:
    """Return a number for each answer, equal for equal ones: 0 is the right answer, ``None`` is no answer."""
    numbers = {"right": 0}
    return [None if grade.key is None else numbers.setdefault(grade.key, len(numbers)) for grade in grades]


def cut(text: str, stops: Sequence[str]) -> str:
    """Return ``text`` up to the first of ``stops``."""
    # A stop that is white space ends words only: a line that has not begun is not over.
    blank = len(text) - len(text.lstrip())
    places = [place for stop in stops if (place := text.find(stop, 0 if stop.strip() else blank)) >= 0]
    return text[: min(places)] if places else text


def _ended(tokenizer: Any, stops: Sequence[str]) -> Ended:
    """Return what says of written ids whether one of ``stops`` is now complete."""
    most = max((len(stop.encode()) for stop in stops), default=0)

    def ended(ids: Sequence[int]) -> bool:
        # Only the end is decoded each time: every token of a stop spells at least one of its bytes.
        end = tokenizer.decode(list(ids[-most:])) if most else ""
        if not any(stop in end for stop in stops):
            return False
        # Only the whole text tells whether words have begun, before which white space ends nothing.
        text = tokenizer.decode(list(ids))
        return cut(text, stops) != text

    return ended
