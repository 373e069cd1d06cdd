"""Held-out evaluation: text metrics, suffix NLL and the three-way comparison, with stand-ins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought import text
from forethought.engine import Group, Prompt, Sampling
from forethought.evals.continuation import (
    GREEDY,
    MATCHED,
    MATCHED_TO_BASE,
    SAMPLED,
    Comparison,
    ComparisonSettings,
    Continuations,
    compare,
    match_temperature,
)
from forethought.evals.nll import nll_figures, suffix_nll
from forethought.evals.recorder import Recorder
from forethought.keys import Key
from forethought.models.model import Model, Parts
from forethought.records import Axis, Chunk, Completion, JudgeRequest, Measurement, Outcome, Split, StopReason, Verdict

NEW_TOKENS = 40
VOCABULARY = ("a", "bb ", "ccc ", "dddd ")


def chunks(count: int, per_document: int = 1) -> list[Chunk]:
    return [
        Chunk(
            id=f"chunk-{index}",
            document_id=f"document-{index // per_document}",
            split=Split.HELDOUT,
            start=0,
            prefix=f"Naïve prefix №{index}:",
            suffix=" “quoted”\n",
            prefix_ids=(7, index),
            suffix_ids=(1,) * (1 + index % 3),
        )
        for index in range(count)
    ]


class FourWords:
    """A tokenizer of four words."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(VOCABULARY[token] for token in ids)


def model_of(name: str, sampler: Any = None, scorer: Any = None) -> Model:
    """Return a model that writes with one stand-in and scores with another; its BOS is 9."""
    return Model(name, f"hash-{name}", Parts(tokenizer=FourWords(), sampler=sampler, scorer=scorer, bos=(9,)))


@dataclass
class Categorical:
    """A sampler over four tokens with the same logits at every place: its entropy is known."""

    logits: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    temperatures: list[float] = field(default_factory=list)
    prompts: list[tuple[int, ...]] = field(default_factory=list)

    def probabilities(self, temperature: float) -> np.ndarray:
        logits = np.array(self.logits)
        if temperature == 0:
            return np.eye(len(logits))[logits.argmax()]
        weights = np.exp((logits - logits.max()) / temperature)
        return weights / weights.sum()

    def entropy(self, temperature: float) -> float:
        p = self.probabilities(temperature)
        return float(-(p * np.log(p)).sum())

    def sample(self, prompts: Sequence[Prompt], k: int, sampling: Sampling, key: Key) -> list[list[Completion]]:
        self.temperatures.append(sampling.temperature)
        self.prompts = [prompt.token_ids for prompt in prompts]
        p = self.probabilities(sampling.temperature)
        found = []
        for prompt in prompts:
            uniforms = key.uniforms(prompt.id, 0, sampling.max_tokens)
            ids = np.searchsorted(p.cumsum(), uniforms, side="right").clip(max=3)
            logprobs = tuple(float(math.log(p[token])) for token in ids)
            found.append([Completion(token_ids=tuple(map(int, ids)), logprobs=logprobs, stop=StopReason.LENGTH)] * k)
        return found


@dataclass
class Shorter:
    """A pairwise judge that prefers shorter text; some contests it leaves unscored, some orders it always calls 1."""

    unscored: frozenset[str] = frozenset()
    first_always: bool = False
    name: str = "shorter@00000000"
    contests: list[JudgeRequest] = field(default_factory=list)

    def rank(self, contests: Sequence[JudgeRequest]) -> list[list[Verdict]]:
        self.contests += contests
        return [[self._verdict(contest, 0, 1), self._verdict(contest, 1, 0)] for contest in contests]

    def _verdict(self, contest: JudgeRequest, first: int, second: int) -> Verdict:
        common = {"axis": Axis.LENGTH, "first": first, "second": second, "judge": self.name}
        if contest.prefix in self.unscored:
            return Verdict(outcome=Outcome.UNSCORED, reason="timeout", **common)
        lengths = [len(candidate) for candidate in contest.candidates]
        if lengths[first] == lengths[second] and not self.first_always:
            return Verdict(outcome=Outcome.TIE, **common)
        winner = first if self.first_always or lengths[first] < lengths[second] else second
        return Verdict(outcome=Outcome.PREFERRED, winner=winner, **common)


