"""Where models and text come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from forethought.config.base import Positive, Section, Share


class ModelConfig(Section):
    """A model, wherever it is."""

    model: str
    """A name of `forethought models` (`tiny-llama` among them), a hub name, a folder or a .gguf file."""
    revision: str | None = None
    """Revision of a hub name."""
    init: Literal["pretrained", "scratch"] = "pretrained"
    """`scratch` keeps the architecture and the tokenizer and draws new weights from the seed."""
    trust_remote_code: bool = False
    """Whether a hub model may run code of its own."""


class EngineConfig(Section):
    """What computes without gradients: sampling and scoring."""

    backend: Literal["auto", "amx", "onednn", "torch"] = "auto"
    """Kernels: `auto` takes the best that this machine has and that computes what the model's own modules do; a name
    demands them. `forethought doctor` says which ones there are."""


class EndpointConfig(Section):
    """An OpenAI-compatible server: vLLM, llama.cpp, SGLang or a hosted one."""

    base_url: str
    """Address up to and including `/v1`."""
    model: str
    """Model name that the server knows."""
    api_key_env: str = "FORETHOUGHT_API_KEY"
    """Environment variable that holds the key; it is never logged."""
    concurrency: Positive = 16
    """Requests under way at once."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds before a request is given up."""
    retries: Annotated[int, Field(ge=0)] = 5
    """Further tries after a timeout, a refused connection, a 429 or a 5xx, with exponential backoff."""


class CorpusConfig(Section):
    """Where documents come from."""

    source: Literal["bundled", "hub", "parquet", "jsonl", "text"] = "bundled"
    """`bundled`: encyclopaedic text of installed packages; the others read `path`."""
    path: str = ""
    """Hub data set name, or a file, folder or glob (`text`: a folder of .txt and .md files, or one file).
    `shipped:smoke.jsonl` is the text that comes with the package, wherever it is installed."""
    text_column: str = "text"
    """Column or key that holds the text."""
    title_column: str | None = None
    """Column or key whose value decides the split together with equal ones; default: the text itself."""
    config_name: str | None = None
    """Configuration of a hub data set (`sample-10BT`)."""
    hub_split: str = "train"
    """Split of a hub data set."""
    revision: str | None = None
    """Revision of a hub data set."""
    max_documents: Positive | None = None
    """Stop after so many kept documents."""
    min_characters: Annotated[int, Field(ge=0)] = 200
    """Shorter documents are skipped and counted."""
    max_characters: Positive | None = None
    """Longer documents are cut here and counted."""


class ChunkConfig(Section):
    """How documents become prefixes and suffixes; lengths in tokens of the policy."""

    prefix_tokens: tuple[Positive, Positive] = (32, 128)
    """Shortest and longest prefix; the longest that the place allows is taken."""
    suffix_tokens: Positive = 48
    """Length N of every suffix."""
    chunks_per_document: Positive | None = None
    """Upper bound of chunks cut from one document, without overlap; default: as many as fit."""
    sft_share: Share = 0.25
    """Share of documents for thoughts and SFT."""
    rlmt_share: Share = 0.25
    """Share of documents for RL mid-training."""
    heldout_share: Share = 0.1
    """Share of documents for evaluation; the rest goes to `improve`."""

    @model_validator(mode="after")
    def _consistent(self) -> ChunkConfig:
        if self.prefix_tokens[0] > self.prefix_tokens[1]:
            raise ValueError(f"prefix_tokens = {list(self.prefix_tokens)}: the shortest comes first")
        if self.sft_share + self.rlmt_share + self.heldout_share > 1:
            raise ValueError("sft_share + rlmt_share + heldout_share exceed 1: nothing is left for improve")
        return self
