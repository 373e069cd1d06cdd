"""Configuration: one pydantic model per stage; TOML files, then dotted overrides; unknown keys are errors.

Hand-written configs are TOML, resolved ones are JSON (``config.json`` beside a stage's results).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class ConfigError(ValueError):
    """A config that cannot be used; the message says which key, which value and the way out."""


class Section(BaseModel):
    """Base of all sections: frozen, no unknown keys, docstrings under fields become help texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


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
    """Hub data set name, or a file, folder or glob (`text`: a folder of .txt and .md files, or one file)."""
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


class JudgeConfig(Section):
    """One judge of candidates."""

    kind: Literal["likelihood", "pairwise", "pointwise", "shorter"] = "likelihood"
    """`likelihood`: log-probability of the candidate under a stronger model; `pairwise`: an LLM chooses
    between two; `pointwise`: an LLM grades one (safety, factuality); `shorter`: prefers shorter text (tests)."""
    axis: Literal["quality", "safety", "factuality"] = "quality"
    """What an LLM judge judges: quality is pairwise, safety and factuality are pointwise."""
    model: ModelConfig | None = None
    """The judge's model, run in this process."""
    endpoint: EndpointConfig | None = None
    """Or the server that runs it."""
    normalise: Literal["token", "byte", "none"] = "token"
    """What a likelihood is divided by: the candidate's tokens, its UTF-8 bytes, or nothing."""
    contrast: ModelConfig | None = None
    """A weaker model whose score is subtracted: rewards what the judge finds likelier than this model does."""
    contrast_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """How much of it is subtracted."""
    copy_cost: Annotated[float, Field(ge=0.0)] = 4.0
    """Nats a likelihood judge charges at least for completing a run of three tokens seen before; 0: none."""
    verdict: Literal["letter", "written"] = "letter"
    """How an LLM answers: log-probabilities of the answer letter, or a written conclusion."""
    prompt: str | None = None
    """A prompt file of one's own; default: the shipped one of the axis."""
    repeats: Positive = 1
    """How often a written verdict is drawn and averaged."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """Temperature of written verdicts."""
    top_p: Share = 1.0
    """Nucleus of written verdicts."""
    max_tokens: Positive = 512
    """Length of written verdicts."""
    tournament: Literal["full", "pivot"] = "full"
    """Pairs that are judged: all of them, or each candidate against the original suffix."""

    @model_validator(mode="after")
    def _one_source(self) -> JudgeConfig:
        if self.kind != "shorter" and (self.model is None) == (self.endpoint is None):
            raise ValueError(f"a {self.kind} judge needs exactly one of `model` and `endpoint`")
        if self.kind == "likelihood" and self.model is None:
            raise ValueError("a likelihood judge needs `model`: endpoints do not score given text reliably")
        if self.contrast is not None and self.normalise == "token":
            raise ValueError("contrast: tokens of two models are not of one size; set normalise = 'byte'")
        if self.kind == "pairwise" and self.axis != "quality":
            raise ValueError(f"axis = {self.axis!r} is judged pointwise: set kind = 'pointwise'")
        if self.kind == "pointwise" and self.axis == "quality":
            raise ValueError("quality is judged pairwise: set kind = 'pairwise'")
        return self


class AuditConfig(Section):
    """What a judge must show before it may train anything: accuracy on planted pairs, in both orders."""

    enabled: bool = True
    """Whether `improve` asks for a passed audit."""
    prefixes: Positive = 32
    """How many held-in chunks are audited."""
    min_accuracy: dict[Literal["other_document", "shuffled", "repeated", "corrupted", "rollout"], Share] = {
        "other_document": 0.8,
        "shuffled": 0.8,
        "repeated": 0.8,
        "corrupted": 0.55,
        "rollout": 0.6,
    }
    """The bar: share of pairs, seen in both orders, in which the original suffix wins (ties half)."""
    max_unscored: Share = 0.05
    """Largest share of verdicts that may be unscored."""
    allow_failing: bool = False
    """Train with a judge that failed all the same."""


class RewriteConfig(Section):
    """A teacher whose rewrite of the suffix becomes one more candidate (Tan et al. 2026, section 1.2.1)."""

    model: ModelConfig | None = None
    """The teacher's model, run in this process."""
    endpoint: EndpointConfig | None = None
    """Or the server that runs it."""
    prompt: str | None = None
    """A prompt file of one's own."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.6
    """Sampling temperature of the teacher."""
    join_words: Annotated[int, Field(ge=0)] = 5
    """So many last words of the prefix are put before the suffix and the answer, to smooth the join."""

    @model_validator(mode="after")
    def _one_source(self) -> RewriteConfig:
        if (self.model is None) == (self.endpoint is None):
            raise ValueError("a rewrite teacher needs exactly one of `model` and `endpoint`")
        return self


class ImproveConfig(Section):
    """Stage 1, self-improving pretraining."""

    objective: Literal["dpo", "rf-nll", "sft-rewrite", "continued"] = "dpo"
    """`dpo`: best against worst; `rf-nll`: NLL of the best candidate; `sft-rewrite`: NLL of the rewrite;
    `continued`: plain next-token training on the same chunks (the control)."""
    control: bool = True
    """Whether `forethought run` also trains the `continued` control arm."""
    steps: Positive = 100
    """Optimiser steps."""
    prefixes_per_step: Positive = 16
    """Prefixes per step, whatever the micro-batch is."""
    rollouts: Annotated[int, Field(ge=1)] = 16
    """K, the policy's continuations of each prefix."""
    original: bool = True
    """Whether the original suffix is a candidate."""
    rewrite: RewriteConfig | None = None
    """The teacher's rewrite as a candidate."""
    temperature: Annotated[float, Field(gt=0.0)] = 1.0
    """Sampling temperature; no top-p and no top-k, so that the sampler's log-probs are the trainer's."""
    beta: Annotated[float, Field(gt=0.0)] = 0.1
    """DPO's beta."""
    nll_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of an NLL term, per token, on the chosen candidate."""
    sync_reference_every: Annotated[int, Field(ge=0)] = 0
    """Copy the policy into the reference every n steps; 0: a frozen reference."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-6
    """Peak learning rate."""
    min_rate_ratio: Share = 0.1
    """The cosine ends at this share of the peak."""
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    """Linear warm-up."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    """AdamW's decoupled weight decay."""
    adam_betas: tuple[Share, Share] = (0.9, 0.95)
    """AdamW's betas."""
    adam_eps: Annotated[float, Field(gt=0.0)] = 1e-8
    """AdamW's epsilon."""
    clip_norm: Annotated[float, Field(gt=0.0)] = 1.0
    """Largest gradient norm."""
    micro_tokens: Positive = 8192
    """Tokens of one forward and backward pass; does not change the result."""
    sample_rows: Positive = 256
    """Rollouts that are decoded at once; does not change the text."""
    monitor_every: Annotated[int, Field(ge=0)] = 10
    """Measure suffix NLL on a fixed held-out slice every n steps; 0: only at the ends."""
    monitor_chunks: Positive = 64
    """Size of that slice."""
    checkpoint_every: Annotated[int, Field(ge=0)] = 20
    """Write a checkpoint every n steps; 0: only at the end."""


