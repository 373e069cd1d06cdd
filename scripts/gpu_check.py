"""Compare a GPU with the CPU of the same machine, in two minutes: equal log-probs, gradients and text; then speed.

    python scripts/gpu_check.py [--out FILE] [--shape FOLDER]

FOLDER holds ``config.json`` and a tokenizer; its weights are drawn, so that nothing has to be downloaded.  What is
compared in float32 must be equal within rounding, or the exit status is 1; in bfloat16 the distance is printed only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import forethought as ft
from forethought.config import ModelConfig

PREFIXES = ["The whale is the largest animal of the sea, and", "Iron melts at", "In 1912 the town had four mills. Its"]
LIMITS = {"logprobs": 2e-4, "gradients": 2e-3, "greedy": 0.0}
"""Largest differences: nats, relative norm, share of tokens."""


def loaded(args: argparse.Namespace, device: str, dtype: str) -> ft.Model:
    """Return the model of ``--shape`` with weights that are the same on every device."""
    config = ModelConfig(model=args.shape, init="scratch") if args.shape else ModelConfig(model="tiny-llama")
    return ft.Model.load(config, device=device, dtype=dtype)


def computed(model: ft.Model) -> dict[str, Any]:
    """Return greedy ids, log-probs and gradients of one training step."""
    greedy = model.sample(PREFIXES, k=1, max_tokens=16, temperature=0.0)
    rows = [[(40, 77, 120, 200, 31), (9, 8, 7), (55, 200, 201, 202)] for _ in PREFIXES]
    groups = [model.group(prefix, branches) for prefix, branches in zip(PREFIXES, rows, strict=True)]
    logprobs = np.concatenate([row for branches in model.logprobs(groups) for row in branches])
    trainer = model.trainer(learning_rate=1e-5, steps=1, warmup_steps=0, clip_norm=1e9)
    gradients: dict[str, torch.Tensor] = {}
    trainer.optimizer.register_step_pre_hook(
        lambda *_: gradients.update({name: m.grad.detach().cpu().double() for name, m in trainer.masters.items()})
    )
    trainer.step([ft.Example(group=group) for group in groups], ft.nll, step=0, normaliser=float(logprobs.size))
    return {
        "greedy": [token for [completion] in greedy for token in completion.token_ids],
        "logprobs": logprobs.astype(np.float64),
        "gradients": torch.cat([gradients[name].flatten() for name in sorted(gradients)]),
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Return the distances of two results, in the units of :data:`LIMITS`."""
    g, h = one["gradients"], other["gradients"]
    return {
        "logprobs": float(np.abs(one["logprobs"] - other["logprobs"]).max()),
        "gradients": float((g - h).norm() / g.norm()),
        "greedy": float(np.mean([a != b for a, b in zip(one["greedy"], other["greedy"], strict=True)])),
    }


def timed(function: Callable[[], object], repeats: int = 3) -> float:
    """Return the median seconds of a call, after one that warms up."""
    function()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def speeds(model: ft.Model, count: int, k: int = 16, length: int = 128, new: int = 32) -> dict[str, float]:
    """Return tokens per second of ``k`` rollouts of ``count`` prefixes: ours, and ``generate`` on the same weights."""
    numbers = np.random.default_rng(0).integers(300, len(model.parts.tokenizer) - 300, (count, length))
    prompts = [ft.Prompt(id=str(i), token_ids=tuple(int(n) for n in row)) for i, row in enumerate(numbers)]
    inputs = torch.tensor(numbers, device="cuda")
    network = model.policy.model
    plain = {
        "max_new_tokens": new,
        "min_new_tokens": new,
        "do_sample": True,
        "top_k": 0,
        "top_p": 1.0,
        "num_return_sequences": k,
    }
    ours = timed(lambda: model.sample(prompts, k=k, max_tokens=new))
    network.set_attn_implementation("sdpa")
    with torch.inference_mode():
        peer = timed(lambda: network.generate(inputs, attention_mask=torch.ones_like(inputs), pad_token_id=0, **plain))
    total = count * k * new
    return {"prefixes": count, "ours": total / ours, "generate": total / peer, "ratio": peer / ours}


def main() -> None:
    """Run the checks that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    parser.add_argument("--shape", help="a folder with config.json and tokenizer; without it, a tiny random model")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if not torch.cuda.is_available():
        sys.exit("gpu_check: torch sees no CUDA device here")
    results: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "speed": []}
    cpu = computed(loaded(args, "cpu", "float32"))
    bad = []
    for dtype in ("float32", "bfloat16"):
        results[dtype] = differences(cpu, computed(loaded(args, "cuda", dtype)))
        print(f"GPU in {dtype} against CPU in float32: {results[dtype]}", flush=True)
        if dtype == "float32":
            bad = [name for name, limit in LIMITS.items() if results[dtype][name] > limit]
    for count in (8, 64) if args.shape else ():
        results["speed"].append(speeds(loaded(args, "cuda", "bfloat16"), count))
        print(f"sampling, tokens per second: {results['speed'][-1]}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if bad:
        sys.exit(f"gpu_check: too far from the CPU in float32: {', '.join(bad)}")


if __name__ == "__main__":
    main()
