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
from forethought.engine import Group, Prompt, Sampling, Thinking
from forethought.evals import probe, reward_gate
from forethought.evals.controls import COPIES, IGNORES, controls
from forethought.evals.windows import (
    Result,
    WindowEval,
    gains,
    levels,
    means,
    predict,
    predict_at_once,
    results,
    think_and_predict,
)
from forethought.judges.match import Matcher, SimilarityJudge
from forethought.keys import Key
from forethought.metrics import AT_HIGHEST, AT_LOWEST, MATCHED, PREFIX_END, PREFIX_START, at, own_against
from forethought.models.embedding import LetterEmbedder
from forethought.models.model import Model, Parts
from forethought.models.thought_tokens import ThoughtTokens
from forethought.records import Completion, Measurement, Rollout, StopReason
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
    matchers={"training": Matcher(judge=SimilarityJudge(LetterEmbedder()), threshold=0.7)},
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


def probed(
    model: Model, samples: int = 2, evaluation: WindowEval = EVALUATION, *, matched: bool = True
) -> tuple[dict[str, probe.Probed], list[Measurement]]:
    _, rollouts = think_and_predict(model, evaluation, samples)
    inserted = probe.inserts(rollouts, evaluation, model.thoughts, settings(samples))
    found = probe.probe(model, evaluation, inserted, matched=matched)
    return found, probe.figures(evaluation, model, found)


@pytest.fixture(scope="module")
def scripted() -> dict[str, Model]:
    return {model.name: model for model in controls(WINDOWS, byte_model())}


def gate_figures(model: Model, entry: reward_gate.Entry) -> list[Measurement]:
    """Return an arm's figures at temperature 1."""
    draws, recorder = {"": entry.drawn}, EVALUATION.recorder(model)
    found = results(EVALUATION, draws, "training")
    details = reward_gate.details(recorder, entry, found[""].samples)
    return reward_gate.figures(recorder, entry, draws, found) + details


def difference(figures: Sequence[Measurement], condition: str) -> Measurement:
    [one] = [f for f in figures if (f.metric, f.condition) == ("probe reward difference", f"own against {condition}")]
    return one


def test_the_probe_sees_a_policy_that_copies_its_thought(scripted: dict[str, Model]) -> None:
    found, figures = probed(scripted[COPIES])
    assert list(found) == list(metrics.PROBE)
    assert found[probe.OWN].found["training"][""].rewards == [1.0] * 12
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
        assert (one.value, one.low, one.high) == (0.0, None, None), condition  # of twelve windows
        assert found[condition].draws[""].suffixes == found[probe.OWN].draws[""].suffixes


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


def test_the_gate_compares_paired_and_says_how_many_windows_are_missing(scripted: dict[str, Model]) -> None:
    found_by = {}
    for name, model in scripted.items():
        entry = reward_gate.Entry.of(model, EVALUATION, 4, thinks=True)
        found_by[name], recorder = results(EVALUATION, {"": entry.drawn}, "training"), EVALUATION.recorder(model)
        values = {one.metric: one.value for one in gate_figures(model, entry)}
        assert values["gate unscored"] == 0.0
        assert values["close rate"] == 1.0
        if name == COPIES:
            assert values["gate reward"] == values["oracle@4"] == 1.0
        else:
            assert values["oracle@4"] > values["gate reward"]
    compared = reward_gate.compare(recorder.versus(COPIES), found_by[IGNORES], found_by[COPIES])
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
    assert {one.metric for one in gate_figures(model, reward_gate.Entry(drawn=scored))} == {
        *("gate reward", "gate score", "oracle@2", "gate unscored"),
        *("gate entropy", "gate temperature", "second thought"),
    }


def test_without_windows_there_is_nothing_to_evaluate() -> None:
    with pytest.raises(ValueError, match="no held-out window"):
        dataclasses.replace(EVALUATION, windows=[])


@pytest.mark.parametrize("spelled", ["</think>", "wait</think>", "x</think>\n"])
def test_closing_is_noticed_when_the_tag_is_complete(spelled: str) -> None:
    closed = TOKENS.closed
    ids = list(spelled.encode())
    assert [end for end in range(1, len(ids) + 1) if closed(ids[:end])] == [spelled.index("</think>") + 8]


