"""Memory over many steps of rollout, reference and update: it must not grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.material import SEED, cut, load, prompts
from benchmarks.measure import Options, in_process
from benchmarks.training import MODEL, our_dpo, our_trainer
from forethought import models
from forethought.engine import Group, Sampling
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.keys import Key

STEPS = 30


def run(options: Options) -> Iterator[dict[str, Any]]:
    """Measure what is in use after each of :data:`STEPS` steps."""
    steps = 4 if options.quick else STEPS
    for name in options.models_or(MODEL):
        found = in_process(("flat", "ours", name), options, steps)
        late = found["after"][steps // 2 :]
        slope = float(np.polyfit(range(len(late)), late, 1)[0])
        what = f"{name}: 4 prefixes, K=4, rollouts, reference and DPO update"
        print(f"flat       {what}: {slope / 2**20:+.2f} MiB a step", flush=True)
        yield {"kind": "flat", "what": what, "after": found["after"], "slope": slope}


def alone(benchmark: str, side: str, name: str, options: Options) -> Callable[[], object]:
    """Return a step whose lengths vary from call to call, as those of a run do."""
    loaded = load(name, options)
    trainer, reference = our_trainer(loaded.model), Policy(load(name, options).model)
    length, new = (16, 4) if options.quick else (96, 24)
    asked = prompts(cut(loaded.tokenizer, options, 4, length, 8), models.bos_ids(loaded.tokenizer))
    steps = iter(range(10**6))

    def step() -> None:
        number = next(steps)
        sampling = Sampling(max_tokens=new + number % 5)
        drawn = TorchSampler(trainer.policy).sample(asked, 4, sampling, Key(SEED, "flat").at(number))
        groups = [
            Group(prefix=prompt.token_ids, branches=(rows[0].token_ids, rows[1].token_ids))
            for prompt, rows in zip(asked, drawn, strict=True)
        ]
        our_dpo(trainer, reference, groups)

    return step
