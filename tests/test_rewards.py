"""Rewards of stage 3 on planted gains, and which of them are new objectives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from helpers.language import local_model

from forethought.algorithms.advantages import dr_grpo
from forethought.algorithms.rewards import (
    MatchTask,
    RewardsPG,
    hard_negatives,
    information_gain,
    reward_of,
    specific_gain,
)
from forethought.algorithms.rollouts import RolloutGroup
from forethought.algorithms.windows import Window
from forethought.engine import Group
from forethought.judges.match import Matcher, SimilarityJudge
from forethought.models.embedding import LetterEmbedder
from forethought.records import Rollout
from forethought.tags import Tags
from forethought.testing import UniformScorer

TASK = MatchTask(matcher=Matcher(judge=SimilarityJudge(LetterEmbedder()), threshold=0.5))
CLOSE = b"</think>"


def window(document: str, name: str = "") -> Window:
    """Return a window of the document with a one-letter name; its prefix begins with that letter."""
    name = name or document
    return Window(
        id=name,
        document_id=document,
        prefix=f"{name}: once",
        prefix_ids=tuple(f"{name}: once".encode()),
        suffix=f" {name}",
        suffix_ids=tuple(f" {name}".encode()),
        reference=f" {name} and on",
    )


def group(of: Window, *thoughts: str) -> RolloutGroup:
    """Return a group with these thoughts; one that ends with ``~`` was closed by the sampler."""

    def rollout(thought: str) -> Rollout:
        ids = (*thought.rstrip("~").encode(), *CLOSE, *b" x")
        closed = not thought.endswith("~")
        return Rollout(
            token_ids=ids,
            logprobs=(-1.0,) * len(ids),
            drawn=(True,) * len(ids),
            thought_tokens=len(ids) - 2,
            closed=closed,
            thought=thought.rstrip("~"),
        )

    return RolloutGroup(window=of, rollouts=tuple(rollout(thought) for thought in thoughts))


class Planted(UniformScorer):
    """Finds a suffix as likely as a test says: after a thought, or after the prefix of another window."""

    def __init__(
        self, gains: Mapping[tuple[str, str], float], near: Mapping[tuple[str, str], float] | None = None
    ) -> None:
        """``gains``: (thought, window) -> nats per token; ``near``: (window of a prefix, of a suffix) -> the same."""
        super().__init__()
        object.__setattr__(self, "gains", gains)
        object.__setattr__(self, "near", near or {})

    def logprobs(self, groups: Sequence[Group]) -> list[list[np.ndarray]]:
        return [[self._one(group.prefix, branch) for branch in group.branches] for group in groups]

    def _one(self, prefix: tuple[int, ...], branch: tuple[int, ...]) -> np.ndarray:
        text = bytes(i for i in (*prefix[1:], *branch)).decode()
        before, name = text[0], text[-1]
        thought = text.partition("<think>")[2].partition("</think>")[0]
        value = -5.0 + self.gains.get((thought, before), 0.0) + self.near.get((before, name), 0.0)
        return np.full(len(branch), value, np.float32)


def rewards(
    reward: Callable[..., RewardsPG], scorer: Planted, *groups: RolloutGroup, **settings: int
) -> list[list[float | None]]:
    model = local_model(scorer).with_tags(Tags("<think>", "</think>"))
    return [
        [None if value is None else round(value, 4) for value in row] for row in reward(groups, model, TASK, **settings)
    ]


def test_harm_to_other_texts_pays_nothing() -> None:
    """The same gain for its own text, with and without harm to the others."""
    gains = {("kind", "a"): 0.5, ("harm", "a"): 0.5, ("harm", "b"): -3.0, ("harm", "c"): -3.0, ("bad", "a"): -1.0}
    gains |= {("bad", "b"): -9.0, ("bad", "c"): -9.0, ("both", "a"): 0.5, ("both", "b"): 0.2, ("both", "c"): -9.0}
    groups = group(window("a"), "kind", "harm", "bad", "both"), group(window("b"), "x"), group(window("c"), "x")
    found = rewards(specific_gain, Planted(gains), *groups)
    # Harm to c does not make good what `both` does for b.
    assert found == [[0.5, 0.5, 0.0, 0.3], [0.0], [0.0]]


def test_a_general_thought_earns_no_less_than_one_that_harms_its_own_text() -> None:
    gains = {("fits all", name): 1.0 + (name == "b") for name in "ab"} | {("wrong", "a"): -1.0}
    found = rewards(specific_gain, Planted(gains), group(window("a"), "fits all", "wrong"), group(window("b"), "x"))
    assert found[0] == [0.0, 0.0]


def test_a_thought_that_the_policy_did_not_close_earns_nothing() -> None:
    groups = group(window("a"), "kind", "kind~"), group(window("b"), "x~")
    assert rewards(specific_gain, Planted({("kind", "a"): 0.5}), *groups)[0] == [0.5, 0.0]


def test_negatives_are_the_likeliest_windows_of_other_documents() -> None:
    windows = [window("a"), window("a", "A"), window("b"), window("c"), window("d")]
    # The other window of the same document is by far the likeliest, and is no negative.
    near = {("a", "A"): 4.0, ("a", "b"): 0.1, ("a", "c"): 2.0, ("a", "d"): 1.0, ("b", "A"): 1.0}
    model = local_model(Planted({}, near)).with_tags(Tags("<think>", "</think>"))
    found = [[other.id for other in row] for row in hard_negatives(windows, model, 2)]
    assert found[0] == ["c", "d"]
    assert found[2] == ["A", "a"]
    assert [other.id for other in hard_negatives(windows, model, 9)[0]] == ["c", "d", "b"]
    # A thought that helps c, which is near, loses by it; one that helps b, which is not, does so with more negatives.
    gains = {("x", "a"): 1.0, ("x", "c"): 0.6, ("y", "a"): 1.0, ("y", "b"): 0.6, ("z", "a"): 1.0, ("z", "A"): 0.6}
    groups = [group(windows[0], "x", "y", "z"), *(group(one, "-") for one in windows[1:])]
    assert rewards(specific_gain, Planted(gains, near), *groups, negatives=2)[0] == [0.4, 1.0, 1.0]
    assert rewards(specific_gain, Planted(gains, near), *groups, negatives=3)[0] == [0.4, 0.4, 1.0]


def test_without_another_document_nobody_can_say() -> None:
    groups = group(window("a"), "kind"), group(window("a", "A"), "kind")
    assert rewards(specific_gain, Planted({("kind", "a"): 0.5}), *groups) == [[None], [None]]


def test_a_step_depends_on_the_rule_and_the_negatives_only_where_they_matter() -> None:
    assert reward_of("specific-gain", 3)[1] != reward_of("specific-gain", 4)[1]
    assert reward_of("specific-gain")[1]
    assert reward_of("information-gain", 3)[1] == reward_of("binary", 4)[1] == {}


# --- Which rewards are new objectives: the exact expected gradient of a policy with four thoughts.

POLICY = np.array([0.1, 0.2, 0.3, 0.4])
"""Probability of each thought; the parameters are their logits."""


def expected_gradient(rewards: Sequence[float], baseline: float | None = None, rollouts: int = 2) -> np.ndarray:
    """Return the expectation of ``sum A_i grad log p(thought_i)`` over all groups of so many rollouts, exactly."""
    total = np.zeros(len(POLICY))
    for drawn in itertools.product(range(len(POLICY)), repeat=rollouts):
        advantages = dr_grpo([rewards[thought] for thought in drawn], baseline)
        gradient = sum(
            a * (np.eye(len(POLICY))[thought] - POLICY) for a, thought in zip(advantages, drawn, strict=True)
        )
        total += np.prod(POLICY[list(drawn)]) * gradient
    return total


@pytest.mark.parametrize("blank", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("rollouts", [2, 3])
def test_a_blank_baseline_changes_no_expected_gradient(blank: float, rollouts: int) -> None:
    """That of the group's mean is (G - 1)/G of it, since a rollout is part of its own baseline; another rate."""
    binary = [1.0, 0.0, 0.0, 1.0]
    over_blank, over_mean = expected_gradient(binary, blank, rollouts), expected_gradient(binary, None, rollouts)
    assert over_mean == pytest.approx(over_blank * (rollouts - 1) / rollouts)
    assert np.abs(over_mean).max() > 0.05


def test_information_gain_is_plain_likelihood_and_specific_gain_is_not() -> None:
    gains = {("p", "a"): 0.6, ("q", "a"): 0.5, ("q", "b"): 0.5, ("r", "a"): 0.3, ("r", "b"): -2.0, ("s", "a"): -0.4}
    groups = group(window("a"), "p", "q", "r", "s"), group(window("b"), "-")
    scorer = Planted(gains)
    informed, specific = (rewards(reward, scorer, *groups)[0] for reward in (information_gain, specific_gain))
    likelihood = [-5.0 + gains["pqrs"[i], "a"] for i in range(4)]
    assert expected_gradient(informed) == pytest.approx(expected_gradient(likelihood))
    assert specific == [0.6, 0.0, 0.3, 0.0]
    directions = [g / np.linalg.norm(g) for g in map(expected_gradient, (likelihood, specific))]
    assert directions[0] @ directions[1] < 0.9