class Tempered:
    """A thinker whose letters, thoughts aside, are drawn at a temperature from logits that the test gives."""

    def __init__(self, sharpness: float, thought: str = "So?", suffix: str = "") -> None:
        self.logits = sharpness * np.array([2.0, 1.0, 0.5, 0.0, -0.5, -1.0])
        self.thought, self.suffix = tuple(f"{thought}</think>".encode()), tuple(suffix.encode())
        self.seen: list[tuple[str, tuple[int, ...], float]] = []

    def sample(self, prompts: Sequence[Prompt], k: int, sampling: Sampling, key: Key) -> list[list[Completion]]:
        return [[self._one(prompt, f"{prompt.id}/{i}" if k > 1 else prompt.id, sampling, key) for i in range(k)]
                for prompt in prompts]  # fmt: skip

    def think(
        self, prompts: Sequence[Prompt], k: int, thinking: Thinking, sampling: Sampling, key: Key
    ) -> list[list[Rollout]]:
        def rollout(prompt: Prompt, number: int) -> Rollout:
            one = self._one(prompt, f"{prompt.id}/{number} thinks", sampling, key)
            ids, logprobs = self.thought + one.token_ids, (-9.0,) * len(self.thought) + one.logprobs
            size = len(self.thought)
            return Rollout(token_ids=ids, logprobs=logprobs, drawn=(True,) * len(ids), thought_tokens=size, closed=True)

        return [[rollout(prompt, number) for number in range(k)] for prompt in prompts]

    def entropy(self, temperature: float) -> float:
        scaled = np.exp(self.logits / temperature)
        share = scaled / scaled.sum()
        return float(-(share * np.log(share)).sum())

    def _one(self, prompt: Prompt, name: str, sampling: Sampling, key: Key) -> Completion:
        self.seen.append((name, prompt.token_ids, sampling.temperature))
        scaled = np.exp(self.logits / sampling.temperature)
        share = scaled / scaled.sum()
        uniforms = key.uniforms(name, 0, sampling.max_tokens)
        places = np.minimum(np.searchsorted(share.cumsum(), uniforms), len(share) - 1)
        ids = self.suffix or tuple(b"abcdef"[place] for place in places)
        return Completion(
            token_ids=ids, logprobs=tuple(float(p) for p in np.log(share[places])), stop=StopReason.LENGTH
        )


def tempered(name: str, sampler: Tempered) -> Model:
    stub: Any = sampler
    return Model(name, name, Parts(tokenizer=byte_tokenizer(), sampler=stub, scorer=UniformScorer()), THINK)


LONGER = dataclasses.replace(EVALUATION, suffix_tokens=60)


def test_every_arm_is_drawn_again_at_the_highest_and_the_lowest_entropy() -> None:
    samplers = {"base": Tempered(1.0), "base-think": Tempered(2.0), "base-rlmt": Tempered(3.0)}
    models = {name: tempered(name, sampler) for name, sampler in samplers.items()}
    entries = {name: reward_gate.Entry.of(model, LONGER, 4, thinks=name != "base") for name, model in models.items()}
    assert entries["base"].drawn.entropy == pytest.approx(samplers["base"].entropy(1.0), abs=0.05)
    targets = levels([entry.drawn.entropy for entry in entries.values()])
    assert targets == {AT_HIGHEST: entries["base"].drawn.entropy, AT_LOWEST: entries["base-rlmt"].drawn.entropy}
    for name, model in models.items():
        samplers[name].seen.clear()
        draws = entries[name].at(model, LONGER, targets)
        for level, target in targets.items():
            assert draws[level].entropy == pytest.approx(target, abs=0.02), (name, level)
        # Who sets the level keeps what it drew.
        own = {"base": AT_HIGHEST, "base-rlmt": AT_LOWEST}.get(name, "")
        assert draws[own] is entries[name].drawn
        for found, ids, temperature in samplers[name].seen:
            window = next(one for one in WINDOWS if one.id == found.partition("/")[0])
            # After the very thoughts that it had, and never at temperature 1 again.
            thought = b"<think>So?</think>" if name != "base" else b""
            assert bytes(ids) == window.prefix.encode() + thought
            assert temperature != 1.0
        found_by = results(LONGER, draws, "training")
        assert list(found_by) == ["", AT_HIGHEST, AT_LOWEST, MATCHED]
        both = [found_by[level].scores[3] for level in (AT_HIGHEST, AT_LOWEST)]
        assert found_by[MATCHED].scores[3] == pytest.approx(sum(both) / 2)  # type: ignore[arg-type]
        figures = reward_gate.figures(LONGER.recorder(model), entries[name], draws, found_by)
        shown = {(one.metric, one.condition): one.value for one in figures}
        for condition in found_by:  # entropy beside every rate
            assert {("gate reward", condition), ("gate score", condition), ("gate entropy", condition)} <= set(shown)
        assert shown["gate temperature", ""] == 1.0
        assert (shown["gate temperature", AT_LOWEST] < 1.0) is (name != "base-rlmt")


