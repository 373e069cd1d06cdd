"""A whole run's config: TOML files, then dotted overrides; unknown keys are errors that name the known ones."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from forethought.config import shipped
from forethought.config.base import ConfigError, Section
from forethought.config.judging import AuditConfig, JudgeConfig
from forethought.config.midtraining import RLMTConfig, ThinkingEvaluateConfig
from forethought.config.reasoning import ReasoningConfig
from forethought.config.sources import ChunkConfig, CorpusConfig, EngineConfig, ModelConfig
from forethought.config.stages import EvaluateConfig, ImproveConfig, InterleaveConfig, LogConfig, SFTConfig


class Config(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run; its folder is `runs/<name>` unless `--run` says otherwise."""
    seed: int = 0
    """Seed of every random number of the run."""
    device: str = "auto"
    """`auto` (CUDA when there is one), `cpu`, `cuda`, `cuda:1` or `mps`."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Compute dtype; the trained weights are float32 either way.  `auto` is bfloat16 where the device multiplies in it
    and float32 elsewhere; a run that was begun keeps what it was begun with."""
    engine: EngineConfig = EngineConfig()
    """What computes."""
    policy: ModelConfig
    """The model that is trained."""
    corpus: CorpusConfig = CorpusConfig()
    """Where the text comes from."""
    chunk: ChunkConfig = ChunkConfig()
    """How it is cut."""
    judges: dict[str, JudgeConfig] = {}
    """The training judges by name; the scores of several add up."""
    audit: AuditConfig = AuditConfig()
    """What a judge must show before it may train."""
    improve: ImproveConfig = ImproveConfig()
    """Stage 1."""
    interleave: InterleaveConfig | None = None
    """Stage 2: thoughts in the text.  Without this table there is none."""
    sft: SFTConfig | None = None
    """Stage 2: training on them.  Without this table there is none."""
    rlmt: RLMTConfig | None = None
    """Stage 3: RL mid-training.  Without this table there is none."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Held-out evaluation."""
    thinking: ThinkingEvaluateConfig = ThinkingEvaluateConfig()
    """Whether thoughts matter: reward gate and probe."""
    reasoning: ReasoningConfig | None = None
    """Reasoning benchmarks.  Without this table there are none."""
    log: LogConfig = LogConfig()
    """Metric sinks."""
    schedules: dict[str, dict[str, Any]] = {}
    """Tables of values that replace those of the config, by name, the longest run first: `--budget 25m` takes the first
    whose estimate on this machine fits.  Tables are merged, `judges` are replaced.  Without `--budget` none counts."""
    schedule: str = ""
    """Which of them the run took; a config leaves it out."""
    budget: str = ""
    """The `--budget` for which it was chosen; a config leaves it out."""

    @model_validator(mode="after")
    def _usable(self) -> Config:
        judged = self.improve.objective in ("dpo", "rf-nll")
        if judged and not self.judges:
            raise ValueError(f"improve.objective = {self.improve.objective!r} needs a judge: add a [judges.NAME] table")
        if self.improve.objective == "sft-rewrite" and self.improve.rewrite is None:
            raise ValueError("improve.objective = 'sft-rewrite' needs a teacher: add [improve.rewrite]")
        if self.improve.objective == "dpo" and self.candidates_per_prefix < 2:
            raise ValueError("improve: DPO needs two candidates: raise rollouts, or keep the original suffix")
        if self.sft is not None and self.interleave is None:
            raise ValueError("[sft] trains on thoughts: add [interleave] and [interleave.teacher]")
        if self.interleave is not None and not self.chunk.sft_share:
            raise ValueError("[interleave] needs text of its own: chunk.sft_share must not be 0")
        if self.rlmt is not None and self.sft is None:
            raise ValueError("[rlmt] goes on from models that think: add [sft], [interleave] and [interleave.teacher]")
        if self.rlmt is not None and not self.chunk.rlmt_share:
            raise ValueError("[rlmt] needs text of its own: chunk.rlmt_share must not be 0")
        return self

    @property
    def candidates_per_prefix(self) -> int:
        """How many candidates a judge ranks: rollouts, the original suffix and the rewrite."""
        return self.improve.rollouts + int(self.improve.original) + int(self.improve.rewrite is not None)


def load(path: str | Path, overrides: Sequence[str] = (), schedule: str = "") -> Config:
    """Read a config, apply one of its schedules and then ``section.key=value`` overrides (TOML literals or bare text).

    TOML is what one writes; a resolved config in JSON, such as a run's run.json, is read, too.  A bare name such as
    ``smoke`` means the config of that name that comes with the package, unless there is such a file here.

    Raises:
        ConfigError: naming the file, the key and the value that is wrong.
    """
    path = Path(path)
    try:
        text = shipped.config_file(path).read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file. {shipped.config_hint(path)}") from None
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError, IsADirectoryError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise ConfigError(f"{path}: not a {kind} file: {error}") from None
    if path.name == "run.json":
        data = data.get("config", data)
    if schedule:
        data = _scheduled(data, schedule, str(path))
    for override in overrides:
        _apply(data, override)
    return build(data, where=str(path))


def build(data: dict[str, Any], where: str = "config") -> Config:
    """Validate ``data``; see :func:`load`."""
    config = _validated(data, where)
    if not config.schedule:  # what was chosen already was looked at then
        for name in config.schedules:
            _validated(_scheduled(data, name, where), where, f"schedules.{name}.")
    return config


def dump(config: Section) -> str:
    """Return the resolved config as JSON."""
    return json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True)


def _validated(data: dict[str, Any], where: str, before: str = "") -> Config:
    """Return ``data`` as a config; ``before`` stands before every key that an error names."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        lines = [f"{where}:"]
        for item in error.errors():
            key = before + ".".join(str(part) for part in item["loc"]) or "(whole file)"
            if item["type"] == "extra_forbidden":
                lines.append(f"  {key}: unknown key. Known here: {', '.join(_known(item['loc']))}")
            else:
                shown = "" if isinstance(item["input"], dict) else f" (got {item['input']!r})"
                lines.append(f"  {key}: {item['msg'].removeprefix('Value error, ')}{shown}")
        raise ConfigError("\n".join(lines)) from None


def _scheduled(data: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return ``data`` with the values of one of its schedules; tables are merged, but for `judges`.

    Raises:
        ConfigError: if there is no such schedule, or it sets what belongs to the run and not to its length.
    """
    tables = data.get("schedules") or {}
    if name not in tables:
        raise ConfigError(f"{where}: no schedule {name!r}. It has {', '.join(tables) or 'none'}")
    fixed = sorted({"name", "schedules", "schedule", "budget"} & set(tables[name]))
    if fixed:
        raise ConfigError(f"{where}:\n  schedules.{name}.{fixed[0]}: a schedule cannot set it; leave it out")
    merged: dict[str, Any] = _merged(data, tables[name])
    return merged | {"schedule": name}


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    # Who judges is said whole, so that a schedule can do without a judge.
    return below | {key: value if key == "judges" else _merged(below.get(key), value) for key, value in above.items()}


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