@dataclass
class Pointwise:
    """A pointwise judge: the score is minus the length, in steps of ``step`` characters."""

    step: int = 1
    name: str = "pointwise@00000000"

    def rank(self, contests: Sequence[JudgeRequest]) -> list[list[Verdict]]:
        return [
            [
                Verdict(
                    outcome=Outcome.SCORED,
                    axis=Axis.LENGTH,
                    first=index,
                    score=-float(len(candidate) // self.step),
                    judge=self.name,
                )
                for index, candidate in enumerate(contest.candidates)
            ]
            for contest in contests
        ]


def settings(conditions: tuple[str, ...] = (SAMPLED,), tolerance: float = 0.02) -> ComparisonSettings:
    return ComparisonSettings(conditions=conditions, new_tokens=NEW_TOKENS, entropy_tolerance=tolerance, seed=3)


SHORT = Categorical(logits=(8.0, 0.0, -8.0, -8.0))
LONG = Categorical(logits=(-8.0, -8.0, 0.0, 8.0))


def run(
    policy: Categorical,
    base: Categorical,
    judge: Shorter | Pointwise,
    heldout: Sequence[Chunk],
    shared: ComparisonSettings,
) -> Comparison:
    left = Continuations(model_of("self-improved", policy), heldout, shared)
    right = Continuations(model_of("base", base), heldout, shared)
    return compare(left, right, {"judge": judge})


def find(comparison: Comparison, metric: str, condition: str = SAMPLED, arm: str = "self-improved") -> Measurement:
    found = [one for one in comparison.measurements if (one.metric, one.condition, one.arm) == (metric, condition, arm)]
    assert len(found) == 1, (metric, condition, arm, found)
    return found[0]


# --- text


def test_repetition_counts_fourgrams_seen_before() -> None:
    assert text.repetition(text.words("the cat sat on the mat")) == 0.0
    # 7 four-grams of a b c d e (twice): abcd bcde cdea deab eabc abcd bcde, of which 2 are repeats.
    assert text.repetition(list("abcdeabcde")) == pytest.approx(2 / 7)
    assert text.repetition(text.words("no no no")) == 0.0
    assert text.repetition(text.words("........")) == pytest.approx(4 / 5)


def test_words_of_messy_text() -> None:
    assert text.words("Zoë's 3.5\u00a0km—wow!\n") == ["zoë", "'", "s", "3", ".", "5", "km", "—", "wow", "!"]
    assert text.words("") == []


def test_distinct_is_pooled_over_texts() -> None:
    assert text.distinct_n([[1, 2, 3], [1, 2, 3]], 2) == 0.5
    assert text.distinct_n([["a", "b"], ["b", "a"]], 2) == 1.0
    assert text.distinct_n([[1], []], 2) == 0.0


@given(st.lists(st.lists(st.integers(0, 3), max_size=8), min_size=1, max_size=8))
def test_distinct_interval_contains_the_pooled_value(sequences: list[list[int]]) -> None:
    interval = text.distinct_interval(sequences, 2, [index // 2 for index in range(len(sequences))])
    assert interval.value == text.distinct_n(sequences, 2)
    assert interval.low <= interval.value <= interval.high
    assert interval.n == len(sequences)


def test_distinct_interval_by_hand() -> None:
    # Distinct-1 of a b | a a is 2/4; without the first 1/2, without the second 2/2: mean 3/4, and
    # the jackknife's error is sqrt(1/2 * (1/16 + 1/16)) = 1/4.
    interval = text.distinct_interval([["a", "b"], ["a", "a"]], 1, [0, 1])
    assert interval.value == 0.5
    assert interval.low == pytest.approx(0.5 - 1.95996 / 4, abs=1e-5)
    assert interval.high == pytest.approx(0.5 + 1.95996 / 4, abs=1e-5)


# --- suffix NLL


@dataclass
class Constant:
    """A scorer that gives every token the same log-probability, by the last prefix token."""

    cost: float
    seen: list[Group] = field(default_factory=list)

    def logprobs(self, groups: Sequence[Group]) -> list[list[np.ndarray]]:
        self.seen += groups
        return [
            [np.full(len(branch), -self.cost - 0.1 * (group.prefix[-1] % 2), np.float32) for branch in group.branches]
            for group in groups
        ]

    def choices(self, groups: Sequence[Group], choice_ids: Sequence[int]) -> list[np.ndarray]:
        raise NotImplementedError


def test_suffix_nll_weighs_tokens_and_pairs_by_chunk() -> None:
    heldout, scorer = chunks(100), Constant(3.0)
    base = suffix_nll(model_of("base", scorer=scorer), heldout)
    assert scorer.seen[5] == Group(prefix=(9, 7, 5), branches=((1, 1, 1),))
    assert base.tokens[:4] == (1, 2, 3, 1)
    odd = sum(1 + index % 3 for index in range(1, 100, 2))
    assert base.per_token == pytest.approx(3.0 + 0.1 * odd / sum(base.tokens), abs=1e-6)
    documents = [chunk.document_id for chunk in heldout]
    [level] = nll_figures(Recorder.of(model_of("base"), "evaluate", documents, seed=0), base)
    assert level.value == pytest.approx(base.per_token)
    assert level.low is not None
    assert level.high is not None
    assert 3.0 < level.low < level.value < level.high < 3.1
    policy = model_of("self-improved", scorer=Constant(3.25))
    after = suffix_nll(policy, heldout)
    found = nll_figures(Recorder.of(policy, "evaluate", documents, seed=0), after, ("base", base))
    assert [(one.metric, one.against, one.n) for one in found] == [
        ("suffix_nll", "", 100),
        ("suffix_nll_change", "base", 100),
    ]
    # Chunks differ from each other, but each by the same quarter from itself: pairing leaves no spread.
    change = found[1]
    assert (change.value, change.low, change.high) == pytest.approx((0.25, 0.25, 0.25), abs=0.02)


CONSTANT = model_of("constant", scorer=Constant(3.0))


def test_suffix_nll_refuses_what_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="same chunks"):
        suffix_nll(CONSTANT, chunks(3)).paired(suffix_nll(CONSTANT, chunks(4)))
    with pytest.raises(ValueError, match="at least one held-out chunk"):
        suffix_nll(CONSTANT, [])


# --- the comparison


def test_shorter_text_wins_by_a_judge_that_prefers_it() -> None:
    judge = Shorter()
    comparison = run(SHORT, LONG, judge, chunks(40), settings((SAMPLED, GREEDY)))
    for condition in (SAMPLED, GREEDY):
        win = find(comparison, "win_rate", condition)
        assert (win.value, win.n, win.high) == (1.0, 40, 1.0)
        assert win.low == pytest.approx(0.912384, abs=1e-5)  # 40 / (40 + 1.96**2)
        assert win.unit == "share of prefixes; Wilson"
        assert (win.against, win.judge, win.subject, win.stage) == ("base", "judge", "hash-self-improved", "evaluate")
        p_value = find(comparison, "sign_test_p", condition)
        assert p_value.value == pytest.approx(2 * 0.5**40)
        assert p_value.n == 40
        assert find(comparison, "tie_rate", condition).value == 0.0
    assert find(comparison, "characters").value < 50
    assert find(comparison, "characters", arm="base").value > 150
    assert find(comparison, "characters", arm="base").subject == "hash-base"
    assert find(comparison, "repetition", GREEDY, arm="base").value == pytest.approx(36 / 37)
    with pytest.raises(AssertionError):
        find(comparison, "entropy", GREEDY)
    # Blind: the policy comes first in about half of the contests, whoever writes.
    first = sum(len(contest.candidates[0]) < len(contest.candidates[1]) for contest in judge.contests[:40])
    assert 8 < first < 32
    assert judge.contests[0].original == " “quoted”\n"
    assert SHORT.prompts[5] == (9, 7, 5)


def test_identical_sides_tie_without_being_shown() -> None:
    judge = Shorter(first_always=True)
    comparison = run(Categorical(), Categorical(), judge, chunks(12), settings((SAMPLED, GREEDY, MATCHED)))
    assert judge.contests == []
    for condition in (SAMPLED, GREEDY, MATCHED):
        assert find(comparison, "win_rate", condition).value == 0.5
        assert find(comparison, "tie_rate", condition).value == 1.0
        assert find(comparison, "sign_test_p", condition).value == 1.0
    assert find(comparison, "matching_temperature", MATCHED).value == 1.0


def test_a_judge_that_always_names_the_first_only_ties() -> None:
    comparison = run(SHORT, LONG, Shorter(first_always=True), chunks(20), settings())
    win = find(comparison, "win_rate")
    assert (win.value, win.unit) == (0.5, "share of prefixes; bootstrap over documents")
    assert find(comparison, "tie_rate").value == 1.0


def test_unscored_pairs_are_excluded_and_counted() -> None:
    heldout = chunks(10)
    judge = Shorter(unscored=frozenset(chunk.prefix for chunk in heldout[:3]))
    comparison = run(SHORT, LONG, judge, heldout, settings())
    win = find(comparison, "win_rate")
    assert (win.value, win.n) == (1.0, 7)
    lost = find(comparison, "unscored_rate")
    assert (lost.value, lost.n) == (0.3, 10)
    row = comparison.examples[0]["conditions"][SAMPLED]["judges"]["judge"]
    assert (row["points"], row["reason"], row["judge"]) == (None, "timeout", "shorter@00000000")


def test_a_judge_that_never_answers_gives_no_win_rate() -> None:
    heldout = chunks(4)
    judge = Shorter(unscored=frozenset(chunk.prefix for chunk in heldout))
    comparison = run(SHORT, LONG, judge, heldout, settings())
    assert [one.metric for one in comparison.measurements if one.judge] == ["unscored_rate"]
    assert find(comparison, "unscored_rate").value == 1.0


def test_one_unscored_order_leaves_the_pair_unscored() -> None:
    class HalfDeaf(Shorter):
        def rank(self, contests: Sequence[JudgeRequest]) -> list[list[Verdict]]:
            mute = Verdict(outcome=Outcome.UNSCORED, axis=Axis.LENGTH, first=1, second=0, judge=self.name, reason="?")
            return [[verdicts[0], mute] for verdicts in super().rank(contests)]

    comparison = run(SHORT, LONG, HalfDeaf(), chunks(4), settings())
    assert find(comparison, "unscored_rate").value == 1.0


def test_pointwise_judges_compare_scores() -> None:
    won = run(SHORT, LONG, Pointwise(), chunks(8), settings())
    assert find(won, "win_rate").value == 1.0
    lost = run(LONG, SHORT, Pointwise(), chunks(8), settings())
    assert find(lost, "win_rate").value == 0.0
    row = lost.examples[0]["conditions"][SAMPLED]
    assert row["judges"]["judge"]["policy"] == -len(row["policy"])
    assert row["judges"]["judge"]["base"] == -len(row["base"])
    tied = run(SHORT, LONG, Pointwise(step=10_000), chunks(8), settings())
    assert find(tied, "tie_rate").value == 1.0


def test_several_chunks_of_a_document_are_not_independent() -> None:
    comparison = run(SHORT, LONG, Shorter(), chunks(40, per_document=4), settings())
    win = find(comparison, "win_rate")
    assert (win.value, win.n, win.unit) == (1.0, 10, "share of documents; Wilson")
    assert win.low == pytest.approx(0.722467, abs=1e-5)  # 10 / (10 + 1.96**2)
    assert find(comparison, "sign_test_p").n == 10
    even = run(Categorical(), Categorical((0.0, 0.1, 0.0, 0.0)), Shorter(), chunks(40, per_document=4), settings())
    mixed = find(even, "win_rate")
    assert (mixed.n, mixed.unit) == (40, "share of prefixes; bootstrap over documents")
    assert mixed.low is not None
    assert mixed.high is not None
    assert mixed.low < mixed.value < mixed.high


@pytest.mark.parametrize("sharpness", [2.5, 0.5])
def test_entropy_matching_finds_the_temperature(sharpness: float) -> None:
    logits = (0.0, 1.0, 2.0, 0.5)
    base = Categorical(logits)
    policy = Categorical(tuple(sharpness * logit for logit in logits))
    comparison = run(policy, base, Shorter(), chunks(150), settings((MATCHED,), tolerance=0.01))
    temperature = find(comparison, "matching_temperature", MATCHED).value
    # The policy is the base at T = 1 / sharpness, exactly.
    assert base.entropy(temperature) == pytest.approx(policy.entropy(1.0), abs=0.04)
    assert temperature == pytest.approx(1 / sharpness, rel=0.1)
    gap = find(comparison, "entropy_gap", MATCHED)
    assert abs(gap.value) <= 0.01
    own, other = (find(comparison, "entropy", MATCHED, arm) for arm in ("self-improved", "base"))
    assert own.value - other.value == pytest.approx(gap.value)
    assert own.low is not None
    assert own.high is not None
    assert own.low < policy.entropy(1.0) < own.high
    assert len(base.temperatures) <= 9


def test_what_cannot_be_matched_shows_its_gap() -> None:
    tried: list[float] = []

    def entropy(temperature: float) -> float:
        tried.append(temperature)
        return 1.0 + temperature

    closest = match_temperature(0.5, entropy, tolerance=0.02)
    assert closest == min(tried) == 0.25  # the end of the range
    assert len(tried) <= 9
    noisy = match_temperature(0.5, lambda temperature: 1.0 if temperature == 1.0 else 1.2, tolerance=0.02)
    assert noisy == 1.0  # whatever was tried was farther off


@given(st.floats(0.3, 3.5))
def test_matching_on_an_analytic_curve(wanted: float) -> None:
    base = Categorical((0.0, 1.0, 2.0, 0.5))
    found = match_temperature(base.entropy(wanted), base.entropy, tolerance=0.005)
    assert base.entropy(found) == pytest.approx(base.entropy(wanted), abs=0.005)


@pytest.mark.parametrize("wanted", [0.7, 0.85, 1.2, 1.4])
def test_two_or_three_temperatures_are_tried(wanted: float) -> None:
    """As steep as a language model's entropy is, and bent as much."""
    tried: list[float] = []

    def entropy(temperature: float) -> float:
        tried.append(temperature)
        return 3.0 + 4.0 * math.log(temperature) - 1.5 * math.log(temperature) ** 2

    target = entropy(wanted)
    assert entropy(match_temperature(target, entropy, tolerance=0.02)) == pytest.approx(target, abs=0.02)
    assert len(tried) - 2 <= 4  # temperature 1 included


def test_either_side_is_brought_to_the_others_entropy() -> None:
    logits = (0.0, 1.0, 2.0, 0.5)
    base, policy = Categorical(logits), Categorical(tuple(2.0 * logit for logit in logits))
    both = (MATCHED, MATCHED_TO_BASE)
    comparison = run(policy, base, Shorter(), chunks(150), settings(both, tolerance=0.01))
    cooled, heated = (find(comparison, "matching_temperature", condition) for condition in both)
    assert (cooled.value, heated.value) == (pytest.approx(0.5, rel=0.1), pytest.approx(2.0, rel=0.1))
    assert (cooled.unit, heated.unit) == ("temperature of the base; n texts", "temperature of the policy; n texts")
    for condition, level in ((MATCHED, policy.entropy(1.0)), (MATCHED_TO_BASE, base.entropy(1.0))):
        assert abs(find(comparison, "entropy_gap", condition).value) <= 0.01
        for arm in ("self-improved", "base"):
            assert find(comparison, "entropy", condition, arm).value == pytest.approx(level, abs=0.05)
        assert find(comparison, "win_rate", condition).n == 150
    row = comparison.examples[0]["conditions"][MATCHED_TO_BASE]
    assert (row["policy_temperature"], row["base_temperature"]) == (heated.value, 1.0)


def test_the_base_writes_once_for_all_arms() -> None:
    heldout, shared, sampler = chunks(5), settings((SAMPLED, GREEDY)), Categorical()
    base = Continuations(model_of("base", sampler), heldout, shared)
    for arm in ("self-improved", "continued"):
        compare(Continuations(model_of(arm, SHORT), heldout, shared), base, {})
    assert sampler.temperatures == [1.0, 0.0]


def test_unequal_lengths_and_unequal_chunks_are_refused() -> None:
    class Early(Categorical):
        def sample(self, prompts: Sequence[Prompt], k: int, sampling: Sampling, key: Key) -> list[list[Completion]]:
            return [[Completion(token_ids=(1,), logprobs=(0.0,), stop=StopReason.STOP)] for _ in prompts]

    with pytest.raises(ValueError, match="wrote 1 of 40 tokens after chunk chunk-0: forbid"):
        run(Early(), LONG, Shorter(), chunks(2), settings())
    shared = settings()
    left = Continuations(model_of("a", SHORT), chunks(2), shared)
    with pytest.raises(ValueError, match="same chunks"):
        compare(left, Continuations(model_of("b", SHORT), chunks(3), shared), {})
    with pytest.raises(ValueError, match="no held-out prefix"):
        run(SHORT, LONG, Shorter(), [], shared)


def test_examples_stand_side_by_side() -> None:
    comparison = run(SHORT, LONG, Shorter(), chunks(3), settings((SAMPLED, MATCHED)))
    assert len(comparison.examples) == 3
    row = comparison.examples[2]
    assert (row["chunk_id"], row["prefix"], row["suffix"]) == ("chunk-2", "Naïve prefix №2:", " “quoted”\n")
    sampled = row["conditions"][SAMPLED]
    assert sampled["policy"].startswith("a")
    assert sampled["base"].startswith("dddd ")
    assert sampled["base_temperature"] == 1.0
    assert sampled["judges"]["judge"]["points"] == 1.0
