"""What is true of planted arms is what the answer page says of them, from numbers of single windows to the sentence.

Each case plants one truth: a gain, none, less random text alone, copies of the prefix, thoughts that only harm others.
"""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from forethought import config, graph
from forethought import metrics as m
from forethought.algorithms.windows import Window
from forethought.evals import probe, reward_gate
from forethought.evals.continuation import PairResult, count
from forethought.evals.recorder import Recorder
from forethought.evals.windows import Drawn, Result, WindowEval, results
from forethought.records import JudgeRequest, Measurement
from forethought.report.answer import answer
from forethought.report.page import write_page
from forethought.report.values import Figures
from forethought.run.store import Run

DOCUMENTS, SAMPLES, THRESHOLD, SEED = 192, 4, 0.6, 11
UNSEEN = f"similarity-letters@0 >= {THRESHOLD:.3f}"
"""A match judge that rewarded nothing: the reward of the planted run is no match."""
LEVELS = ("", m.AT_HIGHEST, m.AT_LOWEST)
ARMS = [arm for arm in graph.ARMS if not arm.name.endswith("-raw")]


@dataclass(frozen=True)
class Planted:
    """True effects, in units of the score or nats per token, on top of what training does in every lineage."""

    rl: float = 0.0
    """RL with thoughts, at any entropy, in every lineage."""
    more: float = 0.0
    """The same, in the self-improved lineage alone: what makes it more receptive."""
    sharper: float = 0.0
    """What RL adds at temperature 1 alone."""
    copies: float = 0.0
    """Score that a copy of the prefix earns, above the 0.3 that it should have."""
    blank: float = 0.0
    swapped: float = 0.0
    """Gain of own thoughts over blank ones, and over those about another window."""
    wins: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Stage 1: true win rate under each condition, for each of two unseen judges."""


def gate_figures(planted: Planted, rng: np.random.Generator) -> list[Measurement]:
    """Return what the gate measures of all arms: the one place that knows how evaluate-rlmt makes its figures."""
    hard = rng.normal(0.0, 0.08, (DOCUMENTS, 1))
    found = {arm.name: _found(lambda level, arm=arm: _level(arm, level, planted), hard, rng) for arm in ARMS}
    figures: list[Measurement] = []
    for arm in ARMS:
        for_arm = recorder(arm.name)
        figures += reward_gate.figures(for_arm, _ENTRY, {}, found[arm.name])
        for other in (*arm.past, *arm.peer):
            if other in found:
                figures += reward_gate.compare(for_arm.versus(other), found[arm.name], found[other])
        for other in arm.peer if arm.name != arm.lineage else ():
            pairs = [(found[one.name], found[one.lineage]) for one in (arm, graph.arm_of(other))]
            figures += reward_gate.interact(for_arm.versus(other), *pairs)
    for name in (m.PREFIX_START, m.PREFIX_END):
        copied = _found(lambda level: 0.3 + planted.copies, hard, rng)
        figures += reward_gate.figures(recorder(name), _ENTRY, {}, {"": copied[""]})
    return figures


def probe_figures(planted: Planted, rng: np.random.Generator) -> list[Measurement]:
    figures: list[Measurement] = []
    for name in (f"{lineage}-rlmt" for lineage in graph.LINEAGES):
        base = rng.normal(0.0, 0.2, DOCUMENTS)
        gains = {m.OWN: 0.0, m.BLANK: -planted.blank, m.SWAPPED: -planted.swapped}
        same = Result(rewards=[0.0] * DOCUMENTS, scores=[0.5] * DOCUMENTS, entropies=[2.0] * DOCUMENTS)
        probed = {
            condition: probe.Probed(
                gains=list(base + gain + rng.normal(0.0, 0.1, DOCUMENTS)),
                copied=[0.0] * DOCUMENTS,
                draws={"": _DRAWN},
                found={"unseen": {"": same}},
            )
            for condition, gain in gains.items()
        }
        model = SimpleNamespace(name=name, identity="x")
        figures += probe.figures(_evaluation({}), model, probed)  # type: ignore[arg-type]
    return figures


def win_figures(planted: Planted, rng: np.random.Generator) -> list[Measurement]:
    documents = [f"d{number}" for number in range(DOCUMENTS)]
    figures: list[Measurement] = []
    for condition, rates in planted.wins.items():
        for judge, rate in zip(("unseen", "other"), rates, strict=True):
            own = Recorder(stage=m.EVALUATE, arm="self-improved", against="base", subject="x",
                           documents=documents, judge=judge)  # fmt: skip
            points = [PairResult(points=float(vote)) for vote in rng.random(DOCUMENTS) < rate]
            figures += count(points, own, condition)
    return figures


def recorder(arm: str) -> Recorder:
    documents = [f"d{number}" for number in range(DOCUMENTS)]
    return Recorder(stage=m.EVALUATE_RLMT, arm=arm, subject="x", documents=documents, judge=UNSEEN)


def _level(arm: graph.Arm, level: str, planted: Planted) -> float:
    """Return an arm's true mean score at an entropy."""
    if arm.stage != "rlmt":
        return 0.4
    sharper = planted.sharper if not level else 0.0
    if not arm.thinks:
        return 0.4 + sharper
    return 0.4 + planted.rl + sharper + (planted.more if arm.lineage == graph.IMPROVED else 0.0)


