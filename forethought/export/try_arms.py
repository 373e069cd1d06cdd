"""What arms of a run think of a text and how they go on with it, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from forethought import models
from forethought.config import Config
from forethought.engine import Prompt, Sampling, Thinking
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.export.arms import ExportError, Trained, arms, config_of, find, tags_of
from forethought.graph import IMPROVED, RLMT
from forethought.keys import Key
from forethought.models.thought_tokens import ThoughtTokens, encode
from forethought.store import BASE, Run
from forethought.tags import Tags, strip

FAVOURITES = (f"{BASE}-{RLMT}", f"{IMPROVED}-{RLMT}")
"""Who is asked unless somebody is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How texts are drawn."""

    temperature: float = 1.0
    """0 is greedy."""
    tokens: int | None = None
    """Length of a continuation; by default that of a suffix in the run."""
    thought_tokens: int | None = None
    """Longest thought; by default that of the run."""
    samples: int = 1
    """So many of each arm."""
    seed: int = 0
    """Other seeds, other texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One sample of an arm."""

    thought: str | None
    """What it thought; ``None`` if it was not trained to."""
    closed: bool
    """Whether it ended its thought itself."""
    text: str
    """How it went on, without any thought."""


def ask(
    run: Run, names: Sequence[str], text: str, wish: Wish, say: Callable[[str], None] = print
) -> dict[str, list[Said]]:
    """Return what each arm says to ``text``; without ``names`` the last two lineages, else the last arms there are.

    Raises:
        ExportError: if an arm is not there, or the text is empty.
    """
    if not text:
        raise ExportError("the text is empty: give a beginning, in quotes")
    models.quiet()
    config = config_of(run)
    if not names:
        there = list(arms(run, config))
        names = FAVOURITES if set(FAVOURITES) <= set(there) else there[-2:]
    asked = [find(run, config, name) for name in names]
    return {arm.name: _say(config, arm, text, wish, say) for arm in asked}


def render(text: str, said: dict[str, list[Said]], tags: Sequence[str]) -> RenderableType:
    """Return the samples side by side, one column for each arm; thoughts are dim and keep their tags."""
    table = Table(*said, title=text, title_justify="left", title_style="bold", show_lines=True, expand=True)
    for row in zip(*said.values(), strict=True):
        table.add_row(*(_cell(one, tags) for one in row))
    return table


def _cell(one: Said, tags: Sequence[str]) -> Text:
    cell = Text()
    if one.thought is not None:
        end = tags[1] if one.closed else f"{tags[1]} (cut)"
        cell.append(f"{tags[0]}{one.thought}{end}\n", style="dim italic")
    return cell.append(one.text)


def _say(config: Config, arm: Trained, text: str, wish: Wish, say: Callable[[str], None]) -> list[Said]:
    device = models.resolve_device(config.device)
    dtype = models.resolve_dtype("auto", device)  # a run may have been made on a machine with other arithmetic
    loaded = models.load(arm.model, device=device, dtype=dtype, seed=config.seed, progress=say)
    tokenizer, sampler = loaded.tokenizer, TorchSampler(Policy(loaded.model))
    tags = Tags(*tags_of(config))
    coded = ThoughtTokens.of(tokenizer, tags) if arm.thinks else None
    opened, closed = (coded.open, coded.close) if coded is not None else ((), ())
    special = models.special_ids(tokenizer, loaded.model.config.get_text_config().vocab_size)
    rlmt = config.rlmt
    default = rlmt.suffix_tokens if rlmt is not None else config.chunk.suffix_tokens
    sampling = Sampling(
        max_tokens=wish.tokens or default,
        temperature=wish.temperature,
        forbidden_ids=tuple(sorted(set(special) - {*opened, *closed})),
    )
    key = Key(wish.seed, "try")
    head = models.bos_ids(tokenizer) + encode(tokenizer, text)
    prompt = Prompt(id="try", token_ids=head + opened)
    if coded is None:
        [drawn] = sampler.sample([prompt], wish.samples, sampling, key)
        return [Said(thought=None, closed=False, text=tokenizer.decode(list(one.token_ids))) for one in drawn]
    longest = rlmt.thought_tokens if rlmt is not None else config.evaluate.thoughts.thought_tokens
    thinking = Thinking(max_tokens=wish.thought_tokens or longest, close_ids=coded.close, closed=coded.closed)
    [thought] = sampler.think([prompt], wish.samples, thinking, sampling, key)
    found = []
    for one in thought:
        ids = list(one.token_ids)
        words = tokenizer.decode(ids[: one.thought_tokens]).partition(tags.close)[0]
        suffix = strip(tokenizer.decode(ids[one.thought_tokens :]), tags)
        found.append(Said(thought=words, closed=one.closed, text=suffix))
    return found
