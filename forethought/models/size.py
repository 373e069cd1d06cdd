"""How large a model is, and of what shape, without loading its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from forethought.config import ModelConfig
from forethought.models.resolve import TINY, TINY_PARAMETERS, resolve

# torch and transformers take seconds to import, and listing models needs neither: they wait in the functions.
if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes that decide how much a model computes and holds."""

    weights: int  # all of them, tied ones counted once
    layers: int  # weights inside the decoder's layers: each token passes through them
    head: int  # weights of the projection to the vocabulary: each token that is drawn or scored passes through them
    depth: int  # decoder layers
    hidden: int
    inner: int  # width inside the feed-forward part
    kept: int  # numbers that one token leaves in the cache of keys and values, over all layers
    vocabulary: int


def parameters(config: ModelConfig) -> int | None:
    """Return the number of weights, tied ones counted once; ``None`` for a hub model that is not here."""
    source = resolve(config)
    if source.kind == "tiny":
        return TINY_PARAMETERS[source.name]
    if source.package is not None:
        return source.package.parameters
    if source.kind == "gguf" and source.path is not None:
        # A guess from the size: quantised files spend about 4.5 bits a weight.
        return int(source.path.stat().st_size * 8 / 4.5)
    known = shape(config)
    return None if known is None else known.weights


def shape(config: ModelConfig) -> Shape | None:
    """Return the shape of a model; ``None`` where it is not known yet (GGUF files, hub models that are not here)."""
    known = architecture(config)
    return None if known is None else shape_of(known)


def architecture(config: ModelConfig) -> PretrainedConfig | None:
    """Return the transformers config of a model; ``None`` where it is not known yet."""
    from transformers import AutoConfig

    from forethought.models.tiny import tiny_config

    source = resolve(config)
    if source.kind == "tiny":
        return tiny_config(TINY[source.name])
    if source.kind == "gguf":
        return None
    place = source.path or source.name
    if source.package is not None:
        place = source.package.folder
        if not place.is_dir():
            return AutoConfig.for_model(**source.package.architecture)
    try:
        read: PretrainedConfig = AutoConfig.from_pretrained(place, revision=config.revision)
    except OSError:
        return None
    return read


def shape_of(architecture: PretrainedConfig) -> Shape:
    """Return the shape of a causal language model of ``architecture``."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(architecture)
    weights = sum(parameter.numel() for parameter in model.parameters())
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    text = architecture.get_text_config()
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Shape(
        weights=weights,
        layers=weights - embedding.numel() - (0 if head is embedding else head.numel()),
        head=head.numel(),
        depth=text.num_hidden_layers,
        hidden=text.hidden_size,
        inner=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        kept=2 * text.num_hidden_layers * (getattr(text, "num_key_value_heads", None) or heads) * width,
        vocabulary=text.vocab_size,
    )
