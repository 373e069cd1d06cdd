"""forethought: pretraining text as training environments for small language models.

The names below are the library; each is imported when it is first used, so that ``import forethought`` is instant.

- Whole runs: ``load_config`` reads a TOML file into a ``Config``; ``Lifecycle(config, Run.create_or_open(folder))``
  has ``everything()``, ``chunk()``, ``audit()``, ``improve()``, ``interleave()``, ``sft()`` and ``evaluate()``.
- A model: ``load_model(ModelConfig(model=...), device=..., dtype=...)``, behind a ``Policy``.
- One's own loop: a ``TorchSampler`` continues a ``Prompt`` as ``Sampling`` says, with the random numbers of a
  ``Key``; a ``TorchScorer`` gives the log-probabilities of a ``Group`` (a prefix and its branches); a ``Trainer``
  with a ``Schedule`` and ``Adam`` takes a step on ``Example`` records and a loss such as ``dpo``.

``examples/online_dpo_loop.py`` is Online DPO on these names.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Adam": "engine.trainer:Adam",
    "Config": "config:Config",
    "Example": "engine.trainer:Example",
    "Group": "engine.branches:Group",
    "Key": "keys:Key",
    "Lifecycle": "pipeline.runner:Lifecycle",
    "ModelConfig": "config:ModelConfig",
    "Policy": "engine.policy:Policy",
    "Prompt": "engine.branches:Prompt",
    "Run": "store:Run",
    "Sampling": "engine.branches:Sampling",
    "Schedule": "engine.trainer:Schedule",
    "TorchSampler": "engine.sampler:TorchSampler",
    "TorchScorer": "engine.scorer:TorchScorer",
    "Trainer": "engine.trainer:Trainer",
    "dpo": "engine.losses:dpo",
    "load_config": "config:load",
    "load_model": "models:load",
}
"""Where each public name lives, below this package."""

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'forethought' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(f"forethought.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
