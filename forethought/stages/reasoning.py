"""Reasoning benchmarks: all arms answer the same problems with the same random numbers; one row a problem.

::

    <arm>/reasoning-<task>         answers of one arm to one task
    shared/reasoning              says that the figures of all arms were measured, together at the end
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from forethought.config import ReasoningConfig
from forethought.costs.base import REPLY, Cost, Phase, Setting, drawn, known, scored, served
from forethought.evals.reasoning.answers import EndpointAnswerer, EvalArm, ModelAnswerer, answered
from forethought.evals.reasoning.catalogue import task as task_of
from forethought.evals.reasoning.figures import measure
from forethought.evals.reasoning.task import Task, TaskError
from forethought.graph import ENDPOINT, REASONING, Arm, Step, arms, check_arms
from forethought.keys import Key
from forethought.llm.endpoint import Endpoint
from forethought.metrics import MACRO, PLAIN, THOUGHT
from forethought.models.model import Compute, Model
from forethought.records import Measurement, content_id
from forethought.run.files import hash_file
from forethought.run.progress import StageProgress
from forethought.run.store import StageFolder
from forethought.stages.base import Stage, required

ANSWERS = "answers"
"""Name of the log of answers."""
HEADER, SOLUTION, ALL = 300, 80, 500
"""Assumed by the plan: tokens of worked examples and a problem, tokens of a solution, problems of a whole task."""


class Reasoning(Stage):
    """Asks every arm every task, and measures how they did, task by task and arm against arm."""

    name = REASONING

    def validate(self) -> None:
        self._chosen()
        for task in self._tasks:
            task.some(self._settings.where(task.name), 1)

    def prepare(self) -> None:
        """Find the answers that each arm gave before; what another config made is archived."""
        self._folders  # noqa: B018  made when first read

    def depends_on(self) -> dict[str, Any]:
        return self._answers_depend_on() | {"k": list(self._settings.passes)}

    def run(self, folder: StageFolder) -> None:
        figures = self.ask()
        folder.finish({arm.name: arm.identity for arm in self._arms}, {"figures": figures})

    @property
    def pending(self) -> bool:
        return any(not folder.done for folders in self._folders.values() for folder in folders.values())

    def ask(self) -> int:
        """Have what is missing answered, publish the figures, and return how many there are.

        Called alone, for what the command line chose, it adds to the run's table and finishes no stage.
        """
        rows = {}
        for arm in self._arms:
            folders = self._folders[arm.name]
            for task in self._tasks:
                if not folders[task.name].done:
                    self._answer(arm, task, folders[task.name])
            if isinstance(arm.answerer, ModelAnswerer):
                arm.answerer.model.release()
            # From the log: it also has what was answered before a kill.
            rows[arm.name] = {name: list(folder.read(ANSWERS)) for name, folder in folders.items()}
        figures = measure(self._arms, rows, self._tasks, self._settings)
        self._publish(figures)
        return len(figures)

    @classmethod
    def cost(cls, at: Setting, step: Step) -> list[Phase]:
        cfg = required(at.config.reasoning)
        taking = [arm for arm in arms(at.config) if cfg.arms is None or arm.name in cfg.arms]
        thinking = {"trained": sum(arm.thinks for arm in taking), "all": len(taking), "none": 0}[cfg.thoughts]
        problems = sum(cfg.count(task_of(name).name) or ALL for name in cfg.tasks)

        def cost() -> Cost:
            answer, thought = REPLY * cfg.max_tokens, cfg.thought_tokens + REPLY * cfg.max_tokens
            plain, deep = (
                drawn(at.policy, problems, cfg.samples, (HEADER, size), cfg.sample_rows) for size in (answer, thought)
            )
            gold = scored(at.policy, problems, HEADER, SOLUTION, at.config.improve.micro_tokens)
            total = (plain + gold).times(len(taking) + len(cfg.models)) + deep.times(thinking)
            if cfg.endpoint is not None:
                total += served(problems * cfg.samples, cfg.endpoint.concurrency, answer)
            return total

        asked = f"{problems:,} problems of {len(cfg.tasks)} tasks, {cfg.samples} answers each"
        amount = f"{len(taking)} arms on up to {asked}"
        return [Phase(name="reasoning", amount=amount, cost=known(cost))]

    def _answer(self, arm: EvalArm, task: Task, folder: StageFolder) -> None:
        """Have one arm answer one task; what is in the folder's log already is not asked again."""
        cfg, key = self._settings, Key(self.config.seed, "reasoning")
        problems = task.some(cfg.where(task.name), cfg.count(task.name))
        logged = {(row["interface"], row["problem"]) for row in folder.read(ANSWERS)}
        done, total, size = 0, len(arm.interfaces) * len(problems), max(1, cfg.sample_rows // cfg.samples)
        with StageProgress(REASONING) as progress:
            for interface in arm.interfaces:
                for start in range(0, len(problems), size):
                    progress(done, total, f"{arm.name}: {task.name}, {interface}")
                    batch = problems[start : start + size]
                    if any((interface, problem.id) not in logged for problem in batch):
                        # A batch is computed whole, whatever of it was logged before a kill: how sums are rounded
                        # depends on what else is in the batch.
                        rows = answered(arm, task, batch, cfg, key, interface)
                        folder.append(ANSWERS, [row for row in rows if (interface, row["problem"]) not in logged])
                    done += len(batch)
            progress(done, total, f"{arm.name}: {task.name}")
        folder.finish({"policy": arm.identity}, {"problems": len(problems), "private": task.private})

    def _publish(self, figures: list[Measurement]) -> None:
        """Put figures in the run's table, instead of what was measured before of the same arms and tasks."""

        def place(figure: Measurement) -> tuple[str, ...]:
            return figure.arm, figure.against, figure.metric, figure.condition, figure.judge

        run, names, tasks = self.context.run, {arm.name for arm in self._arms}, {MACRO, *self._settings.tasks}
        before = [figure for figure in run.measurements() if figure.stage == REASONING and figure.arm in names]
        replaced = {figure for figure in before if figure.condition.partition("/")[0] in tasks}
        if set(map(place, replaced)) <= set(map(place, figures)):
            present = set(before)
            run.measure(figure for figure in figures if figure not in present)
            return
        # Some figures have no successor: another number of samples, an interface less.
        # A kill between these lines loses figures, no answers: the same command measures them again.
        run.drop(lambda row: row["stage"] == REASONING and row["arm"] in names)
        run.measure([*(figure for figure in before if figure not in replaced), *figures])

    @cached_property
    def _folders(self) -> dict[str, dict[str, StageFolder]]:
        """The folder of each arm's answers to each task."""
        step, folder = self.step.name, self.context.folder
        return {
            arm: {task: folder(arm, f"reasoning-{task}", wanted, step) for task, wanted in by_task.items()}
            for arm, by_task in self._answers_depend_on().items()
        }

    def _answers_depend_on(self) -> dict[str, Any]:
        cfg = self._settings
        fields = {"samples", "temperature", "max_tokens", "thought_tokens", "shots", "gold", "source"}
        return {
            arm.name: {
                task.name: {
                    "seed": self.config.seed,
                    "dtype": self.config.dtype,
                    "policy": arm.identity,
                    "task": task.identity,
                    "problems": cfg.count(task.name),
                    "interfaces": list(arm.interfaces),
                    "reasoning": cfg.model_dump(mode="json", include=fields),
                    **({"rows": hash_file(cfg.where(task.name))} if task.name in cfg.paths else {}),
                }
                for task in self._tasks
            }
            for arm in self._arms
        }

    @property
    def _settings(self) -> ReasoningConfig:
        if self.config.reasoning is None:
            raise TaskError("no [reasoning] table in the config: add it, or name --tasks")
        return self.config.reasoning

    @cached_property
    def _tasks(self) -> list[Task]:
        return [task_of(name) for name in self._settings.tasks]

    @cached_property
    def _arms(self) -> list[EvalArm]:
        """The arms, models and server that answer; weights are loaded when they first do."""
        cfg, context, tags = self._settings, self.context, self.context.tags

        def interfaces(trained_to_think: bool) -> tuple[str, ...]:
            thinks = cfg.thoughts == "all" or (cfg.thoughts == "trained" and trained_to_think)
            return (PLAIN, THOUGHT) if thinks else (PLAIN,)

        models = [(context.arm(arm.name, tags), arm.past + arm.peer, arm.thinks) for arm in self._chosen()]
        for name, config in cfg.models.items():
            model = Model.named(config, Compute.of(self.config), name=name, tags=tags, progress=context.say)
            models.append((model, (), False))
        answering = [
            EvalArm(model.name, model.identity, ModelAnswerer(model), interfaces(thinks), against)
            for model, against, thinks in models
        ]
        if cfg.endpoint is not None:
            # A server does not show its weights: its address and the model's name stand for them.
            identity = content_id(cfg.endpoint.base_url, cfg.endpoint.model)
            server = EndpointAnswerer(Endpoint(cfg.endpoint), tags)
            answering.append(EvalArm(ENDPOINT, identity, server, interfaces(False)))
        return answering

    def _chosen(self) -> list[Arm]:
        """Return the run's arms that the config chooses; all by default."""
        check_arms(self.config)
        cfg = self._settings
        return [arm for arm in arms(self.config) if cfg.arms is None or arm.name in cfg.arms]


STAGE = Reasoning
