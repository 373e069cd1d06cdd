"""The plan of a run: right counts, honest unknowns, and nothing touched."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from smoke_runs import CONFIG, SMALL

from forethought import config, plan
from forethought.config import JudgeConfig, ModelConfig
from forethought.corpus.rows import CorpusError
from forethought.models import ModelError

TEXT = SMALL[0]
TINY = ModelConfig(model="tiny-llama")


def planned(place: Path, *overrides: str) -> str:
    """Return the plan of the smoke config as text, blanks squeezed."""
    shown = Console(file=io.StringIO(), width=300)
    shown.print(plan.plan(config.load(CONFIG, (TEXT, *overrides)), place))
    assert isinstance(shown.file, io.StringIO)
    return " ".join(shown.file.getvalue().split())


def test_the_smoke_plan_to_the_letter(tmp_path: Path) -> None:
    shown = planned(tmp_path / "run")
    for line in (
        "policy: tiny-llama tiny 107,200 nothing",
        "audit up to 40 planted pairs for each judge",
        "sample 480 rollouts of 12 tokens after 120 prefixes",  # 30 steps of 4 prefixes, K = 4
        "judge: shorter 600 verdicts",  # with the original, 5 candidates
        "update 30 steps, up to 6,720 tokens",  # 120 x (32 + 2 x 12)
        "control arm up to 5,280 tokens",  # 120 x (32 + 12)
        "rlmt: sample 2 arms of 20 steps, 1,280 thoughts with suffixes after 160 prefixes",
        "rlmt: update up to 30,720 tokens",  # 1,280 x (12 + 8) + 160 x 32
        "gate and probe 6 arms on up to 16 held-out windows, up to 1,408 scored suffixes",
        "evaluate up to 144 pairs for each judge: 24 prefixes, 3 ways, 2 arms",
        "interleave up to 2 thoughts for every chunk",
        "sft 4 arms of 20 steps, up to 55,040 tokens",  # 4 x 20 x 4 x (32 + 12 + 2 x 64)
        "evaluate sft 6 arms on up to 24 held-out rows",
        "shared/chunk (missing)",
    ):
        assert line in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "present", "absent"),
    [
        (["improve.objective=continued"], "update 30 steps, up to 5,280 tokens", "rollouts"),
        (["improve.objective=rf-nll"], "update 30 steps, up to 5,280 tokens", "NOT ENOUGH"),
        (["improve.control=false"], "24 prefixes, 3 ways, 1 arms", "control arm"),
        (["improve.original=false"], "judge: shorter 480 verdicts", "600"),
        (["audit.enabled=false"], "sample", "audit"),
        (["improve.rewrite.model.model=tiny-qwen3"], "rewrite 120 rewrites", "600 verdicts"),
        (
            ["improve.objective=sft-rewrite", "improve.rewrite.model.model=tiny-qwen3"],
            "rewrite 120 rewrites",
            "verdicts",
        ),
    ],
)
def test_what_an_objective_does_not_do_is_not_planned(
    overrides: list[str], present: str, absent: str, tmp_path: Path
) -> None:
    shown = planned(tmp_path / "run", *overrides)
    assert present in shown
    assert absent not in shown


@pytest.mark.parametrize(
    ("judge", "verdicts"),
    [
        (JudgeConfig(kind="likelihood", model=TINY), 17),
        (JudgeConfig(kind="pairwise", model=TINY), 272),  # 17 x 16, both orders
        (JudgeConfig(kind="pairwise", model=TINY, tournament="pivot"), 32),
        (JudgeConfig(kind="pairwise", model=TINY, verdict="written", repeats=3), 816),
        (JudgeConfig(kind="pointwise", axis="safety", model=TINY), 17),
    ],
)
def test_verdicts_on_seventeen_candidates(judge: JudgeConfig, verdicts: int) -> None:
    assert plan._verdicts(judge, 17) == verdicts


def test_a_model_that_is_not_here_has_an_unknown_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forethought.models.parameters", lambda model: None)
    shown = planned(tmp_path / "run")
    assert "policy: tiny-llama tiny unknown before the download" in shown
    assert "sample 480 rollouts of 12 tokens after 120 prefixes -" in shown
    assert "disk: unknown before the policy is downloaded" in shown


def test_a_small_disk_is_seen_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "NOT ENOUGH ROOM" not in planned(tmp_path / "run")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1000))
    assert "NOT ENOUGH ROOM" in planned(tmp_path / "run")


def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tiny-lama"):
        planned(tmp_path, "policy.model=./tiny-lama")
    with pytest.raises(CorpusError, match=r"nowhere\.jsonl"):
        planned(tmp_path, "corpus.path=nowhere.jsonl")
    with pytest.raises(ModelError, match="no-teacher"):
        planned(tmp_path, "improve.rewrite.model.model=./no-teacher")
    with pytest.raises(ModelError, match="no-embedder"):
        planned(tmp_path, "rlmt.match.embedder=./no-embedder")
    assert os.listdir(tmp_path) == []
