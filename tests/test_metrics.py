"""Metrics and conditions are registered once, and everything that a run writes is among them."""

from __future__ import annotations

import copy
import json
import typing
from dataclasses import replace

import pytest
from helpers.smoke_runs import Finished

from forethought import graph, metrics
from forethought.judges import planted
from forethought.records import Measurement, to_dict
from forethought.run.files import read_jsonl

ARMS = {arm.name for arm in graph.ARMS}
FIGURE = Measurement(
    stage="evaluate-rlmt",
    arm="base",
    metric="gate reward",
    value=0.25,
    low=0.125,
    high=0.375,
    n=24,
    unit="",
    subject="",
)


@pytest.mark.slow
def test_everything_that_a_run_writes_is_registered(finished: Finished) -> None:
    figures = list(read_jsonl(finished() / "measurements.jsonl", Measurement))
    assert len({one.stage for one in figures}) == 8
    assert [one for one in figures if not metrics.known(one, ARMS)] == []
    assert all(metrics.of(one).kind is not metrics.UNKNOWN for one in figures)


@pytest.mark.parametrize(
    "change", [{"stage": "dream"}, {"arm": "nobody"}, {"metric": "joy"}, {"condition": "at night"}]
)
def test_what_nobody_registered_is_unknown(change: dict[str, str]) -> None:
    assert metrics.known(FIGURE, ARMS)
    assert not metrics.known(replace(FIGURE, **change), ARMS)


def test_a_difference_is_derived_from_its_metric() -> None:
    change = metrics.find("evaluate-rlmt", "gate reward difference")
    assert change is not None
    assert change == metrics.GATE_REWARD.difference
    assert (change.of, change.better, change.kind) == (metrics.GATE_REWARD, "up", metrics.SHARE)
    assert metrics.find("evaluate-rlmt", "gate reward smallest detectable difference") == metrics.GATE_REWARD.detectable
    assert metrics.find("evaluate-sft", "raw text NLL change") == metrics.NLL["raw text"].change
    assert metrics.find("reasoning", "pass@8 smallest detectable difference") == metrics.PASS.at(8).detectable
    assert metrics.find("evaluate", "suffix_nll_change").of == metrics.SUFFIX_NLL  # type: ignore[union-attr]
    assert metrics.find("evaluate", "gate reward") is None


def test_a_level_and_a_difference_read_differently() -> None:
    def read(**changes: typing.Any) -> str:
        figure = replace(FIGURE, **changes)
        return metrics.form(figure)(figure.value)

    assert read() == "25.0%"
    assert read(metric="gate reward difference", against="base-think") == "+25.0 points"
    assert read(metric="gate reward smallest detectable difference", against="base-think") == "25.0 points"
    assert read(stage="evaluate", metric="win_rate", against="base", arm="continued") == "25.0%"
    assert read(stage="reasoning", metric="mean@8", condition="gsm8k/plain") == "25.0%"
    assert read(stage="reasoning", metric="mean@8", condition="gsm8k/plain", against="base") == "+25.0 points"
    assert read(metric="joy") == "0.25"


def test_a_metric_is_a_string_wherever_it_is_copied_or_stored() -> None:
    figure = replace(FIGURE, metric=metrics.GATE_REWARD)
    assert figure == FIGURE
    assert json.dumps(to_dict(figure)) == json.dumps(to_dict(FIGURE))
    assert type(copy.deepcopy(figure).metric) is str


def test_the_audit_plants_the_conditions_that_are_registered() -> None:
    assert metrics.CONDITIONS[metrics.AUDIT] == ("", *typing.get_args(planted.Kind))
