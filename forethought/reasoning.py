"""Calls the stage `reasoning` until the runner does; it is deleted then."""

from __future__ import annotations

import json
from contextlib import nullcontext

from forethought.graph import REASONING, STEPS, arms, maker
from forethought.lifecycle import Lifecycle
from forethought.stages.base import Context
from forethought.stages.reasoning import Reasoning
from forethought.store import SHARED, StageFolder


class ReasoningLifecycle(Lifecycle):
    """A lifecycle that can put its arms through reasoning benchmarks."""

    def everything(self) -> None:
        """Run the selected steps; tasks that are missing are named before."""
        for step in self.selection.steps:
            if step.stage == REASONING:
                self._reasoning().check()
        super().everything()

    def evaluate_reasoning(self) -> StageFolder:
        """Have all arms, or those that the config names, answer the tasks, and measure how they did."""
        stage = self._trained()
        folder = self._folder(SHARED, REASONING, json.dumps(stage.depends_on()))
        if not folder.done:
            with self._measured(REASONING, SHARED) if stage.pending else nullcontext():
                stage.run(folder)
        return folder

    def ask(self) -> None:
        """Do the same for tasks, arms and models that the command line chose, beside those of the run."""
        stage = self._trained()
        with self._measured(REASONING, SHARED) if stage.pending else nullcontext():
            stage.ask()

    def _trained(self) -> Reasoning:
        stage = self._reasoning()
        stage.check()
        wanted = self.config.reasoning.arms if self.config.reasoning is not None else None
        for arm in arms(self.config):
            if arm.stage and (wanted is None or arm.name in wanted):
                self.make(maker(arm))
        return stage

    def _reasoning(self) -> Reasoning:
        def folder(arm: str, stage: str, depends_on: object, part_of: str) -> StageFolder:
            return self._folder(arm, stage, json.dumps(depends_on), part_of)

        step = next(step for step in STEPS if step.stage == REASONING)
        return Reasoning(Context(self.config, self.run, self.say, folder), step)
