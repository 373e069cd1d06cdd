"""The evaluation after RL mid-training: every arm goes through the reward gate, those that think through the probe.

Both compare at temperature 1 and at equal entropy.  What every window gave is kept in ``windows.jsonl``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from forethought.config import Config
from forethought.costs.base import REPLY, TAGS, TRIED, Cost, Phase, Setting, drawn, known, scored
from forethought.costs.judges import matching
from forethought.evals import probe, reward_gate
from forethought.evals.controls import controls
from forethought.evals.windows import (
    LEVELS,
    Drawn,
    Result,
    Rollouts,
    WindowEval,
    levels,
    results,
    think_and_predict,
)
from forethought.graph import RAW, Arm, Step, among, arm_of, going_on
from forethought.metrics import EVALUATE_RLMT, PROBE
from forethought.models.model import Model
from forethought.records import Measurement
from forethought.run.progress import StageProgress
from forethought.run.store import StageFolder
from forethought.stages.base import Stage, required

Gates = dict[str, dict[str, Mapping[str, Result]]]
"""By judge, arm and condition: what the judge says of the arm's suffixes, per window."""


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
            "judges": {name: matcher.name for name, matcher in self.context.matchers.items()},
            "windows": self.context.window_ids("heldout", count),
            "tokens": [cfg.thought_tokens, cfg.suffix_tokens],
            "entropy_tolerance": self.config.evaluate.entropy_tolerance,
            "thinking": self.config.thinking.model_dump(mode="json", exclude={"conditions", "judges"}),
            **({"conditions": sources} if sources else {}),  # what older runs depend on stays as it was
        }

    @cached_property
    def conditions(self) -> dict[str, tuple[probe.Condition, str]]:
        return {name: probe.user_condition(name, path) for name, path in self.config.thinking.conditions.items()}

    def models(self) -> dict[Arm, Model]:
        """Return the arms of both lineages; weights are loaded when their turn comes."""
        return {arm: self.context.arm(arm.name, self.context.tags) for arm in taking_part(self.config)}

    @cached_property
    def evaluation(self) -> WindowEval:
        rlmt = required(self.config.rlmt)
        return WindowEval(
            windows=self.context.heldout_windows[: self.config.thinking.windows],
            matchers=self.context.matchers,
            # Only who reads can compare texts of unequal length.
            longer=[name for name, match in self.config.match_judges.items() if match.kind == "llm"],
            thought_tokens=rlmt.thought_tokens,
            suffix_tokens=rlmt.suffix_tokens,
            seed=self.config.seed,
            entropy_tolerance=self.config.evaluate.entropy_tolerance,
        )

    def run(self, folder: StageFolder) -> None:
        cfg, evaluation, models = self.config.thinking, self.evaluation, self.models()
        for log in ("windows", "examples"):
            folder.clear(log)
        gates: Gates = {judge: {} for judge in evaluation.matchers}
        probes: dict[str, dict[str, probe.Probed]] = {}
        measurements = self.copies(folder)
        with StageProgress(EVALUATE_RLMT) as progress:
            # All arms predict at temperature 1 first: which of them is the most and the least random shows only then.
            entries: dict[str, reward_gate.Entry] = {}
            for number, (arm, model) in enumerate(models.items()):
                progress(number, 2 * len(models), f"{model.name}: predicts")
                entries[arm.name] = reward_gate.Entry.of(model, evaluation, cfg.samples, thinks=arm.thinks)
                model.release()
            targets = levels([entry.drawn.entropy for entry in entries.values()])
            # In this order, what an arm is compared with comes before it.
            for number, (arm, model) in enumerate(models.items(), len(models)):
                progress(number, 2 * len(models), f"{model.name}: at equal entropy")
                draws = entries[arm.name].at(model, evaluation, targets)
                measurements += self.gate(folder, arm, model, entries[arm.name], draws, gates)
                rollouts = entries[arm.name].rollouts
                if rollouts is not None and cfg.probe_samples:
                    progress(number, 2 * len(models), f"{model.name}: probe")
                    probes[arm.name] = probed = self._probe(folder, model, rollouts)
                    measurements += probe.figures(evaluation, model, probed)
                    for other in arm.past + arm.peer:
                        # An arm that does not think has no thoughts to probe.
                        if other in probes:
                            recorder = evaluation.recorder(model).versus(other)
                            measurements += probe.compare(recorder, probed, probes[other])
                if number < 2 * len(models) - 1:  # the controls take the last one's tokenizer
                    model.release()
            if cfg.controls and cfg.probe_samples:
                for control in controls(evaluation.windows, model):
                    _, rollouts = think_and_predict(control, evaluation, cfg.probe_samples)
                    measurements += probe.figures(evaluation, control, self._probe(folder, control, rollouts))
        self.context.measure(measurements)
        folder.finish({model.name: model.identity for model in models.values()}, {"figures": len(measurements)})

    def copies(self, folder: StageFolder) -> list[Measurement]:
        """Return the gate's rows that predict nothing: the prefix's own ends."""
        measurements: list[Measurement] = []
        for judge, matcher in self.evaluation.matchers.items():
            for name, result in reward_gate.copies(self.evaluation, self.context.tokenizer, judge).items():
                measurements += reward_gate.copy_figures(self.evaluation, name, result, judge)
                folder.append("windows", reward_gate.rows(self.evaluation.windows, name, matcher.name, {"": result}))
        return measurements

    def gate(
        self,
        folder: StageFolder,
        arm: Arm,
        model: Model,
        entry: reward_gate.Entry,
        draws: Mapping[str, Drawn],
        gates: Gates,
    ) -> list[Measurement]:
        """Return what all judges say of an arm's suffixes, alone and compared; ``gates`` holds all of it."""
        evaluation, measurements = self.evaluation, list[Measurement]()
        for judge, by_arm in gates.items():
            recorder = evaluation.recorder(model, judge)
            by_arm[arm.name] = found = results(evaluation, draws, judge)
            folder.append("windows", reward_gate.rows(evaluation.windows, arm.name, recorder.judge, found))
            measurements += reward_gate.figures(recorder, entry, draws, found)
            measurements += reward_gate.details(recorder, entry, found[""].samples)
            for other in arm.past + arm.peer:
                measurements += reward_gate.compare(recorder.versus(other), found, by_arm[other])
            # Whether its start made the arm more receptive: what it gained since, less what its peer gained.
            for other in arm.peer if arm.name != arm.lineage else ():
                theirs = by_arm[other], by_arm[arm_of(other).lineage]
                measurements += reward_gate.interact(recorder.versus(other), (found, by_arm[arm.lineage]), theirs)
        return measurements

    def _probe(self, folder: StageFolder, model: Model, rollouts: Rollouts) -> dict[str, probe.Probed]:
        cfg, evaluation = self.config.thinking, self.evaluation
        own = {name: condition for name, (condition, _) in self.conditions.items()}
        inserted = probe.inserts(rollouts, evaluation, model.thoughts, cfg, own)
        probed = probe.probe(model, evaluation, inserted, matched=cfg.probe_matched)
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

        # At temperature 1, and for each level of entropy; what is tried on the way there is drawn, too, but not judged.
        ways, tries = 1 + len(LEVELS), TRIED * len(LEVELS)
        conditions = len(PROBE) + len(own.conditions) if own.probe_samples else 0
        shown = conditions * own.probe_samples

        def cost() -> Cost:
            windows, many, micro = at.heldout(most), at.config.improve.sample_rows, at.config.improve.micro_tokens
            plain = drawn(at.policy, windows, own.samples, (at.prefix, cfg.suffix_tokens), many)
            length = cfg.thought_tokens + cfg.suffix_tokens
            thought = drawn(at.policy, windows, own.samples, (at.prefix + TAGS, length), many)
            inserted = REPLY * cfg.thought_tokens + TAGS
            sizes = at.prefix + inserted, cfg.suffix_tokens
            # Every sample has a thought of its own before its suffix.
            after = drawn(at.policy, windows * own.samples, 1, sizes, many)
            gate = plain.times((1 + tries) * (len(taking) - thinking)) + (thought + after.times(tries)).times(thinking)
            gate += matching(at, windows, ways * own.samples).times(len(taking)) + matching(at, windows, 2)
            if not conditions:
                return gate
            probed_ways, probed_tries = (ways, tries) if own.probe_matched else (1, 0)
            gains = scored(at.policy, windows, at.prefix, shown * (inserted + cfg.suffix_tokens), micro)
            predicted = drawn(at.policy, windows * own.probe_samples, 1, sizes, many).times(conditions)
            scripted = 2 if own.controls else 0
            probed = (gains + predicted.times(1 + probed_tries)).times(thinking)
            return gate + probed + matching(at, windows, probed_ways * shown).times(thinking + scripted)

        judged = most * (ways * len(taking) * own.samples + (ways if own.probe_matched else 1) * thinking * shown)
        amount = f"{len(taking)} arms on up to {most:,} held-out windows, up to {judged:,} scored suffixes"
        return [Phase(name="gate and probe", amount=amount, cost=known(cost))]


def taking_part(config: Config) -> list[Arm]:
    """Return the arms of every lineage; those trained on raw rows have no thoughts and were not rewarded."""
    return among([arm for arm in going_on(config) if not arm.name.endswith(RAW)])


STAGE = EvaluateRLMT
