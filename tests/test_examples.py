"""The library as its users meet it: the public names, and the examples that are written with them."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest
from helpers.dtypes import DTYPES, closeness
from helpers.processes import python
from helpers.repository import ROOT

import forethought

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LONGEST = 50
"""Lines of code of an example, without comments, docstrings and empty lines."""


def test_every_public_name_is_there_and_explained() -> None:
    names = forethought.__all__
    assert {"Model", "Key", "Config", "load_config", "Lifecycle", "Run", "dpo", "nll", "policy_gradient"} <= set(names)
    assert set(names) <= set(dir(forethought))
    for name in names:
        assert (getattr(forethought, name).__doc__ or "").strip(), f"{name} says nothing about itself"
        assert re.search(rf"\b{name}\b", forethought.__doc__ or ""), f"{name} is not in the package's docstring"


def test_a_public_name_is_the_thing_itself() -> None:
    from forethought import config
    from forethought.models import model
    from forethought.run import store

    assert forethought.load_config is config.load
    assert forethought.Run is store.Run
    assert forethought.Model is model.Model


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


def lines_of_code(text: str) -> int:
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in layout]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_takes_a_model(path: Path) -> None:
    text = path.read_text()
    assert lines_of_code(text) <= LONGEST
    assert 'parser.add_argument("--model"' in text
    assert "forethought." not in re.sub(r'""".*?"""', "", text, flags=re.DOTALL), "an example needs public names only"


def test_lines_of_code_are_counted_without_what_explains_them() -> None:
    assert lines_of_code('"""A page.\n\nTwo lines."""\n\n# why\nx = [\n    1,\n]\n\n\ndef f():\n    """Doc."""\n') == 4


@pytest.mark.slow
def test_online_dpo_learns_what_its_judge_prefers() -> None:
    shown = python(EXAMPLES[0], "--steps", "12", "--prefixes", "2")
    margins = [float(found) for found in re.findall(r"margin ([+-][\d.]+) nats", shown)]
    assert abs(margins[0]) < closeness(DTYPES[-1])  # the policy is the reference
    assert sum(margins[6:]) / len(margins[6:]) > 1.0


@pytest.mark.slow
def test_online_dpo_with_a_model_as_judge() -> None:
    shown = python(EXAMPLES[0], "--steps", "2", "--prefixes", "2", "--rollouts", "2", "--judge", "tiny-qwen3")
    assert len(re.findall(r"step \d+: loss", shown)) == 2


@pytest.mark.slow
def test_sft_learns_thoughts_of_other_documents() -> None:
    shown = python(ROOT / "examples" / "sft_thoughts.py", "--steps", "10")
    before, after = (float(nll) for nll in re.findall(r": thoughts ([\d.]+) nats", shown))
    assert after < before - 1.0


def test_sft_takes_thoughts_from_a_file(tmp_path: Path) -> None:
    rows = tmp_path / "thoughts.jsonl"
    rows.write_text(
        '{"before": "It burned down.", "thought": "A new one, then?", "after": " It was built in 1871."}\n' * 5
    )
    shown = python(ROOT / "examples" / "sft_thoughts.py", "--steps", "2", "--rows", "2", "--thoughts", rows)
    assert len(re.findall(r"step \d+: loss", shown)) == 2


@pytest.mark.slow
def test_rlmt_earns_more_than_at_first() -> None:
    shown = python(ROOT / "examples" / "rlmt.py")
    rewards = [float(reward) for reward in re.findall(r"reward ([\d.]+)", shown)]
    assert len(rewards) == 30
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 0.5
