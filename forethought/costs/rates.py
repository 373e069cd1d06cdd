"""How fast this engine is on this machine: seconds of the three kinds of work that a run is made of.

*Sampling* reads all weights for one token of each row, *scoring* takes long rows of tokens, *training* goes backward,
too.  They reach very different shares of a processor's peak, so each is measured with the classes that a run computes
with, on a model of the policy's architecture.  A kind of work then costs ``calls x call + FLOPs / rate``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable

import torch

from forethought import __version__, machine, models
from forethought.config import Config
from forethought.costs.work import Pace, Rates, decoding, scoring, training
from forethought.engine import Group, Prompt, Sampling, heap
from forethought.engine.losses import nll
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.engine.scorer import TorchScorer
from forethought.engine.trainer import Adam, Example, Schedule, Trainer
from forethought.keys import Key
from forethought.models.size import Shape, architecture, shape_of
from forethought.models.tiny import random_model
from forethought.records import content_id
from forethought.run.files import StoreError, atomic_write, cache_root

Say = Callable[[str], None]

SECONDS, ROWS = 30.0, 128
"""A measurement takes about so long at most, a third for each kind of work, and decodes at most 128 rows at once."""
TYPICAL = 0.8
"""Mean length of a prefix, as a share of the longest: a chunk's prefix takes what its place allows."""
BUSY = 0.15
"""Share of the cores that other processes may take while rates are measured that are kept."""
FALLBACK = {"sample": 0.3, "score": 0.45, "train": 0.35}
"""Share of the rate of a plain matrix product that each kind of work is taken to reach where it cannot be measured."""
FALLBACK_BYTES = 12e9
"""Bytes of weights a second that a decode step is then taken to read."""


def prefix_tokens(config: Config) -> int:
    shortest, longest = config.chunk.prefix_tokens
    return max(shortest, round(TYPICAL * longest))


def here(config: Config, say: Say) -> Rates:
    """Return the rates of ``config``'s policy here: kept ones, or measured now and kept."""
    known_rates = kept(config, say)
    if known_rates is not None:
        return known_rates
    say("measuring this machine: about half a minute")
    start, before = time.perf_counter(), machine.others_seconds()
    rates = measure(config)
    after, took = machine.others_seconds(), time.perf_counter() - start
    others = 0.0 if before is None or after is None else (after - before) / took / machine.machine().cores
    if others > BUSY:
        say(f"other processes took {others:.0%} of this machine meanwhile: these rates are not kept for later plans")
    else:
        _keep(config, rates, say)
    return rates


def known(config: Config) -> Rates:
    """Return the rates of ``config``'s policy without measuring for long: kept ones, or those of a matrix product."""
    return kept(config, lambda line: None) or _by_matrix(models.shape(config.policy), *_computes(config))


def measure(config: Config, seconds: float = SECONDS) -> Rates:
    """Return the rates of the policy's architecture, with random weights, in about ``seconds``."""
    device, dtype = _computes(config)
    found = architecture(config.policy)
    shape = None if found is None else shape_of(found)
    if found is None or shape is None or not _fits(shape, dtype, device):
        return _by_matrix(shape, device, dtype)
    start = time.perf_counter()
    if device.type == "cpu":
        heap.keep_freed_memory()
    models.quiet()
    policy = Policy(random_model(found, 0).to(device, dtype).eval(), config.engine.backend)
    bench = _Bench(policy, shape, config, seconds / 3)
    score, sample, train = bench.score(), bench.sample(), bench.train()
    took = time.perf_counter() - start
    return Rates(
        sample=sample,
        score=score,
        train=train,
        weights=shape.layers + shape.head,
        depth=shape.depth,
        device=device.type,
        how=f"measured here with this engine, in {took:.0f} s, {time.strftime('%Y-%m-%d')}",
    )


def _computes(config: Config) -> tuple[torch.device, torch.dtype]:
    device = models.resolve_device(config.device)
    return device, models.resolve_dtype(config.dtype, device)


