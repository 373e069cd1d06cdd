"""The judges' examination before they may train: planted pairs, thresholds, and what each judge missed."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from forethought.costs.base import Cost, Phase, Setting, drawn, known
from forethought.costs.judges import judging
from forethought.engine import Prompt
from forethought.graph import Step
from forethought.judges.audit import audit
from forethought.judges.planted import plant
from forethought.keys import Key
from forethought.records import Chunk, Split
from forethought.run.store import StageFolder
from forethought.stages.base import Stage


class Audit(Stage):
    """Examines every training judge on planted pairs; ``improve`` refuses to train with one that failed."""

    name = "audit"

    def depends_on(self) -> dict[str, Any]:
        return {
            "seed": self.config.seed,
            "chunks": self.context.chunk_ids(Split.IMPROVE, self.config.audit.prefixes),
            "policy": self.context.base.identity,
            "judges": {name: judge.name for name, judge in self.context.judges.items()},
            # What is done about a failure is left out: to change it must not audit again.
            "audit": self.config.audit.model_dump(mode="json", exclude={"allow_failing", "enabled"}),
        }

    def validate(self) -> None:
        """Make the judges, so that one of the user's own that cannot be loaded is refused before the run begins."""
        _ = self.context.judges

    @cached_property
    def chunks(self) -> list[Chunk]:
        return self.context.chunks(Split.IMPROVE)[: self.config.audit.prefixes]

    def run(self, folder: StageFolder) -> None:
        planting = plant(self.chunks, self.rollouts(), Key(self.config.seed, "audit"))
        judges = self.context.judges
        reports = {name: audit(judge, planting.pairs, self.config.audit) for name, judge in judges.items()}
        rows = [
            {
                "name": name,
                "judge": report.judge,
                "failures": list(report.failures),
                "notes": list(report.notes),
                "unscored_pairs": dict(report.unscored_pairs),
            }
            for name, report in reports.items()
        ]
        for log, content in {"planted": planting.pairs, "reports": rows}.items():
            # After a kill before the end, the same rows would stand here twice.
            folder.clear(log)
            folder.append(log, content)
        # Before the manifest: a kill in between must not leave a finished stage without figures.
        self.context.measure(figure for report in reports.values() for figure in report.measurements())
        failed = {name: list(report.failures) for name, report in reports.items() if not report.passed}
        folder.finish({"policy": self.context.base.identity}, {"failures": failed, "left_out": planting.left_out})

    def rollouts(self) -> list[str]:
        """Return one continuation of each chunk by the untrained policy, as long as the suffixes."""
        base = self.context.base
        prompts = [Prompt(id=chunk.id, token_ids=base.bos + chunk.prefix_ids) for chunk in self.chunks]
        longest = max(len(chunk.suffix_ids) for chunk in self.chunks)
        rows = base.sample(prompts, max_tokens=longest, key=Key(self.config.seed, "audit rollouts"))
        return [completion.text for [completion] in rows]

    @classmethod
    def cost(cls, at: Setting, step: Step) -> list[Phase]:
        cfg, kinds = at.config.audit, len(at.config.audit.min_accuracy)

        def cost() -> Cost:
            total = drawn(at.policy, cfg.prefixes, 1, (at.prefix, at.suffix), at.config.improve.sample_rows)
            for name, judge in at.config.judges.items():
                # Who scores texts does so with all texts behind a prefix; who compares pairs is asked about each.
                together = (cfg.prefixes, kinds + 1) if judge.kind == "likelihood" else (cfg.prefixes * kinds, 2)
                total += judging(at, name, *together, at.suffix)
            return total

        amount = f"up to {cfg.prefixes * kinds:,} planted pairs for each judge"
        return [Phase(name="audit", amount=amount, cost=known(cost))]

    def report(self, folder: StageFolder) -> list[str]:
        failures = (folder.manifest() or {})["summary"]["failures"]
        return [f"audit: {name}: {sentence}" for name, sentences in failures.items() for sentence in sentences]


STAGE = Audit
