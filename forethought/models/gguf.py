"""GGUF to a Hugging Face folder: once, atomic, in a cache directory.

The folder is ``$FORETHOUGHT_CACHE/<name>-<identity>/``.  It holds safetensors in bfloat16: what that rounds away is
less than what computing in bfloat16 does, and a bfloat16 working copy is the same to the last bit either way.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from gguf import GGUFReader
from tokenizers import decoders, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerFast

from forethought.files import FULL, flush_folder, system_error
from forethought.models.resolve import ModelError, cache_folder, sha256_of

_BYTES_PER_WEIGHT = 2
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
"""Errors of a cache that cannot be written to, or is not a folder."""


def convert_file(path: Path, progress: Callable[[str], None]) -> Path:
    """Return the folder of the converted form of the GGUF file ``path``, converting it if need be.

    Raises:
        ModelError: when the file is broken or of an unknown architecture, or the disk is full.
    """
    progress(f"{path.name}: hashing {path.stat().st_size / 1e6:,.0f} MB")
    folder = cache_folder(path.stem, sha256_of([path]))
    return folder if folder.is_dir() else convert(path.stem, [path], folder, progress)


def convert(name: str, files: Sequence[Path], folder: Path, progress: Callable[[str], None]) -> Path:
    """Write the converted form of the GGUF file that ``files`` make when joined, and return ``folder``.

    Raises:
        ModelError: as :func:`convert_file`.
    """
    partial = folder.with_name(f".partial-{folder.name}")
    with _disk_errors(name, folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
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
    facts = _header(source, name)
    _need_space(target, facts["weights"] * _BYTES_PER_WEIGHT)
    place: dict[str, Any] = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    try:
        progress(f"{name}: converting the tokenizer")
        tokenizer = _tokenizer(AutoTokenizer.from_pretrained(**place), facts)
        progress(f"{name}: dequantising {facts['weights'] / 1e6:,.0f} M weights")
        model = AutoModelForCausalLM.from_pretrained(
            **place, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(f"{name}: transformers cannot read this GGUF file: {error}") from error
    progress(f"{name}: writing {facts['weights'] * _BYTES_PER_WEIGHT / 1e6:,.0f} MB")
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    if source.parent == target:
        source.unlink()


def _header(path: Path, name: str) -> dict[str, Any]:
    """Return what transformers ignores in a GGUF header: whether texts begin with BOS, and the pre-tokenizer."""
    try:
        reader = GGUFReader(path)
        fields = {
            key: reader.fields[key].contents()
            for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.add_bos_token")
            if key in reader.fields
        }
        weights = sum(int(tensor.n_elements) for tensor in reader.tensors)
    except (ValueError, IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise ModelError(f"{name}: {path} is a broken GGUF file ({error}). Download it again") from error
    kind, cut = str(fields.get("tokenizer.ggml.model", "")), str(fields.get("tokenizer.ggml.pre", "default"))
    # llama.cpp's own defaults where the file does not say.
    adds_bos = kind == "llama" or cut.startswith("llama")
    return {
        "weights": weights,
        "byte_level": kind == "gpt2",
        "cut": cut,
        "adds_bos": bool(fields.get("tokenizer.ggml.add_bos_token", adds_bos)),
    }


def _tokenizer(loaded: Any, facts: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Return ``loaded`` with the settings of the GGUF header restored.

    transformers drops ``add_bos_token`` (Gemma's predictions are poor without BOS), splits SmolLM2's text as GPT-2's
    though its digits are single tokens, and before 5.19 decodes a byte-level Llama like a SentencePiece one.
    """
    backend = loaded.backend_tokenizer
    if facts["byte_level"]:
        backend.decoder = decoders.ByteLevel()
    if facts["adds_bos"]:
        bos = loaded.bos_token
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, loaded.bos_token_id)]
        )
    if facts["cut"] == "smollm":
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    # The plain class, because a model's own one rebuilds its pre-tokenizer and loses these.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=loaded.bos_token,
        eos_token=loaded.eos_token,
        unk_token=loaded.unk_token,
        pad_token=loaded.pad_token,
        chat_template=loaded.chat_template,
        clean_up_tokenization_spaces=False,
    )


def _need_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{free / 1e6:,.0f} MB are free, {size / 1e6:,.0f} MB are needed")


@contextlib.contextmanager
def _disk_errors(name: str, cache: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = system_error(error)
        if reason is not None and reason.errno in FULL:
            raise ModelError(
                f"{name}: no room in {cache}: {reason.strerror}. "
                "Free some, or set FORETHOUGHT_CACHE to a folder on another disk"
            ) from error
        if reason is not None and reason.errno in _NOT_OURS:
            raise ModelError(
                f"{name}: cannot write to the cache {cache} ({reason}). Set FORETHOUGHT_CACHE to a folder that you own"
            ) from error
        raise
