"""From the config to a teacher."""

from __future__ import annotations

from pathlib import Path

from forethought.config import InterleaveConfig
from forethought.keys import Key
from forethought.llm.cache import Cache, CachedWriter
from forethought.llm.generate import Style
from forethought.llm.shelf import Shelf, writer
from forethought.tags import Tags
from forethought.thoughts.checks import Rules
from forethought.thoughts.dataset import Wanted
from forethought.thoughts.stub import StandInTeacher
from forethought.thoughts.teacher import Asking, ChunkTeacher, PlaceTeacher, Teacher


def build_teacher(config: InterleaveConfig, shelf: Shelf, cache: Path) -> Teacher:
    """Return the teacher of ``config``, whose replies are kept in the file ``cache``."""
    teacher = config.teacher
    if teacher.kind == "stand-in":
        return StandInTeacher()
    key, kept = Key(seed=shelf.seed, purpose="thoughts"), Cache(cache)
    most = config.thoughts[1]
    long = config.positions == "teacher"
    asking = Asking(
        writers=[CachedWriter(writer(teacher, shelf, key.at(one)), kept) for one in range(teacher.retries + 1)],
        style=Style(
            max_tokens=teacher.max_tokens * (most if long else 1),
            temperature=teacher.temperature,
            top_p=teacher.top_p,
        ),
        tags=tags(config),
        words=config.max_words,
        prompt=teacher.prompt,
    )
    return ChunkTeacher(asking, most) if long else PlaceTeacher(asking)


def tags(config: InterleaveConfig) -> Tags:
    """Return the tags of ``config``."""
    return Tags(*config.tags)


def rules(config: InterleaveConfig) -> Rules:
    """Return what a thought must pass."""
    return Rules(tags=tags(config), max_words=config.max_words, max_leak=config.max_leak)


def wanted(config: InterleaveConfig) -> Wanted:
    """Return how many thoughts a row has."""
    fewest, most = config.thoughts
    return Wanted(fewest=fewest, most=most, gap=config.gap, attempts=config.teacher.retries + 1)
