"""Thresholds of the match judges, from text of the training side, and their audit; once for all arms.

Suffixes of other documents and copies of the prefix may hardly ever pass, and about a tenth of what the untrained
policy writes passes: a reward that is neither free nor out of reach.  A judge that trains must also tell planted
predictions apart, or ``rlmt`` refuses to begin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from forethought.algorithms.windows import prefix_copies
from forethought.config import MatchConfig, RLMTConfig
from forethought.costs.base import Cost, Phase, Setting, drawn, known
from forethought.costs.judges import matching
from forethought.engine import Prompt
from forethought.evals.recorder import Recorder
from forethought.graph import Step
from forethought.judges.match import HALF, Matcher, calibrate
from forethought.judges.match_audit import (
    COPIES,
    NEGATIVE,
    POSITIVE,
    ROLLOUT,
    UNRELATED,
    MatchReport,
    Scores,
    audit,
    plant,
)
from forethought.keys import Key
from forethought.metrics import BASE_PASSES, MATCH_AUC, PLANTED_PASSES, THRESHOLD, UNRELATED_PASSES
from forethought.models.resolve import LETTERS
from forethought.records import Chunk, JudgeRequest, Measurement, Split
from forethought.run.store import StageFolder
from forethought.stages.base import Stage, StageError, required
from forethought.stats import FEWEST, Interval

OTHERS = 4
"""Rollouts of other documents that each suffix is compared with."""

Prediction = tuple[str, str]
"""(kind, text)"""


class Calibrate(Stage):
    """Chooses the score from which a suffix matches, judge by judge, and examines the judges; all arms share it."""

    name = "calibrate"

    @property
    def cfg(self) -> RLMTConfig:
        return required(self.config.rlmt)

    def depends_on(self) -> dict[str, Any]:
        limits = {"threshold", "max_unrelated", "max_copies", "base_rate", "calibration_chunks"}
        return {
            "seed": self.config.seed,
            "dtype": self.config.dtype,
            "policy": self.context.base.identity,
            "judges": {name: matcher.judge.name for name, matcher in self.context.match_judges.items()},
            "chunks": self.context.chunk_ids(Split.IMPROVE),
            "suffix_tokens": self.cfg.suffix_tokens,
            "match": {name: one.model_dump(mode="json", include=limits) for name, one in self.judges.items()},
            # What is done about a failure is left out: to change it must not calibrate again.
            "audit": {
                n: one.audit.model_dump(mode="json", exclude={"allow_failing"}) for n, one in self.judges.items()
            },
        }

    def validate(self) -> None:
        """Make the judges, so that one of the user's own that cannot be loaded is refused before the run begins."""
        _ = self.context.match_judges

    @property
    def judges(self) -> dict[str, MatchConfig]:
        return self.config.match_judges

    @cached_property
    def documents(self) -> list[list[Chunk]]:
        """The chunks of each document, documents in the keyed order of their first chunks."""
        by_document: dict[str, list[Chunk]] = {}
        for chunk in self.context.chunks(Split.IMPROVE):
            by_document.setdefault(chunk.document_id, []).append(chunk)
        return list(by_document.values())

    def run(self, folder: StageFolder) -> None:
        # As many as the judge that asks for most; another one takes the first of them.
        most = max(match.calibration_chunks for match in self.judges.values())
        chunks = [chunks[0] for chunks in self.documents[:most]]
        predictions = self.predictions(chunks)
        rows: dict[str, dict[str, Any]] = {}
        figures: list[Measurement] = []
        for name, match in self.judges.items():
            count = self.count(name, match)
            asked, kinds = self.requests(chunks[:count], predictions[:count])
            judge = self.context.match_judges[name].judge
            scores, unscored = _by_kind(asked, kinds, self.context.match_judges[name])
            matcher = Matcher(judge=judge, threshold=self.threshold(match, scores))
            report = audit(matcher, scores, unscored, match.audit, self.config.seed)
            figures += self.figures(matcher, report, count)
            rows[name] = {"threshold": matcher.threshold, "judge": judge.name, "documents": count}
            rows[name] |= {"failures": list(report.failures), "notes": list(report.notes)}
        self.context.measure(figures)
        folder.finish({"policy": self.context.base.identity}, {"judges": rows})

    def count(self, name: str, match: MatchConfig) -> int:
        """Return how many documents there are for a judge, and say if they are fewer than its config asks for.

        Raises:
            StageError: if they are too few for a threshold.
        """
        asked, found = match.calibration_chunks, len(self.documents)
        if found < asked:
            self.context.say(f"calibrate: {name}: {asked} documents are asked for, the improve split has {found}")
        # Who asks for few, or says the threshold, knows what that is worth; letters are for tests.
        free = match.threshold is not None or match.kind == "llm" or match.embedder == LETTERS
        if found < min(FEWEST, asked) and not free:
            raise StageError(
                f"the improve split has {found} documents, too few to calibrate the match judge {name!r} on: read more "
                "of them (corpus.max_documents), give improve a larger share (chunk.sft_share, ...), or ask for as few "
                f"with calibration_chunks = {found}"
            )
        return min(asked, found)

    def predictions(self, chunks: Sequence[Chunk]) -> list[list[Prediction]]:
        """Return for each chunk its rollout, those of other documents, and the planted predictions."""
        base, tokens = self.context.base, self.cfg.suffix_tokens
        prompts = [Prompt(id=chunk.id, token_ids=base.bos + chunk.prefix_ids) for chunk in chunks]
        rows = base.sample(prompts, max_tokens=tokens, key=Key(self.config.seed, "calibration"))
        texts = [completion.text for [completion] in rows]
        copies = [prefix_copies(chunk, base.tokenizer, tokens) for chunk in chunks]
        second = {row[0].document_id: row[1] for row in self.documents if len(row) > 1}
        planted = plant(chunks, copies, second, base.tokenizer, tokens, Key(self.config.seed, "match audit"))
        return [
            [
                (ROLLOUT, texts[index]),
                # Turned by the chunk's own place, or all would be compared with the same few.
                *(
                    (UNRELATED, texts[(index + step) % len(texts)])
                    for step in range(1, 1 + min(OTHERS, len(texts) - 1))
                ),
                *planted[index].items(),
            ]
            for index in range(len(chunks))
        ]

    def requests(
        self, chunks: Sequence[Chunk], predictions: Sequence[Sequence[Prediction]]
    ) -> tuple[dict[str, JudgeRequest], list[tuple[str, ...]]]:
        """Return what a judge is asked, by document, and the kinds of the candidates of each request."""
        base, tokens = self.context.base, self.cfg.suffix_tokens
        asked = {
            chunk.document_id: JudgeRequest(
                prefix=chunk.prefix,
                candidates=tuple(text for _, text in row),
                original=base.decode(chunk.suffix_ids[:tokens]),
            )
            for chunk, row in zip(chunks, predictions, strict=True)
        }
        return asked, [tuple(kind for kind, _ in row) for row in predictions]

    def threshold(self, match: MatchConfig, scores: Scores) -> float:
        if match.threshold is not None:
            return match.threshold
        if match.kind == "llm":  # its score is its probability of a match, which one half divides as it is
            return HALF
        limits = {ROLLOUT: match.base_rate, UNRELATED: match.max_unrelated, **dict.fromkeys(COPIES, match.max_copies)}
        return calibrate([([score for _, score in scores.get(kind, ())], share) for kind, share in limits.items()])

    def figures(self, matcher: Matcher, report: MatchReport, count: int) -> list[Measurement]:
        recorder = Recorder.of(self.context.base, self.name, (), matcher.judge.name)
        threshold = Interval(value=matcher.threshold, low=matcher.threshold, high=matcher.threshold, n=count)
        figures = recorder.interval(THRESHOLD, threshold, "score")
        unit = "share; n documents of the improve split, Wilson's interval over them"
        for metric, kind in {BASE_PASSES: ROLLOUT, UNRELATED_PASSES: UNRELATED}.items():
            if kind in report.passing:
                figures += recorder.interval(metric, report.passing[kind], unit)
        for kind in (*NEGATIVE, *POSITIVE):
            if kind in report.passing:
                figures += recorder.interval(PLANTED_PASSES, report.passing[kind], unit, kind)
            if kind in report.auc:
                of = "share of pairs; n planted suffixes, bootstrap over documents"
                figures += recorder.interval(MATCH_AUC, report.auc[kind], of, kind)
        return figures

    @classmethod
    def cost(cls, at: Setting, step: Step) -> list[Phase]:
        cfg, judges = required(at.config.rlmt), at.config.match_judges
        chunks = max(match.calibration_chunks for match in judges.values())
        sizes, rows = (at.prefix, cfg.suffix_tokens), at.config.improve.sample_rows
        planted = len(NEGATIVE) + len(POSITIVE)

        def cost() -> Cost:
            total = drawn(at.policy, chunks, 1, sizes, rows)
            for name, match in judges.items():
                # An embedder reads every text once; who compares two texts sees each with each.
                compared = 1 + planted + (0 if match.embeds else OTHERS)
                total += matching(at, match.calibration_chunks, compared, name)
            return total

        amount = f"{chunks:,} suffixes against {OTHERS} of other documents and {planted} planted ones"
        return [Phase(name="calibrate", amount=amount, cost=known(cost))]

    def report(self, folder: StageFolder) -> list[str]:
        lines = []
        for name, row in (folder.manifest() or {})["summary"]["judges"].items():
            lines.append(
                f"calibrate: {name}: a suffix matches from a score of {row['threshold']:.3f} on ({row['judge']}, "
                f"{row['documents']} documents)"
            )
            lines += [f"calibrate: {name}: {sentence}" for sentence in (*row["failures"], *row["notes"])]
        return lines


def _by_kind(
    asked: Mapping[str, JudgeRequest], kinds: Sequence[Sequence[str]], matcher: Matcher
) -> tuple[Scores, tuple[int, int]]:
    """Return the scores by kind, and how many of how many predictions were not scored.

    An unscored one says nothing of where the threshold should be.
    """
    found: dict[str, list[tuple[str, float]]] = {}
    missing = total = 0
    for document, row, labels in zip(asked, matcher.scores(list(asked.values())), kinds, strict=True):
        for kind, score in zip(labels, row, strict=True):
            total += 1
            if score is None:
                missing += 1
            else:
                found.setdefault(kind, []).append((document, score))
    return found, (missing, total)


STAGE = Calibrate
