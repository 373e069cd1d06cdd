"""Runs the steps of the graph for stage 3, RL mid-training; see :mod:`forethought.graph`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import cast

from forethought.config import ModelConfig
from forethought.engine import ThinkingSampler
from forethought.evals import thinking
from forethought.evals.windows import STAGE, Player, Task
from forethought.graph import LINEAGES, RLMT, THINK, Arm, among, arms
from forethought.judges.build import build_matcher
from forethought.judges.match import Matcher
from forethought.keys import Key
from forethought.progress import StageProgress
from forethought.reasoning import ReasoningLifecycle
from forethought.records import Chunk, Split
from forethought.stages import calibrate, interleave, rlmt
from forethought.store import SHARED, StageFolder
from forethought.thoughts.format import Tags
from forethought.thoughts.tokens import codec
from forethought.thoughts.windows import Cutter, Window


class WholeLifecycle(ReasoningLifecycle):
    """All three stages of one run."""

    @cached_property
    def matcher(self) -> Matcher:
        """The match judge with its threshold."""
        folder = self.calibrate()
        return Matcher(judge=self._match_judge.judge, threshold=calibrate.threshold_of(folder))

    def calibrate(self) -> StageFolder:
        """Choose the score from which a suffix matches."""
        match = calibrate.section(self.config).match
        material = calibrate.Material(
            # One of every document before a second of any: the last ones would all be of the longest documents.
            chunks=self._chunks(Split.IMPROVE)[: match.calibration_chunks],
            matcher=self._match_judge,
            sampler=self.base.sampler,
            tokenizer=self.base.tokenizer,
            bos=self.base.bos,
            forbidden=self.base.forbidden,
            policy=self.base.identity,
        )
        folder = self._folder(SHARED, "calibrate", calibrate.stage_config(self.config, material))
        if not folder.done:
            with self._measured("calibrate", SHARED):
                threshold = calibrate.run(self.config, folder, material, self.run.measure)
            self.say(f"calibrate: a suffix matches from a score of {threshold:.3f} on ({material.matcher.judge.name})")
        return folder

    def rlmt(self) -> None:
        """Train both lineages on the same windows, with the same judge."""
        for lineage in LINEAGES:
            self.rlmt_arm(lineage)

    def rlmt_arm(self, lineage: str) -> Path:
        """Train one arm of stage 3 and return its checkpoint."""
        calibrate.section(self.config)
        rows = self.interleave()
        start = ModelConfig(model=str(self.sft_arm(lineage)))
        material = rlmt.Material(
            windows=self._windows(rows, Split.RLMT),
            heldout=self._heldout(rows),
            matcher=self.matcher,
            start=start,
            identity=self.run.stage(f"{lineage}-{THINK}", "sft").identity,
            data=rows.identity,
            tags=self._tags(),
        )
        arm = f"{lineage}-{RLMT}"
        folder = self._folder(arm, RLMT, rlmt.stage_config(self.config, material))
        with nullcontext() if folder.done else self._measured(RLMT, arm):
            return rlmt.run(self.config, folder, material)

    def evaluate_rlmt(self) -> StageFolder:
        """Put all arms through the reward gate and the thinking ones through the probe."""
        cfg = calibrate.section(self.config)
        task = Task(
            windows=self._heldout(self.interleave())[: self.config.thinking.windows],
            matcher=self.matcher,
            longer=cfg.match.kind == "llm",
            tags=self._tags(),
            thought_tokens=cfg.thought_tokens,
            suffix_tokens=cfg.suffix_tokens,
            seed=self.config.seed,
        )
        entrants = self._entrants()
        folder = self._folder(SHARED, STAGE, thinking.stage_config(self.config, entrants, task))
        if not folder.done:
            with self._measured(STAGE, SHARED), StageProgress(STAGE) as progress:
                found = thinking.run(self.config, folder, entrants, task, progress)
                self.run.measure(found)
                folder.finish({one.name: one.identity for one in entrants}, {"figures": len(found)})
        return folder

    def _entrants(self) -> list[thinking.Entrant]:
        """Return the arms of both lineages, each compared with its past and with the other lineage."""
        found = []
        for arm in among([arm for arm in arms(self.config) if not arm.control]):
            place, identity = self.weights(arm)
            found.append(
                thinking.Entrant(
                    name=arm.name,
                    identity=identity,
                    open=functools.partial(self._player, arm, place, identity),
                    against=arm.past + arm.peer,
                )
            )
        return found

    def _player(self, arm: Arm, place: ModelConfig, identity: str) -> Player:
        opened = self._opened(arm.name, place, identity)
        coded = codec(opened.tokenizer, self._tags())
        return Player(
            name=arm.name,
            identity=identity,
            sampler=cast(ThinkingSampler, opened.sampler),
            scorer=opened.scorer,
            codec=coded,
            bos=opened.bos,
            forbidden=tuple(sorted(set(opened.forbidden) - {*coded.open, *coded.close})),
            thinks=arm.thinks,
        )

    @cached_property
    def _match_judge(self) -> Matcher:
        match = calibrate.section(self.config).match
        return build_matcher(match, self.shelf, self.run.path / "verdicts.sqlite")

    def _windows(self, rows: StageFolder, split: Split) -> list[Window]:
        found = self._cutter().all(interleave.load_rows(rows, split), self._by_id(split))
        if not found:
            raise calibrate.NoRLMTError(
                f"no {split} row has {calibrate.section(self.config).suffix_tokens} tokens of text behind a place: "
                "lower rlmt.suffix_tokens, take longer chunks, or set rlmt.cut = 'raw'"
            )
        return found

    def _heldout(self, rows: StageFolder) -> Sequence[Window]:
        heldout = interleave.load_rows(rows, Split.HELDOUT)
        return self._cutter().one_each(heldout, self._by_id(Split.HELDOUT), Key(self.config.seed, "held-out windows"))

    def _cutter(self) -> Cutter:
        cfg = calibrate.section(self.config)
        return Cutter(tokenizer=self.base.tokenizer, suffix_tokens=cfg.suffix_tokens, cut=cfg.cut)

    def _by_id(self, split: Split) -> dict[str, Chunk]:
        return {one.id: one for one in self._chunks(split)}

    def _tags(self) -> Tags:
        assert self.config.interleave is not None
        return Tags(*self.config.interleave.tags)
