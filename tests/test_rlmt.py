"""RL mid-training: advantages, masks and denominators, and a loop that learns."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import records
from helpers.records import chunk
from helpers.smoke_runs import CONFIG, SMALL, cli, rows
from helpers.stages import GivenContext, run_stage, stage_of, untrained, weights

from forethought import config
from forethought.algorithms.advantages import dr_grpo, grpo, normaliser
from forethought.algorithms.rewards import MatchTask, RewardsPG
from forethought.algorithms.rollouts import RolloutGroup, group_metrics
from forethought.algorithms.windows import Window, WindowCutter, match_request, prefix_copies
from forethought.config import Config, ConfigError, RLMTConfig
from forethought.engine.branches import Group, Prompt
from forethought.graph import ARMS
from forethought.judges.base import QuestionJudge
from forethought.judges.match import Matcher, SimilarityJudge
from forethought.keys import Key
from forethought.metrics import GATE_REWARD
from forethought.models.embedding import LetterEmbedder
from forethought.models.model import Model, Parts
from forethought.records import Axis, Measurement, Place, Rollout, Split, ThoughtRow
from forethought.report.tables import build
from forethought.report.values import judgement
from forethought.run.store import Run
from forethought.tags import Tags
from forethought.testing import ScriptedSampler, UniformScorer, byte_tokenizer
from forethought.thoughts.dataset import make_row
from forethought.thoughts.teacher import Draft, Proposal, StubTeacher

THINK = Tags("<think>", "</think>")
TEXT = "The whale is big. It sings, too, in the deep sea."


CHUNKS = {
    f"c{number}": chunk(f"{number} {TEXT[:10]}", TEXT[10:], number=number, split=Split.RLMT) for number in range(8)
}
ROWS = [make_row(one, [Place(position=19, token=19), Place(position=34, token=34)], []) for one in CHUNKS.values()]


def cut(**more: Any) -> list[Window]:
    return WindowCutter(**({"tokenizer": byte_tokenizer(), "suffix_tokens": 12} | more)).all(ROWS, CHUNKS)


WINDOWS = cut()


def test_windows_are_slices_of_the_text() -> None:
    assert len(WINDOWS) == 16
    for window in WINDOWS:
        text = f"{window.document_id[1:]} {TEXT}"
        assert window.prefix + window.reference == text
        assert bytes(window.prefix_ids + window.suffix_ids).decode() == window.prefix + window.suffix
        assert window.reference.startswith(window.suffix)
        assert len(window.suffix_ids) == 12
    assert len(cut(suffix_tokens=20)) == 8  # the later place has too little text behind it
    assert {window.prefix[2:] for window in cut(cut="raw")} == {TEXT[:10]}
    one_each = WindowCutter(tokenizer=byte_tokenizer(), suffix_tokens=12).one_each(ROWS, CHUNKS, Key(0, "x"))
    assert [window.document_id for window in one_each] == [one.document_id for one in ROWS]
    assert len({len(window.prefix) for window in one_each}) == 2
    # Two rows of a document give one window: the document is the unit.
    twin = dataclasses.replace(ROWS[1], document_id=ROWS[0].document_id)
    rows = [ROWS[0], twin, *ROWS[2:]]
    fewer = WindowCutter(tokenizer=byte_tokenizer(), suffix_tokens=12).one_each(rows, CHUNKS, Key(0, "x"))
    assert len(fewer) == 7
    assert match_request(WINDOWS[0], ["a"], longer=False).original == WINDOWS[0].suffix
    assert match_request(WINDOWS[0], ["a"], longer=True).original == WINDOWS[0].reference


def test_copies_of_a_prefix_are_its_ends() -> None:
    assert prefix_copies(WINDOWS[0], byte_tokenizer(), 5) == (WINDOWS[0].prefix[:5], WINDOWS[0].prefix[-5:])
    assert prefix_copies(WINDOWS[0], byte_tokenizer(), 99) == (WINDOWS[0].prefix, WINDOWS[0].prefix)


class Silent(StubTeacher):
    """Writes the first thought of each chunk and no other."""

    def ask(self, drafts: Sequence[Draft], attempt: int) -> list[list[Proposal]]:
        return [row[:1] if not attempt else [] for row in super().ask(drafts, attempt)]


def test_held_out_windows_are_cut_where_training_would_cut_them(tmp_path: Path) -> None:
    texts = [f"The {name} is big. It sings, too, in the sea. Who hears it? We." for name in ("whale", "shark", "squid")]
    splits = (Split.SFT, Split.HELDOUT, Split.RLMT)
    chunks = [
        chunk(text[:10], text[10:], number=number + 3 * place, split=split)
        for place, split in enumerate(splits)
        for number, text in enumerate(texts)
    ]
    small = ("interleave.gap=8", "interleave.thoughts=[1, 3]", "interleave.rows=3", "rlmt.suffix_tokens=5")
    context = GivenContext(config.load(CONFIG, (*SMALL, *small)), tmp_path, chunks=chunks)
    stage = stage_of(context, "shared/interleave")
    vars(stage)["teacher"] = Silent()
    folder = run_stage(stage)
    offered, kept, trained = (
        {row.text: [place.token for place in row.places] for row in folder.load(log, ThoughtRow)}
        for log in ("places.heldout", "rows.heldout", "rows.rlmt")
    )
    assert {text: len(places) for text, places in kept.items()} == dict.fromkeys(texts, 1)
    assert offered == trained  # the same texts stand in both splits here
    assert all(len(places) > 1 for places in offered.values())
    for split in splits:
        context._kept["rows", split] = folder.load(f"rows.{split}", ThoughtRow)
    tokens = [len(window.prefix_ids) for window in context.heldout_windows]
    assert len(tokens) == 3
    wanted = [offered[window.prefix + window.reference] for window in context.heldout_windows]
    assert all(token in places for token, places in zip(tokens, wanted, strict=True))
    at_kept = [len(w.prefix_ids) in kept[w.prefix + w.reference] for w in context.heldout_windows]
    assert [bool(window.thought) for window in context.heldout_windows] == at_kept
    assert not all(at_kept)  # places are there, too, where the teacher said nothing that was kept


def test_rows_of_older_runs_have_windows_where_thoughts_were_kept(tmp_path: Path) -> None:
    said: list[str] = []
    place = [Place(position=19, token=19)]
    taught = [make_row(dataclasses.replace(one, split=Split.HELDOUT), place, ["Why?"]) for one in CHUNKS.values()]
    heldout = [dataclasses.replace(one, split=Split.HELDOUT) for one in CHUNKS.values()]
    context = GivenContext(settings(), tmp_path, chunks=heldout, rows={Split.HELDOUT: taught})
    context.say = said.append
    folder = context.run.stage("shared", "interleave")
    folder.write_config({})
    folder.finish({}, {})
    assert [window.thought for window in context.heldout_windows] == ["Why?"] * 8
    assert "keeps no offered places of held-out text" in said[0]


def test_advantages_are_measured_from_the_group_or_from_a_blank_thought() -> None:
    assert dr_grpo([1.0, 0.0, 0.0, 0.0], None) == (0.75, -0.25, -0.25, -0.25)
    assert dr_grpo([1.0, 0.0, None, 0.0], None) == pytest.approx((2 / 3, -1 / 3, 0.0, -1 / 3))
    assert grpo([1.0, 0.0], None) == pytest.approx((0.5**0.5, -(0.5**0.5)), abs=2e-4)
    # A constant subtracted before the mean would cancel; in its place it does not.
    assert dr_grpo([1.0, 0.0], 0.75) == (0.25, -0.75)
    assert dr_grpo([1.0, 1.0], 0.25) == (0.75, 0.75)
    for same in ([1.0, 1.0], [0.1, 0.1, 0.1], [1.0, None], [None, None]):
        assert not any(dr_grpo(same, None))
        assert not any(grpo(same, None))
    assert not any(dr_grpo([1.0, None], 0.5))


def test_the_denominator_does_not_depend_on_what_was_skipped() -> None:
    cfg = RLMTConfig(windows_per_step=2, rollouts=4, thought_tokens=10, suffix_tokens=6)
    assert normaliser(cfg) == 2 * 4 * 16
    assert normaliser(cfg.model_copy(update={"reward": "information-gain"})) == 2 * 4 * 10
    assert normaliser(cfg.model_copy(update={"advantage": "grpo"})) == 8


class Mute(QuestionJudge):
    """Judges by letters, and says nothing about every third prediction."""

    axis = Axis.MATCH

    def __init__(self) -> None:
        super().__init__("mute", "mute")
        self.letters = SimilarityJudge(LetterEmbedder())

    def answer(self, requests: Sequence[Any], questions: Sequence[Any]) -> list[Any]:
        rows = self.letters.answer(requests, questions)
        return [[self.unscored((i, None), "mute") if i % 3 == 0 else v for i, v in enumerate(row)] for row in rows]


MATCHER = Matcher(judge=SimilarityJudge(LetterEmbedder()), threshold=0.04)


def settings(*overrides: str) -> Config:
    small = ("rlmt.steps=2", "rlmt.warmup_steps=0", "rlmt.checkpoint_every=0", "rlmt.suffix_tokens=12")
    return config.load(CONFIG, (*SMALL, *small, *overrides))


def rlmt(place: Path, *overrides: str, matcher: Matcher = MATCHER, heldout: int = 2, skipped: int = 0) -> Any:
    """Return the stage on the windows from ``skipped`` on; the first ``heldout`` ones are held out."""
    given = {"matcher": matcher, "rlmt_windows": WINDOWS[skipped:], "heldout_windows": WINDOWS[:heldout]}
    return stage_of(GivenContext(settings(*overrides), place, **given), "base-rlmt/rlmt")


def closing(stage: Any) -> Any:
    """Return the stage with a reward that takes all thoughts for closed: a random model never spells a closing tag."""
    reward, more = stage.reward

    def of_closed(groups: Sequence[RolloutGroup], model: Model, task: MatchTask) -> RewardsPG:
        closed = [[dataclasses.replace(r, closed=True) for r in group.rollouts] for group in groups]
        pairs = zip(groups, closed, strict=True)
        return reward([dataclasses.replace(group, rollouts=tuple(row)) for group, row in pairs], model, task)

    stage.reward = of_closed, more
    return stage


def rollouts(stage: Any) -> tuple[Model, list[RolloutGroup]]:
    """Return the policy and six rollouts of each of four windows."""
    policy = stage.context.load("base-think", stage.cfg, THINK)
    return policy, stage.rollout_groups(policy, WINDOWS[:4], Key(0, "test"), k=6)


def test_what_the_harness_inserts_is_masked_and_what_was_drawn_is_trained(tmp_path: Path) -> None:
    stage = rlmt(tmp_path)
    policy, groups = rollouts(stage)
    for group in groups:
        example = stage.example(policy, group)
        assert example.group.prefix == (*group.window.prefix_ids, *b"<think>")  # the tokenizer has no BOS
        for rollout, branch, mask in zip(group.rollouts, example.group.branches, example.weights or (), strict=True):
            assert branch == rollout.token_ids
            inserted = bytes(t for t, w in zip(branch, mask, strict=True) if w == 0)
            assert inserted == (b"" if rollout.closed else b"</think>")
            assert len(branch) - rollout.thought_tokens == 12
    scaled = rlmt(tmp_path, "rlmt.advantage='grpo'").example(policy, groups[0])
    assert [mask.sum() for mask in scaled.weights or ()] == pytest.approx([1.0] * 6)


def test_an_unscored_rollout_is_left_out_not_zero(tmp_path: Path) -> None:
    stage = rlmt(tmp_path, matcher=Matcher(judge=Mute(), threshold=0.2))
    policy, groups = rollouts(stage)
    for group in groups:
        assert [reward is None for reward in group.rewards] == [True, False, False, True, False, False]
        assert len(stage.example(policy, group).group.branches) == 4
        assert sum(group.advantages) == pytest.approx(0.0)
    assert group_metrics(groups)["unscored_rate"] == pytest.approx(1 / 3)


def gain(policy: Model, window: Window, thought: tuple[int, ...]) -> float:
    """Return how much likelier a thought makes the window's suffix, nats per token, one forward pass at a time."""
    mean = []
    for inserted in ((), (*b"<think>", *thought)):
        group = Group(prefix=(*policy.bos, *window.prefix_ids, *inserted), branches=(window.suffix_ids,))
        mean.append(float(policy.logprobs([group], as_drawn=True)[0][0].mean()))
    return mean[1] - mean[0]


