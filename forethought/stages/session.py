"""The books of a stage that trains, so that its loop reads as the method: going on, timers, metrics, checkpoints."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch

from forethought.config import TrainingConfig
from forethought.engine import checkpoint
from forethought.engine.trainer import Trainer
from forethought.keys import Key
from forethought.models.model import Model
from forethought.run.files import StoreError, remove
from forethought.run.metric_log import MetricLog, peak_memory
from forethought.run.progress import StageProgress
from forethought.run.store import StageFolder
from forethought.stages.base import Stage, StageError

T = TypeVar("T")

Metric = float | None

TIED, UNSCORED = "steps_tied", "steps_unscored"
"""Steps without a training signal: because what was judged is equally good, and because verdicts are missing."""
MOST_WITHOUT_VERDICTS = 0.25
"""Share of the steps that may train nothing because verdicts are missing, where the config has no `max_undecided`."""


class UndecidedError(StageError):
    """Too many steps have no training signal."""

    exit_code = 3


class TrainingStage(Stage):
    """A stage that trains."""

    @property
    @abstractmethod
    def cfg(self) -> TrainingConfig:
        """The settings of the training."""

    def seeds(self) -> dict[str, int]:
        """Return the seeds that the training depends on."""
        own = self.config.training_seed
        # Left out where it is not set: what older runs depend on stays as it was.
        return {"seed": self.config.seed} | ({} if own is None else {"training_seed": own})


class Session:
    """Yields the optimiser steps that are left, and keeps what they leave behind.

    An interrupted stage goes on at its last checkpoint and ends with the same weights, bit for bit (on one machine):
    batches and draws come from keys, and what was logged after the checkpoint is dropped and computed again.  The run
    loop of :mod:`forethought.stages.sft` is the shortest example.
    """

    def __init__(
        self,
        stage: TrainingStage,
        folder: StageFolder,
        model: Model,
        trainer: Trainer,
        monitor: Callable[[], Mapping[str, Metric]],
        *,
        rows: Sequence[str] = (),
        reference: Model | None = None,
    ) -> None:
        """Restore the last checkpoint, if there is one.

        Args:
            stage: the stage, whose name stands before every metric, and whose settings say how often to measure and to
                write checkpoints.
            folder: where everything goes.
            model: what is trained.
            trainer: trains it.
            monitor: measures held-out text before the first step, every `monitor_every` steps, and at the end.
            rows: names of logs with rows for each step, which counts from 0.
            reference: a model whose weights move along and belong to a checkpoint, too.
        """
        self.step = 0
        self._stage, self._folder, self._cfg = stage, folder, stage.cfg
        self._model, self._trainer, self._monitor = model, trainer, monitor
        self._reference = reference.policy.model if reference is not None else None
        self._shown: dict[str, Metric] = {}
        self._undecided = {TIED: 0, UNSCORED: 0}
        cuda = trainer.policy.device.type == "cuda"
        self._metrics = MetricLog(folder, stage.config.log, torch.cuda.max_memory_allocated if cuda else peak_memory)
        self._progress = StageProgress(f"{folder.arm}: {folder.stage}", self._cfg.steps)
        self._open = ExitStack()
        self._first = self._resume(rows)

    def __enter__(self) -> Session:
        self._open.enter_context(self._metrics)
        self._open.enter_context(self._progress)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def __iter__(self) -> Iterator[int]:
        # Row 0 is the state before training; a resumed session has it already.
        if self._first == 0:
            self._write(0, self._measured())
        for step in range(self._first, self._cfg.steps):
            self.step = step
            yield step
            done, every = step + 1, self._cfg.checkpoint_every
            # None after the last step: the finished model takes its place.
            if every and done % every == 0 and done < self._cfg.steps:
                with self.timer("checkpoint"):  # after the step's row, which a kill in between would lose
                    self._save(done)
            self._progress.update(done, **self._shown)

    @property
    def monitored(self) -> bool:
        """Whether held-out text is measured after this step."""
        done, every = self.step + 1, self._cfg.monitor_every
        return done == self._cfg.steps or (every > 0 and done % every == 0)

    def timer(self, phase: str) -> AbstractContextManager[None]:
        return self._metrics.timer(phase)

    def timed(self, phase: str, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Return ``function(*arguments, **options)``, and add its seconds to ``phase`` of this step."""
        with self._metrics.timer(phase):
            return function(*arguments, **options)

    def count(self, **tokens: int) -> None:
        """Say how many tokens the phases of this step processed."""
        for phase, count in tokens.items():
            self._metrics.count(phase, count)

    def key(self, purpose: str) -> Key:
        return Key(self._stage.config.order_seed, purpose).at(self.step)

    def batch(self, items: Sequence[T], size: int) -> list[T]:
        return batch(items, size, self.step, self._stage.config.order_seed)

    def keep(self, log: str, rows: Sequence[Any]) -> None:
        """Append this step's rows to a log; before the update, so that a step that fails has shown its data."""
        self._folder.append(log, rows)

    def undecided(self, lacking: Sequence[bool], most: float | None) -> dict[str, Metric]:
        """Count this step, which has no training signal, and return that as a metric.

        ``lacking``: of each prefix, whether for want of verdicts; else what was judged is equally good.  ``most``: the
        largest share of such steps.

        Raises:
            UndecidedError: if there are more such steps than the config allows; this one is made again on a resume.
        """
        why, cfg = UNSCORED if 2 * sum(lacking) >= len(lacking) else TIED, self._cfg
        self._undecided[why] += 1
        count = sum(self._undecided.values())
        if most is None:
            count, most = self._undecided[UNSCORED], MOST_WITHOUT_VERDICTS
        if count > most * cfg.steps:
            name, number = self._stage.name, self._undecided
            raise UndecidedError(
                f"{self._folder.path}: {count} of {cfg.steps} steps have no training signal ({number[UNSCORED]} for "
                f"want of verdicts, {number[TIED]} by ties), and {name}.max_undecided allows {most:g} of them. The "
                "reasons stand in the logs of this folder. When judges and servers work again, the same command goes "
                f"on; --set {name}.max_undecided=1 trains all the same"
            )
        return {why: 1.0}

    def log(self, metrics: Mapping[str, Metric], show: Sequence[str] = ()) -> None:
        """Write the row of this step, with held-out figures where they are due; ``show`` goes to the screen."""
        row = dict(metrics)
        if self.monitored:
            row |= self._measured()
        self._write(self.step + 1, row)
        self._shown = {name: row.get(name) for name in show}

    def finish(self, inputs: Mapping[str, str]) -> None:
        """Write the trained model and the manifest."""
        final = self._folder.checkpoints / "final"
        checkpoint.save(final, self._trainer, self._model.tokenizer, self._cfg.steps, resumable=False)
        weights = {path.name: self._folder.hash_of(path) for path in sorted(final.glob("*.safetensors"))}
        self._folder.finish(inputs, {"weights": weights, "steps": self._cfg.steps, **self._undecided})
        # After the manifest: a kill in between leaves files, which the next run removes.
        remove_checkpoints(self._folder)

    def _measured(self) -> dict[str, Metric]:
        with self.timer("monitor"):
            return dict(self._monitor())

    def _write(self, step: int, row: Mapping[str, Metric]) -> None:
        self._metrics.log(step, {f"{self._stage.name}/{name}": value for name, value in row.items()})

    def _resume(self, logs: Sequence[str]) -> int:
        """Restore the last whole checkpoint, drop what was logged after it, and return the step to go on with."""
        self._logs, folder, say = (*logs, "metrics"), self._folder, self._stage.context.say
        broken_log, unusable = "", list[Path]()
        for path in reversed(checkpoints(folder)):
            state, fault = checkpoint.check(path, self._trainer)
            kept: Mapping[str, Any] = state.get("logs", {})
            broken = [] if fault else [name for name, log in kept.items() if not folder.begins_with(name, **log)]
            if not fault and not broken:
                first = checkpoint.load_into(path, self._trainer, self._reference)
                self._drop_rows(first, kept)
                self._count_undecided()
                for later in unusable:
                    remove(later)
                return first
            unusable.append(path)
            if broken:
                broken_log = f"{folder.path / broken[0]}.jsonl"
                fault = f"{broken_log} is not what it was at that step"
            say(f"{path} cannot be used: {fault}. Training goes on from the checkpoint before it, if there is one")
        if broken_log:
            raise StoreError(
                f"{broken_log}: rows were changed or lost, and no checkpoint is older. Put back a copy of it, or train "
                f"anew: `forethought run CONFIG --run {folder.path.parent.parent} --only {folder.arm}/{folder.stage} "
                "--force`"
            )
        remove_checkpoints(folder)
        self._drop_rows(0, {})
        return 0

    def _count_undecided(self) -> None:
        """Count the steps without a training signal that the log of metrics still has."""
        for row in self._folder.read("metrics"):
            for why in self._undecided:
                self._undecided[why] += int(row.get(f"{self._stage.name}/{why}") or 0)

    def _drop_rows(self, first: int, kept: Mapping[str, Any]) -> None:
        """Drop the rows of the steps from ``first`` on; ``kept`` tells where logs ended at the checkpoint."""
        for log in self._logs:
            if first == 0:
                self._folder.clear(log)
            elif kept:
                self._folder.cut(log, kept[log]["size"] if log in kept else 0)
            elif log == "metrics":  # a checkpoint of older code; metrics count from 1, row 0 is before training
                self._folder.truncate(log, lambda row: row["step"] <= first, ["step"])
            else:
                self._folder.truncate(log, lambda row: row["step"] < first, ["step"])

    def _save(self, steps: int) -> None:
        # One before stays, should this one be damaged; removed first, so that three are never on disk.
        for path in checkpoints(self._folder)[:-1]:
            remove(path)
        place = self._folder.checkpoints / f"step_{steps:06d}"
        logs = {name: extent for name in self._logs if (extent := self._folder.extent(name)) is not None}
        extra = {"logs": logs}
        checkpoint.save(place, self._trainer, self._model.tokenizer, steps, reference=self._reference, extra=extra)


def batch(items: Sequence[T], size: int, step: int, seed: int) -> list[T]:
    """Return the items of ``step``: every epoch is a keyed permutation, and batches cross from one to the next."""
    count, order = len(items), Key(seed, "order")
    # A function of the step alone: a resumed run has the batches that it would have had.
    places = [divmod(place, count) for place in range(step * size, (step + 1) * size)]
    shuffled = {epoch: order.at(epoch).generator().permutation(count) for epoch in {epoch for epoch, _ in places}}
    return [items[shuffled[epoch][place]] for epoch, place in places]


def checkpoints(folder: StageFolder) -> list[Path]:
    return sorted(folder.checkpoints.glob("step_*"))


def remove_checkpoints(folder: StageFolder) -> None:
    for path in checkpoints(folder):
        remove(path)
