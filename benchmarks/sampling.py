"""K=16 rollouts of 8 prefixes: ours, ``generate`` and vLLM."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.material import SEED, Subject, cut, prompts, subject
from benchmarks.measure import Options, interleave, require
from benchmarks.peers import GenerateSampler, RowScorer
from benchmarks.results import Row, compared
from forethought.config import ModelConfig
from forethought.engine import Group, Prompt, Sampling
from forethought.engine.sampler import TorchSampler
from forethought.keys import Key
from forethought.machine import machine as processor
from forethought.models import resolve

KEY = Key(SEED, "benchmark rollouts")

TARGETS = {
    ("smollm2-135m-instruct", "generate"): 6.0,
    ("smollm2-135m-instruct", "vLLM"): 5.0,
    ("gemma-3-270m", "generate"): 6.0,
    ("gemma-3-270m", "vLLM"): 4.0,
}


def run(options: Options) -> Iterator[Row]:
    """Compare tokens per second."""
    count, k, length, new = (2, 4, 24, 6) if options.quick else (8, 16, 128, 32)
    what = f"sampling: {k} rollouts of {count} prefixes, {length} + {new} tokens"
    for name in options.models_or("smollm2-135m-instruct", "gemma-3-270m"):
        found = subject(name, options)
        asked = prompts(cut(found.tokenizer, options, count, length, 8), found.bos)
        sampling = Sampling(max_tokens=new, forbidden_ids=found.eos)
        sampler = TorchSampler(found.policy, rows=count * k)
        # Every run draws anew: none may profit from what another one left in a cache.
        draws = iter(range(10**6))
        ours = lambda: sampler.sample(asked, k, sampling, KEY.at(next(draws)))  # noqa: E731, B023
        checks = [own_logprobs(found, asked, ours(), sampling)]
        limit = machine.decoding_limit(
            found.plain, prompts=count, length=len(asked[0].token_ids), rows=count * k, steps=new
        )
        shared = {"benchmark": "sampling", "what": what, "model": name, "unit": "tokens/s"}
        for opponent, peer in opponents(found, asked, k, sampling, options):
            target = TARGETS.get((name, opponent.split()[0]))
            if isinstance(peer, str):
                yield Row(**shared, opponent=opponent, target=target, reason=peer)
                continue
            drawn = peer.sample(asked, k, sampling, KEY.at(next(draws)))
            same = same_surprise(found, asked, ours(), drawn, sampling)
            again = functools.partial(peer.sample, asked, k, sampling, KEY)
            pairs = interleave(ours, again, options)
            figures = compared(pairs, count * k * new, limit)
            yield Row(**shared, opponent=opponent, target=target, checked="; ".join([*checks, same]), **figures)
            peer.close()


class Generate(GenerateSampler):
    """transformers' own loop, drawing anew at each call."""

    def close(self) -> None:
        """Nothing is held."""


def opponents(
    found: Subject, asked: Sequence[Prompt], k: int, sampling: Sampling, options: Options
) -> Iterator[tuple[str, Any]]:
    """Yield names and samplers, or the reason why one cannot be had."""
    if options.wants("generate"):
        yield "generate", Generate(found.plain, found.eos)
    if options.wants("vLLM") and not options.tiny:
        python = options.vllm_python or (sys.executable if importlib.util.find_spec("vllm") else None)
        if python is None:
            yield "vLLM", "no vLLM in this environment; name an interpreter that has it with --vllm-python"
            return
        try:
            worker = VllmWorker(python, found, asked, k, sampling)
        except RuntimeError as error:
            yield "vLLM", f"its worker did not start: {error}"
            return
        yield f"vLLM {worker.version}", worker