def test_information_gain_is_the_policys_own_and_trains_thoughts_alone(tmp_path: Path) -> None:
    stage = rlmt(tmp_path, "rlmt.reward='information-gain'", "rlmt.control=false")
    policy, groups = rollouts(stage)
    group = groups[1]
    for rollout, reward in zip(group.rollouts, group.rewards, strict=True):
        thought = rollout.token_ids[: rollout.thought_tokens]
        assert reward == pytest.approx(gain(policy, group.window, thought), abs=1e-4)
        assert bytes(thought).endswith(b"</think>")
    branches = stage.example(policy, group).group.branches
    assert [len(branch) for branch in branches] == [r.thought_tokens for r in group.rollouts]


def test_specific_gain_is_what_a_thought_does_beyond_what_it_does_for_other_documents(tmp_path: Path) -> None:
    policy, groups = rollouts(
        closing(rlmt(tmp_path, "rlmt.reward='specific-gain'", "rlmt.negatives=1", "rlmt.control=false"))
    )
    windows = [group.window for group in groups]
    for group in groups:
        # The one window of another document whose suffix is likeliest after this prefix.
        scored = [
            (
                float(
                    policy.logprobs([policy.group(group.window.prefix_ids, [w.suffix_ids])], as_drawn=True)[0][0].sum()
                ),
                w,
            )
            for w in windows
            if w.document_id != group.window.document_id
        ]
        hardest = max(scored, key=lambda pair: pair[0])[1]
        for rollout, reward in zip(group.rollouts, group.rewards, strict=True):
            thought = rollout.token_ids[: rollout.thought_tokens]
            own, other = (gain(policy, window, thought) for window in (group.window, hardest))
            assert reward == pytest.approx(max(0.0, own - max(0.0, other)), abs=1e-4)
    assert any(reward for group in groups for reward in group.rewards)


