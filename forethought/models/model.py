"""``Model``: a causal language model with its tokenizer, as stages, judges, evaluations and notebooks use it.

What may be drawn, how tags become ids and how a thought is cut out of what was written is decided here, once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from forethought.config import Config, ModelConfig, TrainingConfig
from forethought.engine import Group, Prompt, Sampler, Sampling, Scorer, Thinking, ThinkingSampler, checkpoint
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.engine.scorer import TorchScorer
from forethought.engine.trainer import Adam, Schedule, Trainer
from forethought.keys import Key
from forethought.models.load import bos_ids, log_line, resolve_device, resolve_dtype, special_ids
from forethought.models.load import identity as identity_of
from forethought.models.load import load as load_model
from forethought.models.thought_tokens import ThoughtTokens, encode
from forethought.records import Completion, Rollout
from forethought.tags import Tags

THINK = Tags("<think>", "</think>")

Ended = Callable[[Sequence[int]], bool]
"""Says of the ids written so far whether their text ends the completion."""


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


class Model:
    """A language model that samples, thinks, scores, trains and saves.

    Example::

        model = Model.load("smollm2-135m")
        [completions] = model.sample(["The whale is"], k=16, max_tokens=32, key=Key(0, "demo"))
        print(completions[0].text)
    """

    def __init__(self, name: str, identity: str, parts: Parts | Callable[[], Parts], tags: Tags | None = None) -> None:
        """Make a model; most callers use :meth:`load`.

        Args:
            name: name in tables: of the arm, or of the weights.
            identity: hash of weights and tokenizer, for cache keys and records.
            parts: what it computes with, or what loads that when it is first needed.
            tags: what surrounds a thought; ``None`` for a model that writes and reads raw text only.
        """
        self.name = name
        self.identity = identity
        self.tags = tags
        self._source = parts
        self._parts = parts if isinstance(parts, Parts) else None
        self._thought_tokens: ThoughtTokens | None = None
        self._trainer: Trainer | None = None

    @classmethod
    def load(
        cls,
        model: str | ModelConfig,
        compute: Compute = Compute(),
        *,
        tags: Tags | None = THINK,
        progress: Callable[[str], None] = log_line,
    ) -> Model:
        """Load a model: a hub name, a folder, a GGUF file or a packaged name.

        Raises:
            ModelError: naming the model, what is wrong with it and the way out.
            MachineError: if its dtype is not one in which this machine computes.
        """
        loaded = cls.named(model, compute, tags=tags, progress=progress)
        loaded.parts  # noqa: B018  loaded now, so that errors come here
        return loaded

    @classmethod
    def named(
        cls,
        model: str | ModelConfig,
        compute: Compute = Compute(),
        *,
        name: str = "",
        identity: str = "",
        tags: Tags | None = None,
        progress: Callable[[str], None] = log_line,
    ) -> Model:
        """Return a model whose weights are loaded when they are first needed.

        Args:
            model: as in :meth:`load`.
            compute: where and how it computes.
            name: its name in tables; by default that of the weights.
            identity: hash of its weights, where that is known; else it is found without loading them.
            tags: what surrounds a thought.
            progress: told what takes long.
        """
        config = ModelConfig(model=model) if isinstance(model, str) else model
        return cls(
            name or Path(config.model).name,
            identity or identity_of(config, compute.seed, progress),
            lambda: _load(config, compute, progress),
            tags,
        )

    @property
    def parts(self) -> Parts:
        """What it computes with; loaded if need be."""
        if self._parts is None:
            assert not isinstance(self._source, Parts)
            self._parts = self._source()
        return self._parts

    def release(self) -> None:
        """Let go of the weights; they are loaded again when they are next needed."""
        if not isinstance(self._source, Parts):
            self._parts = self._trainer = self._thought_tokens = None

    def with_tags(self, tags: Tags | None, name: str = "") -> Model:
        """Return the same model with other tags around its thoughts, which shares the weights."""
        return Model(name or self.name, self.identity, lambda: self.parts, tags)

    @property
    def tokenizer(self) -> Any:
        """A transformers tokenizer."""
        return self.parts.tokenizer

    @property
    def sampler(self) -> ThinkingSampler:
        """What draws; :meth:`sample` and :meth:`think` are the comfortable way."""
        return self.parts.sampler  # type: ignore[return-value]  # a stand-in may know no thoughts

    @property
    def scorer(self) -> Scorer:
        """What scores under the whole vocabulary; see :meth:`logprobs`."""
        return self.parts.scorer

    @property
    def policy(self) -> Policy:
        """The network behind the shared-prefix engine."""
        if self.parts.policy is None:
            raise TypeError(f"{self.name} is a stand-in without weights")
        return self.parts.policy

    @property
    def bos(self) -> tuple[int, ...]:
        """Ids before every text."""
        return self.parts.bos

    @property
    def context(self) -> int:
        """Longest sequence that the model was made for, in tokens."""
        return self.parts.context

    @property
    def thoughts(self) -> ThoughtTokens:
        """How tags and thoughts become ids.

        Raises:
            TypeError: if the model has no tags.
        """
        if self._thought_tokens is None:
            if self.tags is None:
                raise TypeError(f"{self.name} has no tags: it writes raw text only")
            self._thought_tokens = ThoughtTokens.of(self.tokenizer, self.tags)
        return self._thought_tokens

    @property
    def forbidden(self) -> tuple[int, ...]:
        """Ids that are never drawn: those that stand for no text; a model with tags may write these."""
        allowed = {*self.thoughts.open, *self.thoughts.close} if self.tags is not None else set()
        return tuple(sorted(set(self.parts.special) - allowed))

    def encode(self, text: str, markup: bool = False) -> tuple[int, ...]:
        """Return the ids of ``text``, without BOS.

        Special tokens are recognised in our own ``markup`` only: a judged text that spells ``<|im_end|>`` must not
        end the turn it is quoted in.
        """
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=not markup)["input_ids"]
        return tuple(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, thoughts and tags included."""
        text: str = self.tokenizer.decode(list(ids))
        return text

    def read(self, ids: Sequence[int]) -> str:
        """Return what a judge reads of ``ids``: their text, without any thought in it."""
        return self.decode(ids) if self.tags is None else self.thoughts.without_thoughts(ids)

    def sample(
        self,
        prefixes: Sequence[str | Prompt],
        k: int = 1,
        *,
        max_tokens: int,
        key: Key,
        temperature: float = 1.0,
        stop_ids: tuple[int, ...] = (),
        ended: Ended | None = None,
    ) -> list[list[Completion]]:
        """Return ``k`` completions of each prefix, over one computation of it.

        Args:
            prefixes: texts, or prompts whose ids name their random numbers (and begin with BOS, if there is one).
            k: completions of each.
            max_tokens: their length, unless they end before.
            key: names the random numbers; a draw depends on (key, prompt id, k) and the weights alone.
            temperature: divides the logits; 0 is greedy.  There is no top-p and no top-k.
            stop_ids: ids that end a completion.
            ended: says of the ids written so far whether their text ends a completion.
        """
        sampling = self._sampling(max_tokens, temperature, stop_ids, ended)
        drawn = self.sampler.sample(self._prompts(prefixes), k, sampling, key)
        return [[dataclasses.replace(c, text=self.read(c.token_ids)) for c in row] for row in drawn]

    def think(
        self,
        prefixes: Sequence[str | Prompt],
        k: int = 1,
        *,
        thought_tokens: int,
        max_tokens: int,
        key: Key,
        temperature: float = 1.0,
        stop_ids: tuple[int, ...] = (),
        ended: Ended | None = None,
    ) -> list[list[Rollout]]:
        """Return ``k`` rollouts of each prefix: a thought of at most ``thought_tokens``, then a suffix.

        The opening tag is put after the prefix, and a thought that reaches its limit is closed; both are marked as
        not drawn, and are never trained.  For the other arguments see :meth:`sample`.
        """
        tokens = self.thoughts
        thinking = Thinking(max_tokens=thought_tokens, close_ids=tokens.close, closed=tokens.closed)
        sampling = self._sampling(max_tokens, temperature, stop_ids, ended)
        drawn = self.sampler.think(self._prompts(prefixes, tokens.open), k, thinking, sampling, key)
        return [[self._read_rollout(rollout) for rollout in row] for row in drawn]

    def logprobs(
        self, groups: Sequence[Group], *, as_drawn: bool = False, as_trained: bool = False
    ) -> list[list[np.ndarray]]:
        """Return, per group and branch, the log-probability of each branch token; float32 ``(len(branch),)``, nats.

        Args:
            groups: prefixes with branches, as ids.
            as_drawn: under the distribution that :meth:`sample` draws from at temperature 1, where forbidden ids have
                no probability; else over the whole vocabulary.
            as_trained: that, rounded as the training forward rounds it: what a loss compares with (a reference, or the
                policy that drew), so that a difference holds no rounding.
        """
        if not (as_drawn or as_trained) or self.parts.policy is None:
            return self.scorer.logprobs(groups)
        micro_tokens = self.parts.compute.micro_tokens
        return TorchScorer(self.policy, micro_tokens, self.forbidden, as_trained=as_trained).logprobs(groups)

    def trainer(self, config: TrainingConfig, *, as_drawn: bool = True) -> Trainer:
        """Return what trains this model in place; ``as_drawn`` as in :meth:`logprobs`."""
        schedule = Schedule(
            peak=config.learning_rate,
            warmup=config.warmup_steps,
            total=config.steps,
            min_ratio=config.min_rate_ratio,
        )
        adam = Adam(
            betas=config.adam_betas, eps=config.adam_eps, weight_decay=config.weight_decay, clip_norm=config.clip_norm
        )
        forbidden = self.forbidden if as_drawn else ()
        self._trainer = Trainer(self.policy, schedule, adam, micro_tokens=config.micro_tokens, forbidden_ids=forbidden)
        return self._trainer

    def copy_weights(self, other: Model) -> None:
        """Take over the weights of ``other``, which has the same architecture."""
        self.policy.model.load_state_dict(other.policy.model.state_dict())
        self.policy.weights_changed()

    def save(self, folder: str | Path) -> Path:
        """Write a Hugging Face folder that ``AutoModelForCausalLM`` and vLLM load as it is, and return it.

        Weights that were trained here are written in float32, others in their own dtype.
        """
        place = Path(folder)
        checkpoint.save_model(place, self.policy.model, self.tokenizer, self._trainer)
        return place

    def _sampling(
        self, max_tokens: int, temperature: float, stop_ids: tuple[int, ...], ended: Ended | None
    ) -> Sampling:
        forbidden = tuple(index for index in self.forbidden if index not in stop_ids)
        return Sampling(
            max_tokens=max_tokens, temperature=temperature, stop_ids=stop_ids, forbidden_ids=forbidden, ended=ended
        )

    def _prompts(self, prefixes: Sequence[str | Prompt], more: tuple[int, ...] = ()) -> list[Prompt]:
        prompts = [
            Prompt(id=str(number), token_ids=self.bos + encode(self.tokenizer, one)) if isinstance(one, str) else one
            for number, one in enumerate(prefixes)
        ]
        return [Prompt(id=prompt.id, token_ids=prompt.token_ids + more) for prompt in prompts]

    def _read_rollout(self, rollout: Rollout) -> Rollout:
        thought, suffix = rollout.token_ids[: rollout.thought_tokens], rollout.token_ids[rollout.thought_tokens :]
        return dataclasses.replace(rollout, thought=self.thoughts.read(thought), text=self.read(suffix))


class ModelPool:
    """The models of judges and teachers, each loaded once."""

    def __init__(self, compute: Compute = Compute(), progress: Callable[[str], None] = lambda line: None) -> None:
        """``progress`` is told what takes long: a download, a conversion."""
        self.compute = compute
        self.progress = progress
        self._models: dict[ModelConfig, Model] = {}

    def model(self, config: ModelConfig) -> Model:
        """Return the model of ``config``; its weights are loaded when they are first needed."""
        if config not in self._models:
            self._models[config] = Model.named(config, self.compute, progress=self.progress)
        return self._models[config]


def _load(config: ModelConfig, compute: Compute, progress: Callable[[str], None]) -> Parts:
    device = resolve_device(compute.device)
    dtype = resolve_dtype(compute.dtype, device)
    loaded = load_model(config, device=device, dtype=dtype, seed=compute.seed, progress=progress)
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
