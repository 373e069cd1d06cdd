"""The threshold of a match judge, from text of the training side and the untrained policy's continuations of it.

Suffixes of other documents may hardly ever pass, and about a tenth of what the untrained policy writes passes: a reward
that is neither free nor out of reach.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from forethought.config import RLMTConfig
from forethought.costs.base import Phase, Setting, drawn, known
from forethought.costs.judges import matching
from forethought.engine import Prompt
from forethought.evals.recorder import Recorder
from forethought.graph import Step
from forethought.judges.match import calibrate
from forethought.keys import Key
from forethought.metrics import BASE_PASSES, THRESHOLD, UNRELATED_PASSES
from forethought.records import Chunk, JudgeRequest, Split
from forethought.run.store import StageFolder
from forethought.stages.base import Stage, required
from forethought.stats import Interval, estimate

OTHERS = 16
"""Rollouts of other documents that each suffix is compared with."""


class Calibrate(Stage):
    """Chooses the score from which a suffix matches; all arms share it."""

    name = "calibrate"

    @property
    def cfg(self) -> RLMTConfig:
        return required(self.config.rlmt)

    def depends_on(self) -> dict[str, Any]:
        return {
            "seed": self.config.seed,
            "dtype": self.config.dtype,
            "policy": self.context.base.identity,
            "judge": self.context.match_judge.judge.name,
            "chunks": self.context.chunk_ids(Split.IMPROVE, self.cfg.match.calibration_chunks),
            "suffix_tokens": self.cfg.suffix_tokens,
            "match": self.cfg.match.model_dump(mode="json", include={"threshold", "max_unrelated", "base_rate"}),
        }

    @cached_property
    def chunks(self) -> list[Chunk]:
        """One of every document before a second of any: the last ones would all be of the longest documents."""
        return self.context.chunks(Split.IMPROVE)[: self.cfg.match.calibration_chunks]

    def run(self, folder: StageFolder) -> None:
        match, matcher = self.cfg.match, self.context.match_judge
        related, unrelated = self.scores()
        # A language model's score is its probability of a match, which one half divides as it is.
        threshold = matcher.threshold if match.threshold is None and match.kind == "llm" else match.threshold
        if threshold is None:
            flat = [score for row in unrelated for score in row]
            threshold = calibrate(flat, related, match.max_unrelated, match.base_rate)
        passing = {
            BASE_PASSES: [float(score >= threshold) for score in related],
            UNRELATED_PASSES: [sum(score >= threshold for score in row) / len(row) for row in unrelated if row],
        }
        recorder = Recorder.of(self.context.base, self.name, (), matcher.judge.name)
        known = Interval(value=threshold, low=threshold, high=threshold, n=len(self.chunks))
        figures = recorder.interval(THRESHOLD, known, "score")
        unit = "share; n chunks of the improve split, interval over them"
        for metric, values in passing.items():
            if values:
                figures += recorder.interval(metric, estimate(values, share=True), unit)
        self.context.measure(figures)
        folder.finish({"policy": self.context.base.identity}, {"threshold": threshold, "judge": matcher.judge.name})

    def scores(self) -> tuple[list[float], list[list[float]]]:
        """Return the scores of the policy's own continuations, and per chunk those of other documents'."""
        base, tokens = self.context.base, self.cfg.suffix_tokens
        prompts = [Prompt(id=chunk.id, token_ids=base.bos + chunk.prefix_ids) for chunk in self.chunks]
        rows = base.sample(prompts, max_tokens=tokens, key=Key(self.config.seed, "calibration"))
        texts = [completion.text for [completion] in rows]
        requests = []
        for index, chunk in enumerate(self.chunks):
            true = base.decode(chunk.suffix_ids[:tokens])
            others = [i for i, other in enumerate(self.chunks) if other.document_id != chunk.document_id]
            # Turned by the chunk's own place, or all would be compared with the same few.
            shifted = [others[(index + step) % len(others)] for step in range(min(OTHERS, len(others)))]
            candidates = (texts[index], *(texts[other] for other in shifted))
            requests.append(JudgeRequest(prefix=chunk.prefix, candidates=candidates, original=true))
        scored = self.context.match_judge.scores(requests)
        # Unscored suffixes say nothing of where the threshold should be.
        related = [row[0] for row in scored if row[0] is not None]
        return related, [[score for score in row[1:] if score is not None] for row in scored]

    @classmethod
    def cost(cls, at: Setting, step: Step) -> list[Phase]:
        cfg = required(at.config.rlmt)
        chunks = cfg.match.calibration_chunks
        # An embedder reads every text once; who compares two texts sees each with each.
        compared = 1 if cfg.match.kind == "similarity" else 1 + OTHERS
        sizes, rows = (at.prefix, cfg.suffix_tokens), at.config.improve.sample_rows
        cost = known(lambda: drawn(at.policy, chunks, 1, sizes, rows) + matching(at, chunks, compared))
        return [Phase(name="calibrate", amount=f"{chunks:,} suffixes against those of {OTHERS} others", cost=cost)]

    def report(self, folder: StageFolder) -> list[str]:
        summary = (folder.manifest() or {})["summary"]
        return [f"calibrate: a suffix matches from a score of {summary['threshold']:.3f} on ({summary['judge']})"]


STAGE = Calibrate