def result(scores: Sequence[float | None]) -> Result:
    return Result(rewards=list(scores), scores=list(scores), entropies=[2.0] * len(scores))


def test_more_receptive_is_a_difference_of_differences() -> None:
    """RL gives the base +4 points and the self-improved nothing, whose level is higher all the same."""
    base, rlmt, improved, improved_rlmt = ([level + n / 1000 for n in range(36)] for level in (0.08, 0.12, 0.16, 0.16))
    documents = [f"d{n}" for n in range(36)]
    recorder = dataclasses.replace(EVALUATION.recorder(byte_model()), arm="self-improved-rlmt", documents=documents)
    recorder = recorder.versus("base-rlmt")
    compared = reward_gate.compare(recorder, {"": result(improved_rlmt)}, {"": result(rlmt)})
    assert {one.value > 0 for one in compared if one.metric.endswith("difference")} == {True}
    ours, theirs = (
        ({MATCHED: result(improved_rlmt)}, {MATCHED: result(improved)}),
        (
            {MATCHED: result(rlmt)},
            {MATCHED: result(base)},
        ),
    )
    figures = reward_gate.interact(recorder, ours, theirs)
    reward, score = (one for one in figures if one.metric.endswith("differences"))
    assert (reward.metric, score.metric) == (
        "gate reward difference of differences", "gate score difference of differences",
    )  # fmt: skip
    assert score.value == pytest.approx(-0.04)
    assert score.high is not None
    assert score.high < 0
    assert (score.arm, score.against, score.condition, score.n) == ("self-improved-rlmt", "base-rlmt", MATCHED, 36)
    assert metrics.known(score, ["self-improved-rlmt"])
    # A window that one of the four did not score is left out.
    gone = {MATCHED: result([None, *improved[1:]])}, {MATCHED: result(improved)}
    assert {one.n for one in reward_gate.interact(recorder, gone, theirs)} == {35}


def test_copies_of_the_prefix_are_rows_of_the_gate() -> None:
    copying = dataclasses.replace(WINDOWS[0], prefix="aaaa bbbb then", prefix_ids=tuple(b"aaaa bbbb then"))
    evaluation = dataclasses.replace(EVALUATION, windows=[copying, *WINDOWS[1:]])
    found = reward_gate.copies(evaluation, byte_tokenizer(), "training")
    assert found[PREFIX_START].rewards[0] == 1.0
    assert found[PREFIX_END].rewards[0] == 0.0
    figures = reward_gate.copy_figures(evaluation, PREFIX_START, found[PREFIX_START], "training")
    assert {(one.arm, one.metric, one.condition) for one in figures} == {
        (PREFIX_START, "gate reward", ""), (PREFIX_START, "gate score", ""),
    }  # fmt: skip
    [row] = reward_gate.rows(evaluation.windows, PREFIX_START, "judge", {"": found[PREFIX_START]})
    assert row["windows"][:2] == ["w0", "w1"]
    assert (row["documents"][2], row["reward"][0], row["entropy"][0]) == ("d1", 1.0, None)


