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
from forethought.graph import IMPROVED, LINEAGES, RLMT, THINK
from forethought.judges.build import build_matcher
from forethought.judges.match import Matcher
from forethought.keys import Key
from forethought.monitor import Progress
from forethought.reasoning import ReasoningLifecycle
from forethought.records import Chunk, Split
from forethought.stages import calibrate, interleave, rlmt
from forethought.store import BASE, SHARED, StageFolder
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
            chunks=self._chunks(Split.HELDOUT)[-match.calibration_chunks :],
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
            with self._measured(STAGE, SHARED), Progress(STAGE) as progress:
                found = thinking.run(self.config, folder, entrants, task, progress)
                self.run.measure(found)
                folder.finish({one.name: one.identity for one in entrants}, {"figures": len(found)})
        return folder

    def _arms(self) -> dict[str, tuple[str, ...]]:
        found = super()._arms()
        if self.config.rlmt is not None:
            for lineage in LINEAGES:
                other = (f"{BASE}-{RLMT}",) if lineage != BASE else ()
                found[f"{lineage}-{RLMT}"] = (f"{lineage}-{THINK}", *other)
        return found

    def _trained(self, name: str) -> tuple[Path, str]:
        lineage, _, kind = name.rpartition("-")
        return (self.rlmt_arm(lineage), RLMT) if kind == RLMT else super()._trained(name)

    def _thinks(self, name: str) -> bool:
        return name.endswith(f"-{RLMT}") or super()._thinks(name)

    def _entrants(self) -> list[thinking.Entrant]:
        """Return all arms, each after those that it is compared with: its own past, and the other lineage."""
        found = [self._entrant(BASE, self.config.policy, self.base.identity, thinks=False)]
        place = ModelConfig(model=str(self.improve()))
        trained = self.run.stage(IMPROVED, "improve").identity
        found.append(self._entrant(IMPROVED, place, trained, BASE, thinks=False))
        for kind, stage, before in ((THINK, "sft", ""), (RLMT, RLMT, f"-{THINK}")):
            for lineage in LINEAGES:
                path = self.sft_arm(lineage) if kind == THINK else self.rlmt_arm(lineage)
                name = f"{lineage}-{kind}"
                others = (lineage + before, *([f"{BASE}-{kind}"] if lineage != BASE else []))
                place = ModelConfig(model=str(path))
                found.append(self._entrant(name, place, self.run.stage(name, stage).identity, *others))
        return found

    def _entrant(
        self, name: str, place: ModelConfig, identity: str, *against: str, thinks: bool = True
    ) -> thinking.Entrant:
        player = functools.partial(self._player, name, place, identity, thinks)
        return thinking.Entrant(name=name, identity=identity, open=player, against=against)

    def _player(self, name: str, place: ModelConfig, identity: str, thinks: bool) -> Player:
        arm = self.base if name == BASE else self._arm(name, place, identity)
        coded = codec(arm.tokenizer, self._tags())
        return Player(
            name=name,
            identity=identity,
            sampler=cast(ThinkingSampler, arm.sampler),
            scorer=arm.scorer,
            codec=coded,
            bos=arm.bos,
            forbidden=tuple(sorted(set(arm.forbidden) - {*coded.open, *coded.close})),
            thinks=thinks,
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
