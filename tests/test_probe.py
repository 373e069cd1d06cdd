"""Gate and probe: scripted policies show what they must, and differences know how many windows they lack."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought import metrics
from forethought.algorithms.windows import Window
from forethought.engine import Group
from forethought.evals import probe, reward_gate
from forethought.evals.controls import COPIES, IGNORES, controls
from forethought.evals.windows import Player, Task, gains, ledger, means, play, predict
from forethought.judges.match import Matcher, SimilarityJudge
from forethought.keys import Key
from forethought.models.embedding import LetterEmbedder
from forethought.models.thought_tokens import ThoughtTokens
from forethought.records import Measurement
from forethought.tags import Tags
from forethought.testing import BOS_ID, byte_tokenizer

THINK = Tags("<think>", "</think>")
CODEC = ThoughtTokens.of(byte_tokenizer(), THINK)
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
TASK = Task(
    windows=WINDOWS,
    matcher=Matcher(judge=SimilarityJudge(LetterEmbedder()), threshold=0.7),
    longer=False,
    tags=THINK,
    thought_tokens=16,
    suffix_tokens=9,
    seed=0,
)


def probed(player: Player, samples: int = 2) -> tuple[dict[str, probe.Probed], list[Measurement]]:
    _, thoughts = play(player, TASK, samples)
    assert thoughts is not None
    inserted = probe.inserts(thoughts, TASK, player.codec, samples, ("Hm.", "So."))
    found = probe.probe(player, TASK, inserted)
    return found, probe.figures(ledger(player, TASK), found)


@pytest.fixture(scope="module")
def players() -> dict[str, Player]:
    return {player.name: player for player in controls(WINDOWS, CODEC, (BOS_ID,))}


def difference(figures: Sequence[Measurement], condition: str) -> Measurement:
    [one] = [f for f in figures if (f.metric, f.condition) == ("probe reward difference", f"own against {condition}")]
    return one


def test_the_probe_sees_a_policy_that_copies_its_thought(players: dict[str, Player]) -> None:
    found, figures = probed(players[COPIES])
    assert list(found) == list(metrics.PROBE)
    assert found[probe.OWN].rewards == [1.0] * 12
    assert found[probe.OWN].copied == [0.0] * 12  # two words: there is no 3-gram to copy
    for condition in (probe.BLANK, probe.GENERIC, probe.SWAPPED, probe.NEAR, probe.NO_TAGS):
        one = difference(figures, condition)
        assert one.low is not None
        assert one.low > 0.5, condition
        assert one.n == 12
    # Its letters count, not their order; the teacher says it, too.
    assert difference(figures, probe.SHUFFLED).value == 0.0


def test_the_probe_sees_no_difference_where_thoughts_are_ignored(players: dict[str, Player]) -> None:
    found, figures = probed(players[IGNORES])
    mean = next(f for f in figures if f.metric == metrics.PROBE_REWARD and f.condition == probe.OWN)
    assert 0.2 < mean.value < 0.8
    for condition in metrics.PROBE[1:]:
        one = difference(figures, condition)
        assert (one.value, one.low, one.high) == (0.0, 0.0, 0.0), condition
        assert found[condition].predictions.suffixes == found[probe.OWN].predictions.suffixes


def test_what_is_inserted(players: dict[str, Player]) -> None:
    _, thoughts = play(players[COPIES], TASK, 2)
    assert thoughts is not None
    inserted = probe.inserts(thoughts, TASK, CODEC, 2, ("Hm.", "So."))
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


def test_without_thoughts_of_a_teacher_or_other_windows_conditions_are_left_out(players: dict[str, Player]) -> None:
    alone = dataclasses.replace(TASK, windows=[dataclasses.replace(WINDOWS[0], thought="")])
    _, thoughts = play(players[COPIES], alone, 1)
    assert thoughts is not None
    assert list(probe.inserts(thoughts, alone, CODEC, 1, ())) == [probe.OWN, probe.BLANK, probe.SHUFFLED, probe.NO_TAGS]


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


def test_gain_is_over_no_insert_at_all(players: dict[str, Player]) -> None:
    player = dataclasses.replace(players[COPIES], scorer=Depends())
    rows = [[CODEC.open + CODEC.close, ()] for _ in WINDOWS]
    assert gains(player, TASK, rows) == [[1.0, 0.0]] * 12


def test_arms_are_compared_by_what_their_own_thoughts_do(players: dict[str, Player]) -> None:
    found, _ = probed(players[COPIES])
    own = [0.5, None, *[0.25] * 10]
    better = found | {probe.OWN: dataclasses.replace(found[probe.OWN], gains=own)}
    figures = probe.compare(ledger(players[COPIES], TASK), better, (IGNORES, found))
    gained = {one.metric: one for one in figures}
    assert gained["probe gain difference"].value == pytest.approx(3.0 / 11)
    assert gained["probe specific gain difference"].value == pytest.approx(3.0 / 11)  # what is swapped gains nothing
    assert {one.against for one in figures} == {IGNORES}
    assert gained["probe gain difference"].n == 11
    foreign = dataclasses.replace(found[probe.SWAPPED], gains=[0.25] * 12)
    assert probe.specific(better | {probe.SWAPPED: foreign}) == [0.25, None, *[0.0] * 10]


def test_conditions_share_their_random_numbers(players: dict[str, Player]) -> None:
    rows = [[(), ()] for _ in WINDOWS]
    first, again = (predict(players[IGNORES], TASK, rows) for _ in range(2))
    assert first.suffixes == again.suffixes
    assert any(a != b for a, b in first.suffixes)  # two samples are two draws


def test_the_gate_compares_paired_and_says_how_many_windows_are_missing(players: dict[str, Player]) -> None:
    results = {}
    for name, player in players.items():
        scored, thoughts = play(player, TASK, 4)
        book = ledger(player, TASK)
        results[name], figures = reward_gate.summarise(book, scored, thoughts)
        values = {one.metric: one.value for one in figures}
        assert values["gate unscored"] == 0.0
        assert values["close rate"] == 1.0
        if name == COPIES:
            assert values["gate reward"] == values["oracle@4"] == 1.0
        else:
            assert values["oracle@4"] > values["gate reward"]
    compared = reward_gate.compare(book, results[IGNORES], (COPIES, results[COPIES]))
    found = {one.metric: one for one in compared}
    assert found["gate reward difference"].against == COPIES
    assert found["gate reward difference"].high < 0
    assert found["gate reward windows needed"].value < 12


def test_an_unscored_sample_is_no_zero() -> None:
    assert means([[1.0, None], [None, None], [0.0, 1.0]]) == [1.0, None, 0.5]
    book = ledger(controls(WINDOWS[:3], CODEC, ())[0], TASK)
    values = [1.0, None] + [0.0] * 10
    [mean] = book.mean("m", values, "share")
    assert (mean.n, mean.value) == (11, pytest.approx(1 / 11))
    [change, needed] = book.difference(
        metrics.Metric("m", "m", metrics.SHARE), (values, [None, 1.0, *[0.0] * 9, 1.0]), "share"
    )
    assert (change.n, change.value) == (10, pytest.approx(-0.1))
    assert needed.value > 10
    assert book.mean("m", [None] * 12, "share") == []


def test_a_task_without_windows_is_refused() -> None:
    with pytest.raises(ValueError, match="no held-out window"):
        reward_gate.demand(dataclasses.replace(TASK, windows=[]))


@pytest.mark.parametrize("spelled", ["</think>", "wait</think>", "x</think>\n"])
def test_closing_is_noticed_when_the_tag_is_complete(spelled: str) -> None:
    closed = CODEC.closed
    ids = list(spelled.encode())
    assert [end for end in range(1, len(ids) + 1) if closed(ids[:end])] == [spelled.index("</think>") + 8]
