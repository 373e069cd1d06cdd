"""The library as its users meet it: the public names, and the example that is written with them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.dtypes import DTYPES, closeness
from helpers.processes import python

import forethought

ROOT = Path(__file__).parents[1]
LOOP = ROOT / "examples" / "online_dpo_loop.py"

PUBLIC = [
    "Adam",
    "Config",
    "Example",
    "Group",
    "Key",
    "Lifecycle",
    "ModelConfig",
    "Policy",
    "Prompt",
    "Run",
    "Sampling",
    "Schedule",
    "TorchSampler",
    "TorchScorer",
    "Trainer",
    "dpo",
    "load_config",
    "load_model",
]


def test_the_public_names_are_these() -> None:
    assert forethought.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(forethought))
    for name in PUBLIC:
        assert (getattr(forethought, name).__doc__ or "").strip(), f"{name} says nothing about itself"
        assert re.search(rf"\b{name}\b", forethought.__doc__ or "")


def test_a_public_name_is_the_thing_itself() -> None:
    from forethought import config, store
    from forethought.engine import trainer

    assert forethought.load_config is config.load
    assert forethought.Run is store.Run
    assert forethought.Trainer is trainer.Trainer


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'forethought' has no attribute 'Trainr'"):
        forethought.Trainr  # noqa: B018


def test_importing_the_package_imports_nothing() -> None:
    code = (
        "import sys, forethought\n"
        "forethought.__version__, forethought.load_config\n"
        "print([name for name in ('torch', 'transformers', 'forethought.engine') if name in sys.modules])\n"
        "from forethought import *\n"
        "print(dpo.__name__)"
    )
    assert python("-c", code) == "[]\ndpo\n"


@pytest.mark.slow
def test_the_example_loop_learns(tmp_path: Path) -> None:
    shown = python(LOOP, "--steps", "8", "--prefixes", "2")
    margins = [float(found) for found in re.findall(r"margin ([+-][\d.]+) nats", shown)]
    assert abs(margins[0]) < closeness(DTYPES[-1])  # the policy is the reference
    assert margins[-1] > 1.0
    assert LOOP.read_text().count("\n") <= 150


@pytest.mark.slow
def test_the_example_loop_with_a_model_as_judge() -> None:
    shown = python(LOOP, "--steps", "2", "--prefixes", "2", "--rollouts", "2", "--judge", "tiny-qwen3")
    assert len(re.findall(r"step \d+: loss", shown)) == 2
