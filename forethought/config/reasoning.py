"""Reasoning benchmarks: tasks, samples, and how answers are sampled."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from forethought.config.base import Count, Distinct, Length, Name, OrGreedy, Positive, Repeats, Section
from forethought.config.sources import EndpointConfig, ModelConfig


class ReasoningConfig(Section):
    """Reasoning benchmarks: Mean@k, Pass@k and majority vote of all arms, on the same problems and random numbers."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1), Distinct] = ("gsm8k",)
    """Tasks that `forethought validate` lists: `gsm8k`, `math500`, `gpqa`, `olympiad`, `amc23`, `procedural`, ..."""
    problems: Positive | dict[str, Positive] | None = None
    """Number of problems of each task, or a table of numbers by task; the same problems in every run. Default: all."""
    samples: Repeats = 8
    """n, the sampled answers to each problem."""
    k: tuple[Repeats, ...] = ()
    """The k of Pass@k, each at most `samples`; default: 2, 4, ... and `samples`. Pass@1 is Mean@n."""
    temperature: OrGreedy = 0.6
    """Sampling temperature, without top-p and top-k."""
    max_tokens: Length = 512
    """Longest answer; a longer one is cut and counted as truncated."""
    thought_tokens: Length = 128
    """Longest thought before an answer; a longer one is cut and closed."""
    shots: Count | None = None
    """Worked examples in each prompt; default: all that the task has."""
    thoughts: Literal["trained", "all", "none"] = "trained"
    """Which models also answer after a thought: arms that were trained to think, every model, or none."""
    gold: bool = True
    """Whether to also measure the bits per byte of the worked solution."""
    arms: Annotated[tuple[str, ...], Distinct] | None = None
    """Arms of the run that are evaluated; default: all; empty list: only `models` and `endpoint`."""
    models: dict[Name, ModelConfig] = {}
    """Other models that are evaluated, by name."""
    endpoint: EndpointConfig | None = None
    """A server that is evaluated through OpenAI's `/completions`; its arm is called `endpoint`."""
    source: Literal["auto", "package", "hub"] = "auto"
    """Where problems come from. `auto`: an installed package if there is one, else the hub."""
    paths: dict[str, str] = {}
    """Files of your own to read a task's problems from, by task: JSON Lines or CSV, with the columns of its hub set."""
    sample_rows: Positive = 128
    """Answers that are sampled at once; changes memory and speed, not the text."""

    @model_validator(mode="after")
    def _consistent(self) -> ReasoningConfig:
        beyond = [k for k in self.k if k > self.samples]
        if beyond:
            raise ValueError(f"k = {beyond}: Pass@k needs at least k samples, and samples = {self.samples}")
        if unknown := sorted(set(self.paths) - set(self.tasks)):
            raise ValueError(f"paths names {', '.join(unknown)}, which is not among tasks = {list(self.tasks)}")
        if self.arms == () and not self.models and self.endpoint is None:
            raise ValueError("arms = [] leaves nothing to evaluate: name arms, models or an endpoint")
        return self

    def where(self, task: str) -> Literal["auto", "package", "hub"] | Path:
        """Return where the problems of a task come from."""
        return Path(self.paths[task]).expanduser() if task in self.paths else self.source

    def count(self, task: str) -> int | None:
        """Return the number of problems of a task; ``None``: all."""
        return self.problems.get(task) if isinstance(self.problems, dict) else self.problems

    @property
    def passes(self) -> tuple[int, ...]:
        """The k of Pass@k, ascending."""
        doubled = {2**power for power in range(1, self.samples.bit_length())}
        return tuple(sorted(set(self.k) or {k for k in doubled if k < self.samples} | {self.samples}))


def reasoning_overrides(tasks: str | None, arms: str | None, models: Sequence[str]) -> list[str]:
    """Return the options of the command line as ``section.key=value``; ``models`` without ``arms`` means no arms.

    A model is called by the last part of its name: ``HuggingFaceTB/SmolLM2-135M`` is ``SmolLM2-135M``.
    """
    found = []
    if tasks:
        found.append(f"reasoning.tasks={json.dumps(_listed(tasks))}")
    if arms is not None or models:
        found.append(f"reasoning.arms={json.dumps(_listed(arms or ''))}")
    for model in models:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", model.rstrip("/").rpartition("/")[2]).strip("-") or "model"
        found.append(f"reasoning.models.{name}={{ model = {json.dumps(model)} }}")
    return found


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
