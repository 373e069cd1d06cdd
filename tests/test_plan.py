"""The plan of a run: right counts, honest unknowns, and nothing touched."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import pytest
from helpers.planted_rates import PLANTED, plant
from helpers.smoke_runs import CONFIG
from rich.console import Console

from forethought import config, machine
from forethought.config import ConfigError, JudgeConfig, ModelConfig
from forethought.corpus.rows import CorpusError
from forethought.costs import judges, rates
from forethought.costs.base import SECONDS_PER_REQUEST, SECONDS_PER_TOKEN
from forethought.costs.footprint import footprints
from forethought.graph import LINEAGES
from forethought.models.size import parameters, shape, shape_of
from forethought.pipeline import plan
from forethought.pipeline.check import check_new
from forethought_offline import MODELS

TINY = ModelConfig(model="tiny-llama")
ENDPOINT = "{ base_url = 'http://127.0.0.1:1/v1', model = 'm', concurrency = 8 }"


@pytest.fixture(autouse=True)
def _rates(own_cache: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)


def planned(place: Path, *overrides: str) -> str:
    """Return the plan of the smoke config as text, blanks squeezed."""
    shown = Console(file=io.StringIO(), width=300)
    shown.print(plan.plan(config.load(CONFIG, overrides), place))
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
        "continued/improve load models 1 times 2 s update 30 steps, up to 5,280 tokens",  # 120 x (32 + 12)
        "sample 20 steps, 640 thoughts with suffixes after 80 prefixes",
        "update up to 15,360 tokens",  # 640 x (12 + 8) + 80 x 32
        "gate and probe 12 arms on up to 16 held-out windows, up to",
        "evaluate: self-improved up to 96 pairs for each judge: 24 prefixes, 4 ways",
        "evaluate: continued up to 96 pairs",
        "interleave up to 2 thoughts for every chunk",
        "base-think/sft load models 1 times 2 s sft 20 steps, up to 13,760 tokens",  # 20 x 4 x (32 + 12 + 2 x 64)
        "base-raw/sft load models 1 times 2 s sft 20 steps, up to 3,520 tokens",  # 20 x 4 x (32 + 12)
        "evaluate sft 9 arms on up to 24 held-out rows",
        "shared/chunk (missing)",
    ):
        assert line in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "present", "absent"),
    [
        (["improve.objective=continued"], "update 30 steps, up to 5,280 tokens", "rollouts"),
        (["improve.objective=rf-nll"], "update 30 steps, up to 5,280 tokens", "NOT ENOUGH"),
        (["improve.control=false"], "evaluate: self-improved up to 96 pairs", "evaluate: continued"),
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
    assert judges.verdicts(judge, 17) == verdicts


def test_a_model_that_is_not_here_has_an_unknown_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forethought.models.parameters", lambda model: None)
    monkeypatch.setattr("forethought.models.shape", lambda model: None)
    shown = planned(tmp_path / "run")
    assert "policy: tiny-llama tiny unknown until downloaded" in shown
    assert "sample 480 rollouts of 12 tokens after 120 prefixes unknown" in shown
    assert "without phases of unknown time: shared/audit: load models, shared/audit: audit, " in shown
    assert "memory: unknown until the models are downloaded" in shown
    assert "disk: unknown until the policy is downloaded" in shown


def test_a_small_disk_is_seen_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "NOT ENOUGH ROOM" not in planned(tmp_path / "run")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=1000))
    assert "NOT ENOUGH ROOM" in planned(tmp_path / "run")


def test_what_is_wrong_is_said_before_anything_runs(tmp_path: Path) -> None:
    for override, error, words in (
        ("policy.model=./tiny-lama", ConfigError, r"policy: \./tiny-lama: no such folder.*Did you mean tiny-llama"),
        ("corpus.path=nowhere.jsonl", CorpusError, r"nowhere\.jsonl"),
        ("improve.rewrite.model.model=./no-teacher", ConfigError, r"improve\.rewrite\.model: \./no-teacher"),
        ("rlmt.match.embedder=./no-embedder", ConfigError, r"rlmt\.match: \./no-embedder"),
    ):
        with pytest.raises(error, match=words):
            check_new(config.load(CONFIG, [override]), tmp_path)
    assert os.listdir(tmp_path) == []


def seconds(*overrides: str) -> dict[str, float]:
    """Return the estimate of each step by the planted rates."""
    return plan.estimate(config.load(CONFIG, overrides), PLANTED)


def judged(judge: str) -> float:
    """Return the seconds of stage 1 that a judge takes, by its table."""
    return seconds(f"judges.shorter={judge}")["self-improved/improve"] - seconds()["self-improved/improve"]


def test_every_step_of_the_graph_has_its_time() -> None:
    found = seconds()
    steps = [step.name for step in plan.graph(config.load(CONFIG))]
    assert [name for name in steps if name not in found] == []
    assert all(found.values())
    longer = seconds("improve.steps=60")
    assert longer["self-improved/improve"] > 1.8 * found["self-improved/improve"] - 5
    assert longer["base-think/sft"] == found["base-think/sft"]


@pytest.mark.parametrize(
    ("more", "step"),
    [
        ("improve.monitor_every=1", "continued/improve"),
        ("improve.checkpoint_every=1", "self-improved/improve"),
        ("sft.monitor_rows=14", "base-raw/sft"),
        ("rlmt.monitor_every=1", "base-rlmt/rlmt"),
        ("rlmt.resample=3", "base-rlmt/rlmt"),
        ("evaluate.nll_chunks=14", "self-improved/evaluate"),
        ("audit.prefixes=64", "shared/audit"),
        ("rlmt.match.calibration_chunks=4", "shared/calibrate"),
        ("interleave.heldout_rows=2", "shared/evaluate-sft"),
        ("thinking.windows=4", "shared/evaluate-rlmt"),
        ("reasoning.samples=16", "shared/reasoning"),
    ],
)
def test_what_a_setting_asks_for_is_counted_where_it_is_done(more: str, step: str) -> None:
    before, after = seconds(), seconds(more)
    assert before[step] != after[step]
    # Nothing else changes, but for loads, which are the same.
    assert {name for name in before if before[name] != after[name]} <= {step, *STAGE_OF[step]}


STAGE_OF = {
    "continued/improve": ("self-improved/improve",),
    "self-improved/improve": ("continued/improve",),
    "base-raw/sft": tuple(f"{lineage}-{kind}/sft" for lineage in LINEAGES for kind in ("think", "raw")),
    "base-rlmt/rlmt": tuple(f"{lineage}-{kind}/rlmt" for lineage in LINEAGES for kind in ("rlmt", "rl")),
    "self-improved/evaluate": ("continued/evaluate",),
    "shared/audit": (),
    "shared/calibrate": (),
    "shared/evaluate-sft": ("shared/interleave", "shared/evaluate-rlmt"),
    "shared/evaluate-rlmt": (),
    "shared/reasoning": (),
}
"""Steps that share a setting with another one."""


def test_specific_gain_scores_every_thought_with_each_negative() -> None:
    plain, one, three, nine = (
        seconds(f"rlmt.reward={reward}", f"rlmt.negatives={count}", "rlmt.monitor_windows=4", "rlmt.control=false")[
            "base-rlmt/rlmt"
        ]
        for reward, count in (("information-gain", 1), ("specific-gain", 1), ("specific-gain", 3), ("specific-gain", 9))
    )
    # Of four windows, no more than three are others.
    assert nine == three > one > plain


def test_a_pairwise_judge_reads_both_texts_for_every_verdict() -> None:
    likelihood = judged("{ kind = 'likelihood', model = { model = 'tiny-llama' } }")
    pivot = judged("{ kind = 'pairwise', model = { model = 'tiny-llama' }, tournament = 'pivot' }")
    full = judged("{ kind = 'pairwise', model = { model = 'tiny-llama' } }")
    assert pivot > 3 * likelihood  # instructions, the prefix once for each text
    assert full > 1.2 * pivot
    long = judged("{ kind = 'pairwise', model = { model = 'tiny-llama' }, verdict = 'written' }")
    assert long > 3 * full


def test_a_server_is_never_free(tmp_path: Path) -> None:
    took = judged(f"{{ kind = 'pairwise', endpoint = {ENDPOINT} }}")
    # 120 pools of 5 candidates, 20 ordered pairs each, 8 at once.
    assert took == pytest.approx(120 * 20 / 8 * (SECONDS_PER_REQUEST + SECONDS_PER_TOKEN), rel=1e-3)
    shown = planned(tmp_path / "run", f"judges.shorter={{ kind = 'pairwise', endpoint = {ENDPOINT} }}")
    assert "judge: shorter 2,400 verdicts 5 min (assumed)" in shown
    assert "requests to servers are assumed to take 1 s and 0.02 s per token each" in shown
    assert "no server was asked" in shown


def test_text_that_is_not_here_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forethought.costs.corpus.corpus_bytes", lambda corpus: None)
    shown = planned(tmp_path / "run")
    assert "chunk the text, once unknown" in shown
    assert "interleave up to 2 thoughts for every chunk unknown" in shown


def test_memory_is_named_and_a_lack_of_it_stands_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "memory: about" in planned(tmp_path / "run")
    monkeypatch.setattr(machine, "memory", lambda: (2**30, 2**29))
    shown = planned(tmp_path / "run")
    assert shown.startswith("NOT ENOUGH MEMORY: ")
    assert "0.5 GiB are free of 1.0 GiB. Lower improve.micro_tokens" in shown


def test_more_than_a_day_stands_first(tmp_path: Path) -> None:
    shown = planned(tmp_path / "run", "improve.steps=10000000")
    assert shown.startswith("THIS TAKES ABOUT")
    assert "DAYS here" in shown


@pytest.mark.model
def test_models_that_stay_count_in_every_later_stage() -> None:
    judge = "judges.other={ kind = 'likelihood', model = { model = 'smollm2-135m-instruct' } }"
    alone, with_judge = (plan.setting(config.load(CONFIG, more)) for more in ([], [f"evaluate.{judge}"]))
    before, after = ({one.step: one.bytes for one in footprints(at)} for at in (alone, with_judge))
    assert after["self-improved/improve"] == before["self-improved/improve"]  # not loaded yet
    assert after["base-rlmt/rlmt"] > before["base-rlmt/rlmt"] + 2 * 134e6


@pytest.mark.parametrize("name", sorted(MODELS))
def test_architectures_of_packaged_models_have_the_weights_that_the_catalogue_says(name: str) -> None:
    from transformers import AutoConfig

    found = shape_of(AutoConfig.for_model(**MODELS[name].architecture))
    assert found.weights == MODELS[name].parameters
    assert found.layers + found.head <= found.weights


def test_shapes_of_tiny_models() -> None:
    found = shape(TINY)
    assert found is not None
    assert found.weights == parameters(TINY) == 107_200
    assert found.layers + 2 * found.head == found.weights  # embedding and head are not tied
    assert found.kept == 2 * 2 * 2 * 16  # keys and values, layers, heads, width


def test_the_board_takes_kept_rates_and_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "measure", lambda *_: pytest.fail("measured"))
    assert plan.estimate(config.load(CONFIG))
