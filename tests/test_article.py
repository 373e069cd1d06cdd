"""The table next to the paper and the article: each figure of theirs has one of ours, and the one like it."""

from __future__ import annotations

from typing import Any

import pytest

from forethought.records import Measurement
from forethought.report import article
from forethought.report.values import Figures

FOUR = ("base-think", "self-improved-think", "base-rlmt", "self-improved-rlmt")
OTHERS = ("base", "self-improved", "continued-think", "base-raw", "base-rl", "continued-rlmt")
"""Arms of ours that the article's gate and probe do not have."""
BIG, SMALL = "quality (training)", "unseen"


def one(stage: str, arm: str, metric: str, value: float = 0.5, **more: Any) -> Measurement:
    return Measurement(
        stage=stage, arm=arm, metric=metric, value=value, **({"n": 40, "unit": "", "subject": ""} | more)
    )


def planted() -> list[Measurement]:
    """Return what a run with every stage measures, and beside it what stands in no row."""
    found = []
    for arm, conditions in {
        "self-improved": ("sampled", "greedy", "entropy-matched"),
        "continued": ("greedy",),
    }.items():
        for condition in conditions:
            for judge, value in {BIG: 0.7, SMALL: 0.4, "kinder": 0.6}.items():
                place = {"against": "base", "condition": condition, "judge": judge}
                found.append(one("evaluate", arm, "win_rate", value, **place))
    found += [one("evaluate", arm, "suffix_nll", 2.5) for arm in ("base", "self-improved", "continued")]
    found.append(one("evaluate", "self-improved", "suffix_nll_change", 0.1, against="base"))
    for split, rows in {"sft": 8192.0, "heldout": 512.0}.items():
        found.append(one("interleave", split, "rows", rows))
        found += [one("interleave", split, name) for name in ("places_per_row", "words_per_thought")]
        found.append(one("interleave", split, "exact_preservation", 1.0))
        found += [one("interleave", split, "rejected", condition=why) for why in ("malformed reply", "too long")]
    for kind in ("thought with tags", "thought", "tag"):
        for arm in ("base", "self-improved", "base-think", "self-improved-think", "continued-think"):
            found += [one("evaluate-sft", arm, f"{kind} NLL", condition=of) for of in ("per row", "per token")]
    place = {"against": "base-think", "condition": "greedy"}
    found += [one("evaluate-sft", "self-improved-think", "win_rate", judge=judge, **place) for judge in (BIG, SMALL)]
    for arm in (*FOUR, *OTHERS):
        for condition in ("", "entropy-matched"):
            found.append(one("evaluate-rlmt", arm, "gate reward", condition=condition))
            against = {"against": "base-rlmt", "condition": condition}
            found.append(one("evaluate-rlmt", arm, "gate reward difference", **against))
        for thought in ("own thought", "blank thought", "generic thought", "thought about another window", "no tags"):
            found.append(one("evaluate-rlmt", arm, "probe reward", condition=thought))
            versus = {"condition": f"own against {thought}"}
            found.append(one("evaluate-rlmt", arm, "probe reward difference", **versus))
        for task in ("gsm8k", "math500", "olympiad", "gpqa", "macro"):
            for metric in ("mean@8", "pass@4", "pass@8"):
                place = {"condition": f"{task}/thought", "judge": "grader"}
                found.append(one("reasoning", arm, metric, **place))
                found.append(one("reasoning", arm, metric, against="base-rlmt", **place))
    return found


def curves() -> dict[str, list[dict[str, Any]]]:
    steps = range(1, 40)
    names = ("selection_rate", "selection_null", "margin", "margin_beta")
    improve = [{"step": step, **{f"improve/{name}": 0.01 * step for name in names}} for step in steps]
    return {
        "self-improved": improve,
        "base-rlmt": [{"step": step, "rlmt/thought_tokens": 20.0 + step} for step in steps],
    }


def shown(what: str) -> list[str]:
    """Return the labels and values of the rows that are called ``what ...``, as a reader sees them."""
    rows = [row for row in article.ROWS if row.what.startswith(what)]
    assert rows, what
    values = [pair for row in rows for pair in row.values(Figures(planted()), curves())]
    return [f"{label}: {value.text}" for label, value in values]


def test_a_whole_run_fills_every_row() -> None:
    figures = Figures(planted())
    assert [row.what for row in article.ROWS if not row.values(figures, curves())] == []


@pytest.mark.parametrize(
    "theirs",
    [
        *("63.3% [54.7, 71.1] of 128", "62.5% to 74.6%", "0.19", "2.56, then 2.60"),
        *("8,704 (8,192 to train, 512 held out)", "4.39", "99.98%", "4.24, then 3.16 and 3.14", "64 of 128"),
        *("8.8%, 9.1%, 9.4% and 9.8%", "18.0% to 20.3%", "1.6% and 2.3%", "16.6% to 17.5%", "50.0% and 51.2%"),
        "270M model from random weights",
    ],
)
def test_every_figure_of_the_article_has_a_row(theirs: str) -> None:
    assert any(theirs in row.article for row in article.ROWS)


def test_the_training_judge_stands_beside_theirs_and_no_judge_is_dropped() -> None:
    assert shown("Greedy continuations preferred") == [
        "greedy, quality (training): 70.0%",
        "greedy, unseen, least favourable: 40.0%",
        "greedy, kinder: 60.0%",
    ]
    assert [one.partition(":")[0] for one in shown("Before RLMT")] == [
        "greedy, quality (training), least favourable",
        "greedy, unseen",
    ]


@pytest.mark.parametrize(
    "what", ["Share of held-out predictions", "Probe: reward after own thought", "The same at matched"]
)
def test_gate_and_probe_have_the_articles_four_arms(what: str) -> None:
    rows = [row for row in article.ROWS if row.what.startswith(what) and row.section == "Stage 3"]
    labels = [label for row in rows for label, _ in row.values(Figures(planted()), curves())]
    assert labels == [*FOUR] * len(rows)


def test_the_judges_of_the_gate_are_named_if_there_are_several() -> None:
    [row] = (row for row in article.ROWS if row.what.startswith("Share of held-out predictions"))
    found = [one("evaluate-rlmt", "base-rlmt", "gate reward", v, judge=j) for j, v in {"a": 0.1, "b": 0.3}.items()]
    labels = [label for label, _ in row.values(Figures(found), {})]
    assert labels == ["base-rlmt, a, least favourable", "base-rlmt, b"]


def test_reasoning_and_the_reward_of_the_probe_have_their_differences() -> None:
    assert len(shown("Macro average, RLMT of the improved lineage")) == 1
    assert len(shown("Probe: reward after own thought less that after thought about another window")) == 4
    assert len(shown("Gate: RLMT of the improved lineage")) == 1
    assert shown("Macro average, pass@8")[0] == "base-think, thought, pass@8: 50.0%"
    for task in ("GSM8K", "MATH-500", "OlympiadBench", "GPQA-Diamond"):
        assert len(shown(task)) == len(FOUR) + len(OTHERS)
