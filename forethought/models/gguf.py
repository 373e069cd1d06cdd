"""GGUF to a Hugging Face folder: once, atomic, in a cache directory.

The folder is ``$FORETHOUGHT_CACHE/<name>-<identity>/``.  It holds safetensors in bfloat16: what that rounds away is
less than what computing in bfloat16 does, and a bfloat16 working copy is the same to the last bit either way.
"""

from __future__ import annotations

import errno
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from gguf import GGUFReader
from tokenizers import decoders, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerFast

from forethought.models.resolve import ModelError, cache_folder, sha256_of
from forethought.run.files import FULL, flush_folder, system_error

_BYTES_PER_WEIGHT = 2
# Errors of a cache that cannot be written to, or is not a folder.
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
# What transformers ignores of a GGUF header: kind of tokenizer, how it splits words, whether texts begin with BOS.
_SETTINGS = ("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.add_bos_token")


def convert_file(path: Path, progress: Callable[[str], None]) -> Path:
    """Return the folder of the converted form of the GGUF file ``path``, converting it if need be."""
    progress(f"{path.name}: hashing {path.stat().st_size / 1e6:,.0f} MB")
    folder = cache_folder(path.stem, sha256_of([path]))
    return folder if folder.is_dir() else convert(path.stem, [path], folder, progress)


def convert(name: str, files: Sequence[Path], folder: Path, progress: Callable[[str], None]) -> Path:
    """Write the converted form of the GGUF file that ``files`` make when joined, and return ``folder``.

    A broken file, an unknown architecture and a full or foreign disk are a :class:`ModelError`.
    """
    partial, cache = folder.with_name(f".partial-{folder.name}"), folder.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if folder.is_dir():  # another process did it while this one waited
                return folder
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
            partial.mkdir()
            try:
                _write(name, files, partial, progress)
                flush_folder(partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except Exception as error:  # safetensors and tokenizers have types of their own for a full disk
        reason = system_error(error)
        if reason is not None and reason.errno in FULL:
            way_out = "Free some, or set FORETHOUGHT_CACHE to a folder on another disk"
            raise ModelError(f"{name}: no room in {cache}: {reason.strerror}. {way_out}") from error
        if reason is not None and reason.errno in _NOT_OURS:
            way_out = "Set FORETHOUGHT_CACHE to a folder that you own"
            raise ModelError(f"{name}: cannot write to the cache {cache} ({reason}). {way_out}") from error
        raise
    progress(f"{name}: converted, in {folder}")
    return folder


def _write(name: str, files: Sequence[Path], target: Path, progress: Callable[[str], None]) -> None:
    _need_space(target, sum(path.stat().st_size for path in files))
    source = files[0]
    if len(files) > 1:
        source = target / "joined.gguf"
        with source.open("wb") as joined:
            for part in files:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, joined)
    progress(f"{name}: converting, once, about a minute")
    try:
        weights, settings = _header(source)
    except (ValueError, IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise ModelError(f"{name}: {source} is a broken GGUF file ({error}). Download it again") from error
    _need_space(target, weights * _BYTES_PER_WEIGHT)
    place: dict[str, Any] = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    try:
        progress(f"{name}: converting the tokenizer")
        tokenizer = _tokenizer(AutoTokenizer.from_pretrained(**place), *map(settings.get, _SETTINGS))
        progress(f"{name}: dequantising {weights / 1e6:,.0f} M weights")
        model = AutoModelForCausalLM.from_pretrained(
            **place, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(f"{name}: transformers cannot read this GGUF file: {error}") from error
    progress(f"{name}: writing {weights * _BYTES_PER_WEIGHT / 1e6:,.0f} MB")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    if source.parent == target:
        source.unlink()


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    reader = GGUFReader(path)  # maps the file into memory until this function returns
    settings = {key: field.contents() for key, field in reader.fields.items() if key in _SETTINGS}
    return sum(int(tensor.n_elements) for tensor in reader.tensors), settings


def _tokenizer(loaded: Any, kind: str | None, split: str | None, adds_bos: bool | None) -> PreTrainedTokenizerFast:
    """Return ``loaded`` with the settings of the GGUF header restored.

    transformers drops ``add_bos_token`` (Gemma's predictions are poor without BOS), splits SmolLM2's text as GPT-2's
    though its digits are single tokens, and before 5.19 decodes a byte-level Llama like a SentencePiece one.
    """
    backend, bos = loaded.backend_tokenizer, loaded.bos_token
    if adds_bos is None:  # llama.cpp's own default
        adds_bos = kind == "llama" or (split or "").startswith("llama")
    if kind == "gpt2":
        backend.decoder = decoders.ByteLevel()
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, loaded.bos_token_id)]
        )
    if split == "smollm":
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    # The plain class, because a model's own one rebuilds its pre-tokenizer and loses these.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: getattr(loaded, name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")},
        chat_template=loaded.chat_template,
        clean_up_tokenization_spaces=False,
    )


def _need_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{free / 1e6:,.0f} MB are free, {size / 1e6:,.0f} MB are needed")
