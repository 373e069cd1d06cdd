"""Reasoning benchmarks in the graph of stages: which arms there are, and what each still has to answer.

::

    <arm>/reasoning-<task>         answers of one arm to one task
    shared/reasoning              says that the figures of all arms were measured, together at the end
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import cast

from forethought.config import ModelConfig, ReasoningConfig
from forethought.engine import ThinkingSampler
from forethought.engine.endpoint import Endpoint
from forethought.evals.reasoning import figures
from forethought.evals.reasoning.catalogue import task as task_of
from forethought.evals.reasoning.run import LOG, Entrant, answer, stage_config, stage_name
from forethought.evals.reasoning.task import Task, TaskError
from forethought.evals.reasoning.writers import EndpointWriter, LocalWriter
from forethought.graph import REASONING, Arm, arms
from forethought.lifecycle import Lifecycle
from forethought.progress import StageProgress
from forethought.records import Measurement, content_id
from forethought.store import SHARED, StageFolder
from forethought.thoughts.format import Tags

STEP = f"{SHARED}/{REASONING}"
"""The step of the graph that all answers belong to."""

ENDPOINT = "endpoint"
"""The arm that is a server."""


class ReasoningLifecycle(Lifecycle):
    """A lifecycle that can put its arms through reasoning benchmarks."""

    def everything(self) -> None:
        """Run the selected steps, by default the whole graph; tasks that cannot be had are named before."""
        if any(step.stage == REASONING for step in self.selection.steps):
            self.demand_tasks()
        super().everything()

    def evaluate_reasoning(self) -> StageFolder:
        """Have all arms, or those that the config names, answer the tasks, and measure how they did.

        Raises:
            TaskError: if there is no such task or arm, or problems cannot be had.
        """
        entrants, tasks = self._taking_part(self._reasoning()), self.demand_tasks()
        folders = self._answers(entrants, tasks)
        made = {name: {task: one.read_json("config") for task, one in row.items()} for name, row in folders.items()}
        folder = self._folder(SHARED, REASONING, made | {"k": self._reasoning().passes})
        if not folder.done:
            found = self._answer(entrants, tasks, folders)
            folder.finish({one.name: one.identity for one in entrants}, {"figures": found})
        return folder

    def ask(self) -> None:
        """Do the same for tasks, arms and models that the command line chose, beside those of the run.

        Raises:
            TaskError: as :meth:`evaluate_reasoning`.
        """
        entrants, tasks = self._taking_part(self._reasoning()), self.demand_tasks()
        self._answer(entrants, tasks, self._answers(entrants, tasks))

    def demand_tasks(self) -> list[Task]:
        """Return the tasks of the config, so that what is missing is said before anything is trained.

        Raises:
            TaskError: if there is no such task, or its problems cannot be had.
        """
        cfg = self._reasoning()
        tasks = [task_of(name) for name in cfg.tasks]
        for one in tasks:
            one.some(cfg.source, 1)
        return tasks

    def _answers(self, entrants: Sequence[Entrant], tasks: Sequence[Task]) -> dict[str, dict[str, StageFolder]]:
        """Return the folder of each arm's answers to each task."""
        return {
            one.name: {
                task.name: self._folder(one.name, stage_name(task.name), stage_config(self.config, task, one), STEP)
                for task in tasks
            }
            for one in entrants
        }

    def _answer(
        self, entrants: Sequence[Entrant], tasks: Sequence[Task], folders: Mapping[str, Mapping[str, StageFolder]]
    ) -> int:
        """Have everybody answer what is missing, publish how they did, and return how many figures that makes."""
        cfg = self._reasoning()
        missing = any(not folder.done for row in folders.values() for folder in row.values())
        with self._measured(REASONING, SHARED) if missing else nullcontext():
            results = [self._answered(entrant, tasks, folders[entrant.name]) for entrant in entrants]
        found = figures.measure(results, tasks, figures.metrics(cfg.samples, cfg.passes), self.config.seed)
        self._publish(found, entrants, tasks)
        return len(found)

    def _answered(self, entrant: Entrant, tasks: Sequence[Task], folders: Mapping[str, StageFolder]) -> figures.Result:
        missing = [one for one in tasks if not folders[one.name].done]
        opened = functools.cache(entrant.open)  # one load for all tasks, let go of with the arm
        once = Entrant(name=entrant.name, identity=entrant.identity, open=opened, thinks=entrant.thinks)
        for one in missing:
            with StageProgress(figures.STAGE) as progress:
                answer(self.config, folders[one.name], one, once, progress)
        rows = {name: list(folder.read(LOG)) for name, folder in folders.items()}
        return figures.Result(entrant=entrant, rows=rows)

    def _publish(self, found: list[Measurement], entrants: Sequence[Entrant], tasks: Sequence[Task]) -> None:
        """Put the figures in the run's table, instead of what was measured before of the same arms and tasks."""
        arms = {entrant.name for entrant in entrants}
        names = {one.name for one in tasks} | {figures.MACRO}
        before = [one for one in self.run.measurements() if one.stage == figures.STAGE and one.arm in arms]
        others = [one for one in before if one.condition.partition("/")[0] not in names]
        there, new = set(before), {_place(one) for one in found}
        if all(_place(one) in new for one in before if one not in others):
            self.run.measure(one for one in found if one not in there)
            return
        # Some figures have no successor: another number of samples, an interface less.
        self.run.drop(lambda row: row["stage"] == figures.STAGE and row["arm"] in arms)
        self.run.measure([*others, *found])

    def _taking_part(self, cfg: ReasoningConfig) -> list[Entrant]:
        known = {arm.name: arm for arm in arms(self.config)}
        unknown = sorted(set(cfg.arms or ()) - set(known))
        if unknown:
            raise TaskError(f"reasoning.arms: this run has no {', '.join(unknown)}; it has {', '.join(known)}")
        taken = sorted({*known, ENDPOINT} & set(cfg.models))
        if taken:
            raise TaskError(f"reasoning.models: {', '.join(taken)} is the name of an arm; choose another")
        wanted = known.values() if cfg.arms is None else [arm for name, arm in known.items() if name in cfg.arms]
        found = [self._arm_entrant(arm) for arm in wanted]
        found += [self._model_entrant(name, place) for name, place in cfg.models.items()]
        if cfg.endpoint is not None:
            found.append(
                Entrant(
                    name=ENDPOINT,
                    identity=content_id(cfg.endpoint.base_url, cfg.endpoint.model),
                    open=functools.partial(EndpointWriter, endpoint=Endpoint(cfg.endpoint), tags=self._think_tags()),
                    thinks=cfg.thoughts == "all",
                )
            )
        if not found:
            raise TaskError("reasoning: nobody takes part; name arms, models or an endpoint")
        return found

    def _arm_entrant(self, arm: Arm) -> Entrant:
        place, identity = self.weights(arm)
        return Entrant(
            name=arm.name,
            identity=identity,
            open=functools.partial(self._writer, arm.name, place, identity),
            against=arm.past + arm.peer,
            thinks=self._asked_to_think(arm.thinks),
        )

    def _model_entrant(self, name: str, place: ModelConfig) -> Entrant:
        identity = self._arm(name, place).identity
        return Entrant(
            name=name,
            identity=identity,
            open=functools.partial(self._writer, name, place, identity),
            thinks=self._asked_to_think(False),
        )

    def _writer(self, name: str, place: ModelConfig, identity: str) -> LocalWriter:
        arm = self._opened(name, place, identity)
        return LocalWriter(
            sampler=cast(ThinkingSampler, arm.sampler),
            scorer=arm.scorer,
            tokenizer=arm.tokenizer,
            bos=arm.bos,
            forbidden=arm.forbidden,
            tags=self._think_tags(),
        )

    def _asked_to_think(self, trained: bool) -> bool:
        wanted = self._reasoning().thoughts
        return wanted == "all" or (wanted == "trained" and trained)

    def _think_tags(self) -> Tags:
        return Tags(*(self.config.interleave.tags if self.config.interleave is not None else ("<think>", "</think>")))

    def _reasoning(self) -> ReasoningConfig:
        if self.config.reasoning is None:
            raise TaskError("no [reasoning] table in the config: add it, or name --tasks")
        return self.config.reasoning


def _place(one: Measurement) -> tuple[str, ...]:
    return one.arm, one.against, one.metric, one.condition, one.judge
