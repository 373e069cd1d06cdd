"""A config is checked whole, and what is wrong with it is said so that it can be mended."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from forethought.config import ConfigError, build, dump, load
from forethought.config.shipped import config_names

MINIMAL = {"name": "x", "policy": {"model": "tiny-llama"}, "judges": {"s": {"kind": "shorter"}}}
LIKELIHOOD = {"kind": "likelihood", "model": {"model": "tiny-llama"}}
ENDPOINT = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}


def changed(**sections: object) -> dict[str, object]:
    return {**MINIMAL, **sections}


def test_overrides_are_toml_values_or_bare_text(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('name = "x"\n[policy]\nmodel = "tiny-llama"\n[judges.s]\nkind = "shorter"\n')
    config = load(path, ["improve.steps=7", "policy.model=some/name", "chunk.prefix_tokens=[3, 9]", "seed = 4"])
    assert (config.improve.steps, config.policy.model, config.seed) == (7, "some/name", 4)
    assert config.chunk.prefix_tokens == (3, 9)
    assert build(json.loads(dump(config))) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("improve.steps", "write section.key=value"),
        ("name.first=1", "name is a value, not a section"),
        ("improve.stepz=3", "improve.stepz: unknown key. Known here: adam_betas"),
        ("policy.modell=3", "policy.modell: unknown key. Known here: init, model, revision"),
        ("judges.s.kindd=3", "judges.s.kindd: unknown key. Known here: axis"),
        ("improve.steps=0", r"improve.steps: Input should be greater than 0 \(got 0\)"),
        ("name=a b", "name: String should match pattern"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "x.toml"
    path.write_text('name = "x"\n[policy]\nmodel = "tiny-llama"\n[judges.s]\nkind = "shorter"\n')
    with pytest.raises(ConfigError, match=message):
        load(path, [override])


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(ConfigError, match=r"bad\.toml: not a TOML file"):
        load(tmp_path / "bad.toml")
    with pytest.raises(ConfigError, match="not a TOML file"):
        load(tmp_path)


def test_a_bare_name_means_the_shipped_config_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_names() == ["article", "demo", "laptop", "paper", "scratch", "smoke", "study"]
    for name in config_names():
        assert load(name).name == name
    assert load(Path("smoke"), ["improve.steps=7"]).improve.steps == 7


def test_a_file_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smoke").write_text('name = "mine"\n[policy]\nmodel = "tiny-llama"\n[judges.s]\nkind = "shorter"\n')
    assert load("smoke").name == "mine"
    (tmp_path / "demo").mkdir()
    with pytest.raises(ConfigError, match="demo: not a TOML file"):
        load("demo")


@pytest.mark.parametrize(
    ("asked", "way"),
    [
        ("smok", "Did you mean smoke? Shipped configs: article, demo, laptop, paper, scratch, smoke, study"),
        ("else.toml", "Shipped configs: article, demo, laptop, paper, scratch, smoke, study"),
        ("configs/demo.toml", "For the shipped config of that name write `forethought run demo`"),
        ("demo.toml", "For the shipped config of that name write `forethought run demo`"),
        ("there/demo", "For the shipped config of that name write `forethought run demo`"),
    ],
)
def test_a_config_that_is_not_there_has_a_way_out(
    asked: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(f"{asked}: no such config file. {way}") + "$"):
        load(asked)


def test_what_is_wrong_in_a_shipped_config_is_said_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"^smoke:\n  improve\.step: unknown key"):
        load("smoke", ["improve.step=1"])


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"judges": {}}, "needs a judge"),
        ({"improve": {"objective": "sft-rewrite"}}, "needs a teacher"),
        ({"improve": {"rollouts": 1, "original": False}}, "DPO needs two candidates"),
        ({"improve": {"rewrite": {}}}, "exactly one of `model` and `endpoint`"),
        ({"judges": {"j": {"kind": "likelihood"}}}, "exactly one of `model` and `endpoint`"),
        ({"judges": {"j": {**LIKELIHOOD, "endpoint": ENDPOINT}}}, "exactly one of `model` and `endpoint`"),
        ({"judges": {"j": {"kind": "likelihood", "endpoint": ENDPOINT}}}, "a likelihood judge needs `model`"),
        ({"judges": {"j": {**LIKELIHOOD, "contrast": {"model": "tiny-qwen3"}}}}, "set normalise = 'byte'"),
        ({"judges": {"j": {**LIKELIHOOD, "kind": "pairwise", "axis": "safety"}}}, "set kind = 'pointwise'"),
        ({"judges": {"j": {**LIKELIHOOD, "kind": "pointwise"}}}, "set kind = 'pairwise'"),
        ({"chunk": {"prefix_tokens": [9, 3]}}, "must be .shortest, longest."),
        ({"chunk": {"sft_share": 0.6, "rlmt_share": 0.6}}, "nothing is left for improve"),
    ],
)
def test_what_does_not_fit_together_is_refused(sections: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(changed(**sections))


def test_candidates_are_counted_by_origin() -> None:
    config = build(changed(improve={"rollouts": 16, "rewrite": {"endpoint": ENDPOINT}}))
    assert config.candidates_per_prefix == 18
    assert build(changed(improve={"rollouts": 3, "original": False})).candidates_per_prefix == 3


INTERLEAVE = {"teacher": {"kind": "stand-in"}}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"sft": {}}, "[sft] trains on thoughts: add [interleave]"),
        ({"interleave": INTERLEAVE, "chunk": {"sft_share": 0.0}}, "chunk.sft_share must not be 0"),
        ({"interleave": {}}, "interleave.teacher: Field required"),
        ({"interleave": {"teacher": {}}}, "a teacher needs exactly one of `model` and `endpoint`"),
        ({"interleave": {"teacher": {"kind": "stand-in", "endpoint": ENDPOINT}}}, "kind = 'stand-in' takes neither"),
        ({"interleave": {**INTERLEAVE, "thoughts": [4, 2]}}, "must be [fewest, most]"),
        ({"interleave": {**INTERLEAVE, "tags": ["<a>", "<a>"]}}, "must be two tags that do not contain each other"),
        ({"interleave": {**INTERLEAVE, "tags": ["<a", "<a>"]}}, "must be two tags that do not contain each other"),
        ({"interleave": {**INTERLEAVE, "tags": [" ", "</a>"]}}, "must be two tags that do not contain each other"),
        ({"interleave": {**INTERLEAVE, "tags": ["aba", "</a>"]}}, "no tag may start with the end of a tag"),
    ],
)
def test_stage_two_is_checked(sections: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        build(changed(**sections))


def test_stage_two_is_optional() -> None:
    assert build(dict(MINIMAL)).interleave is None
    assert build(changed(interleave=INTERLEAVE)).sft is None
    whole = build(changed(interleave=INTERLEAVE, sft={"steps": 3}))
    assert whole.interleave is not None
    assert whole.sft is not None
    assert (whole.interleave.tags, whole.sft.steps) == (("<think>", "</think>"), 3)


def test_a_config_in_json_switches_no_code_on(tmp_path: Path) -> None:
    judge = {"kind": "likelihood", "model": {"model": "tiny-llama", "trust_remote_code": True}}
    data = changed(judges={"own": judge})
    for path, content in (("run.json", {"config": data}), ("other.json", data)):
        (tmp_path / path).write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=r"judges\.own\.model\.trust_remote_code: it is on.*--set judges\.own"):
            load(tmp_path / path)
        asked = load(tmp_path / path, ["judges.own.model.trust_remote_code=true"])
        assert asked.judges["own"].model is not None
        assert asked.judges["own"].model.trust_remote_code
