"""What is measured on: real models, and prefixes and suffixes of real text in exact lengths."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.measure import ROOT, Options, tidy
from forethought import models
from forethought.config import ChunkConfig, CorpusConfig, ModelConfig
from forethought.corpus.chunker import chunks
from forethought.corpus.sources import documents
from forethought.engine import Group, Prompt
from forethought.engine.policy import Policy
from forethought.keys import Key
from forethought.models.model import Model, Parts
from forethought.records import Chunk

SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model twice over one set of weights: behind the shared-prefix engine, and as transformers has it."""

    name: str
    """Its name in ``forethought models``."""
    policy: Policy
    """Behind the engine."""
    plain: Any
    """Plain transformers, same tensors."""
    tokenizer: Any
    """Its tokenizer."""

    @property
    def bos(self) -> tuple[int, ...]:
        """Ids that stand before every text."""
        return models.bos_ids(self.tokenizer)

    @property
    def eos(self) -> tuple[int, ...]:
        """Ids that end a generation."""
        found = self.plain.generation_config.eos_token_id
        return tuple(found) if isinstance(found, list) else (found,)


def load(name: str, options: Options, dtype: torch.dtype | None = None) -> Any:
    """Return a model and its tokenizer (:class:`forethought.models.LoadedModel`)."""
    models.quiet()
    tidy()  # trainers hold themselves in cycles, and the last one may still be there
    return models.load(ModelConfig(model=name), device=torch.device(options.device), dtype=dtype or options.dtype)


def subject(name: str, options: Options) -> Subject:
    """Load ``name`` for both sides."""
    loaded = load(name, options)
    return Subject(name=name, policy=Policy(twin(loaded.model)), plain=loaded.model, tokenizer=loaded.tokenizer)


def twin(model: Any) -> Any:
    """Return a second model over the same tensors, whose attention can be switched on its own."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def local(found: Subject, scorer: Any) -> Model:
    """Return ``found`` as judges use it, scored by ``scorer``."""
    context = found.plain.config.get_text_config().max_position_embeddings
    sampler = None  # nothing is written
    parts = Parts(tokenizer=found.tokenizer, scorer=scorer, sampler=sampler, bos=found.bos, context=context)  # type: ignore[arg-type]
    return Model(found.name, found.name, parts)


def corpus(options: Options) -> CorpusConfig:
    """Return the bundled encyclopaedic text; for a quick run, this repository's own pages."""
    if options.quick:
        return CorpusConfig(source="text", path=str(ROOT / "docs"))
    return CorpusConfig(source="bundled")


def cut(tokenizer: Any, options: Options, count: int, prefix: int, suffix: int) -> list[Chunk]:
    """Return ``count`` chunks of exactly ``prefix`` and ``suffix`` tokens, at most two of a document.

    Only chunks whose texts give the same ids when they are tokenised again, so that peers that take text see the same.
    """
    config = ChunkConfig(prefix_tokens=(prefix, prefix), suffix_tokens=suffix, chunks_per_document=2)
    found: list[Chunk] = []
    for document in documents(corpus(options), Counter()):
        for chunk in chunks(document, tokenizer, config, Key(SEED, "benchmark text"), Counter()):
            if len(chunk.prefix_ids) == prefix and _same_again(tokenizer, chunk):
                found.append(chunk)
        if len(found) >= count:
            return found[:count]
    raise ValueError(f"the corpus holds {len(found)} chunks of {prefix} + {suffix} tokens, {count} are needed")


def _same_again(tokenizer: Any, chunk: Chunk) -> bool:
    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    whole = ids(chunk.prefix + chunk.suffix)
    return ids(chunk.prefix) == chunk.prefix_ids and whole == chunk.prefix_ids + chunk.suffix_ids


def prompts(found: Sequence[Chunk], bos: tuple[int, ...]) -> list[Prompt]:
    """Return the prefixes as a sampler's prompts."""
    return [Prompt(id=chunk.id, token_ids=bos + chunk.prefix_ids) for chunk in found]


def candidates(found: Sequence[Chunk], bos: tuple[int, ...], count: int) -> Group:
    """Return the first chunk's prefix with its own suffix and those of other chunks, ``count`` in all."""
    return Group(prefix=bos + found[0].prefix_ids, branches=tuple(chunk.suffix_ids for chunk in found[:count]))
