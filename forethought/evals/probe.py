"""The thought-use probe: does it matter what the thought says?  Everything else is held equal, random numbers included.

A policy that was trained with thoughts may do better for having the tags, the pause, or words of the right kind.  So
its own thoughts are compared with none, with empty and generic ones, with its thoughts about other windows, with the
teacher's, and with its own words out of order.  That swapped thoughts do worse may only mean that they distract; that
own ones do better than blank ones may only mean that training made blanks unfamiliar.

What stands before a suffix changes its entropy, and text of less entropy matches more often by that alone.  So suffixes
are also compared at equal entropy: that of the condition with the most and that of the one with the least.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forethought import metrics
from forethought.algorithms.windows import Window
from forethought.config import ThinkingEvaluateConfig
from forethought.evals.recorder import Recorder
from forethought.evals.windows import (
    Drawn,
    Means,
    Result,
    Rollouts,
    WindowEval,
    at_levels,
    difference,
    gains,
    levels,
    means,
    predict,
    results,
)
from forethought.keys import Key
from forethought.metrics import BLANK, GENERIC, NEAR, NO_TAGS, OWN, PROBE, SHUFFLED, SWAPPED, TEACHER, at, own_against
from forethought.models.model import Model
from forethought.models.thought_tokens import ThoughtTokens
from forethought.records import Measurement
from forethought.text import copied, words
from forethought.user_code import call, load

Condition = Callable[[str, Window], str]
"""(a thought of the policy, its window) -> the text that is inserted instead of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    """What stands between prefix and prediction."""

    ids: tuple[int, ...]
    """Tags included."""
    said: str

    @classmethod
    def saying(cls, tokens: ThoughtTokens, text: str) -> Insert:
        """Return ``text`` as a thought, tags around it."""
        return cls(ids=tokens.between_tags(text), said=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """What came of one condition, per window."""

    gains: Means
    """Mean gain in the true suffix's log-probability, nats per token; it rests on no draw, so there is one of it."""
    copied: Means
    """Mean share of the prediction's word 3-grams that stand in the thought, at temperature 1."""
    draws: Mapping[str, Drawn]
    """The suffixes at temperature 1 (""), and at the highest and the lowest entropy of the arm's conditions."""
    found: Mapping[str, Mapping[str, Result]]
    """What each judge says of them, by its name and by entropy."""


def inserts(
    rollouts: Rollouts,
    evaluation: WindowEval,
    tokens: ThoughtTokens,
    cfg: ThinkingEvaluateConfig,
    conditions: Mapping[str, Condition] = {},
) -> dict[str, list[list[Insert]]]:
    """Return what is inserted under each condition, per window and sample; conditions that cannot be are left out.

    A window without a thought of the teacher has nothing inserted under that condition, and is not counted in it.
    ``conditions`` are the user's own, by name.
    """
    windows, fixed = evaluation.windows, [Insert.saying(tokens, text) for text in cfg.generic]

    def each(insert: Callable[[int, int], Insert]) -> list[list[Insert]]:
        """Return ``insert(window, sample)`` of every window and sample."""
        return [[insert(index, k) for k in range(cfg.probe_samples)] for index in range(len(windows))]

    def saying(text: Callable[[int, int], str]) -> list[list[Insert]]:
        return each(lambda index, k: Insert.saying(tokens, text(index, k)))

    def own_thought(index: int, k: int) -> Insert:
        rollout = rollouts[index][k]
        return Insert(ids=tokens.open + rollout.token_ids[: rollout.thought_tokens], said=rollout.thought)

    own, key = each(own_thought), Key(evaluation.seed, "shuffled thoughts")
    inserted = {
        OWN: own,
        BLANK: each(lambda index, k: Insert(ids=tokens.open + tokens.close, said="")),
        SHUFFLED: saying(lambda index, k: shuffled(own[index][k].said, key, f"{windows[index].id}/{k}")),
        NO_TAGS: each(lambda index, k: Insert(ids=(), said="")),
    }
    if fixed:
        inserted[GENERIC] = each(lambda index, k: fixed[(index + k) % len(fixed)])
    # A single window has no other whose thought it could be given.
    if len(own) > 1:
        others = derangement(evaluation.documents, Key(evaluation.seed, "swapped thoughts"))
        inserted[SWAPPED] = [own[other] for other in others]
        inserted[NEAR] = [own[other] for other in nearest(windows)]
    # Only where one was kept: differences pair on those windows.
    if any(window.thought for window in windows):
        taught = saying(lambda index, k: windows[index].thought)
        inserted[TEACHER] = [row if window.thought else [] for window, row in zip(windows, taught, strict=True)]
    written = {
        # write=write: a closure would see the loop's last function.
        name: saying(lambda index, k, write=write: write(own[index][k].said, windows[index]))  # type: ignore[misc]
        for name, write in conditions.items()
    }
    return {name: inserted[name] for name in PROBE if name in inserted} | written


def user_condition(name: str, path: str) -> tuple[Condition, str]:
    """Return a condition of the user's own, and a hash of its source."""
    user = load(path, f'thinking.conditions."{name}"')
    user.takes("thought", "window")

    def write(thought: str, window: Window) -> str:
        text = call(user, user.object, thought, window)
        if not isinstance(text, str):
            raise user.error(f"it returned {text!r}; expected the text of a thought")
        return text

    return write, user.source_hash


def probe(
    model: Model, evaluation: WindowEval, inserted: dict[str, list[list[Insert]]], *, matched: bool = True
) -> dict[str, Probed]:
    """Return what a model predicts under each condition; ``matched``: also at equal entropy."""
    # All inserts of a window are branches of its one prefix.
    every = range(len(evaluation.windows))
    together = [[insert.ids for rows in inserted.values() for insert in rows[index]] for index in every]
    gained = [iter(row) for row in gains(model, evaluation, together)]
    ids = {name: [[insert.ids for insert in row] for row in rows] for name, rows in inserted.items()}
    plain = {name: predict(model, evaluation, rows) for name, rows in ids.items()}
    # A condition of some windows only has the entropy of those windows: it sets no level.
    targets = levels([drawn.entropy for drawn in plain.values() if all(drawn.suffixes)]) if matched else {}
    measurements = {}
    for name, rows in inserted.items():

        def again(temperature: float, name: str = name) -> Drawn:
            return predict(model, evaluation, ids[name], temperature)

        draws = at_levels(plain[name], again, targets, evaluation.entropy_tolerance)
        own_gains = [[next(values) for _ in row] for values, row in zip(gained, rows, strict=True)]
        copies = [
            [copied(suffix, insert.said) for suffix, insert in zip(suffixes, row, strict=True)]
            for suffixes, row in zip(plain[name].suffixes, rows, strict=True)
        ]
        measurements[name] = Probed(
            gains=means(own_gains),
            copied=means(copies),
            draws=draws,
            found={judge: results(evaluation, draws, judge) for judge in evaluation.matchers},
        )
    return measurements


def figures(evaluation: WindowEval, model: Model, probed: dict[str, Probed]) -> list[Measurement]:
    """Return every condition's figures by every judge, and how the own thoughts differ from each other condition."""
    # Gains are the policy's own and no judge's; they stand with the judge that trains.
    figures, recorder = list[Measurement](), evaluation.recorder(model)
    over = "n held-out windows, interval over documents"
    for name, result in probed.items():
        figures += recorder.mean(metrics.PROBE_GAIN, result.gains, f"nats per token of the true suffix; {over}", name)
        figures += recorder.mean(metrics.PROBE_COPIED, result.copied, f"share of word 3-grams; {over}", name)
        if name != OWN:
            pair, unit = (probed[OWN].gains, result.gains), f"nats per token, paired; {over}"
            figures += recorder.difference(metrics.PROBE_GAIN, pair, unit, own_against(name))
    for judge in evaluation.matchers:
        for name, result in probed.items():
            figures += rates(evaluation.recorder(model, judge), name, result.draws, result.found[judge])
            if name != OWN:
                both = probed[OWN].found[judge], result.found[judge]
                figures += differences(evaluation.recorder(model, judge), own_against(name), *both)
    return figures


def rates(recorder: Recorder, name: str, draws: Mapping[str, Drawn], found: Mapping[str, Result]) -> list[Measurement]:
    """Return the rates of one condition and, beside each of them, the entropy at which it was reached."""
    over = "n held-out windows, interval over documents"
    figures: list[Measurement] = []
    for level, result in found.items():
        condition = at(name, level)
        share = f"share of predictions that match; {over}"
        figures += recorder.mean(metrics.PROBE_REWARD, result.rewards, share, condition)
        figures += recorder.mean(metrics.PROBE_SCORE, result.scores, f"mean score; {over}", condition)
        entropy = f"nats per token of the suffix; {over}"
        figures += recorder.mean(metrics.PROBE_ENTROPY, result.entropies, entropy, condition)
    for level, drawn in draws.items():
        count, unit = sum(map(bool, drawn.suffixes)), "temperature of the suffixes; n held-out windows"
        figures += recorder.value(metrics.PROBE_TEMPERATURE, drawn.temperature, count, unit, at(name, level))
    return figures


def differences(
    recorder: Recorder, name: str, own: Mapping[str, Result], other: Mapping[str, Result]
) -> list[Measurement]:
    """Return how the own thoughts' rates differ from those of another condition, at each entropy."""
    unit = "paired by window; n held-out windows, interval over documents"
    figures: list[Measurement] = []
    for level in own:
        rewards, scores = (own[level].rewards, other[level].rewards), (own[level].scores, other[level].scores)
        figures += recorder.difference(metrics.PROBE_REWARD, rewards, f"share, {unit}", at(name, level))
        figures += recorder.difference(metrics.PROBE_SCORE, scores, f"score, {unit}", at(name, level))
    return figures


def compare(recorder: Recorder, probed: dict[str, Probed], before: dict[str, Probed]) -> list[Measurement]:
    """Return how much more an arm's own thoughts help it than those of the arm it is compared with help that one."""
    over = "nats per token, paired by window; n held-out windows, interval over documents"
    measurements = recorder.difference(metrics.PROBE_GAIN, (probed[OWN].gains, before[OWN].gains), over, OWN)
    if SWAPPED in probed and SWAPPED in before:
        measurements += recorder.difference(metrics.PROBE_SPECIFIC, (specific(probed), specific(before)), over)
    return measurements


def specific(probed: dict[str, Probed]) -> Means:
    """Return, per window, the gain of the own thought less that of a thought about another window."""
    return difference(probed[OWN].gains, probed[SWAPPED].gains)


def examples(
    evaluation: WindowEval, inserted: dict[str, list[list[Insert]]], probed: dict[str, Probed], count: int
) -> list[dict[str, Any]]:
    """Return the first windows with what was thought and predicted under each condition, at temperature 1."""
    judge = next(iter(evaluation.matchers))
    scored = {name: result.found[judge][""].samples for name, result in probed.items()}
    return [
        {
            "window": window.id,
            "prefix": window.prefix,
            "suffix": window.suffix,
            "conditions": {
                name: {
                    "thought": inserted[name][index][0].said,
                    "prediction": result.draws[""].suffixes[index][0],
                    "score": samples.scores[index][0],
                }
                for name, result in probed.items()
                if inserted[name][index] and (samples := scored[name]) is not None
            },
        }
        for index, window in enumerate(evaluation.windows[:count])
    ]


def derangement(documents: Sequence[str], key: Key) -> list[int]:
    """Return a permutation without a fixed point, in which as few as can be meet another window of their document."""
    # In a keyed order, each takes the thoughts of the one that stands a fixed number of places further on.
    count = len(documents)
    order = key.generator().permutation(count).tolist()
    # By shift: how many windows would meet one of their own document.
    met = {
        shift: sum(documents[order[i]] == documents[order[(i + shift) % count]] for i in range(count))
        for shift in range(1, count)
    }
    best = min(met, key=lambda shift: (met[shift], shift))
    other = {index: order[(place + best) % count] for place, index in enumerate(order)}
    return [other[index] for index in range(count)]


def nearest(windows: Sequence[Window]) -> list[int]:
    """Return, for each window, another one of its document, or else the one whose prefix has the likest words."""
    bags = [Counter(words(window.prefix)) for window in windows]
    # Weighted by rarity: a word that every prefix has says nothing of likeness.
    spread = Counter(word for bag in bags for word in bag)
    rows = [{word: n * math.log(len(bags) / spread[word]) for word, n in bag.items()} for bag in bags]
    norms = [math.sqrt(sum(value**2 for value in row.values())) or 1.0 for row in rows]

    def likeness(a: int, b: int) -> tuple[bool, float]:
        dot = sum(value * rows[b].get(word, 0.0) for word, value in rows[a].items())
        # As a tuple: the same document wins over any likeness of words.
        return windows[a].document_id == windows[b].document_id, dot / (norms[a] * norms[b])

    every = range(len(windows))
    return [max((likeness(index, other), other) for other in every if other != index)[1] for index in every]


def shuffled(text: str, key: Key, item: str) -> str:
    said = text.split()
    return " ".join(said[place] for place in key.generator(item).permutation(len(said)).tolist())
