"""The evaluation after SFT: every arm answers the same questions, and thinking arms are compared with each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forethought.config import Config
from forethought.costs.base import Cost, Phase, Setting, drawn, known, scored
from forethought.costs.judges import judging
from forethought.evals.continuation import ComparisonSettings, Continuations, compare
from forethought.evals.thoughts import Answers, ThoughtEval, changes, examine, figures
from forethought.graph import Arm, Step, among, going_on
from forethought.metrics import EVALUATE_SFT
from forethought.models.model import Model
from forethought.records import Measurement, Split, content_id
from forethought.run.progress import StageProgress
from forethought.run.store import SHARED, StageFolder
from forethought.stages.base import Stage, required


class EvaluateSFT(Stage):
    """Examines all arms of stage 2 and their starts on held-out rows."""

    name = EVALUATE_SFT

    def depends_on(self) -> dict[str, Any]:
        evaluate, context = self.config.evaluate, self.context
        made_by = {"rows": Split.HELDOUT, "interleave": context.identity(f"{SHARED}/interleave")}
        rows = context.remembered(made_by, lambda: content_id([row.id for row in context.rows(Split.HELDOUT)]))
        return {
            "seed": self.config.seed,
            "dtype": self.config.dtype,
            "arms": {model.name: model.identity for model in self.models().values()},
            "judges": {name: judge.name for name, judge in context.comparing_judges.items()},
            "rows": rows,
            "thoughts": evaluate.thoughts.model_dump(mode="json"),
            "entropy_tolerance": evaluate.entropy_tolerance,
        }

    def models(self) -> dict[Arm, Model]:
        """Return the arms of stage 2 and their starts; weights are loaded when their turn comes."""
        return {arm: self.context.arm(arm.name, self.context.tags) for arm in taking_part(self.config)}

    def run(self, folder: StageFolder) -> None:
        context, cfg = self.context, self.config.evaluate
        evaluation = ThoughtEval(
            rows=context.rows(Split.HELDOUT),
            chunks=context.chunks_by_id(Split.HELDOUT),
            free_tokens=cfg.thoughts.free_tokens,
            thought_tokens=cfg.thoughts.thought_tokens,
            text_tokens=cfg.thoughts.text_tokens,
            prefixes=cfg.thoughts.prefixes,
            seed=self.config.seed,
        )
        measurements: list[Measurement] = []
        answers: dict[str, Answers] = {}
        models = self.models()
        folder.clear("examples")
        with StageProgress(EVALUATE_SFT) as progress:
            for number, (arm, model) in enumerate(models.items()):
                name, recorder = model.name, evaluation.recorder(model)
                progress(number, len(models), f"{name}: thoughts")
                answers[name] = examine(model, evaluation)
                measurements += figures(recorder, answers[name])
                for other in arm.past:
                    measurements += changes(recorder.versus(other), answers[name], answers[other])
                folder.append("examples", [{"arm": name, **row} for row in answers[name].examples[: cfg.examples]])
                if not arm.thinks:  # the others are compared below
                    model.release()
            named = {arm.name: model for arm, model in models.items()}
            for arm, model in models.items():
                for other in arm.peer if arm.thinks and context.comparing_judges else ():
                    measurements += self._compare(model, named[other], lambda note: progress(0, 0, note))
        context.measure(measurements)
        folder.finish({model.name: model.identity for model in models.values()}, {"figures": len(measurements)})

    def _compare(self, policy: Model, base: Model, progress: Callable[[str], None]) -> tuple[Measurement, ...]:
        """Compare two thinking arms by their text: thoughts are taken out before a judge reads it."""
        cfg = self.config.evaluate
        settings = ComparisonSettings(
            conditions=cfg.thoughts.conditions,
            new_tokens=cfg.thoughts.free_tokens,
            entropy_tolerance=cfg.entropy_tolerance,
            seed=self.config.seed,
        )
        chunks = self.context.chunks(Split.HELDOUT)[: cfg.thoughts.prefixes]
        ours, theirs = (Continuations(model, chunks, settings) for model in (policy, base))
        return compare(ours, theirs, self.context.comparing_judges, progress, EVALUATE_SFT).measurements

    @classmethod
    def cost(cls, at: Setting, step: Step) -> list[Phase]:
        cfg, own = required(at.config.interleave), at.config.evaluate.thoughts
        taking = len(taking_part(at.config))

        def cost() -> Cost:
            micro, rows = at.config.improve.micro_tokens, at.config.improve.sample_rows
            kept = at.heldout(cfg.heldout_rows)
            free = drawn(at.policy, min(own.prefixes, kept), 1, (at.prefix, own.free_tokens), rows)
            asked = drawn(at.policy, kept, 1, (0.5 * at.chunk, own.thought_tokens), rows)
            after = scored(at.policy, 3 * kept, 0.5 * at.chunk + own.thought_tokens / 2, own.text_tokens, micro)
            whole = scored(at.policy, kept, 1, 2 * at.chunk + at.thoughts, micro)
            return (free + asked + after + whole).times(taking) + _compared(at)

        amount = f"{taking} arms on up to {cfg.heldout_rows:,} held-out rows"
        return [Phase(name="evaluate sft", amount=amount, cost=known(cost))]


def taking_part(config: Config) -> list[Arm]:
    """Return the arms of stage 2 and where they start."""
    return among([arm for arm in going_on(config) if arm.stage != "rlmt"])


def _compared(at: Setting) -> Cost:
    own = at.config.evaluate.thoughts
    ways, rows = len(own.conditions), at.config.improve.sample_rows
    prefixes = at.heldout(own.prefixes)
    measurements = drawn(at.policy, prefixes, 1, (at.prefix, own.free_tokens), rows).times(2 * ways)
    for name, judge in {**at.config.judges, **at.config.evaluate.judges}.items():
        shown = (1, 2 * ways) if judge.kind == "likelihood" else (ways, 2)
        measurements += judging(at, name, prefixes * shown[0], shown[1], own.free_tokens)
    return measurements


STAGE = EvaluateSFT
