"""The evaluation after RL mid-training: every arm goes through the reward gate, those that think through the probe."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from forethought.config import Config
from forethought.costs.base import REPLY, TAGS, Cost, Phase, Setting, drawn, known, scored
from forethought.costs.judges import matching
from forethought.evals import probe, reward_gate
from forethought.evals.controls import controls
from forethought.evals.windows import Rollouts, Scored, WindowEval, predict_at_once, think_and_predict
from forethought.graph import Arm, Step, among, arms
from forethought.metrics import EVALUATE_RLMT, PROBE
from forethought.models.model import Model
from forethought.records import Measurement
from forethought.run.progress import StageProgress
from forethought.run.store import StageFolder
from forethought.stages.base import Stage, required


class EvaluateRLMT(Stage):
    """Lets the arms of both lineages predict on held-out windows, and asks whether thoughts matter."""

    name = EVALUATE_RLMT

    def validate(self) -> None:
        self.conditions  # noqa: B018  the user's own code is loaded, so that what is wrong with it is said at once

    def depends_on(self) -> dict[str, Any]:
        cfg, count = required(self.config.rlmt), self.config.thinking.windows
        sources = {name: source for name, (_, source) in self.conditions.items()}
        return {
            "seed": self.config.seed,
            "dtype": self.config.dtype,
            "arms": {model.name: model.identity for model in self.models().values()},
            "judge": self.context.matcher.name,
            "windows": self.context.window_ids("heldout", count),
            "tokens": [cfg.thought_tokens, cfg.suffix_tokens],
            "thinking": self.config.thinking.model_dump(mode="json", exclude={"conditions", "judges"}),
            **({"conditions": sources} if sources else {}),  # what older runs depend on stays as it was
        }

    @cached_property
    def conditions(self) -> dict[str, tuple[probe.Condition, str]]:
        return {name: probe.user_condition(name, path) for name, path in self.config.thinking.conditions.items()}

    def models(self) -> dict[Arm, Model]:
        """Return the arms of both lineages; weights are loaded when their turn comes."""
        return {arm: self.context.arm(arm.name, self.context.tags) for arm in taking_part(self.config)}

    def run(self, folder: StageFolder) -> None:
        cfg, rlmt = self.config.thinking, required(self.config.rlmt)
        evaluation = WindowEval(
            windows=self.context.heldout_windows[: cfg.windows],
            matcher=self.context.matcher,
            # Only who reads can compare texts of unequal length.
            longer=rlmt.match.kind == "llm",
            thought_tokens=rlmt.thought_tokens,
            suffix_tokens=rlmt.suffix_tokens,
            seed=self.config.seed,
        )
        measurements: list[Measurement] = []
        gates: dict[str, Scored] = {}
        probes: dict[str, dict[str, probe.Probed]] = {}
        models = self.models()
        folder.truncate("examples", lambda row: False)
        with StageProgress(EVALUATE_RLMT) as progress:
            # In this order, what an arm is compared with comes before it.
            for number, (arm, model) in enumerate(models.items()):
                recorder, against = evaluation.recorder(model), arm.past + arm.peer
                progress(number, len(models), f"{model.name}: gate")
                rollouts: Rollouts | None = None
                if arm.thinks:
                    gates[model.name], rollouts = think_and_predict(model, evaluation, cfg.samples)
                else:
                    gates[model.name] = predict_at_once(model, evaluation, cfg.samples)
                measurements += reward_gate.figures(recorder, gates[model.name], rollouts)
                for other in against:
                    measurements += reward_gate.compare(recorder.versus(other), gates[model.name], gates[other])
                if rollouts is not None:
                    progress(number, len(models), f"{model.name}: probe")
                    probes[model.name] = probed = self._probe(folder, model, evaluation, rollouts)
                    measurements += probe.figures(recorder, probed)
                    for other in against:
                        # An arm that does not think has no thoughts to probe.
                        if other in probes:
                            measurements += probe.compare(recorder.versus(other), probed, probes[other])
                if number < len(models) - 1:  # the controls take the last one's tokenizer
                    model.release()
            if cfg.controls:
                for control in controls(evaluation.windows, model):
                    _, rollouts = think_and_predict(control, evaluation, cfg.probe_samples)
                    probed = self._probe(folder, control, evaluation, rollouts)
                    measurements += probe.figures(evaluation.recorder(control), probed)
        self.context.measure(measurements)
        folder.finish({model.name: model.identity for model in models.values()}, {"figures": len(measurements)})

    def _probe(
        self, folder: StageFolder, model: Model, evaluation: WindowEval, rollouts: Rollouts
    ) -> dict[str, probe.Probed]:
        cfg = self.config.thinking
        own = {name: condition for name, (condition, _) in self.conditions.items()}
        inserted = probe.inserts(rollouts, evaluation, model.thoughts, cfg, own)
        probed = probe.probe(model, evaluation, inserted)
        rows = probe.examples(evaluation, inserted, probed, cfg.examples)
        folder.append("examples", [{"arm": model.name, **row} for row in rows])
        return probed

    @classmethod
    def cost(cls, at: Setting, step: Step) -> list[Phase]:
        cfg, own = required(at.config.rlmt), at.config.thinking
        taking = taking_part(at.config)
        thinking = sum(arm.thinks for arm in taking)
        rows = at.config.interleave.heldout_rows if at.config.interleave is not None else own.windows
        most = min(own.windows, rows)

        def cost() -> Cost:
            windows, many, micro = at.heldout(most), at.config.improve.sample_rows, at.config.improve.micro_tokens
            plain = drawn(at.policy, windows, own.samples, (at.prefix, cfg.suffix_tokens), many)
            length = cfg.thought_tokens + cfg.suffix_tokens
            thought = drawn(at.policy, windows, own.samples, (at.prefix + TAGS, length), many)
            inserted = REPLY * cfg.thought_tokens + TAGS
            conditions = len(PROBE) + len(own.conditions)
            shown = conditions * own.probe_samples
            gains = scored(at.policy, windows, at.prefix, shown * (inserted + cfg.suffix_tokens), micro)
            sizes = at.prefix + inserted, cfg.suffix_tokens
            predicted = drawn(at.policy, windows * own.probe_samples, 1, sizes, many).times(conditions)
            gate = plain.times(len(taking) - thinking) + thought.times(thinking)
            gate += matching(at, windows, own.samples).times(len(taking))
            scripted = 2 if own.controls else 0
            probed = (gains + predicted).times(thinking) + matching(at, windows, shown).times(thinking + scripted)
            return gate + probed

        judged = len(taking) * most * own.samples + thinking * len(PROBE) * most * own.probe_samples
        amount = f"{len(taking)} arms on up to {most:,} held-out windows, up to {judged:,} scored suffixes"
        return [Phase(name="gate and probe", amount=amount, cost=known(cost))]


def taking_part(config: Config) -> list[Arm]:
    """Return the arms of both lineages, without controls."""
    return among([arm for arm in arms(config) if not arm.control])


STAGE = EvaluateRLMT
