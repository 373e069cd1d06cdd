"""RL mid-training: advantages, masks and denominators, TRL as oracle of the step, and a loop that learns."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from smoke_runs import CONFIG, SMALL, Finished, cli, rows
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import nanstd

from forethought import config
from forethought.config import Config, ConfigError, RLMTConfig
from forethought.engine.branches import Group
from forethought.engine.losses import policy_gradient
from forethought.engine.policy import Policy
from forethought.engine.scorer import TorchScorer
from forethought.engine.trainer import Adam, Example, Schedule, Trainer
from forethought.judges.base import QuestionJudge, pointwise_questions
from forethought.judges.match import Matcher, SimilarityJudge
from forethought.keys import Key
from forethought.models.embedding import LetterEmbedder
from forethought.records import Axis, Chunk, Measurement, Place, Rollout, Split
from forethought.report.values import judgement
from forethought.stages import rlmt
from forethought.store import Run
from forethought.testing import byte_tokenizer, tiny_model
from forethought.thoughts.dataset import row
from forethought.thoughts.format import Tags
from forethought.thoughts.groups import Drawn, advantages, describe, normaliser
from forethought.thoughts.windows import Cutter, Window, contest

THINK = Tags("<think>", "</think>")
TEXT = "The whale is big. It sings, too, in the deep sea."


def chunk(number: int) -> Chunk:
    text = f"{number} {TEXT}"
    return Chunk(
        id=f"c{number}",
        document_id=f"d{number}",
        split=Split.RLMT,
        start=0,
        prefix=text[:12],
        suffix=text[12:],
        prefix_ids=tuple(text[:12].encode()),
        suffix_ids=tuple(text[12:].encode()),
    )


CHUNKS = {f"c{number}": chunk(number) for number in range(8)}
ROWS = [row(one, [Place(position=19, token=19), Place(position=34, token=34)], []) for one in CHUNKS.values()]


def cut(**more: Any) -> list[Window]:
    return Cutter(**({"tokenizer": byte_tokenizer(), "suffix_tokens": 12} | more)).all(ROWS, CHUNKS)


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
    one_each = Cutter(tokenizer=byte_tokenizer(), suffix_tokens=12).one_each(ROWS, CHUNKS, Key(0, "x"))
    assert [window.document_id for window in one_each] == [one.document_id for one in ROWS]
    assert len({len(window.prefix) for window in one_each}) == 2
    assert contest(WINDOWS[0], ["a"], longer=False).original == WINDOWS[0].suffix
    assert contest(WINDOWS[0], ["a"], longer=True).original == WINDOWS[0].reference


def test_advantages_are_measured_from_the_group_or_from_a_blank_thought() -> None:
    assert advantages([1.0, 0.0, 0.0, 0.0], None, scaled=False) == (0.75, -0.25, -0.25, -0.25)
    assert advantages([1.0, 0.0, None, 0.0], None, scaled=False) == pytest.approx((2 / 3, -1 / 3, 0.0, -1 / 3))
    # A constant subtracted before the mean would cancel; in its place it does not.
    assert advantages([1.0, 0.0], 0.75, scaled=False) == (0.25, -0.75)
    assert advantages([1.0, 1.0], 0.25, scaled=False) == (0.75, 0.75)
    for same in ([1.0, 1.0], [0.1, 0.1, 0.1], [1.0, None], [None, None]):
        assert not any(advantages(same, None, scaled=True))
    assert not any(advantages([1.0, None], 0.5, scaled=False))


def test_scaled_advantages_are_trls() -> None:
    rewards = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    tensor = torch.tensor([rewards])
    expected = (tensor - tensor.mean()) / (nanstd(tensor, dim=1)[:, None] + 1e-4)
    assert advantages(rewards, None, scaled=True) == pytest.approx(expected[0].tolist(), rel=1e-5)


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

    def questions(self, one: Any) -> list[Any]:
        return pointwise_questions(one)

    def answer(self, contests: Sequence[Any], questions: Sequence[Any]) -> list[Any]:
        found = self.letters.answer(contests, questions)
        return [[self.unscored((i, None), "mute") if i % 3 == 0 else v for i, v in enumerate(row)] for row in found]


MATCHER = Matcher(judge=SimilarityJudge(LetterEmbedder()), threshold=0.04)


def settings(*overrides: str) -> Config:
    small = ("rlmt.steps=2", "rlmt.warmup_steps=0", "rlmt.checkpoint_every=0", "rlmt.suffix_tokens=12")
    return config.load(CONFIG, (*SMALL, *small, *overrides))


def material(**more: Any) -> rlmt.Material:
    known = {
        "windows": WINDOWS,
        "heldout": WINDOWS[:2],
        "matcher": MATCHER,
        "start": config.ModelConfig(model="tiny-llama"),
        "identity": "m",
        "data": "d",
        "tags": THINK,
    }
    return rlmt.Material(**(known | more))


def drawn_by(shop: rlmt.Workshop) -> list[Drawn]:
    return rlmt.draw(shop, WINDOWS[:4], 6, Key(0, "test"))


def test_what_the_harness_inserts_is_masked_and_what_was_drawn_is_trained() -> None:
    shop = rlmt.open_workshop(settings(), material())
    groups = drawn_by(shop)
    for group in groups:
        one = rlmt.example(shop, group)
        assert one.group.prefix == (256, *group.window.prefix_ids, *b"<think>") or one.group.prefix[-7:] == tuple(
            b"<think>"
        )
        for rollout, branch, weight in zip(group.rollouts, one.group.branches, one.weights or (), strict=True):
            assert branch == rollout.token_ids
            inserted = bytes(t for t, w in zip(branch, weight, strict=True) if w == 0)
            assert inserted == (b"" if rollout.closed else b"</think>")
            assert len(branch) - rollout.thought_tokens == 12
    scaled = rlmt.open_workshop(settings("rlmt.advantage='grpo'"), material())
    assert [w.sum() for w in rlmt.example(scaled, groups[0]).weights or ()] == pytest.approx([1.0] * 6)


def test_an_unscored_rollout_is_left_out_not_zero() -> None:
    shop = rlmt.open_workshop(settings(), material(matcher=Matcher(judge=Mute(), threshold=0.2)))
    for group in drawn_by(shop):
        assert [reward is None for reward in group.rewards] == [True, False, False, True, False, False]
        assert len(rlmt.example(shop, group).group.branches) == 4
        assert sum(group.advantages) == pytest.approx(0.0)
    assert describe(drawn_by(shop))["unscored_rate"] == pytest.approx(1 / 3)


def test_information_gain_is_the_policys_own_and_trains_thoughts_alone() -> None:
    shop = rlmt.open_workshop(settings("rlmt.reward='information-gain'"), material(matcher=None))
    group = drawn_by(shop)[1]
    plain = Group(prefix=shop.head(group.window), branches=(group.window.suffix_ids,))
    [[before]] = shop.scorer.logprobs([plain])
    for rollout, reward in zip(group.rollouts, group.rewards, strict=True):
        thought = rollout.token_ids[: rollout.thought_tokens]
        [[after]] = shop.scorer.logprobs(
            [Group(prefix=shop.head(group.window, *b"<think>", *thought), branches=(group.window.suffix_ids,))]
        )
        assert reward == pytest.approx(float(after.mean() - before.mean()), abs=1e-4)
        assert bytes(thought).endswith(b"</think>")
    one = rlmt.example(shop, group)
    assert [len(branch) for branch in one.group.branches] == [r.thought_tokens for r in group.rollouts]


def test_specific_gain_takes_off_what_a_thought_does_for_the_next_window() -> None:
    shop = rlmt.open_workshop(settings("rlmt.reward='specific-gain'"), material(matcher=None))
    groups = drawn_by(shop)

    def gain(window: Window, thought: tuple[int, ...]) -> float:
        [[before], [after]] = shop.scorer.logprobs(
            [
                Group(prefix=shop.head(window, *ids), branches=(window.suffix_ids,))
                for ids in ((), (*b"<think>", *thought))
            ]
        )
        return float(after.mean() - before.mean())

    for group, other in zip(groups, groups[1:] + groups[:1], strict=True):
        for rollout, reward in zip(group.rollouts, group.rewards, strict=True):
            thought = rollout.token_ids[: rollout.thought_tokens]
            assert reward == pytest.approx(gain(group.window, thought) - gain(other.window, thought), abs=1e-4)
    assert not any(group.dead for group in groups)


def test_gain_over_blank_has_the_blank_reward_as_its_baseline() -> None:
    shop = rlmt.open_workshop(settings("rlmt.reward='gain-over-blank'", "rlmt.blanks=4"), material())
    groups = drawn_by(shop)
    for group in groups:
        assert group.blank is not None
        assert group.blank * 4 == int(group.blank * 4)
        assert group.advantages == pytest.approx([reward - group.blank for reward in group.rewards])
    assert describe(groups)["blank_reward"] == pytest.approx(np.mean([group.blank for group in groups]))


def test_groups_without_variance_teach_nothing_and_can_be_drawn_anew() -> None:
    nobody = Matcher(judge=MATCHER.judge, threshold=2.0)
    shop = rlmt.open_workshop(settings(), material(matcher=nobody))
    before = {name: value.clone() for name, value in shop.trainer.masters.items()}
    groups = drawn_by(shop)
    assert describe(groups)["dead_rate"] == 1.0
    assert rlmt.learn(shop, groups, 0) == {}
    assert all(torch.equal(value, before[name]) for name, value in shop.trainer.masters.items())


def test_metrics_tell_copies_and_sameness_apart() -> None:
    def rollout(thought: int, closed: bool) -> Rollout:
        return Rollout(
            token_ids=(1,) * 6, logprobs=(-2.0,) * 6, drawn=(True,) * 6, thought_tokens=thought, closed=closed
        )

    window = dataclasses.replace(WINDOWS[0], prefix="the big whale sings at night")
    group = Drawn(
        window=window,
        rollouts=(rollout(2, True), rollout(4, False)),
        thoughts=("the big whale sings", "it may dive in deep water"),
        suffixes=("no such thing", "dive in deep water now"),
        rewards=(0.0, 1.0),
        advantages=(-0.5, 0.5),
    )
    found = describe([group])
    assert found["copied_from_prefix"] == 0.5
    assert found["copied_to_suffix"] == pytest.approx((0 + 2 / 3) / 2)
    assert (found["close_rate"], found["thought_tokens"], found["entropy"]) == (0.5, 3.0, 2.0)
    assert (found["reward"], found["reward_variance"], found["dead_rate"]) == (0.5, 0.25, 0.0)
    assert found["distinct_thoughts"] == 1.0
    assert found["blank_reward"] is None
    assert found["capped_reward"] == 1.0


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("rlmt.advantage='grpo'", "rlmt.updates=2", "rlmt.kl_weight=0.05"),
        ("rlmt.reward='information-gain'",),
        ("rlmt.reward='specific-gain'",),
        ("rlmt.reward='gain-over-blank'", "rlmt.resample=1"),
    ],
    ids=["dr-grpo", "grpo, two updates, kl", "information gain", "specific gain", "gain over blank"],
)
def test_each_reward_trains_and_an_interrupted_run_ends_with_the_same_weights(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = settings(
        *overrides, "rlmt.steps=4", "rlmt.checkpoint_every=2", "rlmt.learning_rate=3e-3", "rlmt.monitor_every=1"
    )
    runs = [Run.create_or_open(tmp_path / name).stage("arm", "rlmt") for name in ("whole", "cut")]
    whole = rlmt.run(cfg, runs[0], material())
    learn, calls = rlmt.learn, 0

    def deadly(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return learn(*args)

    with monkeypatch.context() as patch:
        patch.setattr(rlmt, "learn", deadly)
        with pytest.raises(KeyboardInterrupt):
            rlmt.run(cfg, runs[1], material())
    again = rlmt.run(cfg, runs[1], material())
    assert (whole / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    logs = [rows(tmp_path / name, "arm/rlmt/metrics.jsonl") for name in ("whole", "cut")]
    assert logs[0] == logs[1]
    assert [one["step"] for one in logs[0]] == [0, 1, 2, 3, 4]
    assert sum(one.get("rlmt/gradient_norm", 0.0) > 0 for one in logs[0]) >= 2
    if not cfg.rlmt.kl_weight:
        assert logs[0][1]["rlmt/kl"] == pytest.approx(0.0, abs=1e-6)
    assert max(one.get("rlmt/kl") or 0.0 for one in logs[0]) > 0


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
    cfg = settings(*more, "rlmt.monitor_samples=8")
    folder = Run.create_or_open(tmp_path).stage("arm", "rlmt")
    matcher = Matcher(judge=MATCHER.judge, threshold=0.1)
    rlmt.run(cfg, folder, material(windows=WINDOWS[4:], heldout=WINDOWS[:4], matcher=matcher))
    found = rows(tmp_path, "arm/rlmt/metrics.jsonl")
    assert found[-1]["rlmt/heldout_reward"] > found[0]["rlmt/heldout_reward"] + 0.3


def test_configs_that_cannot_be_meant_are_refused() -> None:
    for wrong, words in (
        (("rlmt.reward='gain-over-blank'", "rlmt.advantage='grpo'"), "no standard deviation"),
        (("rlmt.match.kind='llm'",), "exactly one of `model` and `endpoint`"),
        (("thinking.probe_samples=9",), "takes thoughts of the gate"),
        (("chunk.rlmt_share=0.0",), "rlmt_share must not be 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            settings(*wrong)


PROMPT, COMPLETIONS = "The whale is", [" a fish<x> no", " big<x> and it sings", " here<x>", " a mammal<x> yes, yes"]
MASKED = b"<x>"
"""Stands for what the harness inserted."""


def grpo(architecture: str, loss_type: str, folder: Path, beta: float) -> GRPOTrainer:
    options = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=24,
        loss_type=loss_type,
        beta=0.0,
        use_bias_correction_kl=False,  # the estimator as the paper has it
        temperature=1.0,
    )
    trainer = GRPOTrainer(
        model=tiny_model(architecture),
        reward_funcs=lambda completions, **more: [0.0] * len(completions),
        args=options,
        train_dataset=datasets.Dataset.from_list([{"prompt": PROMPT}] * 4),
        processing_class=byte_tokenizer(),
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.beta = beta  # set late: it would look for the reference on the hub, and the rows have its numbers
    return trainer


def drawn_mask(ids: bytes) -> np.ndarray:
    mask = np.ones(len(ids), np.float32)
    start = ids.index(MASKED)
    mask[start : start + len(MASKED)] = 0
    return mask


def moved(architecture: str) -> Any:
    """A model a little away from the one that drew the rows, so that ratios are not 1 and clipping acts."""
    model = tiny_model(architecture)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def padded(parts: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
    width = max(map(len, parts))
    return torch.tensor([[*map(float, part), *[0.0] * (width - len(part))] for part in parts]).to(dtype)


def oracle_rows(architecture: str) -> Iterator[Any]:
    ids = [text.encode() for text in COMPLETIONS]
    group = Group(prefix=tuple(PROMPT.encode()), branches=tuple(tuple(one) for one in ids))
    yield ids
    yield group
    for seed in (0, 1):
        [logprobs] = TorchScorer(Policy(tiny_model(architecture, seed=seed))).logprobs([group])
        yield logprobs


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize(("loss_type", "beta"), [("dr_grpo", 0.0), ("grpo", 0.0), ("grpo", 0.04)])
def test_loss_and_gradients_are_trls(architecture: str, loss_type: str, beta: float, tmp_path: Path) -> None:
    """TRL gets padded separate sequences with a mask over inserted tokens, we get one prefix with its branches."""
    ids, group, old, reference = oracle_rows(architecture)
    values = advantages([1.0, 0.0, 0.0, 1.0], None, scaled=loss_type == "grpo")
    off_policy = loss_type == "grpo"
    model = moved(architecture) if off_policy else tiny_model(architecture)
    trl = grpo(architecture, loss_type, tmp_path, beta)
    inputs: dict[str, Any] = {
        "prompt_ids": torch.tensor([list(PROMPT.encode())] * 4),
        "prompt_mask": torch.ones(4, len(PROMPT), dtype=torch.long),
        "completion_ids": padded(ids, torch.long),
        "completion_mask": padded([[1] * len(one) for one in ids], torch.long),
        "tool_mask": padded([drawn_mask(one) for one in ids], torch.long),
        "advantages": torch.tensor(values),
        "num_items_in_batch": torch.tensor(4),
    }
    if off_policy:
        inputs["old_per_token_logps"] = padded(old, torch.float32)
    if beta:
        inputs["ref_per_token_logps"] = padded(reference, torch.float32)
    model.train()
    trl.model.load_state_dict(model.state_dict())
    expected = trl._compute_loss(trl.model.train(), inputs)
    expected.backward()
    masks = [drawn_mask(one) for one in ids]
    example = Example(
        group=group,
        weights=tuple(m / m.sum() if off_policy else m for m in masks),
        advantages=values,
        old=tuple(old) if off_policy else None,
        reference=tuple(reference) if beta else None,
    )
    cfg = RLMTConfig(windows_per_step=1, rollouts=4, thought_tokens=16, suffix_tokens=8)
    cfg = cfg.model_copy(update={"advantage": "grpo" if off_policy else "dr-grpo"})
    schedule = Schedule(peak=1e-6, warmup=0, total=1, min_ratio=1.0)
    trainer = Trainer(Policy(model.eval()), schedule, Adam(clip_norm=float("inf")), micro_tokens=4096)
    ours: dict[str, torch.Tensor] = {}
    trainer.optimizer.register_step_pre_hook(
        lambda *_: ours.update({name: master.grad.clone() for name, master in trainer.masters.items()})
    )
    loss = functools.partial(policy_gradient, clip=(0.2, 0.2) if off_policy else None, kl_weight=beta)
    found = trainer.step([example], loss, step=0, normaliser=normaliser(cfg))
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    assert (found["clipped"] > 0) == off_policy
    for name, parameter in trl.model.named_parameters():
        largest = float(parameter.grad.abs().max())
        assert largest > 0, name
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-4 * largest)


@pytest.fixture(scope="module")
def done(finished: Finished) -> Path:
    return finished()


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
        return Measurement(
            stage="evaluate-rlmt", arm="a", metric="m", value=value, low=low, high=high, n=24, unit="u", subject="s"
        )

    needed = figure(310.0, 310.0, 310.0)
    said = judgement(figure(0.1, -0.1, 0.3), needed)
    assert said == "inside the noise of 24 windows; about 310 would resolve it"
    assert judgement(figure(0.2, 0.1, 0.3), needed) == "above zero"
    assert judgement(figure(-0.2, -0.3, -0.1), needed) == "below zero"
    assert judgement(figure(0.0, -0.1, 0.1), None) == "inside the noise of 24 windows"
    assert judgement(figure(0.0, 0.0, 0.0), None) == "no difference in any of 24 windows"
    few = dataclasses.replace(figure(0.2, 0.1, 0.3), n=4)
    assert judgement(few, needed) == "4 windows are too few to tell"
