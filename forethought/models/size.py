"""How many weights a model has, without loading them."""

from __future__ import annotations

from forethought.config import ModelConfig
from forethought.models.catalogue import CATALOGUE
from forethought.models.resolve import Kind, describe, resolve


def parameters(config: ModelConfig) -> int | None:
    """Return the number of weights, tied ones counted once; ``None`` for a hub model that is not here."""
    source = resolve(config)
    known = {row.name: row.parameters for row in describe()}
    if source.name in known or source.name in CATALOGUE:
        return known[source.name]
    if source.kind is Kind.GGUF:
        # A guess from the size: quantised files spend about 4.5 bits a weight.
        return None if source.path is None else int(source.path.stat().st_size * 8 / 4.5)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        architecture = AutoConfig.from_pretrained(source.path or source.name, revision=config.revision)
    except OSError:
        return None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(architecture)
    return sum(parameter.numel() for parameter in model.parameters())
