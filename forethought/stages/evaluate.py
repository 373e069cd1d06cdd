"""Held-out evaluation of an arm of stage 1 against the base: four ways of comparing, suffix NLL, examples."""

from __future__ import annotations

from typing import Any

from forethought.costs.base import TRIED, Cost, Phase, Setting, drawn, known, scored
from forethought.costs.judges import judging
from forethought.evals.continuation import ComparisonSettings, Continuations, compare
from forethought.evals.nll import NLL, nll_figures, suffix_nll
from forethought.evals.recorder import Recorder
from forethought.graph import IMPROVED, Step
from forethought.metrics import EVALUATE, GREEDY, MATCHED, MATCHED_TO_BASE, SAMPLED
from forethought.models.model import Model
from forethought.records import Measurement, Split, content_id
from forethought.run.progress import StageProgress
from forethought.run.store import StageFolder
from forethought.stages.base import Stage


class Evaluate(Stage):
    """Compares one arm with the base."""

    name = EVALUATE

    def depends_on(self) -> dict[str, Any]:
        return {
            "seed": self.config.seed,
            "dtype": self.config.dtype,
            "policy": self.context.identity(self.arm.step),
            "judges": {name: judge.name for name, judge in self.context.comparing_judges.items()},
            "chunks": self.context.chunk_ids(Split.HELDOUT),
            "evaluate": self.config.evaluate.model_dump(mode="json", exclude={"judges", "thoughts"}),
        }

    def run(self, folder: StageFolder) -> None:
        config, cfg, context = self.config, self.config.evaluate, self.context
        chunks = context.chunks(Split.HELDOUT)
        policy, base = context.load(self.arm.name), context.base
        compared, for_nll = chunks[: cfg.prefixes], chunks[: cfg.nll_chunks]
        settings = ComparisonSettings(
            conditions=cfg.conditions,
            new_tokens=cfg.new_tokens or config.chunk.suffix_tokens,
            entropy_tolerance=cfg.entropy_tolerance,
            seed=config.seed,
        )
        # What the base writes and its NLL serve the comparison of every arm.
        written = context.once((EVALUATE, "continuations"), lambda: Continuations(base, compared, settings))
        with StageProgress(f"{self.arm.name}: evaluate") as progress:
            own, judges = Continuations(policy, compared, settings), context.comparing_judges
            comparison = compare(own, written, judges, lambda note: progress(0, 0, note))

            def nll(model: Model) -> NLL:
                note = f"{model.name}: suffix NLL"
                return suffix_nll(model, for_nll, lambda done, total: progress(done, total, note))

            before, after = context.once((EVALUATE, "nll"), lambda: nll(base)), nll(policy)
        owners = [chunk.document_id for chunk in for_nll]
        recorders = [Recorder.of(model, EVALUATE, owners) for model in (base, policy)]
        figures = [
            *comparison.measurements,
            *nll_figures(recorders[0], before),
            *nll_figures(recorders[1], after, (base.name, before)),
        ]
        folder.clear("examples")
        folder.append("examples", comparison.examples[: cfg.examples])
        context.measure(figures)  # before the manifest, or a kill in between would lose them
        summary = {"figures": content_id([_values(figure) for figure in figures])}
        folder.finish({"policy": policy.identity, "base": base.identity}, summary)

    @classmethod
    def cost(cls, at: Setting, step: Step) -> list[Phase]:
        cfg, arms = at.config.evaluate, 2 if step.arm == IMPROVED else 1

        def cost() -> Cost:
            tokens = cfg.new_tokens or at.suffix
            own = len({SAMPLED, GREEDY} & set(cfg.conditions)) or 1
            matched = len({MATCHED, MATCHED_TO_BASE} & set(cfg.conditions))
            once = drawn(at.policy, cfg.prefixes, 1, (at.prefix, tokens), at.config.improve.sample_rows)
            nll = scored(at.policy, at.heldout(cfg.nll_chunks), at.prefix, at.suffix, at.config.improve.micro_tokens)
            total = (once.times(own) + nll).times(arms) + once.times(TRIED * matched)
            for name, judge in {**at.config.judges, **cfg.judges}.items():
                shown = (1, 2 * own + matched) if judge.kind == "likelihood" else (len(cfg.conditions), 2)
                total += judging(at, name, cfg.prefixes * shown[0], shown[1], tokens)
            return total

        pairs, ways = cfg.prefixes * len(cfg.conditions), len(cfg.conditions)
        amount = f"up to {pairs:,} pairs for each judge: {cfg.prefixes} prefixes, {ways} ways"
        return [Phase(name=f"evaluate: {step.arm}", amount=amount, cost=known(cost))]


def _values(figure: Measurement) -> list[Any]:
    names = ("arm", "against", "metric", "condition", "judge", "value", "low", "high", "n")
    return [getattr(figure, name) for name in names]


STAGE = Evaluate