class VllmWorker:
    """vLLM in a process of its own, as a sampler of the prompts it was started with."""

    def __init__(self, python: str, found: Subject, asked: Sequence[Prompt], k: int, sampling: Sampling) -> None:
        job = {
            "model": str(folder_of(found.name)),
            "dtype": str(found.policy.dtype).removeprefix("torch."),
            "context": max(len(prompt.token_ids) for prompt in asked) + sampling.max_tokens + 1,
            "rows": len(asked) * k,
            "k": k,
            "tokens": sampling.max_tokens,
            "eos": list(found.eos),
            "prompts": [list(prompt.token_ids) for prompt in asked],
            "hidden": hidden_from_torch(processor().features),
        }
        script = Path(__file__).with_name("vllm_worker.py")
        self.process = subprocess.Popen(
            [python, str(script), json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.version = self._read()["version"]

    def sample(self, asked: Sequence[Prompt], k: int, sampling: Sampling, key: Key) -> list[list[tuple[int, ...]]]:
        """Return the sampled ids; what is asked must be what the worker was started with."""
        assert self.process.stdin is not None
        self.process.stdin.write("tokens\n")
        self.process.stdin.flush()
        return [[tuple(ids) for ids in rows] for rows in self._read()["tokens"]]

    def close(self) -> None:
        """End the worker."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            raise RuntimeError(f"exit status {self.process.wait()}; start it by hand to see why")
        answer: dict[str, Any] = json.loads(text)
        return answer


def hidden_from_torch(features: frozenset[str]) -> list[str]:
    """Return what ``ONEDNN_MAX_CPU_ISA`` hides of what torch can be asked for, by torch's names."""
    if "ONEDNN_MAX_CPU_ISA" not in os.environ:
        return []
    asked = {"avx2": "avx2", "avx512": "avx512f", "avx512_bf16": "avx512_bf16", "vnni": "avx512_vnni"}
    asked |= {"amx_tile": "amx_tile", "amx_fp16": "amx_fp16"}
    return [name for name, feature in asked.items() if feature not in features]


def folder_of(name: str) -> Path:
    """Return the folder with the weights of a model: converted, downloaded or the user's own."""
    source = resolve(ModelConfig(model=name))
    folder = source.package.folder if source.package is not None else source.path
    if folder is None:
        raise RuntimeError(f"{name} is no folder; vLLM needs one")
    return folder


def own_logprobs(found: Subject, asked: Sequence[Prompt], drawn: Any, sampling: Sampling) -> str:
    """Check that the sampler's log-probabilities are those of a plain forward over the finished text."""
    expected = np.concatenate(surprise(found, asked, drawn, sampling), axis=None)
    got = -np.array([lp for rows in drawn for completion in rows for lp in completion.logprobs], np.float32)
    apart = np.abs(got - expected)
    bound = 1e-3 if found.policy.dtype.itemsize == 4 else 0.1
    require(float(apart.mean()) < bound, f"sampled log-probabilities are off by {apart.mean():.4f} nats on average")
    require(abs(float((got - expected).mean())) < bound / 4, f"they are biased by {(got - expected).mean():.4f} nats")
    return (
        f"log-probabilities of {got.size} drawn tokens and a plain forward's: {apart.mean():.4f} nats apart on average"
    )


def same_surprise(found: Subject, asked: Sequence[Prompt], ours: Any, peer: Any, sampling: Sampling) -> str:
    """Check that both sides draw text of equal mean surprise (an estimate of entropy), within four standard errors."""
    a, b = surprise(found, asked, ours, sampling), surprise(found, asked, peer, sampling)
    means = [np.array([[row.mean() for row in rows] for rows in side]) for side in (a, b)]
    difference = float(means[0].mean() - means[1].mean())
    variance = sum(float(side.var(axis=1, ddof=1).mean()) / side.size for side in means)
    error = variance**0.5
    require(abs(difference) < 4 * error, f"mean surprise differs by {difference:.3f}, standard error {error:.3f} nats")
    return f"mean surprise {means[0].mean():.3f} against {means[1].mean():.3f} nats, standard error {error:.3f}"


def surprise(found: Subject, asked: Sequence[Prompt], drawn: Any, sampling: Sampling) -> list[list[np.ndarray]]:
    """Return ``-log p`` of every drawn token under the plain model, EOS excluded as it was when they were drawn."""
    groups = [
        Group(prefix=prompt.token_ids, branches=tuple(tuple(getattr(row, "token_ids", row)) for row in rows))
        for prompt, rows in zip(asked, drawn, strict=True)
    ]
    scored = RowScorer(found.plain, 8, sampling.forbidden_ids).logprobs(groups)
    return [[-row for row in rows] for rows in scored]