class _Bench:
    """Times a small and a larger amount of each kind of work; their difference is the rate."""

    def __init__(self, policy: Policy, shape: Shape, config: Config, seconds: float) -> None:
        self.policy, self.shape, self.seconds = policy, shape, seconds
        self.micro_tokens, self.branches = config.improve.micro_tokens, config.improve.rollouts
        self.prefix, self.suffix = prefix_tokens(config), config.chunk.suffix_tokens
        self.prefixes = max(1, min(ROWS, config.improve.sample_rows) // self.branches)

    def score(self) -> Pace:
        """Time log-probabilities of a few tokens, then of more and more groups."""
        scorer = TorchScorer(self.policy, self.micro_tokens)
        tiny, whole = self._group(8, 1, 8), self._group(self.prefix, self.branches + 1, self.suffix)
        scorer.logprobs([tiny])
        small = scoring(self.shape, 16, 8).flops, self._time(lambda: scorer.logprobs([tiny]))
        count, took = self._grow(lambda n: scorer.logprobs([whole] * n))
        flops = scoring(self.shape, whole.tokens, (self.branches + 1) * self.suffix).flops
        return _pace(small, (count * flops, took))

    def sample(self) -> Pace:
        """Time decode steps of few rows and of as many as a training step has."""
        few, many = min(4, self.branches), self.branches * self.prefixes
        small = decoding(self.shape, few, 1).flops, self._decode_step(1, few)
        large = decoding(self.shape, many, 1).flops, self._decode_step(self.prefixes, self.branches)
        return _pace(small, large) if many > few else Pace(rate=large[0] / large[1], call=0.0)

    def train(self) -> Pace:
        schedule = Schedule(peak=1e-9, warmup=0, total=1, min_ratio=1.0)
        trainer = Trainer(self.policy, schedule, Adam(), micro_tokens=self.micro_tokens)

        def step(group: Group, count: int) -> None:
            trainer.step([Example(group=group)] * count, nll, step=0, normaliser=1.0)

        tiny, pair = self._group(8, 2, 8), self._group(self.prefix, 2, self.suffix)
        step(tiny, 1)  # makes the optimiser's moments
        small = training(self.shape, 24, 16).flops, self._time(lambda: step(tiny, 1))
        count, took = self._grow(lambda n: step(pair, n))
        return _pace(small, (count * training(self.shape, pair.tokens, 2 * self.suffix).flops, took))

    def _decode_step(self, prompts: int, branches: int) -> float:
        """Return the seconds of one decode step, from completions of two lengths: all else they have in common."""
        prefix = self._group(self.prefix, 1, 1).prefix
        asked = [Prompt(id=str(number), token_ids=prefix) for number in range(prompts)]
        sampler = TorchSampler(self.policy, prompts * branches)

        def draw(tokens: int) -> None:
            sampler.sample(asked, branches, Sampling(max_tokens=tokens), Key(0, "rates"))

        draw(2)  # kernels for these sizes are made, and memory is taken
        length, before, start = 4, self._time(draw, 4), time.perf_counter()
        while True:
            took = self._time(draw, 2 * length)
            if 4 * length > self.suffix or time.perf_counter() - start + 2.2 * took > self.seconds:
                return max(took - before, took / 20) / length
            length, before = 2 * length, took

    def _grow(self, work: Callable[[int], object]) -> tuple[int, float]:
        count, start = 1, time.perf_counter()
        work(1)  # kernels for these sizes are made, and memory is taken
        while True:
            took = self._time(work, count)
            if count >= self.prefixes or time.perf_counter() - start + 2.2 * took > self.seconds:
                return count, took
            count = min(self.prefixes, 2 * count)

    def _group(self, prefix: int, branches: int, suffix: int) -> Group:
        def ids(start: int, count: int) -> tuple[int, ...]:
            return tuple((7919 * (start + i) + 11) % self.shape.vocabulary for i in range(count))

        return Group(prefix=ids(0, prefix), branches=tuple(ids(prefix + k * suffix, suffix) for k in range(branches)))

    def _time(self, work: Callable[..., object], *amount: int) -> float:
        start = time.perf_counter()
        work(*amount)
        if self.policy.device.type == "cuda":
            torch.cuda.synchronize(self.policy.device)
        return time.perf_counter() - start


def _pace(small: tuple[float, float], large: tuple[float, float]) -> Pace:
    """Return the pace that two amounts, in FLOPs and seconds, lie on; a small one that took longer says nothing."""
    (few, short), (many, long) = small, large
    if long <= short or many <= few:
        return Pace(rate=many / long, call=0.0)
    rate = (many - few) / (long - short)
    return Pace(rate=rate, call=max(0.0, short - few / rate))


def _by_matrix(shape: Shape | None, device: torch.device, dtype: torch.dtype) -> Rates:
    """Return rates from the speed of a matrix product, measured in about a fifth of a second."""
    a, b = (torch.randn(1024, 1024, device=device).to(dtype) for _ in range(2))
    torch.mm(a, b)  # the first one starts the library
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.2:
        float(torch.mm(a, b)[0, 0])
        count += 1
    rate = count * 2 * 1024**3 / (time.perf_counter() - start)
    weights = shape.layers + shape.head if shape else 10**8
    call = weights * dtype.itemsize / FALLBACK_BYTES if device.type == "cpu" else 0.01
    return Rates(
        sample=Pace(rate=FALLBACK["sample"] * rate, call=call),
        score=Pace(rate=FALLBACK["score"] * rate, call=call),
        train=Pace(rate=FALLBACK["train"] * rate, call=10 * call),
        weights=weights,
        depth=shape.depth if shape else 24,
        device=device.type,
        how=f"guessed from a matrix product ({rate / 1e12:.2f} TFLOP/s here now), not measured",
    )


def _fits(shape: Shape, dtype: torch.dtype, device: torch.device) -> bool:
    needed = shape.weights * (20 + 2 * dtype.itemsize)
    if device.type == "cuda":
        return needed < torch.cuda.mem_get_info(device)[0]
    memory = machine.memory()
    return memory is None or needed < memory[1]


def kept(config: Config, say: Say) -> Rates | None:
    """Return the rates that were measured here before for such a config, if they were."""
    path = cache_root() / "rates.json"
    try:
        row = json.loads(path.read_text(encoding="utf-8"))[_name(config)]
        return Rates(**row | {kind: Pace(**row[kind]) for kind in ("sample", "score", "train")})
    except (FileNotFoundError, KeyError):
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        say(f"{path}: not used, since it cannot be read ({error}); remove it to measure once for all")
        return None


def _keep(config: Config, rates: Rates, say: Say) -> None:
    path, rows = cache_root() / "rates.json", {}
    with contextlib.suppress(OSError, ValueError, TypeError):  # what cannot be read is replaced
        rows = dict(json.loads(path.read_text(encoding="utf-8")))
    rows[_name(config)] = dataclasses.asdict(rates)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(rows, indent=2) + "\n")
    except (OSError, StoreError) as error:
        say(f"{path}: cannot be written ({error}); the next plan measures again")


def _name(config: Config) -> str:
    """Return what the rates depend on, as a name: the machine, the software, the architecture and the kernels.

    Not the lengths and numbers at which they are measured: all schedules of a config share them.
    """
    here = machine.machine()
    device, dtype = _computes(config)
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else here.processor
    threads = f"{here.cores} cores, {torch.get_num_threads()} threads"
    software = f"torch {torch.__version__}, forethought {__version__}"
    model = content_id(str(models.shape(config.policy)), config.engine.backend, sorted(here.features))
    return f"{place}, {threads}, {device}, {dtype}, {software}, {config.policy.model}, {model}"
