"""``Model``: what may be drawn, how tags become ids and a thought is cut out, and that saved weights come back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forethought.config import ModelConfig
from forethought.engine import Prompt
from forethought.engine.losses import nll
from forethought.engine.trainer import Example
from forethought.keys import Key
from forethought.models.model import Compute, Model, Parts
from forethought.records import Rollout
from forethought.tags import Tags
from forethought.testing import BOS_ID, EOS_ID, PAD_ID, ScriptedSampler, UniformScorer, byte_tokenizer

THINK = Tags("<think>", "</think>")
SPECIAL = (BOS_ID, EOS_ID, PAD_ID)


def stub(script: str = "abc", tags: Tags | None = THINK, bos: tuple[int, ...] = (BOS_ID,)) -> Model:
    """Return a model over bytes that writes ``script`` whatever it reads."""
    sampler = ScriptedSampler({"0": [tuple(script.encode())]})
    parts = Parts(tokenizer=byte_tokenizer(), sampler=sampler, scorer=UniformScorer(), bos=bos, special=SPECIAL)
    return Model("stub", "stub", parts, tags)


@pytest.fixture
def tiny() -> Model:
    return Model.load("tiny-llama", device="cpu", dtype="float32")


def train(model: Model, learning_rate: float = 1e-2) -> None:
    group = model.group("The whale", [" is big."])
    trainer = model.trainer(learning_rate=learning_rate, steps=2, warmup_steps=0)
    for step in range(2):
        trainer.step([Example(group=group)], nll, step=step, normaliser=8.0)


def test_what_stands_for_no_text_is_never_drawn(tiny: Model) -> None:
    assert set(SPECIAL) <= set(tiny.forbidden)
    drawn = [c for [c] in tiny.sample([f"Text {n}" for n in range(20)], max_tokens=20)]
    assert not {token for completion in drawn for token in completion.token_ids} & set(SPECIAL)
    [[stopped]] = tiny.sample(["The whale"], max_tokens=20, stop_ids=(EOS_ID,))
    assert not set(stopped.token_ids) & {BOS_ID, PAD_ID}  # an id that ends a completion may be drawn


def test_tags_that_are_tokens_may_be_drawn_by_a_model_that_has_them() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    tags = tuple(tokenizer.convert_tokens_to_ids(["<think>", "</think>"]))
    parts = Parts(tokenizer=tokenizer, sampler=ScriptedSampler(), scorer=UniformScorer(), special=(*SPECIAL, *tags))
    model = Model("tagged", "tagged", parts, THINK)
    assert (model.thoughts.open, model.thoughts.close) == (tags[:1], tags[1:])
    assert model.forbidden == SPECIAL
    assert model.with_tags(None).forbidden == (*SPECIAL, *tags)


def test_tags_without_tokens_of_their_own_are_text() -> None:
    assert bytes(stub().thoughts.open) == b"<think>"
    assert bytes(stub(tags=Tags("[", "]")).thoughts.between_tags("Why?")) == b"[Why?]"
    with pytest.raises(TypeError, match="stub has no tags around thoughts"):
        stub(tags=None).thoughts  # noqa: B018


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (" swims.", " swims."),
        ("<think>Why?</think> swims.", " swims."),
        (" swims<think>Why", " swims"),
        ("a</think>b", "a</think>b"),
    ],
)
def test_a_judge_reads_no_thought(written: str, read: str) -> None:
    [[completion]] = stub(written).sample(["The whale"], max_tokens=100)
    assert completion.text == read
    assert bytes(completion.token_ids).decode() == written  # what is trained on stays whole
    [[raw]] = stub(written, tags=None).sample(["The whale"], max_tokens=100)
    assert raw.text == written


def test_a_rollout_is_a_thought_and_a_suffix_over_one_prefix(tiny: Model) -> None:
    [rollouts] = tiny.think(["The whale"], k=3, thought_tokens=5, max_tokens=4)
    close = tiny.thoughts.close
    for rollout in rollouts:
        thought, suffix = rollout.token_ids[: rollout.thought_tokens], rollout.token_ids[rollout.thought_tokens :]
        assert thought[-len(close) :] == close
        assert len(suffix) == 4
        assert rollout.thought + "</think>" == tiny.decode(thought)
        assert rollout.text == tiny.decode(suffix)
        inserted = [token for token, own in zip(rollout.token_ids, rollout.drawn, strict=True) if not own]
        assert tuple(inserted) == (() if rollout.closed else close)


class Twice:
    """A sampler that opens a second thought in the suffix."""

    def think(self, prompts: Sequence[Prompt], k: int, *_: Any) -> list[list[Rollout]]:
        thought = tuple(b"Why?</think>")
        ids = thought + tuple(b" it <think>Hm.</think> swims")
        rollout = Rollout(
            token_ids=ids,
            logprobs=(0.0,) * len(ids),
            drawn=(True,) * len(ids),
            thought_tokens=len(thought),
            closed=True,
        )
        return [[rollout] * k for _ in prompts]


def test_a_second_thought_is_part_of_the_suffix_that_is_judged() -> None:
    sampler: Any = Twice()
    parts = Parts(tokenizer=byte_tokenizer(), sampler=sampler, scorer=UniformScorer())
    [[rollout]] = Model("stub", "stub", parts, THINK).think(["The whale"], thought_tokens=9, max_tokens=40)
    assert (rollout.thought, rollout.text) == ("Why?", " it <think>Hm.</think> swims")


def test_a_draw_depends_on_its_key_and_its_text_alone(tiny: Model) -> None:
    once, twice = (tiny.sample(["The whale"], k=2, max_tokens=6) for _ in range(2))
    assert once == twice
    # Beside another text the same tokens are drawn; sums over a padded batch may end in another last digit (AVX2).
    beside = tiny.sample(["The whale", "A fish"], k=2, max_tokens=6)[0]
    assert [c.token_ids for c in beside] == [c.token_ids for c in once[0]]
    assert [c.logprobs for c in beside] == [pytest.approx(c.logprobs, abs=1e-5) for c in once[0]]
    assert tiny.sample(["The whale"], k=2, max_tokens=6, key=Key(1, "sample")) != once


def test_texts_and_ids_make_the_same_group(tiny: Model) -> None:
    group = tiny.group("The whale", [" is big.", (32, 33)])
    assert group == tiny.group(tiny.encode("The whale"), [tiny.encode(" is big."), " !"])
    assert stub().group("A", ["b"]).prefix == (BOS_ID, ord("A"))
    [[first, second]] = tiny.logprobs([group])
    assert (first.dtype, first.shape, second.shape) == (np.float32, (8,), (2,))


def test_scores_of_what_was_drawn_are_those_of_the_sampler(tiny: Model) -> None:
    [[completion]] = tiny.sample(["The whale"], max_tokens=6)
    [[scored]] = tiny.logprobs([tiny.group("The whale", [completion.token_ids])], as_drawn=True)
    np.testing.assert_allclose(scored, completion.logprobs, atol=1e-4)
    [[whole]] = tiny.logprobs([tiny.group("The whale", [completion.token_ids])])
    assert (whole < scored).all()  # forbidden ids have a share of the whole vocabulary


def test_weights_are_let_go_of_and_loaded_again(tiny: Model) -> None:
    group = tiny.group("The whale", [" is big."])
    before = tiny.logprobs([group])[0][0]
    train(tiny)
    assert not np.array_equal(tiny.logprobs([group])[0][0], before)
    tiny.release()
    np.testing.assert_array_equal(tiny.logprobs([group])[0][0], before)
    model = stub()
    model.release()  # what was given and not loaded stays
    assert model.tokenizer is not None


def test_identity_is_known_without_weights(monkeypatch: pytest.MonkeyPatch, tiny: Model) -> None:
    from forethought.models import model as module

    monkeypatch.setattr(module, "load_parts", lambda *_: pytest.fail("weights were loaded"))
    named = Model.named(ModelConfig(model="tiny-llama"), Compute(device="cpu", dtype="float32"))
    assert named.identity == tiny.identity
    assert Model.named("tiny-qwen3").identity != tiny.identity
    assert (named.name, Model.named("tiny-llama", name="base", identity="known").identity) == ("tiny-llama", "known")


def test_trained_weights_come_back_in_float32_bit_for_bit(tiny: Model, tmp_path: Path) -> None:
    train(tiny)
    group = tiny.group("The whale", [" is big."])
    folder = tiny.save(tmp_path / "model")
    again = Model.load(str(folder), device="cpu", dtype="float32")
    for name, weight in tiny.policy.model.state_dict().items():
        loaded = again.policy.model.state_dict()[name]
        assert (loaded.dtype, torch.equal(loaded, weight)) == (torch.float32, True), name
    np.testing.assert_array_equal(again.logprobs([group])[0][0], tiny.logprobs([group])[0][0])
    assert again.identity != tiny.identity


def test_weights_are_copied_from_a_model_of_the_same_architecture(tiny: Model) -> None:
    reference = Model.load("tiny-llama", device="cpu", dtype="float32")
    train(tiny)
    group = tiny.group("The whale", [" is big."])
    assert not np.array_equal(reference.logprobs([group])[0][0], tiny.logprobs([group])[0][0])
    reference.copy_weights(tiny)
    np.testing.assert_array_equal(reference.logprobs([group])[0][0], tiny.logprobs([group])[0][0])


def test_wrong_calls_say_what_is_right(tiny: Model) -> None:
    with pytest.raises(TypeError, match=r"Model.load: no setting 'devise'; there are device, dtype, .*seed"):
        Model.load("tiny-llama", devise="cpu")
    with pytest.raises(TypeError, match=r"write \['The whale'\]"):
        tiny.sample("The whale", max_tokens=3)
    with pytest.raises(ValueError, match="a prefix is empty, and tiny-llama has no BOS token"):
        tiny.sample([""], max_tokens=3)
    with pytest.raises(ValueError, match="prefix of at least one token"):
        tiny.group("", [" is big."])
    with pytest.raises(TypeError, match=r"Model.trainer: no setting 'rate'; there are steps, learning_rate"):
        tiny.trainer(rate=1e-5)
    with pytest.raises(ValueError, match="learning_rate"):
        tiny.trainer(learning_rate=-1.0)
    tiny.trainer()
    with pytest.raises(ValueError, match="tiny-llama has a trainer already"):
        tiny.trainer()
    with pytest.raises(TypeError, match="stub is a stub without weights"):
        stub().trainer()
