"""``Lifecycle``: makes the steps of the graph that are missing, in order; see :mod:`forethought.graph`."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from forethought import models
from forethought.config import Config
from forethought.engine import heap
from forethought.engine.backends.selection import decided
from forethought.graph import Selection, Step, after, check_primary, graph, needs
from forethought.machine import MachineError, dtype_for, machine
from forethought.metrics import PEAK_MEMORY, RUN, STAGE_SECONDS
from forethought.records import Measurement
from forethought.run.files import StoreError
from forethought.run.metric_log import peak_memory
from forethought.run.progress import RunProgress
from forethought.run.store import Run, StageFolder
from forethought.stages.base import Context, Stage
from forethought.stages.session import remove_checkpoints


class NotMadeError(StoreError):
    """A stage that is needed, that is not there as this config wants it, and that may not be made now."""


def settled(config: Config, place: Path) -> Config:
    """Return ``config`` with its dtype resolved for this machine.

    With ``auto``, a run that was begun in ``place`` keeps the dtype it was begun with.

    Raises:
        MachineError: if this machine does not compute in that dtype, or in the one that is asked for.
    """
    device = models.resolve_device(config.device).type
    begun = (Run(place).config() or {}).get("dtype", "auto") if config.dtype == "auto" else "auto"
    if begun == "bfloat16" and machine().no_bf16(device):
        raise MachineError(
            f"{place} was begun in bfloat16, and {machine().no_bf16(device)}. Go on with it on a machine that does, or "
            "start again here: another --run, or --set dtype=float32, which starts its stages over"
        )
    return config.model_copy(update={"dtype": dtype_for(config.dtype if begun == "auto" else begun, device, machine())})


def stage_class(step: Step) -> type[Stage]:
    stage: type[Stage] = importlib.import_module(step.module).STAGE
    return stage


class Lifecycle:
    """One run.  Example: ``Lifecycle(load_config("smoke"), Run.create_or_open("runs/smoke")).everything()``."""

    def __init__(
        self,
        config: Config,
        run: Run,
        *,
        selection: Selection | None = None,
        say: Callable[[str], None] = print,
        progress: RunProgress | None = None,
    ) -> None:
        """Make a lifecycle; whoever calls this holds the lock of ``run``.

        ``selection``: the steps of :meth:`everything`, by default the whole graph; ``say`` is told what happens.
        """
        self.config = settled(config, run.path)
        self.run = run
        self.say = say
        self.progress = progress
        self.selection = selection or Selection(steps=tuple(graph(config)))
        self.device = models.resolve_device(config.device)
        self.context = Context(self.config, run, say, folder=self._folder)
        self._starting_over = {step.name for step in self.selection.steps} if self.selection.force else set()
        self._made: dict[str, StageFolder] = {}
        run.machine = self.machine

    def everything(self) -> None:
        if self.selection.alone:
            done = {f"{folder.arm}/{folder.stage}" for folder in self.run.stages() if folder.done}
            needed = needs(self.selection.steps, graph(self.config))
            missing = ",".join(step.name for step in needed if step.name not in done)
            if missing:
                raise NotMadeError(
                    f"these steps are needed and not done: {missing}. "
                    f"Do them first: `forethought run CONFIG --only {missing}`"
                )
        check_primary(self.config)
        self.run.save_config(self.config.model_dump(mode="json"))
        self.run.keep_primary(self.config.primary.model_dump(mode="json") if self.config.primary is not None else None)
        for step in self.selection.steps:
            # All before the first one runs: an error in the last step should show now, not in hours.
            stage_class(step)(self.context, step).validate()
        for step in self.selection.steps:
            if self.selection.asks:
                self._make_needed(step)
                stage: Any = stage_class(step)(self.context, step)
                with self._measured(step) if stage.pending else nullcontext():
                    stage.ask()
            else:
                self.make(step)

    def make(self, step: Step | str) -> StageFolder:
        """Do one step, after those that it needs, and return its folder; what is done already is not done again.

        Raises:
            NotMadeError: if something that it needs is not there and may not be made now.
        """
        step = self.step(step) if isinstance(step, str) else step
        if step.name in self._made:
            return self._made[step.name]
        self._make_needed(step)
        stage = stage_class(step)(self.context, step)
        stage.check()
        stage.prepare()
        folder = self._folder(step.arm, step.stage, stage.depends_on(), step.name)
        if not folder.done:
            with self._measured(step):
                stage.run(folder)
            for line in stage.report(folder):
                self.say(line)
        remove_checkpoints(folder)  # a process may have been killed before it did
        self._made[step.name] = folder
        return folder

    def step(self, name: str) -> Step:
        steps = {step.name: step for step in graph(self.config)}
        if name not in steps:
            raise KeyError(f"{name}: no such step in this config. There are {', '.join(steps)}")
        return steps[name]

    def machine(self) -> dict[str, Any]:
        here, cpu = machine(), self.device.type == "cpu"
        return {
            "processor": here.processor if cpu else here.cuda or self.device.type,
            "kind": here.kind if cpu else self.device.type,
            "cores": here.cores,
            "dtype": self.config.dtype,
            "kernels": decided(),
            "torch": torch.__version__,
        }

    def _make_needed(self, step: Step) -> None:
        steps = {other.name for other in graph(self.config)}
        for name in (*step.gates, *step.inputs):
            if name in steps:
                self.make(name)

    def _folder(self, arm: str, stage: str, depends_on: Mapping[str, Any], part_of: str) -> StageFolder:
        """Return the folder of a stage, made with ``depends_on`` or empty; what another config made is archived.

        Raises:
            NotMadeError: if the stage would have to be made and is not among the selected ones, which run alone.
        """
        folder, name = self.run.stage(arm, stage), f"{arm}/{stage}"
        changes = folder.changes(depends_on)
        forced = part_of in self._starting_over
        if self.selection.alone and part_of not in self.selection.names and (changes or not folder.done):
            why = f"was made with another config ({', '.join(changes)})" if changes else "is not there"
            raise NotMadeError(f"{name} is needed and {why}. `forethought run CONFIG --only {name}` makes it")
        if changes or (forced and folder.begun):
            self._start_over(folder, changes)
        if not forced and not folder.begun and self.run.bring_back(folder, depends_on):
            self.say(f"{name} comes back: this config had made it before")
        folder.write_config(depends_on)
        if self.progress is not None and folder.done:
            self.progress.tick(name)
        return folder

    def _start_over(self, folder: StageFolder, changes: list[str]) -> None:
        """Archive a stage, and what was made from it; with no ``changes`` it will come out as it was."""
        name = f"{folder.arm}/{folder.stage}"
        begun = {f"{other.arm}/{other.stage}": other for other in self.run.stages() if other.begun}
        stale = [step.name for step in after(name) if step.name in begun] if changes else []
        then = f"; after it: {', '.join(stale)}" if stale else ""
        self.say(f"{name} starts over: {', '.join(changes) or '--force'}{then}")
        # The latest first: a kill in between leaves no step whose inputs are gone.
        for late in reversed(stale):
            self.run.set_aside(begun[late])
        self.say(f"what it made is kept in {self.run.set_aside(folder)}")

    @contextmanager
    def _measured(self, step: Step) -> Iterator[None]:
        """Record how long a stage took since it was last started, and this process's peak memory."""
        self.say(self.progress.begin(step.name) if self.progress is not None else step.name)
        models.quiet()
        cuda = self.device.type == "cuda"
        if not cuda:
            heap.keep_freed_memory()
        heap.release()
        start = time.perf_counter()
        yield
        peak = torch.cuda.max_memory_allocated() if cuda else peak_memory()
        figure = functools.partial(Measurement, stage=RUN, arm=step.arm, condition=step.stage, n=1, subject=step.name)
        took, of = time.perf_counter() - start, "the GPU" if cuda else "the process so far"
        self.run.measure(
            [
                figure(metric=STAGE_SECONDS, value=took, unit="seconds since the stage was last started"),
                figure(metric=PEAK_MEMORY, value=float(peak), unit=f"bytes; of {of}"),
            ]
        )
        if self.progress is not None:
            self.progress.tick(step.name)
