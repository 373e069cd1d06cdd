"""forethought: pretraining text as training environments for small language models.

The names below are the library; each is imported when it is first used, so that ``import forethought`` is instant.

**A model.**  ``Model.load("smollm2-135m-instruct")`` samples, thinks, scores, trains and saves.  Random numbers have a
``Key``; a ``Group`` is a prefix with its branches, a ``Prompt`` a prefix with a name, a ``ModelConfig`` how to load.

**Your own loop.**  ``cut_chunks`` makes ``Chunk`` records of a ``Document`` as a ``ChunkConfig`` says.
``make_pool`` puts every ``candidate`` of a chunk, with its ``Origin``, into a pool; ``rank_pools`` has judges rank it.
``dr_grpo`` makes advantages of rewards.  A trainer takes ``Example`` records and one of ``dpo``, ``nll`` and
``policy_gradient``.  ``examples/`` has the three stages on these names, a page each.

**Judges.**  A ``Judge`` answers a ``JudgeRequest`` with a ``Verdict`` on each candidate, about some ``Axis``:
``LikelihoodJudge``, ``ShorterJudge``, or a ``QuestionJudge`` of one's own.  A ``Matcher`` gives 0/1 rewards by a judge
that compares with the true suffix, such as ``SimilarityJudge(load_embedder("letters"))``.

**Whole runs.**  ``load_config`` reads a TOML file into a ``Config``;
``Lifecycle(config, Run.create_or_open(folder)).everything()`` makes all of it, ``.make("base-rlmt/rlmt")`` one step.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Axis": "records:Axis",
    "Chunk": "records:Chunk",
    "ChunkConfig": "config:ChunkConfig",
    "Config": "config:Config",
    "Document": "records:Document",
    "Example": "engine.trainer:Example",
    "Group": "engine:Group",
    "Judge": "judges:Judge",
    "JudgeRequest": "records:JudgeRequest",
    "Key": "keys:Key",
    "Lifecycle": "pipeline.runner:Lifecycle",
    "LikelihoodJudge": "judges.likelihood:LikelihoodJudge",
    "Matcher": "judges.match:Matcher",
    "Model": "models.model:Model",
    "ModelConfig": "config:ModelConfig",
    "Origin": "records:Origin",
    "Prompt": "engine:Prompt",
    "QuestionJudge": "judges.base:QuestionJudge",
    "Run": "run.store:Run",
    "ShorterJudge": "judges.shorter:ShorterJudge",
    "SimilarityJudge": "judges.match:SimilarityJudge",
    "Verdict": "records:Verdict",
    "candidate": "algorithms.pools:candidate",
    "cut_chunks": "corpus.chunker:chunks",
    "dpo": "engine.losses:dpo",
    "dr_grpo": "algorithms.advantages:dr_grpo",
    "load_config": "config:load",
    "load_embedder": "models.embedding:load_embedder",
    "make_pool": "algorithms.pools:make_pool",
    "nll": "engine.losses:nll",
    "policy_gradient": "engine.losses:policy_gradient",
    "rank_pools": "algorithms.pools:rank_pools",
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
