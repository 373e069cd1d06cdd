"""Gate and probe: scripted policies show what they must, and differences know how many windows they lack."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought import metrics
from forethought.algorithms.windows import Window
from forethought.config import ThinkingEvaluateConfig
from forethought.engine import Group
from forethought.evals import probe, reward_gate
from forethought.evals.controls import COPIES, IGNORES, controls
from forethought.evals.windows import WindowEval, gains, means, predict, predict_at_once, think_and_predict
from forethought.judges.match import Matcher, SimilarityJudge
from forethought.keys import Key
from forethought.models.embedding import LetterEmbedder
from forethought.models.model import Model, Parts
from forethought.models.thought_tokens import ThoughtTokens
from forethought.records import Measurement
from forethought.tags import Tags
from forethought.testing import BOS_ID, ScriptedSampler, UniformScorer, byte_tokenizer

THINK = Tags("<think>", "</think>")
TOKENS = ThoughtTokens.of(byte_tokenizer(), THINK)
SUFFIXES = [
    "aaaa bbbb", "cccc dddd", "eeee ffff", "gggg hhhh", "iiii jjjj", "kkkk llll", "mmmm nnnn", "oooo pppp",
    "qqqq rrrr", "ssss tttt", "uuuu vvvv", "wwww xxxx",
]  # fmt: skip


def window(number: int, suffix: str) -> Window:
    prefix = f"Town {number} of the {suffix[:2]} land"
    return Window(
        id=f"w{number}",
        document_id=f"d{number // 2}",
        prefix=prefix,
        prefix_ids=tuple(prefix.encode()),
        suffix=suffix,
        suffix_ids=tuple(suffix.encode()),
        reference=suffix + " and more",
        thought=f"It is {suffix}.",
    )


WINDOWS = [window(number, suffix) for number, suffix in enumerate(SUFFIXES)]
EVALUATION = WindowEval(
    windows=WINDOWS,
    matcher=Matcher(judge=SimilarityJudge(LetterEmbedder()), threshold=0.7),
    longer=False,
    thought_tokens=16,
    suffix_tokens=9,
    seed=0,
)


def settings(samples: int, generic: tuple[str, ...] = ("Hm.", "So.")) -> ThinkingEvaluateConfig:
    return ThinkingEvaluateConfig(samples=max(2, samples), probe_samples=samples, generic=generic)


def byte_model(scorer: Any = None) -> Model:
    """Return a model that writes random letters."""
    parts = Parts(
        tokenizer=byte_tokenizer(), sampler=ScriptedSampler(), scorer=scorer or UniformScorer(), bos=(BOS_ID,)
    )
    return Model("letters", "hash", parts, THINK)


def probed(model: Model, samples: int = 2) -> tuple[dict[str, probe.Probed], list[Measurement]]:
    _, rollouts = think_and_predict(model, EVALUATION, samples)
    inserted = probe.inserts(rollouts, EVALUATION, model.thoughts, settings(samples))
    found = probe.probe(model, EVALUATION, inserted)
    return found, probe.figures(EVALUATION.recorder(model), found)


@pytest.fixture(scope="module")
def scripted() -> dict[str, Model]:
    return {model.name: model for model in controls(WINDOWS, byte_model())}


def difference(figures: Sequence[Measurement], condition: str) -> Measurement:
    [one] = [f for f in figures if (f.metric, f.condition) == ("probe reward difference", f"own against {condition}")]
    return one


def test_the_probe_sees_a_policy_that_copies_its_thought(scripted: dict[str, Model]) -> None:
    found, figures = probed(scripted[COPIES])
    assert list(found) == list(metrics.PROBE)
    assert found[probe.OWN].rewards == [1.0] * 12
    assert found[probe.OWN].copied == [0.0] * 12  # two words: there is no 3-gram to copy
    for condition in (probe.BLANK, probe.GENERIC, probe.SWAPPED, probe.NEAR, probe.NO_TAGS):
        one = difference(figures, condition)
        assert one.value > 0.6, condition
        assert (one.n, one.low) == (12, None)  # too few for an interval
    # Its letters count, not their order; the teacher says it, too.
    assert difference(figures, probe.SHUFFLED).value == 0.0


def test_the_probe_sees_no_difference_where_thoughts_are_ignored(scripted: dict[str, Model]) -> None:
    found, figures = probed(scripted[IGNORES])
    mean = next(f for f in figures if f.metric == metrics.PROBE_REWARD and f.condition == probe.OWN)
    assert 0.2 < mean.value < 0.8
    for condition in metrics.PROBE[1:]:
        one = difference(figures, condition)
        assert (one.value, one.low, one.high) == (0.0, None, None), condition
        assert found[condition].predictions.suffixes == found[probe.OWN].predictions.suffixes


def test_what_is_inserted(scripted: dict[str, Model]) -> None:
    _, rollouts = think_and_predict(scripted[COPIES], EVALUATION, 2)
    inserted = probe.inserts(rollouts, EVALUATION, TOKENS, settings(2))
    text = {name: [[bytes(one.ids).decode() for one in row] for row in rows] for name, rows in inserted.items()}
    assert text[probe.OWN][0] == ["<think>aaaa bbbb</think>"] * 2
    assert text[probe.BLANK][3] == ["<think></think>"] * 2
    assert text[probe.GENERIC][:2] == [
        ["<think>Hm.</think>", "<think>So.</think>"],
        ["<think>So.</think>", "<think>Hm.</think>"],
    ]
    assert text[probe.NO_TAGS][0] == ["", ""]
    assert text[probe.TEACHER][1][0] == "<think>It is cccc dddd.</think>"
    assert sorted(text[probe.SHUFFLED][0][0]) == sorted(text[probe.OWN][0][0])
    # The like window is the other one of the document; the swapped one is of another document.
    assert [row[0] for row in text[probe.NEAR][:2]] == ["<think>cccc dddd</think>", "<think>aaaa bbbb</think>"]
    own = [row[0] for row in text[probe.OWN]]
    swapped = [own.index(row[0]) for row in text[probe.SWAPPED]]
    assert sorted(swapped) == list(range(12))
    assert all(index // 2 != other // 2 for index, other in enumerate(swapped))


def test_without_thoughts_of_a_teacher_or_other_windows_conditions_are_left_out(scripted: dict[str, Model]) -> None:
    alone = dataclasses.replace(EVALUATION, windows=[dataclasses.replace(WINDOWS[0], thought="")])
    _, rollouts = think_and_predict(scripted[COPIES], alone, 1)
    found = list(probe.inserts(rollouts, alone, TOKENS, settings(1, ())))
    assert found == [probe.OWN, probe.BLANK, probe.SHUFFLED, probe.NO_TAGS]


@given(documents=st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=24), seed=st.integers(0, 5))
def test_a_derangement_has_no_fixed_point(documents: list[str], seed: int) -> None:
    found = probe.derangement(documents, Key(seed, "swap"))
    assert sorted(found) == list(range(len(documents)))
    assert all(index != other for index, other in enumerate(found))


class Depends:
    """A scorer to which the suffix is likelier by one nat after `<think>`."""

    def logprobs(self, groups: Sequence[Group]) -> list[list[np.ndarray]]:
        return [
            [np.full(len(b), -1.0 if bytes(b).startswith(b"<think>") else -2.0, np.float32) for b in g.branches]
            for g in groups
        ]

    def choices(self, groups: Sequence[Group], choice_ids: Sequence[int]) -> list[np.ndarray]:
        raise NotImplementedError


def test_gain_is_over_no_insert_at_all() -> None:
    rows = [[TOKENS.open + TOKENS.close, ()] for _ in WINDOWS]
    assert gains(byte_model(Depends()), EVALUATION, rows) == [[1.0, 0.0]] * 12


def test_arms_are_compared_by_what_their_own_thoughts_do(scripted: dict[str, Model]) -> None:
    found, _ = probed(scripted[COPIES])
    own = [0.5, None, *[0.25] * 10]
    better = found | {probe.OWN: dataclasses.replace(found[probe.OWN], gains=own)}
    figures = probe.compare(EVALUATION.recorder(scripted[COPIES]).versus(IGNORES), better, found)
    gained = {one.metric: one for one in figures}
    assert gained["probe gain difference"].value == pytest.approx(3.0 / 11)
    assert gained["probe specific gain difference"].value == pytest.approx(3.0 / 11)  # what is swapped gains nothing
    assert {one.against for one in figures} == {IGNORES}
    assert gained["probe gain difference"].n == 11
    foreign = dataclasses.replace(found[probe.SWAPPED], gains=[0.25] * 12)
    assert probe.specific(better | {probe.SWAPPED: foreign}) == [0.25, None, *[0.0] * 10]


def test_conditions_share_their_random_numbers(scripted: dict[str, Model]) -> None:
    rows = [[(), ()] for _ in WINDOWS]
    first, again = (predict(scripted[IGNORES], EVALUATION, rows) for _ in range(2))
    assert first.suffixes == again.suffixes
    assert any(a != b for a, b in first.suffixes)  # two samples are two draws


def test_the_gate_compares_paired(scripted: dict[str, Model]) -> None:
    results = {}
    for name, model in scripted.items():
        results[name], rollouts = think_and_predict(model, EVALUATION, 4)
        recorder = EVALUATION.recorder(model)
        values = {one.metric: one.value for one in reward_gate.figures(recorder, results[name], rollouts)}
        assert values["gate unscored"] == 0.0
        assert values["close rate"] == 1.0
        if name == COPIES:
            assert values["gate reward"] == values["oracle@4"] == 1.0
        else:
            assert values["oracle@4"] > values["gate reward"]
    compared = reward_gate.compare(recorder.versus(COPIES), results[IGNORES], results[COPIES])
    found = {one.metric: one for one in compared}
    assert found["gate reward difference"].against == COPIES
    assert found["gate reward difference"].value < -0.2
    assert "gate reward smallest detectable difference" not in found  # twelve windows say nothing of it


def test_an_unscored_sample_is_no_zero() -> None:
    assert means([[1.0, None], [None, None], [0.0, 1.0]]) == [1.0, None, 0.5]
    recorder = EVALUATION.recorder(byte_model())
    metric, values = metrics.Metric("m", "m", metrics.SHARE), [1.0, None] + [0.0] * 10
    [mean] = recorder.mean(metric, values, "share")
    assert (mean.n, mean.value) == (11, pytest.approx(1 / 11))
    [change] = recorder.difference(metric, (values, [None, 1.0, *[0.0] * 9, 1.0]), "share")
    assert (change.n, change.value) == (10, pytest.approx(-0.1))
    assert recorder.mean(metric, [None] * 12, "share") == []


def test_a_difference_comes_with_the_smallest_that_shows() -> None:
    documents = [f"d{number // 2}" for number in range(80)]
    recorder = dataclasses.replace(EVALUATION.recorder(byte_model()), documents=documents, against="base")
    before = [0.0] * 80
    after = [1.0 if number % 20 < 4 else 0.0 for number in range(80)]  # both windows of 8 documents of 40
    change, size = recorder.difference(metrics.GATE_REWARD, (after, before), "share")
    assert (change.value, change.n) == (pytest.approx(0.2), 80)
    assert size.metric == "gate reward smallest detectable difference"
    assert (size.low, size.high, size.against) == (None, None, "base")
    # sqrt(0.2 * 0.8 / 39) over documents, times 1.96 + 0.84.
    assert size.value == pytest.approx(0.17944, abs=1e-4)
    level = recorder.mean(metrics.GATE_REWARD, after, "share")[0]
    assert (level.low, level.high) == pytest.approx((0.1050, 0.3476), abs=1e-4)  # Wilson, 8 of 40


def test_an_arm_that_does_not_think_predicts_at_once() -> None:
    model = byte_model()
    scored = predict_at_once(model, EVALUATION, 2)
    assert [len(row) for row in scored.suffixes] == [2] * 12
    assert {len(suffix) for row in scored.suffixes for suffix in row} == {9}
    figures = reward_gate.figures(EVALUATION.recorder(model), scored, None)
    assert {one.metric for one in figures} == {"gate reward", "gate score", "oracle@2", "gate unscored"}


def test_without_windows_there_is_nothing_to_evaluate() -> None:
    with pytest.raises(ValueError, match="no held-out window"):
        dataclasses.replace(EVALUATION, windows=[])


@pytest.mark.parametrize("spelled", ["</think>", "wait</think>", "x</think>\n"])
def test_closing_is_noticed_when_the_tag_is_complete(spelled: str) -> None:
    closed = TOKENS.closed
    ids = list(spelled.encode())
    assert [end for end in range(1, len(ids) + 1) if closed(ids[:end])] == [spelled.index("</think>") + 8]
