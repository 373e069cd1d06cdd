"""Sentence embeddings: a sentence-transformers folder, an installed package, or a count of letters for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from tokenizers import Tokenizer
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertModel

from forethought.models.load import content_identity
from forethought.models.resolve import EMBEDDER_FILES, LETTERS, ModelError, check_embedder

BATCH = 64  # texts of one forward pass
LONGEST = 256  # tokens of a text that are read; what all-MiniLM-L6-v2 was trained on


class Embedder(Protocol):
    """A model that maps texts of similar meaning to vectors of high cosine."""

    name: str
    identity: str

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return a row of length 1 for each text, float32 ``(texts, D)``."""
        ...


class LetterEmbedder:
    """Counts characters: a stub that needs no model and knows no meaning."""

    name = identity = LETTERS

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), 128), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for character in text.lower():
                row[ord(character) % 128] += 1
        return _unit(rows)


class BertEmbedder:
    """A BERT with mean pooling, in float32 on the CPU or a GPU; loaded when it is first asked."""

    def __init__(
        self, name: str, identity: str, files: Callable[[], Mapping[str, bytes]], device: torch.device
    ) -> None:
        self.name, self.identity = name, identity
        self._files, self._device = files, device

    @cached_property
    def parts(self) -> tuple[Any, Tokenizer]:
        """The network and its tokenizer; raises :class:`ModelError` if the files are no BERT's."""
        return _bert(self.name, self._files(), self._device)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        model, tokenizer = self.parts
        encoded = tokenizer.encode_batch(list(texts))
        # Texts of similar length share a batch, so that little is padded.
        order = sorted(range(len(texts)), key=lambda index: len(encoded[index].ids))
        rows = np.zeros((len(texts), model.config.hidden_size), np.float32)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            ids, mask = (
                pad_sequence([torch.tensor(getattr(encoded[i], name)) for i in batch], batch_first=True)
                for name in ("ids", "attention_mask")
            )
            ids, mask = ids.to(model.device), mask.to(model.device)
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            rows[batch] = mean.cpu().numpy()
        return _unit(rows)


def load_embedder(name: str, device: torch.device | str = "cpu") -> Embedder:
    """Return the embedder ``name``: ``letters``, an installed package's, or a model folder; weights come later."""
    found = check_embedder(name)
    if found is None:
        return LetterEmbedder()
    if not isinstance(found, Path):
        return BertEmbedder(name, found.sha256[:12], lambda: found.read(EMBEDDER_FILES), torch.device(device))
    files = lambda: {file: (found / file).read_bytes() for file in EMBEDDER_FILES}  # noqa: E731
    return BertEmbedder(found.name, content_identity(found), files, torch.device(device))


def _bert(name: str, files: Mapping[str, bytes], device: torch.device) -> tuple[Any, Tokenizer]:
    config = json.loads(files["config.json"])
    if config.get("model_type") != "bert":
        raise ModelError(f"{name}: a {config.get('model_type')} model; an embedder must be a BERT with mean pooling")
    model = BertModel(BertConfig(**config), add_pooling_layer=False)
    report = model.load_state_dict(load_safetensors(files["model.safetensors"]), strict=False)
    if report.missing_keys:
        raise ModelError(f"{name}: its weights lack {report.missing_keys[:3]}")
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(LONGEST, config["max_position_embeddings"]))
    return model.eval().to(device), tokenizer


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
