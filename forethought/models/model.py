"""``Model``: a causal language model with its tokenizer, as stages, judges, evaluations and notebooks use it.

What may be drawn, how tags become ids and how a thought is cut out of what was written is decided here, once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from forethought.config import ModelConfig, TrainingConfig
from forethought.engine import Group, Prompt, Sampling, Scorer, Thinking, ThinkingSampler, checkpoint
from forethought.engine.policy import Policy
from forethought.engine.scorer import TorchScorer
from forethought.engine.trainer import Adam, Schedule, Trainer
from forethought.keys import Key
from forethought.models.load import identity as identity_of
from forethought.models.load import log_line
from forethought.models.parts import Compute, Parts, load_parts
from forethought.models.thought_tokens import ThoughtTokens
from forethought.records import Completion, Rollout
from forethought.tags import Tags

__all__ = ["THINK", "Compute", "Ended", "Model", "ModelPool", "Parts"]

THINK = Tags("<think>", "</think>")
AUTO, SAMPLE, TRAINING = Compute(), Key(0, "sample"), TrainingConfig()
"""Defaults."""

Ended = Callable[[Sequence[int]], bool]
"""Says of the ids written so far whether their text ends the completion."""


class Model:
    """A language model that samples, thinks, scores, trains and saves.

    Example::

        model = Model.load("smollm2-135m-instruct", device="cpu")
        [completions] = model.sample(["The whale is"], k=16, max_tokens=32)  # of one prefix, computed once
        group = model.group("The whale is", [completions[0].token_ids, " a fish."])
        [[own, other]] = model.logprobs([group])  # nats per token
        trainer = model.trainer(learning_rate=1e-5, steps=10)
        trainer.step([Example(group=group)], nll, step=0, normaliser=float(len(own) + len(other)))
        model.save("build/model")
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
        compute: Compute = AUTO,
        *,
        tags: Tags | None = THINK,
        progress: Callable[[str], None] = log_line,
        **settings: Any,
    ) -> Model:
        """Load a model: a hub name, a folder, a GGUF file or a packaged name.

        Args:
            model: its name or path, or all settings of it.
            compute: where and how it computes.
            tags: what surrounds a thought; ``None`` for a model that writes raw text only.
            progress: told what takes long.
            settings: fields of :class:`Compute` by name, such as ``device="cpu"``, instead of those of ``compute``.

        Raises:
            ModelError: naming the model, what is wrong with it and the way out.
            MachineError: if its dtype is not one in which this machine computes.
            TypeError: for an unknown setting.
        """
        _check_names("Model.load", settings, [field.name for field in dataclasses.fields(Compute)])
        loaded = cls.named(model, dataclasses.replace(compute, **settings), tags=tags, progress=progress)
        loaded.parts  # noqa: B018  loaded now, so that errors come here
        return loaded

    @classmethod
    def named(
        cls,
        model: str | ModelConfig,
        compute: Compute = AUTO,
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
            lambda: load_parts(config, compute, progress),
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
            raise TypeError(f"{self.name} is a stub without weights: it can be neither trained nor saved")
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
                raise TypeError(f"{self.name} has no tags around thoughts: load it with tags, or use with_tags")
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
        """Return what a judge reads of a free continuation: the text of ``ids``, without any thought in it."""
        return self.decode(ids) if self.tags is None else self.thoughts.without_thoughts(ids)

    def sample(
        self,
        prefixes: Sequence[str | Prompt],
        k: int = 1,
        *,
        max_tokens: int,
        key: Key = SAMPLE,
        temperature: float = 1.0,
        stop_ids: tuple[int, ...] = (),
        ended: Ended | None = None,
    ) -> list[list[Completion]]:
        """Return ``k`` completions of each prefix, over one computation of it.

        Args:
            prefixes: texts, or prompts whose ids name their random numbers (and begin with BOS, if there is one).
            k: completions of each.
            max_tokens: their length, unless they end before.
            key: names the random numbers; a draw depends on (key, prompt id, k) and the weights alone, so the same
                call with the same key draws the same.  A text's id is its place among the prefixes.
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
        key: Key = SAMPLE,
        **how: Any,
    ) -> list[list[Rollout]]:
        """Return ``k`` rollouts of each prefix: a thought of at most ``thought_tokens``, then a suffix.

        The opening tag is put after the prefix, and a thought that reaches its limit is closed; both are marked as
        not drawn, and are never trained.  The suffix's text is as it was written: tags and words of a thought that was
        opened in it are part of it.  The other arguments are those of :meth:`sample`, ``how``: `temperature`,
        `stop_ids` and `ended`.
        """
        tokens = self.thoughts
        thinking = Thinking(max_tokens=thought_tokens, close_ids=tokens.close, closed=tokens.closed)
        sampling = self._sampling(max_tokens, **how)
        drawn = self.sampler.think(self._prompts(prefixes, tokens.open), k, thinking, sampling, key)
        return [[self._read_rollout(rollout) for rollout in row] for row in drawn]

    def group(self, prefix: str | Sequence[int], branches: Sequence[str | Sequence[int]]) -> Group:
        """Return a prefix with its branches, for :meth:`logprobs` and for training; BOS is put in front.

        A branch is a text or ids: what was sampled is scored and trained by its ids, never tokenised again.

        Raises:
            ValueError: if the prefix is empty and there is no BOS, or if a branch is empty.
        """
        return Group(prefix=self.bos + self._ids(prefix), branches=tuple(self._ids(branch) for branch in branches))

    def logprobs(
        self, groups: Sequence[Group], *, as_drawn: bool = False, as_trained: bool = False
    ) -> list[list[np.ndarray]]:
        """Return, per group and branch, the log-probability of each branch token; float32 ``(len(branch),)``, nats.

        Args:
            groups: prefixes with branches; :meth:`group` makes them of texts.
            as_drawn: under the distribution that :meth:`sample` draws from at temperature 1, where forbidden ids have
                no probability; else over the whole vocabulary.
            as_trained: that, rounded as the training forward rounds it: what a loss compares with (a reference, or the
                policy that drew), so that a difference holds no rounding.
        """
        if not (as_drawn or as_trained) or self.parts.policy is None:
            return self.scorer.logprobs(groups)
        micro_tokens = self.parts.compute.micro_tokens
        return TorchScorer(self.policy, micro_tokens, self.forbidden, as_trained=as_trained).logprobs(groups)

    def trainer(self, config: TrainingConfig = TRAINING, *, as_drawn: bool = True, **settings: Any) -> Trainer:
        """Return what trains this model in place.

        Args:
            config: steps, learning rate and the rest.
            as_drawn: as in :meth:`logprobs`.
            settings: fields of ``config`` by name, such as ``learning_rate=1e-5``, instead of its own.

        Raises:
            TypeError: for an unknown setting, or for a stub without weights.
            ValueError: for a value that a setting cannot have, or if the model has a trainer already.
        """
        if self._trainer is not None:
            raise ValueError(f"{self.name} has a trainer already: go on with it, or load the model again")
        _check_names("Model.trainer", settings, list(type(config).model_fields))
        config = type(config).model_validate({**config.model_dump(), **settings})
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
        self,
        max_tokens: int,
        temperature: float = 1.0,
        stop_ids: tuple[int, ...] = (),
        ended: Ended | None = None,
    ) -> Sampling:
        forbidden = tuple(index for index in self.forbidden if index not in stop_ids)
        return Sampling(
            max_tokens=max_tokens, temperature=temperature, stop_ids=stop_ids, forbidden_ids=forbidden, ended=ended
        )

    def _ids(self, text: str | Sequence[int]) -> tuple[int, ...]:
        return self.encode(text) if isinstance(text, str) else tuple(text)

    def _prompts(self, prefixes: Sequence[str | Prompt], more: tuple[int, ...] = ()) -> list[Prompt]:
        if isinstance(prefixes, str):
            raise TypeError(f"prefixes is a list of texts: write [{prefixes[:40]!r}]")
        prompts = [
            Prompt(id=str(number), token_ids=self.bos + self._ids(prefix)) if isinstance(prefix, str) else prefix
            for number, prefix in enumerate(prefixes)
        ]
        if not all(prompt.token_ids for prompt in prompts):
            raise ValueError(f"a prefix is empty, and {self.name} has no BOS token to start from")
        return [Prompt(id=prompt.id, token_ids=prompt.token_ids + more) for prompt in prompts]

    def _read_rollout(self, rollout: Rollout) -> Rollout:
        thought, suffix = rollout.token_ids[: rollout.thought_tokens], rollout.token_ids[rollout.thought_tokens :]
        # A second thought in the suffix stays: without it a judge would compare fewer words than others wrote.
        return dataclasses.replace(rollout, thought=self.thoughts.read(thought), text=self.decode(suffix))


def _check_names(function: str, settings: dict[str, Any], known: list[str]) -> None:
    for name in settings.keys() - set(known):
        raise TypeError(f"{function}: no setting {name!r}; there are {', '.join(known)}")


class ModelPool:
    """The models of judges and teachers, each loaded once."""

    def __init__(self, compute: Compute = AUTO, progress: Callable[[str], None] = lambda line: None) -> None:
        """``progress`` is told what takes long: a download, a conversion."""
        self.compute = compute
        self.progress = progress
        self._models: dict[ModelConfig, Model] = {}

    def model(self, config: ModelConfig) -> Model:
        """Return the model of ``config``; its weights are loaded when they are first needed."""
        if config not in self._models:
            self._models[config] = Model.named(config, self.compute, progress=self.progress)
        return self._models[config]
