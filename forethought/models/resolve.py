"""Say what a model's name is, before anything is loaded.  Cheap, so that ``--dry-run`` can ask."""

from __future__ import annotations

import difflib
import enum
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from forethought.config import ModelConfig
from forethought.models.catalogue import CATALOGUE, TINY, ModelError, Package

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_GGUF_MAGIC = b"GGUF"


class Kind(enum.StrEnum):
    """Where a model's files come from."""

    TINY = "tiny"
    PACKAGE = "package"
    GGUF = "gguf"
    FOLDER = "folder"
    HUB = "hub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a model's name turned out to be."""

    name: str
    """The name as it was asked for."""
    kind: Kind
    """Where its files come from."""
    path: Path | None = None
    """The folder or .gguf file, for these two kinds."""
    package: Package | None = None
    """The catalogue's entry, for installed packages."""
    pending: str = ""
    """What loading will first do once (a conversion, a download), for ``--dry-run``; empty when nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of ``forethought models``."""

    name: str
    """What a config calls it."""
    title: str
    """What its publisher calls it."""
    kind: str
    """``base``, ``instruct`` or ``random``."""
    parameters: int
    """Weights, with tied ones counted once."""
    bytes: int
    """Size of the GGUF file; 0 for random models."""
    licence: str
    """Licence of the weights."""
    installed: bool
    """Whether all of its packages are installed."""
    converted: bool
    """Whether it has been converted already."""
    pip: str
    """The command that installs it; empty when there is nothing to install."""


def resolve(config: ModelConfig) -> Source:
    """Return what ``config.model`` is, without loading weights and without the network.

    A name is looked up among the tiny models, then the catalogue, then as a .gguf file, a folder and a hub name.

    Raises:
        ModelError: naming the model, what is wrong with it and the way out.
    """
    source = _source(config)
    if config.revision is not None and source.kind is not Kind.HUB:
        raise ModelError(f"{config.model}: revision = {config.revision!r} is for hub names; this is a {source.kind}")
    return source


def describe() -> list[Row]:
    """Return what the catalogue holds and which of it is here."""
    tiny = [
        Row(
            name=name,
            title=f"random {architecture} over bytes",
            kind="random",
            parameters={"llama": 107_200, "qwen3": 107_264, "gemma3": 165_248}[architecture],
            bytes=0,
            licence="none needed",
            installed=True,
            converted=True,
            pip="",
        )
        for name, architecture in TINY.items()
    ]
    packaged = [
        Row(
            name=package.name,
            title=package.title,
            kind=package.kind,
            parameters=package.parameters,
            bytes=package.bytes,
            licence=package.licence,
            installed=bool(package.files()),
            converted=package.folder.is_dir(),
            pip=package.pip_command,
        )
        for package in CATALOGUE.values()
    ]
    return packaged + tiny


def check_folder(folder: Path, *, weights: bool = True) -> None:
    """Raise :class:`ModelError` unless ``folder`` holds a config, a tokenizer and, if asked, safetensors."""
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("a tokenizer (tokenizer.json, tokenizer.model or vocab.json)")
    if weights:
        missing.extend(_missing_weights(folder))
    if missing:
        raise ModelError(
            f"{folder}: not a Hugging Face model folder, it lacks {' and '.join(missing)}. "
            "`save_pretrained` of the model and of the tokenizer into one folder writes all that is needed"
        )


def _missing_weights(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [] if (folder / "model.safetensors").is_file() else ["model.safetensors"]
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{index}: not an index of safetensors shards ({error!r}); copy it again") from None
    return sorted(shard for shard in shards if not (folder / shard).is_file())


def _source(config: ModelConfig) -> Source:
    name = config.model
    path = Path(name).expanduser()
    if name in TINY:
        return Source(name=name, kind=Kind.TINY)
    if name in CATALOGUE:
        return _package(CATALOGUE[name])
    if path.suffix == ".gguf":
        return _gguf(name, path)
    if path.is_dir():
        check_folder(path, weights=config.init == "pretrained")
        return Source(name=name, kind=Kind.FOLDER, path=path)
    if path.exists():
        raise ModelError(f"{name}: a file, but not a .gguf one. Give a .gguf file or a model folder")
    if not _HUB_NAME.fullmatch(name) or name.startswith((".", "/", "~")):
        raise ModelError(f"{name}: no such folder, and not a hub name (owner/name) either.{_hint(name)}")
    return _hub(config)


def _package(package: Package) -> Source:
    if package.folder.is_dir():
        check_folder(package.folder)
        return Source(name=package.name, kind=Kind.PACKAGE, package=package)
    files = package.files()
    if not files:
        raise ModelError(f"{package.name}: its packages are not installed. Install them with\n  {package.pip_command}")
    size = sum(path.stat().st_size for path in files)
    if size != package.bytes:
        raise ModelError(
            f"{package.name}: its {len(files)} files are {size:,} bytes instead of {package.bytes:,}. "
            f"Install them anew with\n  {package.pip_command} --force-reinstall"
        )
    pending = f"converts {size / 1e6:,.0f} MB of GGUF to {package.parameters * 2 / 1e6:,.0f} MB in {package.folder}"
    return Source(name=package.name, kind=Kind.PACKAGE, package=package, pending=pending)


def _gguf(name: str, path: Path) -> Source:
    if not path.is_file():
        raise ModelError(f"{name}: no such file.{_hint(name)}")
    with path.open("rb") as file:
        magic = file.read(len(_GGUF_MAGIC))
    if magic != _GGUF_MAGIC:
        raise ModelError(f"{name}: not a GGUF file: it begins with {magic!r} instead of {_GGUF_MAGIC!r}")
    return Source(name=name, kind=Kind.GGUF, path=path, pending=f"converts {path.name} unless that was done before")


def _hub(config: ModelConfig) -> Source:
    revision = config.revision or "main"
    cached = huggingface_hub.try_to_load_from_cache(config.model, "config.json", revision=revision)
    if isinstance(cached, str):
        return Source(name=config.model, kind=Kind.HUB)
    if huggingface_hub.is_offline_mode():
        raise ModelError(
            f"{config.model}: not in the local hub cache, and the hub is switched off by HF_HUB_OFFLINE."
            f"{_hint(config.model)}"
        )
    return Source(name=config.model, kind=Kind.HUB, pending=f"downloads {config.model} ({revision}) from the hub")


def _hint(name: str) -> str:
    known = [*CATALOGUE, *TINY]
    close = difflib.get_close_matches(os.path.basename(name).lower(), known, n=1, cutoff=0.6)
    guess = f" Did you mean {close[0]}?" if close else ""
    return f"{guess} Names that need no hub: {', '.join(known)}"
