"""Runs the steps of the graph for stages 1 and 2: makes what is missing, in order; see :mod:`forethought.graph`."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from forethought import models
from forethought.config import Config, ModelConfig
from forethought.engine import heap
from forethought.engine.backends.selection import decided
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.engine.scorer import TorchScorer
from forethought.evals import arm as evaluation
from forethought.evals import interface
from forethought.graph import CONTINUED, IMPROVED, THINK, Arm, Selection, Step, after, among, arms, graph, maker, needs
from forethought.judges import Judge
from forethought.judges.build import build, build_rewriter
from forethought.judges.rewrite import Rewriter
from forethought.keys import Key
from forethought.language.shelf import Computing, Shelf
from forethought.machine import MachineError, dtype_for, machine
from forethought.metric_log import peak_memory
from forethought.progress import RunProgress, StageProgress
from forethought.records import Chunk, Measurement, Split
from forethought.stages import audit, chunk, improve, interleave, sft
from forethought.store import BASE, SHARED, Run, StageFolder, StoreError
from forethought.thoughts.build import build_teacher
from forethought.thoughts.format import Tags


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
            "start anew here: another --run, or --set dtype=float32, which starts its stages over"
        )
    return config.model_copy(update={"dtype": dtype_for(config.dtype if begun == "auto" else begun, device, machine())})


class NotMadeError(StoreError):
    """A stage that is needed, that is not there as this config wants it, and that may not be made now."""


class Lifecycle:
    """One run.  Every method does what is missing and returns what it made; call them in any order."""

    def __init__(
        self,
        config: Config,
        run: Run,
        *,
        selection: Selection | None = None,
        say: Callable[[str], None] = print,
        board: RunProgress | None = None,
    ) -> None:
        """Make a lifecycle of ``config`` in ``run``.

        Args:
            config: the settings.
            run: the folder; whoever calls this holds its lock.
            selection: the steps of :meth:`everything`, by default the whole graph.
            say: told what happens.
            board: shows it.
        """
        self.config = settled(config, run.path)
        self.run = run
        run.machine = self.machine
        self.selection = selection or Selection(steps=tuple(graph(config)))
        self.say = say
        self.board = board
        self._afresh = {step.name for step in self.selection.steps} if self.selection.force else set()
        models.quiet()
        self.device = models.resolve_device(config.device)
        if self.device.type == "cpu":
            heap.keep_freed_memory()
        self.dtype = models.resolve_dtype(self.config.dtype, self.device)

    @cached_property
    def shelf(self) -> Shelf:
        """The models of judges and teachers, each loaded once."""
        return Shelf(self.device, self.dtype, self.config.seed, self.say, Computing.of(self.config))

    @cached_property
    def base(self) -> evaluation.Arm:
        """The policy before any training."""
        return self._arm(BASE, self.config.policy)

    @cached_property
    def judges(self) -> dict[str, Judge]:
        """The training judges."""
        return {name: self._judge(name) for name in self.config.judges}

    def machine(self) -> dict[str, Any]:
        """Return what computes here: what manifests record."""
        here, cpu = machine(), self.device.type == "cpu"
        return {
            "processor": here.processor if cpu else here.cuda or self.device.type,
            "kind": here.kind if cpu else self.device.type,
            "cores": here.cores,
            "dtype": self.config.dtype,
            "kernels": decided(),
            "torch": torch.__version__,
        }

    def everything(self) -> None:
        """Run the selected steps, by default the whole graph.

        Raises:
            NotMadeError: if they run alone and something that they need is not there.
        """
        if self.selection.alone:
            done = {f"{one.arm}/{one.stage}" for one in self.run.stages() if one.done}
            lacking = [one.name for one in needs(self.selection.steps, graph(self.config)) if one.name not in done]
            if lacking:
                names = ",".join(lacking)
                raise NotMadeError(
                    f"not there, but needed: {names}. `forethought run CONFIG --only {names}` makes them"
                )
        self.run.save_config(self.config.model_dump(mode="json"))
        for step in self.selection.steps:
            self.make(step)

    def make(self, step: Step) -> Any:
        """Run one step, with what it needs, and return what its method does."""
        method, *arguments = step.call
        return getattr(self, method)(*arguments)

    def chunk(self) -> StageFolder:
        """Cut the corpus."""
        folder = self._folder(SHARED, "chunk", chunk.stage_config(self.config))
        if not folder.done:
            tokenizer = models.load_tokenizer(self.config.policy, self.say)
            with self._measured("chunk", SHARED), StageProgress("chunk") as progress:
                summary = chunk.run(self.config, folder, tokenizer, progress)
            for line in chunk.describe(summary):
                self.say(line)
        return folder

    def audit(self) -> StageFolder:
        """Examine the training judges on chunks of the `improve` split."""
        chunks = self._chunks(Split.IMPROVE)[: self.config.audit.prefixes]
        base = self.base
        writer = audit.Writer(
            sampler=base.sampler,
            tokenizer=base.tokenizer,
            bos=base.bos,
            forbidden=base.forbidden,
            identity=base.identity,
        )
        wanted = audit.stage_config(self.config, chunks, self.judges, writer)
        folder = self._folder(SHARED, "audit", wanted)
        if not folder.done:
            with self._measured("audit", SHARED):
                audit.run(self.config, folder, chunks, self.judges, writer, self.run.measure)
            for line in audit.failures(folder):
                self.say(f"audit: {line}")
        return folder

    def improve(self, arm: str = IMPROVED) -> Path:
        """Train one arm and return its checkpoint."""
        config = self._arm_config(arm)
        folder = self.run.stage(arm, "improve")
        judged = config.improve.objective in ("dpo", "rf-nll")
        if judged and config.audit.enabled:
            audit.demand(self.audit(), config)
        material = improve.Material(
            chunks=self._chunks(Split.IMPROVE),
            heldout=self._chunks(Split.HELDOUT),
            identity=self.chunk().identity,
            judges=list(self.judges.values()) if judged else (),
            rewriter=self._rewriter(config),
        )
        self._folder(arm, "improve", improve.stage_config(config, material))
        with nullcontext() if folder.done else self._measured("improve", arm):
            return improve.run(config, folder, material)

    def evaluate(self, arm: str = IMPROVED) -> StageFolder:
        """Compare one arm with the base on held-out documents."""
        checkpoint = self.improve(arm)
        trained = self.run.stage(arm, "improve").identity
        judges, chunks = self._comparing(), self._chunks(Split.HELDOUT)
        wanted = evaluation.stage_config(self.config, trained, judges, chunks)
        folder = self._folder(arm, "evaluate", wanted)
        if not folder.done:
            policy = self._arm(arm, ModelConfig(model=str(checkpoint)), identity=trained)
            with self._measured("evaluate", arm), StageProgress(f"{arm}: evaluate") as progress:
                found = evaluation.run(self.config, folder, (policy, self.base), chunks, judges, progress)
                self.run.measure(found)
                evaluation.finish(folder, (policy, self.base), found)
        return folder

    def interleave(self) -> StageFolder:
        """Have the teacher supply thoughts for the `sft` split and held-out chunks, and places for `rlmt`."""
        cfg = self.config.interleave
        if cfg is None:
            raise interleave.NoThoughtsError("no [interleave] table in the config: add it, with [interleave.teacher]")
        wanted = {Split.SFT: cfg.rows, Split.HELDOUT: cfg.heldout_rows, Split.RLMT: cfg.rlmt_rows}
        shares = {Split.RLMT: self.config.chunk.rlmt_share}
        material = interleave.Material(
            chunks={split: self._chunks(split)[:n] for split, n in wanted.items() if shares.get(split, 1.0)},
            identity=self.chunk().identity,
            teacher=build_teacher(cfg, self.shelf, self.run.path / "replies.sqlite"),
            scorer=self.base.scorer,
            policy=self.base.identity,
            tokenizer=self.base.tokenizer,
            bos=self.base.bos,
        )
        folder = self._folder(SHARED, "interleave", interleave.stage_config(self.config, material))
        if not folder.done:
            with self._measured("interleave", SHARED), StageProgress("interleave") as progress:
                interleave.run(self.config, folder, material, self.run.measure, progress)
            for line in interleave.describe(folder):
                self.say(line)
        return folder

    def sft(self) -> None:
        """Train both lineages on the same rows, and their raw controls."""
        for step in graph(self.config):
            if step.stage == "sft":
                self.make(step)

    def sft_arm(self, lineage: str, kind: str = THINK) -> Path:
        """Train one arm of stage 2 and return its checkpoint."""
        rows, start, identity = self.interleave(), self.config.policy, self.base.identity
        if lineage != BASE:
            start = ModelConfig(model=str(self.improve(lineage)))
            identity = self.run.stage(lineage, "improve").identity
        assert self.config.interleave is not None
        material = sft.Material(
            rows=interleave.load_rows(rows, Split.SFT),
            heldout=interleave.load_rows(rows, Split.HELDOUT),
            chunks={one.id: one for split in (Split.SFT, Split.HELDOUT) for one in self._chunks(split)},
            start=start,
            identity=identity,
            data=rows.identity,
            tags=Tags(*self.config.interleave.tags),
            thoughts=kind == THINK,
        )
        arm = f"{lineage}-{kind}"
        folder = self._folder(arm, "sft", sft.stage_config(self.config, material))
        with nullcontext() if folder.done else self._measured("sft", arm):
            return sft.run(self.config, folder, material)

    def evaluate_sft(self) -> StageFolder:
        """Examine all arms of stage 2 and their starts on held-out rows, and compare the two thinking ones."""
        rows = interleave.load_rows(self.interleave(), Split.HELDOUT)
        material = interface.Material(rows=rows, chunks=self._chunks(Split.HELDOUT), judges=self._comparing())
        entries = self._entries()
        folder = self._folder(SHARED, "evaluate-sft", interface.stage_config(self.config, entries, material))
        if not folder.done:
            with self._measured("evaluate-sft", SHARED), StageProgress("evaluate-sft") as progress:
                found = interface.run(self.config, folder, entries, material, progress)
                self.run.measure(found)
                folder.finish({entry.name: entry.identity for entry in entries}, {"figures": len(found)})
        return folder

    def _entries(self) -> list[interface.Entry]:
        """Return the arms of stage 2 and their starts, each compared with its past."""
        found = []
        for arm in among([arm for arm in arms(self.config) if arm.stage != "rlmt" and arm.name != CONTINUED]):
            place, identity = self.weights(arm)
            opened = functools.partial(self._opened, arm.name, place, identity)
            found.append(
                interface.Entry(name=arm.name, identity=identity, open=opened, against=arm.past, thinks=arm.thinks)
            )
        return found

    def weights(self, arm: Arm) -> tuple[ModelConfig, str]:
        """Return where an arm's weights are, trained if need be, and their hash."""
        if not arm.stage:
            return self.config.policy, self.base.identity
        path = self.make(maker(arm))
        return ModelConfig(model=str(path)), self.run.stage(arm.name, arm.stage).identity

    def _comparing(self) -> dict[str, Judge]:
        judges = {f"{name} (training)": judge for name, judge in self.judges.items()}
        return judges | {name: self._judge(name) for name in self.config.evaluate.judges}

    def _arm_config(self, arm: str) -> Config:
        if arm != CONTINUED:
            return self.config
        control = self.config.improve.model_copy(update={"objective": "continued", "rewrite": None})
        return self.config.model_copy(update={"improve": control})

    def _chunks(self, split: Split) -> list[Chunk]:
        """Return the chunks of a split, one of every document before a second of any.

        Raises:
            EmptySplitError: if there is none, because the config gives the split no share.
        """
        chunks = chunk.load_chunks(self.chunk(), split)
        if not chunks:
            raise chunk.EmptySplitError(
                f"{split} has no chunks, and they are needed: sft_share + rlmt_share + heldout_share must leave "
                "something for improve, and [chunk] heldout_share must not be 0"
            )
        return chunk.spread(chunks, Key(self.config.seed, f"{split} order"))

    def _judge(self, name: str) -> Judge:
        config = self.config.judges.get(name) or self.config.evaluate.judges[name]
        return build(config, self.shelf, self.run.path / "verdicts.sqlite")

    def _rewriter(self, config: Config) -> Rewriter | None:
        if config.improve.rewrite is None:
            return None
        return build_rewriter(config.improve.rewrite, self.shelf, models.load_tokenizer(config.policy))

    def _opened(self, name: str, config: ModelConfig, identity: str) -> evaluation.Arm:
        return self.base if name == BASE else self._arm(name, config, identity)

    def _arm(self, name: str, config: ModelConfig, identity: str | None = None) -> evaluation.Arm:
        loaded = models.load(config, device=self.device, dtype=self.dtype, seed=self.config.seed, progress=self.say)
        policy = Policy(loaded.model, self.config.engine.backend)
        return evaluation.Arm(
            name=name,
            identity=identity or loaded.identity,
            sampler=TorchSampler(policy, self.config.improve.sample_rows),
            scorer=TorchScorer(policy, self.config.improve.micro_tokens),
            tokenizer=loaded.tokenizer,
            bos=models.bos_ids(loaded.tokenizer),
            forbidden=models.special_ids(loaded.tokenizer, loaded.model.config.get_text_config().vocab_size),
        )

    def _folder(self, arm: str, stage: str, config: Mapping[str, Any], part_of: str = "") -> StageFolder:
        """Return the folder of a stage, made with ``config`` or empty; what another config made moves aside.

        ``part_of`` names the step of the graph to which a folder belongs that is not one itself.

        Raises:
            NotMadeError: if the stage would have to be made and is not among the selected ones, which run alone.
        """
        folder = self.run.stage(arm, stage)
        name, changes = f"{arm}/{stage}", folder.changes(config)
        step = part_of or name
        forced = step in self._afresh and folder.begun
        if self.selection.alone and step not in self.selection.names and (changes or not folder.done):
            why = f"was made with another config ({', '.join(changes)})" if changes else "is not there"
            raise NotMadeError(f"{name} is needed and {why}. `forethought run CONFIG --only {name}` makes it")
        if changes or forced:
            self._start_over(folder, changes)
        if step not in self._afresh and not folder.begun and self.run.bring_back(folder, config):
            self.say(f"{name} comes back: this config had made it before")
        self._afresh.discard(name)
        folder.write_config(config)
        if self.board is not None and folder.done:
            self.board.tick(name)
        return folder

    def _start_over(self, folder: StageFolder, changes: list[str]) -> None:
        """Move a stage aside, and what was made from it; with no ``changes`` it will come out as it was."""
        name = f"{folder.arm}/{folder.stage}"
        there = {f"{one.arm}/{one.stage}": one for one in self.run.stages() if one.begun}
        stale = [step.name for step in after(name) if step.name in there] if changes else []
        then = f"; after it: {', '.join(stale)}" if stale else ""
        self.say(f"{name} starts over: {', '.join(changes) or '--force'}{then}")
        for late in reversed(stale):
            self.run.set_aside(there[late])
        self.say(f"what it made is kept in {self.run.set_aside(folder)}")

    @contextmanager
    def _measured(self, stage: str, arm: str) -> Iterator[None]:
        """Record how long a stage took since it was last started, and this process's peak memory."""
        name = f"{arm}/{stage}"
        self.say(self.board.begin(name) if self.board is not None else name)
        heap.release()
        start = time.perf_counter()
        yield
        cuda = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated() if cuda else peak_memory()
        figures = {
            "seconds": (time.perf_counter() - start, "seconds since the stage was last started"),
            "peak_memory_bytes": (float(peak), "bytes; of the GPU" if cuda else "bytes; of the process so far"),
        }
        self.run.measure(
            Measurement(stage="run", arm=arm, metric=m, condition=stage, value=v, n=1, unit=u, subject=name)
            for m, (v, u) in figures.items()
        )
        if self.board is not None:
            self.board.tick(name)
