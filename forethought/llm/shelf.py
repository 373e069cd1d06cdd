"""The models of judges and teachers, each loaded once, and the writers that speak through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from forethought.config import Config, EndpointConfig, ModelConfig
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.engine.scorer import TorchScorer
from forethought.keys import Key
from forethought.llm.endpoint import Endpoint
from forethought.llm.generate import EndpointWriter, LocalWriter, Writer
from forethought.llm.local import LocalModel
from forethought.models.load import bos_ids, load


class Spoken(Protocol):
    """A section of the config that names a language model: in this process, or behind a server."""

    @property
    def model(self) -> ModelConfig | None:
        """The model, run in this process."""
        ...

    @property
    def endpoint(self) -> EndpointConfig | None:
        """Or the server that runs it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Computing:
    """How judges and teachers compute; it does not change what they say."""

    micro_tokens: int = 8192
    """Tokens of one forward pass."""
    rows: int = 256
    """Replies that are decoded at once."""
    backend: str = "auto"
    """Kernels; see :func:`forethought.engine.backends.select`."""

    @classmethod
    def of(cls, config: Config) -> Computing:
        """Return what the config allows the policy, for the other models."""
        cfg = config.improve
        return cls(micro_tokens=cfg.micro_tokens, rows=cfg.sample_rows, backend=config.engine.backend)


class Shelf:
    """The judges' and teachers' models, each loaded when it is first asked for."""

    def __init__(
        self,
        device: Any,
        dtype: Any,
        seed: int,
        progress: Callable[[str], None] = lambda line: None,
        computing: Computing = Computing(),
    ) -> None:
        """``progress`` is told what takes long: a download, a conversion; ``computing`` bounds the memory."""
        self.computing = computing
        self.progress = progress
        self.device = device
        self.dtype = dtype
        self.seed = seed
        self._models: dict[ModelConfig, LocalModel] = {}

    def model(self, config: ModelConfig) -> LocalModel:
        """Return the model of ``config``, ready to score and to write."""
        if config not in self._models:
            loaded = load(config, device=self.device, dtype=self.dtype, seed=self.seed, progress=self.progress)
            policy = Policy(loaded.model, self.computing.backend)
            self._models[config] = LocalModel(
                name=Path(loaded.name).name,
                identity=loaded.identity,
                tokenizer=loaded.tokenizer,
                scorer=TorchScorer(policy, self.computing.micro_tokens),
                sampler=TorchSampler(policy, self.computing.rows),
                bos=tuple(bos_ids(loaded.tokenizer)),
                context=loaded.model.config.get_text_config().max_position_embeddings,
            )
        return self._models[config]


def writer(config: Spoken, shelf: Shelf, key: Key) -> Writer:
    """Return the writer that ``config`` names; ``key`` names its random numbers."""
    if config.endpoint is not None:
        return EndpointWriter(Endpoint(config.endpoint), key)
    return LocalWriter(shelf.model(needed(config)), key)


def needed(config: Spoken) -> ModelConfig:
    """Return the model of ``config``.

    Raises:
        ValueError: if there is none.
    """
    if config.model is None:
        raise ValueError("a judge or teacher needs exactly one of `model` and `endpoint`")
    return config.model
