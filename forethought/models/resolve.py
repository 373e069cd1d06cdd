"""Say what a model's name is, before anything is loaded.  Cheap, so that ``--dry-run`` can ask."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import huggingface_hub

from forethought.config import ModelConfig
from forethought.config.base import did_you_mean
from forethought.offline import INSTALL, offline
from forethought.run.files import cache_root

if TYPE_CHECKING:
    from forethought_offline import PackagedEmbedder, PackagedModel

TINY: dict[str, Literal["llama", "qwen3", "gemma3"]] = {
    "tiny-llama": "llama",
    "tiny-qwen3": "qwen3",
    "tiny-gemma3": "gemma3",
}
"""Random models of :mod:`forethought.models.tiny`, for trying things out."""
TINY_PARAMETERS = {"tiny-llama": 107_200, "tiny-qwen3": 107_264, "tiny-gemma3": 165_248}

LETTERS = "letters"
"""What a config calls the embedder that counts letters."""
EMBEDDER_FILES = ("config.json", "model.safetensors", "tokenizer.json")

CONVERSION = 1  # raised when forethought.models.gguf writes something else for the same file

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_GGUF_MAGIC = b"GGUF"


class ModelError(ValueError):
    """A model that cannot be used; the message says which, why, and the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a model's name turned out to be."""

    name: str
    kind: Literal["tiny", "package", "gguf", "folder", "hub"]
    path: Path | None = None  # of a folder or .gguf file
    package: PackagedModel | None = None
    pending: str = ""  # what loading will first do once (a conversion, a download), for --dry-run


def resolve(config: ModelConfig) -> Source:
    """Return what ``config.model`` is, without loading weights and without the network.

    A name is looked up among the tiny models, then the packaged ones, then as a .gguf file, a folder and a hub name.
    """
    source = _source(config)
    if config.revision is not None and source.kind != "hub":
        raise ModelError(f"{config.model}: revision = {config.revision!r} is for hub names; this is a {source.kind}")
    return source


def _source(config: ModelConfig) -> Source:
    name, path, package = config.model, Path(config.model).expanduser(), packages().get(config.model)
    if name in TINY:
        return Source(name=name, kind="tiny")
    if package is not None:
        return Source(name=name, kind="package", package=package, pending=package.pending())
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"{name}: no such file.{name_hint(name)}")
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
        if magic != _GGUF_MAGIC:
            raise ModelError(f"{name}: not a GGUF file: it begins with {magic!r} instead of {_GGUF_MAGIC!r}")
        pending = f"converts {path.name} unless that was done before"
        return Source(name=name, kind="gguf", path=path, pending=pending)
    if path.is_dir():
        check_folder(path, weights=config.init == "pretrained")
        return Source(name=name, kind="folder", path=path)
    if path.exists():
        raise ModelError(f"{name}: a file, but not a .gguf one. Give a .gguf file or a model folder")
    if not _HUB_NAME.fullmatch(name):
        raise ModelError(f"{name}: no such folder, and not a hub name (owner/name) either.{name_hint(name)}")
    guess = did_you_mean(name, [*packages(), *TINY], cutoff=0.8) if "/" not in name else ""
    revision, pending = config.revision or "main", ""
    if not isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision), str):
        pending = f"downloads {name} ({revision}) from the hub"
        if guess:
            raise ModelError(f"{name}: no model is called so.{guess} A model of the hub is written owner/name")
        if huggingface_hub.is_offline_mode():
            why = "not in the local hub cache, and the hub is switched off by HF_HUB_OFFLINE"
            raise ModelError(f"{name}: {why}.{name_hint(name)}")
    return Source(name=name, kind="hub", pending=pending)


def packages() -> Mapping[str, PackagedModel]:
    """Return the models that install as Python packages, by name; empty without :mod:`forethought_offline`."""
    extra = offline()
    return {} if extra is None else extra.MODELS


def embedders() -> Mapping[str, PackagedEmbedder]:
    """Return the embedders that install as Python packages, by name; empty without :mod:`forethought_offline`."""
    extra = offline()
    return {} if extra is None else extra.EMBEDDERS


def check_embedder(name: str) -> PackagedEmbedder | Path | None:
    """Return what an embedder's name is: an installed package, a folder, or ``None`` for :data:`LETTERS`.

    Raises:
        ModelError: if it is none of them.
    """
    package, folder = embedders().get(name), Path(name).expanduser()
    if name == LETTERS:
        return None
    if package is not None:
        package.check()
        return package
    missing = [file for file in EMBEDDER_FILES if not (folder / file).is_file()]
    if missing:
        known = [f"{package.name} ({package.pip_command})" for package in embedders().values()]
        guess = did_you_mean(name, [*embedders(), LETTERS])
        raise ModelError(
            f"{name}: not an embedder: {folder} lacks {' and '.join(missing)}.{guess}"
            f" Name a sentence-transformers folder of a BERT with mean pooling, or one that installs as a package: "
            f"{', '.join(known) or INSTALL}"
        )
    return folder


def name_hint(name: str) -> str:
    """Return the end of a message about a model that was not found: close names, and those that need no hub."""
    known = [*packages(), *TINY]
    guess = did_you_mean(os.path.basename(name), known)
    more = "" if packages() else f". For models that install as Python packages: {INSTALL}"
    return f"{guess} Names that need no hub: {', '.join(known)}{more}"


def check_folder(folder: Path, *, weights: bool = True) -> None:
    """Raise :class:`ModelError` unless ``folder`` holds a config, a tokenizer and, if asked, safetensors."""
    wanted = ["config.json"]
    index = folder / "model.safetensors.index.json"
    if weights and index.is_file():
        try:
            wanted += sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(f"{index}: not an index of safetensors shards ({error!r}); copy it again") from None
    elif weights:
        wanted.append("model.safetensors")
    missing = [file for file in wanted if not (folder / file).is_file()]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("a tokenizer (tokenizer.json, tokenizer.model or vocab.json)")
    if missing:
        raise ModelError(
            f"{folder}: not a Hugging Face model folder, it lacks {' and '.join(missing)}. "
            "Call `save_pretrained` of the model and of the tokenizer with this folder to write all of them"
        )


def sha256_of(files: Sequence[Path]) -> str:
    """Return the SHA-256, in hex, of ``files`` joined in order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)  # updates the digest of the files before
    return digest.hexdigest()


def identity_of(sha256: str) -> str:
    """Return 12 hex digits that name the converted form of the GGUF file with checksum ``sha256``."""
    return hashlib.sha256(f"{sha256}:{CONVERSION}".encode()).hexdigest()[:12]


def cache_folder(name: str, sha256: str) -> Path:
    """Return where the converted form of a GGUF file is kept."""
    return cache_root() / f"{name}-{identity_of(sha256)}"