_WINDOWS = [Window(id=f"w{n}", document_id=f"d{n}", prefix="a", prefix_ids=(1,), suffix=str(n), suffix_ids=(2,),
                   reference=str(n)) for n in range(DOCUMENTS)]  # fmt: skip
_DRAWN = Drawn(temperature=1.0, suffixes=[[""] * SAMPLES] * DOCUMENTS, surprise=[[2.0] * SAMPLES] * DOCUMENTS,
               second=[[0.0] * SAMPLES] * DOCUMENTS)  # fmt: skip
_ENTRY = reward_gate.Entry(drawn=_DRAWN)


def _found(level_of: Callable[[str], float], hard: np.ndarray, rng: np.random.Generator) -> dict[str, Result]:
    """Return what a judge says of an arm's suffixes at each entropy, scored as the gate scores them."""
    scores = {name: (level_of(name) + hard + rng.normal(0.0, 0.12, (DOCUMENTS, SAMPLES))).tolist() for name in LEVELS}
    # The judge is told its score by the text: a suffix says which condition it is of.
    draws = {name: dataclasses.replace(_DRAWN, suffixes=[[f"{name}/{k}" for k in range(SAMPLES)]] * DOCUMENTS)
             for name in LEVELS}  # fmt: skip
    return results(_evaluation(scores), draws, "unseen")


def _evaluation(scores: Mapping[str, Sequence[Sequence[float]]]) -> WindowEval:
    matchers: dict[str, Any] = {"unseen": _Told(scores)}
    return WindowEval(windows=_WINDOWS, matchers=matchers, thought_tokens=1, suffix_tokens=1, seed=SEED)


@dataclass(frozen=True)
class _Told:
    """A match judge that gives planted scores."""

    planted: Mapping[str, Sequence[Sequence[float]]]
    name: str = UNSEEN

    def scores(self, requests: Sequence[JudgeRequest]) -> list[list[float | None]]:
        places = [[text.rpartition("/") for text in request.candidates] for request in requests]
        return [
            [self.planted[name][int(request.original or 0)][int(k)] for name, _, k in row]
            for request, row in zip(requests, places, strict=True)
        ]

    def passes(self, score: float | None) -> float | None:
        return None if score is None else float(score >= THRESHOLD)