def test_gain_over_blank_has_the_blank_reward_as_its_baseline(tmp_path: Path) -> None:
    _, groups = rollouts(rlmt(tmp_path, "rlmt.reward='gain-over-blank'", "rlmt.blanks=4", "rlmt.control=false"))
    for group in groups:
        assert group.blank is not None
        assert group.blank * 4 == int(group.blank * 4)
        assert group.advantages == pytest.approx([reward - group.blank for reward in group.rewards])
    assert group_metrics(groups)["blank_reward"] == pytest.approx(np.mean([group.blank for group in groups]))


def test_a_thought_that_the_control_opens_is_judged_as_written(tmp_path: Path) -> None:
    script = ScriptedSampler({WINDOWS[0].id: [tuple(b"a<think>b</think>c")]})
    policy = Model("rl", "rl", Parts(tokenizer=byte_tokenizer(), sampler=script, scorer=UniformScorer()), THINK)
    stage = stage_of(GivenContext(settings("rlmt.suffix_tokens=40"), tmp_path, matcher=MATCHER), "base-rl/rlmt")
    prompt = Prompt(id=WINDOWS[0].id, token_ids=WINDOWS[0].prefix_ids)
    [[rollout]] = stage.draw(policy, [prompt], 1, Key(0, "test"))
    assert rollout.text == "a<think>b</think>c"


