"""The loop: every arm answers the same problems with the same random numbers; one row a problem, on disk at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from forethought.config import Config, ReasoningConfig
from forethought.evals.reasoning.task import Grade, Problem, Task
from forethought.evals.reasoning.writers import Asked, Request, Writer, Written
from forethought.keys import Key
from forethought.metrics import PLAIN, THOUGHT
from forethought.progress import Progress
from forethought.store import StageFolder

LOG = "answers"
"""Name of the log of a stage folder."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """An arm that takes part."""

    name: str
    """Its name in the run."""
    identity: str
    """Hash of its weights."""
    open: Callable[[], Writer]
    """Loads it."""
    against: tuple[str, ...] = ()
    """Arms that it is compared with, if they take part."""
    thinks: bool = False
    """Whether it is asked to think first, too."""

    @property
    def interfaces(self) -> tuple[str, ...]:
        """How it is asked."""
        return (PLAIN, THOUGHT) if self.thinks else (PLAIN,)


def stage_name(task: str) -> str:
    """Return the name of the stage folder in which an arm's answers to a task are kept."""
    return f"reasoning-{task}"


def stage_config(config: Config, task: Task, entrant: Entrant) -> dict[str, Any]:
    """Return what the answers depend on."""
    assert config.reasoning is not None
    drawn = {"samples", "temperature", "max_tokens", "thought_tokens", "shots", "gold", "source"}
    return {
        "seed": config.seed,
        "dtype": config.dtype,
        "policy": entrant.identity,
        "task": task.identity,
        "problems": config.reasoning.count(task.name),
        "interfaces": entrant.interfaces,
        "reasoning": config.reasoning.model_dump(mode="json", include=drawn),
    }


def answer(config: Config, folder: StageFolder, task: Task, entrant: Entrant, progress: Progress) -> None:
    """Have one arm answer one task; what is in the folder's log already is not asked again.

    Raises:
        TaskError: if the problems cannot be had, or a server left some unanswered.
    """
    cfg = config.reasoning
    assert cfg is not None
    problems = task.some(cfg.source, cfg.count(task.name))
    request = Request(
        samples=cfg.samples,
        temperature=cfg.temperature,
        max_tokens=cfg.max_tokens,
        thought_tokens=cfg.thought_tokens,
        stops=task.stops,
        key=Key(config.seed, "reasoning"),
        private=task.private,
    )
    there = {(row["interface"], row["problem"]) for row in folder.read(LOG)}
    writer: Writer | None = None
    done, total = 0, len(entrant.interfaces) * len(problems)
    for interface in entrant.interfaces:
        for batch in _batches(problems, max(1, cfg.sample_rows // cfg.samples)):
            progress(done, total, f"{entrant.name}: {task.name}, {interface}")
            if any((interface, one.id) not in there for one in batch):
                writer = writer or entrant.open()
                # A batch is computed whole, whatever of it was logged before a kill: sums depend on who is beside.
                rows = _rows(writer, task, batch, (request, cfg), interface)
                folder.append(LOG, [row for row in rows if (interface, row["problem"]) not in there])
            done += len(batch)
    progress(done, total, f"{entrant.name}: {task.name}")
    folder.finish({"policy": entrant.identity}, {"problems": len(problems), "private": task.private})


def _rows(
    writer: Writer, task: Task, batch: Sequence[Problem], how: tuple[Request, ReasoningConfig], interface: str
) -> Iterator[Row]:
    request, cfg = how
    prompts = [task.prompt(one, cfg.shots) for one in batch]
    asked = [Asked(id=f"{task.name}/{one.id}", text=prompt) for one, prompt in zip(batch, prompts, strict=True)]
    written = writer.write(asked, request, thought=interface == THOUGHT)
    golds = [" " + one.solution for one in batch]
    bits: list[float] | None = None
    if cfg.gold and interface == PLAIN:
        bits = writer.bits(list(zip(prompts, golds, strict=True)))
    for index, (problem, answers) in enumerate(zip(batch, written, strict=True)):
        grades = [task.grade(problem, one.text) for one in answers]
        yield {
            "interface": interface,
            "problem": problem.id,
            "right": [int(one.right) for one in grades],
            "formatted": [int(one.reading.formatted) for one in grades],
            "truncated": [int(one.truncated) for one in answers],
            "votes": votes(grades),
            "gold_bits_per_byte": None if bits is None else round(bits[index] / len(golds[index].encode()), 6),
            **({} if task.private else _shown(answers)),
        }


def votes(grades: Sequence[Grade]) -> list[int | None]:
    """Return a number for each answer, equal for equal ones: 0 is the right answer, ``None`` is no answer."""
    numbers: dict[str, int] = {"right": 0}
    return [None if one.key is None else numbers.setdefault(one.key, len(numbers)) for one in grades]


def _shown(answers: Sequence[Written]) -> Row:
    shown: Row = {"answers": [one.text for one in answers]}
    if any(one.thought for one in answers):
        shown["thoughts"] = [one.thought for one in answers]
    return shown


def _batches(problems: Sequence[Problem], size: int) -> Iterator[Sequence[Problem]]:
    for start in range(0, len(problems), size):
        yield problems[start : start + size]