def answers(planted: Planted, place: Path, without: str = "") -> list[tuple[str, str]]:
    """Return (verdict, sentence) of each question as the page of a planted run says it."""
    rng, run = np.random.default_rng(SEED), Run.create_or_open(place)
    asked = config.load("smoke", [
        'rlmt.reward="information-gain"', "rlmt.control=false",
        'evaluate.judges.unseen={kind="likelihood", model={model="tiny-qwen3"}}',
        'evaluate.judges.other={kind="likelihood", model={model="tiny-gemma3"}}',
    ])  # fmt: skip
    run.save_config(asked.model_dump(mode="json"))
    figures = [*gate_figures(planted, rng), *probe_figures(planted, rng), *win_figures(planted, rng)]
    run.measure(
        [one for one in figures if not without or without not in (*one.arm.split("-"), *one.against.split("-"))]
    )
    section = write_page(run).read_text().partition('id="answer"')[2].partition("Next to the paper")[0]
    said = re.findall(r'<span class="verdict [^"]*">([^<]*)</span></div>\s*<p>(.*?)</p>', section, re.DOTALL)
    words = [(verdict, " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())) for verdict, text in said]
    assert len(words) == 4
    return words


HELPFUL = {"blank": 0.15, "swapped": 0.15}


def test_a_real_gain_is_said_everywhere(tmp_path: Path) -> None:
    truth = Planted(rl=0.1, more=0.08, **HELPFUL, wins={m.SAMPLED: (0.7, 0.7), m.MATCHED: (0.7, 0.68)})
    improved, _, rewarded, receptive = answers(truth, tmp_path / "run")
    assert improved[0] == rewarded[0] == receptive[0] == "yes"
    assert "the least favourable of 2 judges that had no part in this" in improved[1]
    assert "against RL without thoughts" in rewarded[1]
    assert "thoughts add to it in all" in rewarded[1]
    assert "more with stage 1 than after plain training on the same text, at equal entropy: above zero" in receptive[1]
    assert "repeating the prefix" not in rewarded[1]


def test_no_effect_is_not_shown(tmp_path: Path) -> None:
    truth = Planted(wins={m.SAMPLED: (0.5, 0.5), m.MATCHED: (0.5, 0.5)})
    improved, _, rewarded, receptive = answers(truth, tmp_path / "run")
    assert improved[0] == rewarded[0] == receptive[0] == "not shown"
    assert "inside the noise of 192 windows, which show a difference from 0.0" in receptive[1]


def test_one_judge_of_two_is_not_enough(tmp_path: Path) -> None:
    truth = Planted(wins={m.SAMPLED: (0.9, 0.9), m.MATCHED: (0.8, 0.5)})
    verdict, said = answers(truth, tmp_path / "run")[0]
    assert verdict == "not shown"
    assert re.search(r"held-out prefixes by other \(.*\), the least favourable", said)


def test_less_random_text_alone_is_no_gain(tmp_path: Path) -> None:
    truth = Planted(sharper=0.12, wins={m.SAMPLED: (0.9, 0.9), m.MATCHED: (0.5, 0.5)})
    improved, _, rewarded, receptive = answers(truth, tmp_path / "run")
    assert improved[0] == rewarded[0] == receptive[0] == "not shown"
    assert "less random text may be all of the gain at temperature 1" in improved[1]
    assert "less random text may be all of that" in rewarded[1]


def test_copies_of_the_prefix_are_no_predictions(tmp_path: Path) -> None:
    truth = Planted(rl=0.12, more=0.08, copies=0.35, **HELPFUL)
    _, _, rewarded, receptive = answers(truth, tmp_path / "run")
    assert rewarded[0] == receptive[0] == "not shown"
    for _, said in (rewarded, receptive):
        assert re.search("repeating the prefix's (start|end) matches as often", said)


def test_a_thought_that_is_only_worth_what_it_harms_is_no_help(tmp_path: Path) -> None:
    verdict, said = answers(Planted(blank=-0.15, swapped=0.15), tmp_path / "run")[2]
    assert verdict == "no"
    assert "a blank one serves better in all" in said
    assert "it matters what is said in all" in said
    assert "thoughts are worth something only beside those that harm" in said


def test_without_the_control_lineage_extra_training_could_explain_it(tmp_path: Path) -> None:
    verdict, said = answers(Planted(rl=0.1, more=0.08, **HELPFUL), tmp_path / "run", without="continued")[3]
    assert verdict == "in part"
    assert "extra training on the same text could explain it" in said
    assert "improve.control_lineage = true" in said


def test_without_rl_without_thoughts_it_is_not_known_what_thoughts_add(tmp_path: Path) -> None:
    verdict, said = answers(Planted(rl=0.1, **HELPFUL), tmp_path / "run", without="rl")[2]
    assert verdict == "in part"
    assert "RL without thoughts was not run (rlmt.control = true)" in said


@pytest.mark.parametrize("seed", range(3))
def test_levels_that_differ_are_no_receptivity(seed: int) -> None:
    """RL lifts the base by 0.1, the self-improved arm by nothing, and still ends lower: the truth is "less"."""
    rng, hard = np.random.default_rng(seed), np.zeros((DOCUMENTS, 1))
    levels = {"base": 0.3, "base-rlmt": 0.4, "self-improved": 0.5, "self-improved-rlmt": 0.5}
    found = {name: _found(lambda level, value=value: value, hard, rng) for name, value in levels.items()}
    ours, theirs = ((found[f"{lineage}-rlmt"], found[lineage]) for lineage in ("self-improved", "base"))
    figures = reward_gate.interact(recorder("self-improved-rlmt").versus("base-rlmt"), ours, theirs)
    assert answer(Figures(figures))[3].verdict == "no"
