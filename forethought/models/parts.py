"""What a :class:`~forethought.models.model.Model` computes with, and where and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from forethought.config import Config, ModelConfig, TrainingConfig
from forethought.engine import Sampler, Scorer
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.engine.scorer import TorchScorer
from forethought.models.load import bos_ids, load, resolve_device, resolve_dtype, special_ids


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where and how models compute; of these only ``dtype`` and ``seed`` change what they say, beyond rounding."""

    device: str = "auto"
    dtype: str = "auto"
    backend: str = "auto"
    """Kernels of what needs no gradient; see :func:`forethought.engine.backends.select`."""
    micro_tokens: int = 8192
    """Tokens of one forward pass."""
    sample_rows: int = 256
    """Sequences that are decoded at once."""
    seed: int = 0
    """Seed of weights that are drawn (``init = "scratch"``)."""

    @classmethod
    def of(cls, config: Config, section: TrainingConfig | None = None) -> Compute:
        """Return what ``config`` says, with the batch sizes of one of its training sections (by default stage 1's)."""
        sizes = config.improve if section is None else section
        return cls(
            device=config.device,
            dtype=config.dtype,
            backend=config.engine.backend,
            micro_tokens=sizes.micro_tokens,
            sample_rows=getattr(sizes, "sample_rows", cls.sample_rows),
            seed=config.seed,
        )


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a model computes with."""

    tokenizer: Any
    """A transformers tokenizer."""
    sampler: Sampler
    scorer: Scorer
    policy: Policy | None = None
    """The network and its kernels; ``None`` for a stand-in, which cannot be trained."""
    bos: tuple[int, ...] = ()
    """Ids before every text: BOS where the tokenizer puts it there."""
    special: tuple[int, ...] = ()
    """Ids that stand for no text: BOS, padding, turn markers."""
    context: int = 2**31
    """Longest sequence that the model was made for, in tokens."""
    compute: Compute = Compute()


def load_parts(config: ModelConfig, compute: Compute, progress: Callable[[str], None]) -> Parts:
    """Load the weights and the tokenizer of ``config``; see :meth:`forethought.models.model.Model.load`."""
    device = resolve_device(compute.device)
    dtype = resolve_dtype(compute.dtype, device)
    loaded = load(config, device=device, dtype=dtype, seed=compute.seed, progress=progress)
    policy, shape = Policy(loaded.model, compute.backend), loaded.model.config.get_text_config()
    return Parts(
        tokenizer=loaded.tokenizer,
        sampler=TorchSampler(policy, compute.sample_rows),
        scorer=TorchScorer(policy, compute.micro_tokens),
        policy=policy,
        bos=bos_ids(loaded.tokenizer),
        special=special_ids(loaded.tokenizer, shape.vocab_size),
        context=getattr(shape, "max_position_embeddings", Parts.context),
        compute=compute,
    )
