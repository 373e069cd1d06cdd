"""From a model's name to its weights and tokenizer: hub names, folders, GGUF files and installed packages."""

from forethought.models.load import (
    LoadedModel,
    bos_ids,
    load,
    load_tokenizer,
    quiet,
    resolve_device,
    resolve_dtype,
    special_ids,
)
from forethought.models.resolve import TINY_PARAMETERS, ModelError, packages, resolve
from forethought.models.size import Shape, parameters, shape

__all__ = [
    "TINY_PARAMETERS",
    "LoadedModel",
    "ModelError",
    "Shape",
    "bos_ids",
    "load",
    "load_tokenizer",
    "packages",
    "parameters",
    "quiet",
    "resolve",
    "resolve_device",
    "resolve_dtype",
    "shape",
    "special_ids",
]
