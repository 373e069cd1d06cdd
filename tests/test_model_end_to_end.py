"""Stage 1 on a real language model, in what this machine computes in: SmolLM2-135M is policy and judge."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.dtypes import DTYPES
from helpers.smoke_runs import CONFIG, cli, rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from forethought import models
from forethought.config import ModelConfig
from forethought.engine import Group, Prompt, Sampling
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.engine.scorer import TorchScorer
from forethought.keys import Key
from forethought.run.store import Run

pytestmark = pytest.mark.model

NAME = "smollm2-135m-instruct"
REAL = (
    f"dtype={str(DTYPES[-1]).removeprefix('torch.')}",  # bfloat16, if this machine has it
    f"policy.model={NAME}",
    f"judges={{likely={{kind='likelihood', model={{model='{NAME}'}}}}}}",
    "chunk.prefix_tokens=[16, 32]",
    "chunk.suffix_tokens=16",
    "audit.allow_failing=false",
    "audit.prefixes=4",
    "audit.min_accuracy={shuffled=0.9}",
    "improve.control=false",
    "improve.steps=2",
    "improve.prefixes_per_step=2",
    "improve.rollouts=2",
    "improve.warmup_steps=0",
    "improve.learning_rate=1e-5",
    "improve.checkpoint_every=0",
    "improve.monitor_every=0",
    "improve.monitor_chunks=2",
)


@pytest.mark.slow
def test_stage_one_on_a_real_model(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    result = cli("improve", CONFIG, "--run", run.path, *(f"--set={item}" for item in REAL))
    assert result.exit_code == 0, result.output
    assert "Loading weights" not in result.output

    accuracy = {one.condition: one for one in run.measurements() if one.stage == "audit" and one.metric == "accuracy"}
    assert accuracy["shuffled"].value >= 0.9
    assert accuracy["shuffled"].n == 4

    metrics = rows(run.path, "self-improved/improve/metrics.jsonl")
    assert [row["step"] for row in metrics] == [0, 1, 2]
    assert metrics[1]["improve/margin"] == pytest.approx(
        0.0, abs=0.3 if DTYPES[-1] == torch.bfloat16 else 1e-3
    )  # other layout
    assert metrics[2]["improve/gradient_norm"] > 0
    assert 0.5 < metrics[0]["improve/suffix_nll"] < 4.0  # it reads English

    folder = run.path / "self-improved" / "improve" / "checkpoints" / "final"
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert model.dtype == torch.float32
    assert model.config.tie_word_embeddings
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    ids = AutoTokenizer.from_pretrained(folder)("The bridge was built in", return_tensors="pt").input_ids
    logits = model(ids).logits
    assert logits.shape == (1, ids.shape[1], 49152)
    assert bool(logits.isfinite().all())

    base = models.load(ModelConfig(model=NAME), device=torch.device("cpu"), dtype=torch.float32).model
    moved = (model.get_input_embeddings().weight - base.get_input_embeddings().weight).detach().abs()
    # Two steps of Adam move no weight by more than about twice the rate, far below what bf16 can hold at 0.1.
    assert 1e-6 < float(moved.max()) < 5e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_sampler_and_the_scorer_agree(dtype: torch.dtype) -> None:
    loaded = models.load(ModelConfig(model=NAME), device=torch.device("cpu"), dtype=dtype)
    policy = Policy(loaded.model)
    forbidden = models.special_ids(loaded.tokenizer, loaded.model.config.vocab_size)
    texts = ["The harbour town was first mentioned in 1138, when", "Water boils at"]
    prompts = [Prompt(id=text, token_ids=tuple(loaded.tokenizer(text).input_ids)) for text in texts]
    sampling = Sampling(max_tokens=16, forbidden_ids=forbidden)
    drawn = TorchSampler(policy).sample(prompts, 4, sampling, Key(0, "agreement"))
    groups = [
        Group(prefix=prompt.token_ids, branches=tuple(completion.token_ids for completion in completions))
        for prompt, completions in zip(prompts, drawn, strict=True)
    ]
    scored = TorchScorer(policy, forbidden_ids=forbidden).logprobs(groups)
    said = np.concatenate([completion.logprobs for completions in drawn for completion in completions])
    found = np.concatenate([row for rows_ in scored for row in rows_])
    assert len(found) == 2 * 4 * 16
    # bf16 has eight bits: a logit of 20 comes in steps of 1/8.  An error of the method would be of the order of nats.
    mean, most = (0.06, 0.5) if dtype == torch.bfloat16 else (1e-4, 5e-3)
    assert float(np.abs(said - found).mean()) < mean
    assert float(np.abs(said - found).max()) < most
    assert math.isclose(float(said.mean()), float(found.mean()), abs_tol=mean / 2)
    assert float(said.mean()) < -0.5
