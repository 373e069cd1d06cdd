"""The shipped stand-ins do what the tests of everything else lean on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forethought.engine import Group, Prompt, Sampling
from forethought.keys import Key
from forethought.records import StopReason
from forethought.testing import (
    BOS_ID,
    SLIDING_WINDOW,
    VOCABULARY,
    ScriptedSampler,
    UniformScorer,
    byte_tokenizer,
    tiny_model,
)

TOKENIZER = byte_tokenizer()
# Everything that UTF-8 can write: any code point but a lone surrogate.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEY = Key(seed=3, purpose="rollouts")
PROMPTS = [Prompt(id="a", token_ids=(97,)), Prompt(id="b", token_ids=(98,))]


@given(TEXT)
def test_decode_undoes_encode_for_any_text(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(TEXT.filter(lambda text: "<" not in text))
def test_ids_are_the_bytes_of_the_text(text: str) -> None:
    assert TOKENIZER.encode(text) == list(text.encode())


def test_offsets_point_at_the_character_of_each_byte() -> None:
    encoded = TOKENIZER("a ö🤗", return_offsets_mapping=True)
    assert encoded["offset_mapping"] == [(0, 1), (1, 2), (2, 3), (2, 3), *[(3, 4)] * 4]


def test_bos_is_added_only_when_asked_for() -> None:
    assert TOKENIZER("ab").input_ids == [97, 98]
    assert byte_tokenizer(adds_bos=True)("ab").input_ids == [BOS_ID, 97, 98]
    assert len(TOKENIZER) == VOCABULARY


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
def test_tiny_models_depend_on_their_seed_alone(architecture: str) -> None:
    first = tiny_model(architecture, seed=1)
    state = torch.manual_seed(123).get_state()
    again, other = tiny_model(architecture, seed=1), tiny_model(architecture, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.get_input_embeddings().weight, other.get_input_embeddings().weight)
    assert first.dtype is torch.float32
    assert not first.training


def test_tiny_gemma_has_both_kinds_of_layers_and_tied_embeddings() -> None:
    model = tiny_model("gemma3")
    assert set(model.config.layer_types) == {"sliding_attention", "full_attention"}
    assert model.config.sliding_window == SLIDING_WINDOW
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
def test_a_far_token_is_felt_in_the_predictions(architecture: str) -> None:
    # Otherwise a test that compares masks with a tiny model could not fail.
    model = tiny_model(architecture)
    tokens_BT = torch.arange(64)[None]
    changed_BT = tokens_BT.clone()
    changed_BT[0, 0] = 200
    with torch.no_grad():
        difference_BTV = model(tokens_BT).logits.log_softmax(-1) - model(changed_BT).logits.log_softmax(-1)
    assert difference_BTV[0, 3 * SLIDING_WINDOW].abs().max() > 0.1


def test_unknown_architecture_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'mamba': known are llama, qwen3 and gemma3"):
        tiny_model("mamba")


def test_a_draw_depends_on_key_prompt_and_k_alone() -> None:
    sampling = Sampling(max_tokens=12)
    together = ScriptedSampler().sample(PROMPTS, 3, sampling, KEY)
    alone = ScriptedSampler().sample(PROMPTS[1:], 2, sampling, KEY)
    assert alone[0] == together[1][:2]
    assert len({completion.token_ids for row in together for completion in row}) == 6
    assert ScriptedSampler().sample(PROMPTS, 3, sampling, KEY.at(1)) != together
    assert bytes(together[0][0].token_ids).decode().strip("abcdefghijklmnopqrstuvwxyz ") == ""


def test_sampling_rules_are_kept() -> None:
    sampling = Sampling(max_tokens=200, stop_ids=(97,), forbidden_ids=(98, 99))
    completion = ScriptedSampler().sample(PROMPTS[:1], 1, sampling, KEY)[0][0]
    assert completion.stop is StopReason.STOP
    assert completion.token_ids.index(97) == len(completion.token_ids) - 1
    assert not {98, 99} & set(completion.token_ids)
    assert completion.logprobs[0] == pytest.approx(-math.log(25))
    greedy = ScriptedSampler().sample(PROMPTS[:1], 2, Sampling(max_tokens=9, temperature=0), KEY)[0]
    assert greedy[0] == greedy[1]


def test_scripts_are_replayed_and_start_over() -> None:
    sampler = ScriptedSampler({"a": [(1, 2, 3), (4,)]})
    rows = sampler.sample(PROMPTS, 3, Sampling(max_tokens=2), KEY)
    assert [completion.token_ids for completion in rows[0]] == [(1, 2), (4,), (1, 2)]
    assert all(len(completion.token_ids) == 2 for completion in rows[1])


def test_uniform_scorer_gives_every_token_its_share() -> None:
    groups = [Group(prefix=(1,), branches=((2, 3), (4,))), Group(prefix=(1,), branches=((5,),))]
    scorer = UniformScorer(vocabulary=8)
    scores = scorer.logprobs(groups)
    assert [[branch.shape for branch in group] for group in scores] == [[(2,), (1,)], [(1,)]]
    np.testing.assert_allclose(scores[0][0], [-math.log(8)] * 2, rtol=1e-6)
    choices = scorer.choices(groups, [65, 66, 67])
    assert [array.shape for array in choices] == [(2, 3), (1, 3)]
    assert choices[0].dtype == np.float32
