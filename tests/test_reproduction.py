"""The configs after two other works: their numbers fit together, and each step of them can be planned."""

from __future__ import annotations

import os
from typing import Any

import pytest
from helpers.planted_rates import PLANTED, plant

from forethought import config
from forethought.config import Config
from forethought.config.shipped import config_names
from forethought.evals.reasoning.catalogue import TASKS
from forethought.graph import graph
from forethought.pipeline import plan


def here(name: str, *overrides: str) -> Config:
    """Return a config with models and a text that are here: a plan of these needs no package and no network."""

    def tiny(value: Any) -> Any:
        if isinstance(value, dict):
            small = {"model": "tiny-llama"} if {"model", "init"} <= value.keys() else {}
            return {key: tiny(one) for key, one in value.items()} | small
        return value

    return config.build({**tiny(config.load(name, overrides).model_dump(mode="json")), "corpus": {}}, where=name)


@pytest.fixture(autouse=True)
def _rates(own_cache: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)


def full(name: str) -> tuple[Config, int, int]:
    """Return a config that has all stages, the rows of its SFT and the windows of its RL."""
    found = config.load(name)
    assert found.interleave is not None
    assert found.sft is not None
    assert found.rlmt is not None
    return found, found.sft.steps * found.sft.rows_per_step, found.rlmt.steps * found.rlmt.windows_per_step


@pytest.mark.parametrize("name", ["article", "paper"])
def test_sft_is_one_epoch_and_places_are_asked_for_the_windows_that_are_used(name: str) -> None:
    found, rows, windows = full(name)
    assert found.interleave is not None
    assert found.interleave.rows == rows
    assert found.interleave.rlmt_rows == windows
    # Every window of the gate is of a row of its own.
    assert found.interleave.heldout_rows >= found.thinking.windows
    assert found.corpus.max_documents is not None
    documents, chunk = found.corpus.max_documents, found.chunk
    # With what is dropped there is text enough, and for stage 1 too.
    assert 0.7 * chunk.sft_share * documents >= rows
    assert 0.7 * chunk.heldout_share * documents >= found.interleave.heldout_rows
    assert 0.7 * chunk.rlmt_share * documents >= windows
    left = 1 - chunk.sft_share - chunk.rlmt_share - chunk.heldout_share
    assert left * documents > found.improve.steps * found.improve.prefixes_per_step


def test_the_articles_numbers() -> None:
    found, rows, windows = full("article")
    assert (rows, windows) == (8192, 400)
    assert found.evaluate.prefixes == found.evaluate.thoughts.prefixes == 128
    assert "greedy" in found.evaluate.conditions
    assert "greedy" in found.evaluate.thoughts.conditions
    assert found.thinking.windows >= 3200
    assert found.thinking.samples == 4
    assert found.reasoning is not None
    assert set(found.reasoning.tasks) == {"gsm8k", "math500", "gpqa", "olympiad"} <= set(TASKS)
    assert found.reasoning.samples == found.reasoning.passes[-1] == 8


def test_the_papers_numbers() -> None:
    found, rows, _ = full("paper")
    assert found.sft is not None
    assert found.rlmt is not None
    assert found.sft.steps == 7000
    assert 0.9e6 < rows / found.sft.steps * sum((found.chunk.prefix_tokens[1], found.chunk.suffix_tokens)) < 1.2e6
    assert (found.rlmt.steps, found.rlmt.advantage, found.rlmt.reward) == (5000, "dr-grpo", "binary")
    assert found.reasoning is not None
    assert (found.reasoning.samples, found.reasoning.max_tokens) == (16, 4096)


def test_scratch_has_stage_1_alone_from_random_weights() -> None:
    found = config.load("scratch")
    assert found.policy.init == "scratch"
    stages = ["chunk", "audit", "improve", "improve", "evaluate", "evaluate"]
    assert [step.stage for step in graph(found)] == stages


@pytest.mark.parametrize("name", config_names())
def test_every_step_of_a_shipped_config_has_a_plan(name: str) -> None:
    loaded = here(name)
    planned = {step for step, _ in plan.phases(plan.setting(loaded))}
    assert {step.name for step in graph(loaded)} <= planned


def test_the_plan_counts_the_chunks_that_give_no_row() -> None:
    def seconds(*overrides: str) -> float:
        return plan.estimate(here("demo", *overrides), PLANTED)["shared/interleave"]

    asked = seconds("interleave.max_tries=4")
    # As many tries as rows: those that fail are not replaced.
    assert seconds("interleave.max_tries=1") < 0.9 * asked
    assert seconds("interleave.rows=28", "interleave.heldout_rows=28") > 1.5 * asked
