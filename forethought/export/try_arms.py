"""What arms of a run think of a text and how they go on with it, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from forethought import models
from forethought.config import Config
from forethought.engine import Prompt
from forethought.export.arms import ExportError, Trained, arms, config_of, find, lengths_of, tags_of
from forethought.graph import IMPROVED, RLMT
from forethought.keys import Key
from forethought.models.model import Compute, Model
from forethought.records import Completion, Rollout
from forethought.run.store import BASE, Run
from forethought.run.terminal import plain
from forethought.tags import Tags

Sample = Completion | Rollout
"""A text of an arm; a rollout, if the arm was trained to think."""
DEFAULT_ARMS = (f"{BASE}-{RLMT}", f"{IMPROVED}-{RLMT}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How texts are drawn; ``None`` is the length in the run, temperature 0 is greedy."""

    temperature: float = 1.0
    tokens: int | None = None
    thought_tokens: int | None = None
    samples: int = 1
    seed: int = 0
    trust_remote_code: bool = False
    """Whether the models of the run may run code of their own."""


def ask(
    run: Run, names: Sequence[str], text: str, options: SamplingOptions, say: Callable[[str], None] = print
) -> dict[str, Sequence[Sample]]:
    """Return what each arm makes of ``text``; without ``names`` the last of both lineages, else the last arms done.

    Raises:
        ExportError: if an arm is not there, or the text is empty.
    """
    if not text:
        raise ExportError("the text is empty: give a beginning, in quotes")
    models.quiet()
    config = config_of(run, trust_remote_code=options.trust_remote_code)
    if not names:
        done = list(arms(run, config))
        names = DEFAULT_ARMS if set(DEFAULT_ARMS) <= set(done) else done[-2:]
    asked = [find(run, config, name) for name in names]  # all of them, before the first is loaded
    return {arm.name: _draw(config, arm, text, options, say) for arm in asked}


def render(text: str, samples: dict[str, Sequence[Sample]], tags: Sequence[str]) -> RenderableType:
    """Return the samples side by side, one column for each arm; thoughts are dim and keep their tags."""
    table = Table(
        *(Column(plain(name)) for name in samples),
        title=plain(text),
        title_justify="left",
        title_style="bold",
        show_lines=True,
        expand=True,
    )
    for row in zip(*samples.values(), strict=True):
        cells = []
        for sample in row:
            cell = Text()
            if isinstance(sample, Rollout):
                end = tags[1] if sample.closed else f"{tags[1]} (cut)"
                cell.append_text(plain(f"{tags[0]}{sample.thought}{end}\n", "dim italic"))
            cells.append(cell.append_text(plain(sample.text)))
        table.add_row(*cells)
    return table


def _draw(
    config: Config, arm: Trained, text: str, options: SamplingOptions, say: Callable[[str], None]
) -> Sequence[Sample]:
    tags = Tags(*tags_of(config)) if arm.thinks else None
    # The dtype is this machine's: the run may have been made on one with other arithmetic.
    model = Model.load(arm.model, Compute(device=config.device, seed=config.seed), tags=tags, progress=say)
    thought_tokens, suffix_tokens = lengths_of(config)
    prompts = [Prompt(id="try", token_ids=model.bos + model.encode(text))]
    drawn: dict[str, Any] = {
        "k": options.samples,
        "max_tokens": options.tokens or suffix_tokens,
        "temperature": options.temperature,
        "key": Key(options.seed, "try"),
    }
    if not arm.thinks:
        return model.sample(prompts, **drawn)[0]
    return model.think(prompts, thought_tokens=options.thought_tokens or thought_tokens, **drawn)[0]
