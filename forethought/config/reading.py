"""A whole run's config: TOML files, then dotted overrides; unknown keys are errors that name the known ones."""

from __future__ import annotations

import json
import re
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from forethought.config import shipped
from forethought.config.base import ConfigError, Line, Name, Section, Seed, did_you_mean
from forethought.config.judging import AuditConfig, JudgeConfig
from forethought.config.midtraining import TRAINING, MatchConfig, RLMTConfig, ThinkingEvaluateConfig
from forethought.config.reasoning import ReasoningConfig
from forethought.config.sources import ChunkConfig, CorpusConfig, EngineConfig, ModelConfig
from forethought.config.stages import (
    EvaluateConfig,
    ImproveConfig,
    InterleaveConfig,
    LogConfig,
    PrimaryConfig,
    SFTConfig,
)

_TYPES = re.compile(r"(int|float|str|list|dict|none|constrained-\w+|function-.*|dict\[.*|json-.*|\[key\])$")


def _device(value: str) -> str:
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value, re.ASCII) is None:
        raise ValueError(f"write auto, cpu, cuda, cuda:N or mps.{did_you_mean(value, ('auto', 'cpu', 'cuda', 'mps'))}")
    return value


class Config(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Name of the run; its folder is `runs/<name>` unless `--run` says otherwise."""
    seed: Seed = 0
    """Seed of all random numbers of the run."""
    training_seed: Seed | None = None
    """Seed of what varies between repetitions: training order and rollouts; default: `seed`. Chunks, rows, windows,
    threshold and evaluation keep to `seed`, so that repetitions differ in their training alone."""
    device: Annotated[str, AfterValidator(_device)] = "auto"
    """`auto` (CUDA if there is a GPU), `cpu`, `cuda`, `cuda:1` or `mps`."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Compute dtype; trained weights are always float32. `auto`: bfloat16 where the device multiplies in it, else
    float32; a run keeps the dtype that it was started with."""
    engine: EngineConfig = EngineConfig()
    """How sampling and scoring are computed."""
    policy: ModelConfig
    """The model that is trained."""
    corpus: CorpusConfig = CorpusConfig()
    """Where the text comes from."""
    chunk: ChunkConfig = ChunkConfig()
    """How the text is cut into prefixes and suffixes."""
    judges: dict[Name, JudgeConfig] = {}
    """The training judges by name; the scores of several are added. No two judges of a config have one name, those of
    `[evaluate.judges]` and `[thinking.judges]` included."""
    audit: AuditConfig = AuditConfig()
    """The test that judges must pass."""
    improve: ImproveConfig = ImproveConfig()
    """Stage 1."""
    interleave: InterleaveConfig | None = None
    """Stage 2: thoughts in the text. Without this table the stage does not run."""
    sft: SFTConfig | None = None
    """Stage 2: training on thoughts. Without this table the stage does not run."""
    rlmt: RLMTConfig | None = None
    """Stage 3: RL mid-training. Without this table the stage does not run."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Held-out evaluation."""
    thinking: ThinkingEvaluateConfig = ThinkingEvaluateConfig()
    """Whether thoughts matter: reward gate and probe."""
    primary: PrimaryConfig | None = None
    """The primary endpoint. Without this table every figure is exploratory."""
    reasoning: ReasoningConfig | None = None
    """Reasoning benchmarks. Without this table none runs."""
    log: LogConfig = LogConfig()
    """Metric loggers."""
    schedules: dict[Name, dict[str, Any]] = {}
    """Tables of values that replace those of the config, by name, the longest run first: `--budget 25m` uses the first
    that should finish in time on this machine. Tables are merged, `judges` are replaced."""
    schedule: Line | Literal[""] = ""
    """Written by the run: the schedule that `--budget` chose. Leave it out."""
    budget: Annotated[str, Field(pattern=r"^[0-9.hms ]*$")] = ""
    """Written by the run: the `--budget`. Leave it out."""

    @property
    def match_judges(self) -> dict[str, MatchConfig]:
        """The match judges by name: that of `[rlmt.match]`, ``training``, then those that train nothing; or none."""
        return {} if self.rlmt is None else {TRAINING: self.rlmt.match, **self.thinking.judges}

    @model_validator(mode="after")
    def _one_judge_of_a_name(self) -> Config:
        named = {TRAINING: "the match judge of [rlmt.match]"} if self.rlmt is not None else {}
        own: Iterable[str] = self.judges
        tables = {"judges": own, "evaluate.judges": self.evaluate.judges, "thinking.judges": self.thinking.judges}
        for table, judges in tables.items():
            for name in judges:
                if name in named:
                    raise ValueError(f"{table}.{name}: {named[name]} is called {name}, too: choose another name")
                named[name] = f"{table}.{name}"
        return self

    @model_validator(mode="after")
    def _usable(self) -> Config:
        if self.improve.ranks and not self.judges:
            raise ValueError(f"improve.objective = {self.improve.objective!r} needs a judge: add a [judges.NAME] table")
        if self.improve.objective == "sft-rewrite" and self.improve.rewrite is None:
            raise ValueError("improve.objective = 'sft-rewrite' needs a teacher: add [improve.rewrite]")
        if self.improve.compares and self.candidates_per_prefix < 2:
            raise ValueError("improve: DPO needs two candidates: raise rollouts, or set original = true")
        if self.chunk.sft_share + self.chunk.rlmt_share + self.chunk.heldout_share > 1 - 1e-6:
            raise ValueError("chunk: sft_share + rlmt_share + heldout_share are 1: nothing is left for improve")
        if not self.chunk.heldout_share:
            raise ValueError("every run evaluates on held-out text: chunk.heldout_share must not be 0")
        if self.schedule and self.schedule not in self.schedules:
            raise ValueError(f"schedule = {self.schedule!r}: no [schedules] table of that name; a run writes this key")
        if self.sft is not None and self.interleave is None:
            raise ValueError("[sft] trains on thoughts: add [interleave] and [interleave.teacher]")
        if self.interleave is not None and not self.chunk.sft_share:
            raise ValueError("[interleave] needs a part of the text: chunk.sft_share must not be 0")
        if self.rlmt is not None and self.sft is None:
            raise ValueError("[rlmt] starts from models that think: add [sft], [interleave] and [interleave.teacher]")
        if self.rlmt is not None and not self.chunk.rlmt_share:
            raise ValueError("[rlmt] needs a part of the text: chunk.rlmt_share must not be 0")
        return self

    @property
    def order_seed(self) -> int:
        """The seed of training order and rollouts."""
        return self.seed if self.training_seed is None else self.training_seed

    @property
    def candidates_per_prefix(self) -> int:
        """Number of candidates that a judge ranks: rollouts, the original suffix and the rewrite."""
        return self.improve.rollouts + int(self.improve.original) + int(self.improve.rewrite is not None)


def load(path: str | Path, overrides: Sequence[str] = (), schedule: str = "") -> Config:
    """Read a config, apply one of its schedules and then ``section.key=value`` overrides (TOML literals or bare text).

    A resolved config in JSON, such as a run's run.json, is read, too.  A bare name such as ``smoke`` means the shipped
    config of that name, unless there is a file of that name here.

    Raises:
        ConfigError: naming the file, the key and the value that is wrong.
    """
    path = Path(path)
    data = _read(path)
    if path.name == "run.json":
        data = data.get("config", data)
    if schedule:
        data = _scheduled(data, schedule, str(path))
    if path.suffix == ".json":
        _refuse_code(data, overrides, path)
    for override in overrides:
        _apply(data, override)
    return build(data, where=str(path))


def _refuse_code(data: object, overrides: Sequence[str], path: Path, key: str = "") -> None:
    """Refuse a JSON config, which a run may have written, that lets models run their own code."""
    for name, value in data.items() if isinstance(data, dict) else ():
        below = f"{key}.{name}".lstrip(".")
        _refuse_code(value, overrides, path, below)
        asked = any(override.partition("=")[0].strip() == below for override in overrides)
        if name == "trust_remote_code" and value and not asked:
            raise ConfigError(
                f"{path}:\n  {below}: it is on, and a JSON config may be that of somebody else's run. To let this "
                f"model run code of its own, add --set {below}=true"
            )


def _read(path: Path) -> dict[str, Any]:
    """Return what a TOML or JSON file holds; a byte order mark at its start does not count."""
    kind = "JSON" if path.suffix == ".json" else "TOML"
    try:
        text = shipped.config_file(path).read_text(encoding="utf-8-sig")
        data = json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file. {shipped.config_hint(path)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a {kind} file: not UTF-8 ({error}): save it as UTF-8 text") from None
    except (ValueError, RecursionError, OSError) as error:  # a ValueError also of a path with a NUL
        raise ConfigError(f"{path}: not a {kind} file: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds no table of keys, but {str(data)[:100]!r}")
    return data


def build(data: dict[str, Any], where: str = "config") -> Config:
    config = _validated(data, where)
    if not config.schedule:  # a chosen schedule was checked before
        for name in config.schedules:
            _validated(_scheduled(data, name, where), where, f"schedules.{name}.")
    return config


def scheduled(config: Config, name: str) -> Config:
    """Return ``config`` with the values of one of its schedules."""
    return _validated(_scheduled(config.model_dump(mode="json"), name, "config"), "config", f"schedules.{name}.")


def dump(config: Section) -> str:
    return json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True)


def _validated(data: dict[str, Any], where: str, before: str = "") -> Config:
    """Return ``data`` as a config; ``before`` is the prefix of every key that an error names."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        lines = [f"{where}:"]
        for item in error.errors():
            if item["type"] == "too_short" and item["input"]:  # what stands in the list is wrong, and said to be
                continue
            # Of a choice between types, pydantic adds the type; of a key, "[key]".
            unknown = item["type"] == "extra_forbidden"
            parts = [str(part) for part in item["loc"] if unknown or not _TYPES.match(str(part))]
            key = before + ".".join(parts) or "(whole file)"
            if unknown:
                known = _known(item["loc"])
                guess = did_you_mean(parts[-1], known)
                lines.append(f"  {key}: unknown key. Known here: {', '.join(known)}{guess and '.' + guess}")
            else:
                lines.append(f"  {key}: {_fault(item)}")
        raise ConfigError("\n".join(lines)) from None


def _fault(item: Mapping[str, Any]) -> str:
    """Return what is wrong with a value, the value, and the choice that it resembles."""
    value, guess = item["input"], ""
    if item["type"] == "literal_error" and isinstance(value, str):
        guess = did_you_mean(value, re.findall(r"'([^']*)'", item["ctx"]["expected"]))
    shown = "" if isinstance(value, dict | Section) else f" (got {_shortened(repr(value))}){guess}"
    return str(item["msg"]).removeprefix("Value error, ") + shown


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _scheduled(data: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """Return ``data`` with the values of one of its schedules; tables are merged, except `judges`."""
    tables = data.get("schedules") or {}
    if name not in tables:
        guess = did_you_mean(name, tables)
        raise ConfigError(f"{where}: no schedule {name!r}.{guess} It has {', '.join(tables) or 'none'}")
    fixed = sorted({"name", "schedules", "schedule", "budget"} & set(tables[name]))
    if fixed:
        raise ConfigError(f"{where}:\n  schedules.{name}.{fixed[0]}: a schedule cannot set it; leave it out")
    merged: dict[str, Any] = _merged(data, tables[name])
    return merged | {"schedule": name}


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    # Judges are replaced as a whole, so that a schedule can leave a judge out.
    return below | {key: value if key == "judges" else _merged(below.get(key), value) for key, value in above.items()}


def _apply(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set {override}: write section.key=value")
    try:
        value, *others = tomllib.loads(f"value = {text}").values()
    except (ValueError, RecursionError):
        value, others = text.strip(), []
    if others:
        raise ConfigError(f"--set {override}: holds more than one value")
    for part in parts[:-1]:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {override}: {part} is a value, not a section")
    data[parts[-1]] = value


def _known(location: tuple[int | str, ...]) -> list[str]:
    section: type[Section] = Config
    for part in location[:-1]:
        if part in section.model_fields:
            section = section_of(section.model_fields[str(part)].annotation) or section
    return sorted(section.model_fields)


def section_of(hint: Any) -> type[Section] | None:
    """Return the config class inside a type such as ``dict[str, JudgeConfig]``, if there is one."""
    if isinstance(hint, type) and issubclass(hint, Section):
        return hint
    return next((found for one in typing.get_args(hint) if (found := section_of(one)) is not None), None)