def test_a_second_thought_is_counted_and_judged_as_written() -> None:
    model = tempered("base-think", Tempered(1.0, suffix="aaaa bbbb<think>zz</think>"))
    entry = reward_gate.Entry.of(model, EVALUATION, 2, thinks=True)
    assert entry.drawn.suffixes[0] == ["aaaa bbbb<think>zz</think>"] * 2
    values = {one.metric: one.value for one in gate_figures(model, entry)}
    assert values["second thought"] == 1.0
    bare = reward_gate.Entry.of(tempered("base", Tempered(1.0, suffix="aaaa bbbb")), EVALUATION, 2, thinks=True)
    scores = [results(EVALUATION, {"": one.drawn}, "training")[""].scores[0] for one in (entry, bare)]
    assert scores[0] < scores[1] == pytest.approx(1.0)  # type: ignore[operator]


def test_the_probe_compares_conditions_at_equal_entropy() -> None:
    class Sure(Tempered):
        """Is surer of its suffix once something was thought."""

        def _one(self, prompt: Prompt, name: str, sampling: Sampling, key: Key) -> Completion:
            self.logits = np.array([2.0, 1.0, 0.5, 0.0, -0.5, -1.0]) * (2 if b"So" in bytes(prompt.token_ids) else 1)
            return super()._one(prompt, name, sampling, key)

    model = tempered("base-think", Sure(1.0))
    found, figures = probed(model, 4, LONGER)
    shown = {(one.metric, one.condition): one.value for one in figures}
    own, blank = (shown["probe entropy", name] for name in (probe.OWN, probe.BLANK))
    assert own < blank - 0.3
    for level, target in ((AT_HIGHEST, blank), (AT_LOWEST, own)):
        for name in (probe.OWN, probe.BLANK, probe.NO_TAGS):
            assert shown["probe entropy", at(name, level)] == pytest.approx(target, abs=0.05), (name, level)
        assert ("probe score difference", at(own_against(probe.BLANK), level)) in shown
    assert shown["probe temperature", at(probe.OWN, AT_HIGHEST)] > 1.2
    assert shown["probe temperature", at(probe.BLANK, AT_LOWEST)] < 0.8
    assert ("probe reward difference", at(own_against(probe.BLANK), MATCHED)) in shown
    # Gains rest on no draw: there is one of each.
    assert {condition for metric, condition in shown if metric == "probe gain"} == set(found)
    assert all(metrics.known(one, ["base-think"]) for one in figures)
    _, plain = probed(model, 4, LONGER, matched=False)
    assert {one.condition for one in plain} == {*metrics.PROBE, *map(own_against, metrics.PROBE[1:])}


def test_a_teachers_thought_is_compared_where_one_was_kept(scripted: dict[str, Model]) -> None:
    silent = [dataclasses.replace(one, thought="") if number % 3 else one for number, one in enumerate(WINDOWS)]
    evaluation = dataclasses.replace(EVALUATION, windows=silent)
    found, figures = probed(scripted[COPIES], 2, evaluation)
    kept = found[probe.TEACHER].found["training"][""].scores
    assert [value is not None for value in kept] == [bool(window.thought) for window in silent]
    one = difference(figures, probe.TEACHER)
    assert one.n == 4
    assert difference(figures, probe.BLANK).n == 12
    inserted = probe.inserts(think_and_predict(scripted[COPIES], evaluation, 2)[1], evaluation, TOKENS, settings(2))
    shown = probe.examples(evaluation, inserted, found, 2)
    assert [probe.TEACHER in row["conditions"] for row in shown] == [True, False]


def test_every_judge_scores_every_suffix(scripted: dict[str, Model]) -> None:
    strict = Matcher(judge=SimilarityJudge(LetterEmbedder()), threshold=2.0)
    both = dataclasses.replace(EVALUATION, matchers=EVALUATION.matchers | {"strict": strict})
    model = scripted[COPIES]
    draws = {"": reward_gate.Entry.of(model, both, 2, thinks=True).drawn}
    assert results(both, draws, "training")[""].rewards == [1.0] * 12
    assert results(both, draws, "strict")[""].rewards == [0.0] * 12
    _, figures = probed(model, 2, both)
    judges = {one.judge for one in figures if one.metric == "probe reward"}
    assert judges == {both.matchers["training"].name, strict.name}
    assert {one.judge for one in figures if one.metric == "probe gain"} == {both.matchers["training"].name}