def test_groups_without_variance_teach_nothing_and_can_be_drawn_again(tmp_path: Path) -> None:
    never = Matcher(judge=MATCHER.judge, threshold=2.0)
    folder = run_stage(rlmt(tmp_path, "rlmt.resample=1", matcher=never))
    metrics = list(folder.read("metrics"))
    assert [row["rlmt/dead_rate"] for row in metrics[1:]] == [row["rlmt/first_dead_rate"] for row in metrics[1:]]
    assert {row["rlmt/dead_rate"] for row in metrics[1:]} == {1.0}
    assert not any("rlmt/loss" in row for row in metrics)
    before, after = untrained(), weights(folder)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_metrics_tell_copies_and_sameness_apart() -> None:
    def rollout(tokens: int, thought: str, text: str, closed: bool) -> Rollout:
        return Rollout(
            token_ids=(1,) * 6,
            logprobs=(-2.0,) * 6,
            drawn=(True,) * 6,
            thought_tokens=tokens,
            closed=closed,
            thought=thought,
            text=text,
        )

    group = RolloutGroup(
        window=dataclasses.replace(WINDOWS[0], prefix="the big whale sings at night"),
        rollouts=(
            rollout(2, "the big whale sings", "no such thing", closed=True),
            rollout(4, "it may dive in deep water", "dive in deep water now", closed=False),
        ),
        rewards=(0.0, 1.0),
        advantages=(-0.5, 0.5),
    )
    metrics = group_metrics([group])
    assert metrics["copied_from_prefix"] == 0.5
    assert metrics["copied_to_suffix"] == pytest.approx((0 + 2 / 3) / 2)
    assert (metrics["close_rate"], metrics["thought_tokens"], metrics["entropy"]) == (0.5, 3.0, 2.0)
    assert (metrics["reward"], metrics["reward_variance"], metrics["dead_rate"]) == (0.5, 0.25, 0.0)
    assert metrics["distinct_thoughts"] == 1.0
    assert metrics["blank_reward"] is None
    assert metrics["capped_reward"] == 1.0


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("rlmt.advantage='grpo'", "rlmt.updates=2", "rlmt.kl_weight=0.05"),
        ("rlmt.reward='information-gain'", "rlmt.control=false"),
        ("rlmt.reward='specific-gain'", "rlmt.control=false"),
        ("rlmt.reward='gain-over-blank'", "rlmt.resample=1", "rlmt.control=false"),
    ],
    ids=["dr-grpo", "grpo, two updates, kl", "information gain", "specific gain", "gain over blank"],
)
def test_each_reward_trains_and_an_interrupted_run_ends_with_the_same_weights(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("rlmt.steps=4", "rlmt.checkpoint_every=2", "rlmt.learning_rate=3e-3", "rlmt.monitor_every=1")
    whole, cut = (closing(rlmt(tmp_path / name, *overrides, *more)) for name in ("whole", "cut"))
    folder, steps = run_stage(whole), itertools.count(1)

    def deadly(groups: Sequence[RolloutGroup]) -> dict[str, float | None]:
        if next(steps) == 4:
            raise KeyboardInterrupt
        return group_metrics(groups)

    with monkeypatch.context() as patch:
        patch.setattr("forethought.stages.rlmt.group_metrics", deadly)
        with pytest.raises(KeyboardInterrupt):
            run_stage(cut)
    assert rows(tmp_path / "cut", "base-rlmt/rlmt/groups.jsonl")[-1]["step"] == 3  # one step after the checkpoint
    again = run_stage(cut)
    assert folder.manifest()["summary"] == again.manifest()["summary"]  # the hash of the weights
    for log in ("metrics", "groups"):
        assert rows(tmp_path / "whole", f"base-rlmt/rlmt/{log}.jsonl") == rows(
            tmp_path / "cut", f"base-rlmt/rlmt/{log}.jsonl"
        )
    metrics = rows(tmp_path / "whole", "base-rlmt/rlmt/metrics.jsonl")
    assert [row["step"] for row in metrics] == [0, 1, 2, 3, 4]
    assert sum(row.get("rlmt/gradient_norm", 0.0) > 0 for row in metrics) >= 2
    if not whole.cfg.kl_weight:
        assert metrics[1]["rlmt/kl"] == pytest.approx(0.0, abs=1e-6)
    assert max(row.get("rlmt/kl") or 0.0 for row in metrics) > 0


@pytest.mark.slow
def test_learning_is_visible_on_held_out_windows(tmp_path: Path) -> None:
    """A random model learns to write letters that the text has."""
    more = (
        "rlmt.steps=40",
        "rlmt.rollouts=12",
        "rlmt.windows_per_step=4",
        "rlmt.learning_rate=6e-3",
        "rlmt.monitor_every=0",
    )
    matcher = Matcher(judge=MATCHER.judge, threshold=0.1)
    run_stage(rlmt(tmp_path, *more, "rlmt.monitor_samples=8", matcher=matcher, heldout=4, skipped=4))
    metrics = rows(tmp_path, "base-rlmt/rlmt/metrics.jsonl")
    assert metrics[-1]["rlmt/heldout_reward"] > metrics[0]["rlmt/heldout_reward"] + 0.3


def test_configs_that_cannot_be_meant_are_refused() -> None:
    for wrong, words in (
        (("rlmt.reward='gain-over-blank'", "rlmt.advantage='grpo'", "rlmt.control=false"), "which may be 0"),
        (("rlmt.match.kind='llm'",), "exactly one of `model` and `endpoint`"),
        (("thinking.probe_samples=9",), "probe_samples = 9: must be at most samples"),
        (("chunk.rlmt_share=0.0",), "rlmt_share must not be 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            settings(*wrong)


def evaluated(place: Path, *overrides: str) -> tuple[list[Measurement], list[dict[str, Any]]]:
    """Return the figures of gate and probe on four windows, and the rows of ``windows.jsonl``."""
    given = {"matchers": {"training": MATCHER}, "heldout_windows": WINDOWS[:8:2]}
    context = GivenContext(settings("thinking.samples=2", *overrides), place, **given)
    run_stage(stage_of(context, "shared/evaluate-rlmt"))
    return context.run.measurements(), rows(place, "shared/evaluate-rlmt/windows.jsonl")


def test_every_window_of_the_gate_is_kept_for_who_pools_runs(tmp_path: Path) -> None:
    every = ("improve.control_lineage=true", "rlmt.control=true")
    figures, kept = evaluated(tmp_path, "thinking.probe_samples=0", *every)
    assert not [one for one in figures if one.metric.startswith("probe")]  # 0: no probe, no controls of one
    ways = {"", "entropy-matched", "at the highest entropy", "at the lowest entropy"}
    arms = {arm.name for arm in ARMS if not arm.name.endswith("raw")}
    places = [(row["arm"], row["condition"]) for row in kept if "control" not in row["arm"]]
    assert len(places) == len(set(places))
    assert set(places) == {(arm, way) for arm in arms for way in ways}
    assert [row["condition"] for row in kept if "control" in row["arm"]] == ["", ""]
    for row in kept:
        assert row["windows"] == [window.id for window in WINDOWS[:8:2]]
        assert row["documents"] == [window.document_id for window in WINDOWS[:8:2]]
        assert row["judge"] == MATCHER.name
        assert {len(row[name]) for name in ("reward", "score", "entropy")} == {4}
    levels = {row["condition"]: row["entropy"] for row in kept if row["arm"] == "base-rlmt"}
    assert levels["entropy-matched"] == pytest.approx(
        np.mean([levels["at the highest entropy"], levels["at the lowest entropy"]], axis=0), abs=1e-5
    )
    found = {(one.against, one.metric, one.condition) for one in figures}
    for way in ways:  # all arms have the same weights here, and the same name
        assert ("base-rlmt", "gate score difference of differences", way) in found
        assert ("base-think", "gate reward difference of differences", way) in found
        assert ("base", "gate reward difference of differences", way) not in found


def test_figures_of_the_probe_stand_in_no_row_of_the_gate(tmp_path: Path) -> None:
    figures, _ = evaluated(tmp_path, "thinking.probe_samples=1", "thinking.controls=false")
    tables = build(figures)["rlmt"]
    gate, levels, differences = (next(t for t in tables if t.title.startswith(start)) for start in (
        "Reward gate: all arms", "Thought-use probe: what stands", "Thought-use probe: own thoughts against",
    ))  # fmt: skip
    assert {row[1] for row in gate.rows} == {
        "T = 1",
        "entropy-matched",
        "at the highest entropy",
        "at the lowest entropy",
    }
    assert "entropy, nats per token" in levels.head
    # Both directions stand in summary.json; the page has their mean.
    for table in (levels, differences):
        assert any(row[1].endswith("entropy-matched") for row in table.rows)
        assert not any(row[1].endswith(("highest entropy", "lowest entropy")) for row in table.rows)


def test_the_probe_can_do_without_equal_entropy(tmp_path: Path) -> None:
    figures, _ = evaluated(tmp_path, "thinking.probe_samples=1", "thinking.probe_matched=false")
    of_probe = {one.condition for one in figures if one.metric == "probe reward difference"}
    assert "own against blank thought" in of_probe
    assert not [condition for condition in of_probe if "entropy" in condition]


def test_the_lifecycle_goes_on_through_stage_three(done: Path) -> None:
    found = {(one.arm, one.against, one.metric, one.condition): one for one in Run.open(done).measurements()}
    arms = ("base", "self-improved", "base-think", "self-improved-think", "base-rlmt", "self-improved-rlmt")
    for arm in arms:
        assert found[arm, "", "gate reward", ""].n == 4
        assert (arm, "", "oracle@2", "") in found
    for arm, before in (("base-rlmt", "base-think"), ("self-improved-rlmt", "base-rlmt"), ("base-think", "base")):
        assert (arm, before, "gate score difference", "") in found
        thinks = before != "base"
        assert ((arm, before, "probe specific gain difference", "") in found) is thinks
        assert ((arm, before, "probe gain difference", "own thought") in found) is thinks
    for arm in arms[2:]:
        for condition in ("own thought", "blank thought", "teacher's thought", "no tags", "own words shuffled"):
            assert (arm, "", "probe gain", condition) in found
        assert (arm, "", "probe reward difference", "own against blank thought") in found
    copies = found["control: copies its thought", "", "probe score difference", "own against blank thought"]
    ignores = found["control: ignores its thought", "", "probe score difference", "own against blank thought"]
    assert copies.value > 0.1
    assert ignores.value == 0.0
    for way in ("", "entropy-matched", "at the highest entropy", "at the lowest entropy"):
        assert ("self-improved-rlmt", "base-rlmt", "gate score difference of differences", way) in found
        assert ("base-rlmt", "base-think", "gate score difference", way) in found
    assert found["control: repeats the prefix's start", "", "gate reward", ""].n == 4
    assert found["base", "", "unrelated suffixes that pass", ""].value <= 0.02
    assert {one["arm"] for one in rows(done, "shared/evaluate-rlmt/examples.jsonl")} >= set(arms[2:])


def test_the_tables_of_stage_three_are_printed(done: Path) -> None:
    shown = cli("show", done).stdout
    for title in ("Reward gate", "Thought-use probe", "what training changed", "Training of base-rlmt", "too few to"):
        assert title in shown


def test_without_its_table_the_command_says_what_to_add(tmp_path: Path) -> None:
    text = CONFIG.read_text()
    bare = text[: text.index("[rlmt]")] + text[text.index("[thinking]") :]
    (tmp_path / "bare.toml").write_text(bare)
    result = cli("rlmt", tmp_path / "bare.toml", "--run", tmp_path / "run")
    assert result.exit_code == 2
    assert "there is no [rlmt] table" in result.stderr


def test_a_difference_inside_the_noise_is_called_that() -> None:
    def figure(value: float, low: float, high: float) -> Measurement:
        return records.figure("m", value, low=low, high=high, n=85)

    size = records.figure(GATE_REWARD.detectable, 0.029, stage="evaluate-rlmt")
    said = judgement(figure(0.1, -0.1, 0.3), size)
    assert said == "inside the noise of 85 windows, which show a difference from 2.9 points on"
    assert judgement(figure(0.2, 0.1, 0.3), size) == "above zero"
    assert judgement(figure(-0.2, -0.3, -0.1), size) == "below zero"
    assert judgement(figure(0.0, -0.1, 0.1), None) == "inside the noise of 85 windows"
    assert judgement(figure(0.0, 0.0, 0.0), None) == "no difference in any of 85 windows"
    few = dataclasses.replace(figure(0.2, 0.1, 0.3), n=29)
    assert judgement(few, size) == "29 windows are too few to tell"
    alike = dataclasses.replace(figure(0.2, 0.1, 0.3), low=None, high=None)
    assert judgement(alike, size) == "85 windows of fewer than 30 documents are too few to tell"