class EvaluateConfig(Section):
    """Held-out comparison of arms."""

    prefixes: Positive = 64
    """Held-out prefixes."""
    conditions: tuple[Literal["sampled", "greedy", "entropy-matched"], ...] = ("sampled", "greedy", "entropy-matched")
    """The three ways of comparing (sharpening alone wins the first)."""
    new_tokens: Positive | None = None
    """Length of the compared continuations; default: the suffix length."""
    judges: dict[str, JudgeConfig] = {}
    """Judges that did not train the policy, by name; the training judge is always added."""
    nll_chunks: Positive = 128
    """Held-out chunks for suffix NLL."""
    entropy_tolerance: Annotated[float, Field(gt=0.0)] = 0.02
    """Bisection of the matching temperature stops within so many nats per token."""
    examples: Annotated[int, Field(ge=0)] = 8
    """Side-by-side examples that are kept."""


class LogConfig(Section):
    """Optional metric sinks; `metrics.jsonl` is always written."""

    tensorboard: bool = False
    """Also write TensorBoard events (needs `pip install tensorboard`)."""
    wandb: str | None = None
    """Also log to this Weights & Biases project (needs `pip install wandb`)."""
    trackio: str | None = None
    """Also log to this trackio project (needs `pip install trackio`)."""


class Config(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run; its folder is `runs/<name>` unless `--run` says otherwise."""
    seed: int = 0
    """Seed of every random number of the run."""
    device: str = "auto"
    """`auto` (CUDA when there is one), `cpu`, `cuda` or `cuda:1`."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute dtype; the trained weights are float32 either way."""
    policy: ModelConfig
    """The model that is trained."""
    corpus: CorpusConfig = CorpusConfig()
    """Where the text comes from."""
    chunk: ChunkConfig = ChunkConfig()
    """How it is cut."""
    judges: dict[str, JudgeConfig] = {}
    """The training judges by name; the scores of several add up."""
    audit: AuditConfig = AuditConfig()
    """The judges' entrance examination."""
    improve: ImproveConfig = ImproveConfig()
    """Stage 1."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Held-out evaluation."""
    log: LogConfig = LogConfig()
    """Metric sinks."""

    @model_validator(mode="after")
    def _usable(self) -> Config:
        judged = self.improve.objective in ("dpo", "rf-nll")
        if judged and not self.judges:
            raise ValueError(f"improve.objective = {self.improve.objective!r} needs a judge: add a [judges.NAME] table")
        if self.improve.objective == "sft-rewrite" and self.improve.rewrite is None:
            raise ValueError("improve.objective = 'sft-rewrite' needs a teacher: add [improve.rewrite]")
        if self.improve.objective == "dpo" and self.candidates_per_prefix < 2:
            raise ValueError("improve: DPO needs two candidates: raise rollouts, or keep the original suffix")
        return self

    @property
    def candidates_per_prefix(self) -> int:
        """How many candidates a judge ranks: rollouts, the original suffix and the rewrite."""
        return self.improve.rollouts + int(self.improve.original) + int(self.improve.rewrite is not None)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML config and apply ``section.key=value`` overrides, whose values are TOML literals or bare text.

    Raises:
        ConfigError: naming the file, the key and the value that is wrong.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file. The shipped ones are in configs/") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ConfigError(f"{path}: not a TOML file: {error}") from None
    for override in overrides:
        _apply(data, override)
    return build(data, where=str(path))


def build(data: dict[str, Any], where: str = "config") -> Config:
    """Validate ``data``; see :func:`load`."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        lines = [f"{where}:"]
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
            if item["type"] == "extra_forbidden":
                lines.append(f"  {key}: unknown key. Known here: {', '.join(_known(item['loc']))}")
            else:
                shown = "" if isinstance(item["input"], dict) else f" (got {item['input']!r})"
                lines.append(f"  {key}: {item['msg'].removeprefix('Value error, ')}{shown}")
        raise ConfigError("\n".join(lines)) from None


def dump(config: Section) -> str:
    """Return the resolved config as JSON."""
    return json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True)


def _apply(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set {override}: write section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for part in parts[:-1]:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {override}: {part} is a value, not a section")
    data[parts[-1]] = value


def _known(location: tuple[int | str, ...]) -> list[str]:
    section: Any = Config
    for part in location[:-1]:
        fields = getattr(section, "model_fields", None)
        if fields is not None and part in fields:
            section = _section_of(fields[part].annotation)
    return sorted(getattr(section, "model_fields", {}))


def _section_of(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_of(argument)
        if found is not None:
            return found
    return None
