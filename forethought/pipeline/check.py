"""What a config names and is not there: models, arms, tasks, files, code.

Imports no torch but to look for a GPU, so that a wrong name shows at once; :mod:`forethought.pipeline.plan` has the
rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forethought import user_code
from forethought.config import Config, ConfigError, JudgeConfig, MatchConfig, ModelConfig, RewriteConfig, Section
from forethought.config.base import USER_CODE
from forethought.config.reading import scheduled
from forethought.config.sources import PromptedConfig
from forethought.config.stages import TeacherConfig
from forethought.corpus import sources
from forethought.evals.reasoning.catalogue import task
from forethought.evals.reasoning.task import TaskError
from forethought.graph import SelectionError, check_arms, check_primary
from forethought.llm import LanguageError
from forethought.llm.prompts import check_prompt
from forethought.models.load import resolve_device
from forethought.models.resolve import ModelError, check_embedder, resolve
from forethought.run.store import Run

THOUGHTS = "forethought.thoughts"
"""The package whose ``prompts`` folder holds those of the teacher that writes thoughts."""


def check(config: Config) -> None:
    """Refuse a config that names what is not there, whichever of its schedules is used.

    Raises:
        ConfigError, SelectionError, CorpusError, UserCodeError: naming the key, the value and the way out.
    """
    if config.device not in ("auto", "cpu"):
        resolve_device(config.device)
    _check_names(config)
    for name in config.schedules if not config.schedule else ():
        with _at(f"schedules.{name}: "):
            _check_names(scheduled(config, name))
    # One document shows that the corpus can be read.
    next(sources.documents(config.corpus, Counter()))


def check_new(config: Config, place: Path) -> None:
    """Check the config of a run that has not begun; what finished stages have read may be gone."""
    if Run(place).config() is None:
        check(config)


def _check_names(config: Config) -> None:
    check_primary(config)
    check_arms(config)
    for key, part in _parts(config):
        with _at(f"{key}: "):
            _check_part(part, key)
    if config.reasoning is not None:
        counts = config.reasoning.problems if isinstance(config.reasoning.problems, dict) else {}
        for key, names in (("tasks", config.reasoning.tasks), ("problems", tuple(counts))):
            for name in names:
                with _at(f"reasoning.{key}: "):
                    task(name)
    code = {"improve.objective": config.improve.objective, "rlmt.reward": config.rlmt.reward if config.rlmt else ""}
    code |= {f"thinking.conditions.{name}": path for name, path in config.thinking.conditions.items()}
    for key, path in code.items():
        if USER_CODE.fullmatch(path):
            user_code.load(path, key)


def _check_part(part: Section, key: str) -> None:
    if isinstance(part, ModelConfig):
        resolve(part)
    if isinstance(part, PromptedConfig) and part.prompt is not None:
        _check_prompt(part, part.prompt)
    if isinstance(part, MatchConfig) and part.embeds:
        check_embedder(part.embedder)
    if isinstance(part, MatchConfig | JudgeConfig) and part.path is not None:
        user_code.load(part.path, f"{key}.path")


def _check_prompt(part: PromptedConfig, path: str) -> None:
    """Check that a prompt file can be read and has the fields of the shipped prompt that it replaces."""
    match part:
        case JudgeConfig():
            check_prompt(part.axis, path, part.verdict)
        case MatchConfig():
            check_prompt("match", path, part.verdict)
        case RewriteConfig():
            check_prompt("rewrite", path, "joined" if part.join_words else "plain")
        case TeacherConfig():
            # Which of the two it replaces, `interleave.positions` says; a file may serve neither.
            faults = []
            for name, mode in (("place", None), ("chunk", "thoughts")):
                try:
                    check_prompt(name, path, mode, THOUGHTS)
                except LanguageError as error:
                    faults.append(error)
            if len(faults) > 1:
                raise faults[0]


def _parts(value: object, key: str = "") -> Iterator[tuple[str, Section]]:
    """Yield every section of a config with its dotted key."""
    inside: dict[str, object] = {}
    if isinstance(value, Section):
        yield key, value
        inside = {name: getattr(value, name) for name in type(value).model_fields if name != "schedules"}
    elif isinstance(value, dict):
        inside = value
    for name, one in inside.items():
        yield from _parts(one, f"{key}.{name}".lstrip("."))


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Put the key before the message of an error that knows only the value."""
    try:
        yield
    except (ConfigError, SelectionError, ModelError, LanguageError, TaskError) as error:
        raise ConfigError(f"{where}{error}") from None
