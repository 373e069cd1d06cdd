"""How large a model is, and of what shape, without loading its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forethought.config import ModelConfig
from forethought.models.catalogue import CATALOGUE, TINY, Package
from forethought.models.resolve import Kind, describe, resolve

# torch and transformers take seconds to import, and listing models needs neither: they wait in the functions.
if TYPE_CHECKING:
    from transformers import PretrainedConfig

_QWEN = {"vocab_size": 151936, "tie_word_embeddings": False, "num_key_value_heads": 2, "max_position_embeddings": 32768}
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gemma-3-270m": {
        **{"model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 640, "intermediate_size": 2048},
        **{"num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256},
        **{"tie_word_embeddings": True, "sliding_window": 512},
    },
    "smollm2-135m-instruct": {
        **{"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536},
        **{"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64},
        **{"tie_word_embeddings": True, "max_position_embeddings": 8192},
    },
    "qwen2.5-coder-0.5b-instruct": {
        **_QWEN,
        **{"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24},
        "num_attention_heads": 14,
    },
    "qwen2.5-coder-1.5b-instruct": {
        **_QWEN,
        **{"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28},
        "num_attention_heads": 12,
    },
}
"""Architectures of the packaged models, as their GGUF headers state them, for plans made before they are converted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What of a model decides how much it computes and holds."""

    weights: int
    """All weights, tied ones counted once."""
    layers: int
    """Those inside the decoder's layers: each token passes through them."""
    head: int
    """Those of the projection to the vocabulary: each token that is drawn or scored passes through them."""
    depth: int
    """Decoder layers."""
    hidden: int
    """Width of the hidden state."""
    inner: int
    """Width inside of the feed-forward part."""
    kept: int
    """Numbers that one token leaves in the cache of keys and values, over all layers."""
    vocabulary: int
    """Tokens that it knows."""


def parameters(config: ModelConfig) -> int | None:
    """Return the number of weights, tied ones counted once; ``None`` for a hub model that is not here."""
    source = resolve(config)
    known = {row.name: row.parameters for row in describe()}
    if source.name in known or source.name in CATALOGUE:
        return known[source.name]
    if source.kind is Kind.GGUF:
        # A guess from the size: quantised files spend about 4.5 bits a weight.
        return None if source.path is None else int(source.path.stat().st_size * 8 / 4.5)
    found = shape(config)
    return None if found is None else found.weights


def shape(config: ModelConfig) -> Shape | None:
    """Return the shape of a model; ``None`` where it is not known yet (GGUF files, hub models that are not here)."""
    found = architecture(config)
    return None if found is None else shape_of(found)


def architecture(config: ModelConfig) -> PretrainedConfig | None:
    """Return the transformers config of a model; ``None`` where it cannot be known yet."""
    from transformers import AutoConfig

    from forethought.testing import tiny_config

    source = resolve(config)
    if source.kind is Kind.TINY:
        return tiny_config(TINY[source.name])
    if source.package is not None:
        return _packaged(source.package)
    if source.kind is Kind.GGUF:
        return None
    try:
        found: PretrainedConfig = AutoConfig.from_pretrained(source.path or source.name, revision=config.revision)
    except OSError:
        return None
    return found


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
    kept = 2 * text.num_hidden_layers * (getattr(text, "num_key_value_heads", None) or heads) * width
    return Shape(
        weights=weights,
        layers=weights - embedding.numel() - (0 if head is embedding else head.numel()),
        head=head.numel(),
        depth=text.num_hidden_layers,
        hidden=text.hidden_size,
        inner=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        kept=kept,
        vocabulary=text.vocab_size,
    )


def _packaged(package: Package) -> PretrainedConfig:
    from transformers import AutoConfig

    if package.folder.is_dir():
        found: PretrainedConfig = AutoConfig.from_pretrained(package.folder)
        return found
    fields = dict(_ARCHITECTURES[package.name])
    made: PretrainedConfig = AutoConfig.for_model(fields.pop("model_type"), **fields)
    return made
