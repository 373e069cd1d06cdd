"""The graph as data: order, inputs, which config has which step, and what a selection means."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.smoke_runs import CONFIG

from forethought import config, graph
from forethought.config import Config
from forethought.graph import STEPS, SelectionError
from forethought.pipeline.runner import stage_class
from forethought.stages.base import Stage

ARMS = ("base-think", "base-rlmt", "self-improved", "self-improved-think", "self-improved-rlmt")


def smoke(*overrides: str) -> Config:
    return config.load(CONFIG, overrides)


def names(steps: list[graph.Step]) -> list[str]:
    return [step.name for step in steps]


def test_every_step_stands_after_what_it_reads_and_only_once() -> None:
    seen: set[str] = set()
    for step in STEPS:
        assert {*step.inputs, *step.gates} <= seen, step.name
        assert step.name not in seen
        seen.add(step.name)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_every_step_has_a_stage_in_a_file_of_its_name(step: graph.Step) -> None:
    stage = stage_class(step)
    assert issubclass(stage, Stage)
    assert stage.name == step.stage
    assert stage.__module__ == step.module == f"forethought.stages.{step.stage.replace('-', '_')}"


def test_the_smoke_config_has_all_arms_and_controls() -> None:
    whole = names(graph.graph(smoke()))
    assert whole == names(list(STEPS))
    trained = {step.arm for step in graph.graph(smoke()) if step.stage in ("improve", "sft", "rlmt")}
    assert trained == {arm.name for arm in graph.ARMS} - {"base"}
    bare = {step.arm for step in graph.graph(smoke("improve.control=false", "sft.control=false", "rlmt.control=false"))}
    assert bare == {*ARMS, "shared"}


@pytest.mark.parametrize(
    ("override", "gone"),
    [
        ("audit.enabled=false", {"shared/audit"}),
        (
            "improve.objective=continued",
            {"shared/audit"} | {step.name for step in STEPS if step.arm.partition("-")[0] == "continued"},
        ),
        ("improve.control_lineage=false", {step.name for step in STEPS if step.arm.startswith("continued-")}),
        ("sft.control=false", {f"{lineage}-raw/sft" for lineage in graph.LINEAGES}),
        ("rlmt.control=false", {f"{lineage}-rl/rlmt" for lineage in graph.LINEAGES}),
    ],
)
def test_a_config_has_the_steps_that_it_asks_for(override: str, gone: set[str]) -> None:
    assert set(names(graph.graph(smoke()))) - set(names(graph.graph(smoke(override)))) == gone


def test_what_comes_after_and_what_is_needed() -> None:
    late = names(graph.after("self-improved/improve"))
    assert late[:2] == ["self-improved/evaluate", "self-improved-think/sft"]
    assert not any(name.startswith(("base-", "continued")) for name in late)
    assert {"shared/evaluate-sft", "self-improved-rlmt/rlmt", "shared/evaluate-rlmt"} <= set(late)
    assert graph.after("shared/audit") == []
    assert set(names(graph.after("shared/chunk"))) == set(names(list(STEPS))) - {"shared/chunk"}
    steps = graph.graph(smoke())
    needed = graph.needs(graph.select(steps, ["base-rlmt/rlmt"]), steps)
    assert names(needed) == ["shared/chunk", "shared/interleave", "base-think/sft", "shared/calibrate"]
    assert "shared/audit" in names(graph.needs(graph.select(steps, ["self-improved-rlmt/rlmt"]), steps))


def test_a_selection_is_a_stage_or_a_step() -> None:
    steps = graph.graph(smoke())
    assert names(graph.select(steps, ["evaluate", "base-raw/sft"])) == [
        "self-improved/evaluate",
        "continued/evaluate",
        "base-raw/sft",
    ]
    assert names(graph.until(steps, "audit")) == ["shared/chunk", "shared/audit"]
    assert names(graph.until(steps, "improve"))[-1] == "continued/improve"


def test_a_wrong_name_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(
        SelectionError,
        match=r"rlm: no such step in this config\. Did you mean rlmt\? Stages: chunk, .*Steps: shared/chunk",
    ):
        graph.select(graph.graph(smoke()), ["rlm"])
    text = CONFIG.read_text()
    (tmp_path / "bare.toml").write_text(text[: text.index("[interleave]")] + text[text.index("[evaluate]") :])
    bare = graph.graph(config.load(tmp_path / "bare.toml"))
    with pytest.raises(SelectionError, match=r"sft: no such step in this config: there is no \[sft\] table"):
        graph.until(bare, "sft")


def test_arms_are_compared_with_those_that_take_part() -> None:
    found = {arm.name: arm for arm in graph.arms(smoke())}
    assert found["self-improved-think"].past == ("self-improved", "self-improved-raw")
    assert found["self-improved-think"].peer == ("base-think", "continued-think")
    assert found["base-rlmt"].past == ("base-think", "base", "base-rl")
    off = ("improve.control=false", "sft.control=false", "rlmt.control=false")
    bare = {arm.name: arm for arm in graph.arms(smoke(*off))}
    assert bare["self-improved-think"].peer == ("base-think",)
    assert bare["self-improved-think"].past == ("self-improved",)
    assert not [arm for arm in bare.values() if arm.control]
    alone = graph.among([found["base"], found["base-rlmt"]])
    assert [arm.past + arm.peer for arm in alone] == [(), ("base",)]
    for number, arm in enumerate(graph.ARMS):  # each stands after those that it is compared with
        assert {*arm.past, *arm.peer} <= {one.name for one in graph.ARMS[:number]}
