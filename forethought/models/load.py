"""Load a model and its tokenizer, wherever they are."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub

from forethought.config import ModelConfig
from forethought.models.resolve import TINY, ModelError, check_folder, name_hint, resolve, sha256_of

# torch and transformers take seconds to import, and listing or resolving models needs neither: they wait in the
# functions that load.
if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DEVICES = "write auto, cpu, cuda, cuda:N or mps"
log_line: Callable[[str], None] = logging.getLogger(__name__).info
"""Where steps that take long are reported by default."""
_MARKER = re.compile(r"<\|.*\|>|<[^>\s]*_[^>\s]*>|<unused\d+>|\[(?:multimodal|@BOS@)\]")
"""Added tokens that mark something, also where a converted tokenizer forgot to call them special; `<h1>` is text."""
_CONTENT_FILES = ("config.json", "model*.safetensors*", "tokenizer*", "vocab*", "merges.txt", "*.jinja")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal LM in eval mode, ready to compute."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    identity: str  # 12 hex digits that name config, weights and tokenizer, for cache keys and records


def load(
    config: ModelConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    seed: int = 0,
    progress: Callable[[str], None] = log_line,
) -> LoadedModel:
    """Load what ``config`` names, converting or downloading it first if need be.

    With ``init = "scratch"`` it gives architecture and tokenizer only, and the weights are drawn from ``seed``.
    ``progress`` gets a line about each step that takes long.  Whatever is wrong is a :class:`ModelError`.
    """
    from transformers import AutoConfig

    from forethought.models.tiny import random_model, tiny_config

    folder, name = _files(config, seed, progress)
    tokenizer = _tokenizer(config, folder)
    scratch = config.init == "scratch"
    if folder is None:
        # The same weights whatever the seed, unless they are asked for from scratch.
        model = random_model(tiny_config(TINY[config.model]), seed if scratch else 0).to(dtype)
    elif scratch:
        with _reading(f"{config.model}: {folder / 'config.json'} does not describe a causal language model"):
            architecture = AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
            model = random_model(architecture, seed).to(dtype)
    else:
        model = _weights(config, folder, dtype)
    rows = model.get_input_embeddings().num_embeddings
    # Added tokens may exceed the embedding: Gemma's text models share the tokenizer of those that see images.
    if tokenizer.vocab_size > rows:
        raise ModelError(f"{config.model}: its tokenizer has {tokenizer.vocab_size} tokens, its embedding only {rows}")
    return LoadedModel(config.model, model.to(device).eval(), tokenizer, name)


def identity(config: ModelConfig, seed: int = 0, progress: Callable[[str], None] = log_line) -> str:
    """Return the identity that :func:`load` would give, without loading weights (a conversion still happens once)."""
    return _files(config, seed, progress)[1]


def load_tokenizer(config: ModelConfig, progress: Callable[[str], None] = log_line) -> PreTrainedTokenizerBase:
    """Return the tokenizer of what ``config`` names, without loading weights (a conversion still happens once)."""
    return _tokenizer(config, _files(config, 0, progress)[0])


def quiet() -> None:
    """Silence transformers' progress bars in this process; ``progress`` reports the slow steps instead."""
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    # This one bar ignores the switch.
    modeling_gguf_pytorch_utils.tqdm = transformers_logging.tqdm


def resolve_device(name: str) -> torch.device:
    """Return the device that ``name`` means; ``auto`` is CUDA when there is one."""
    import torch

    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"device = {name!r}: {_DEVICES}") from None
    fault = ""
    if device.type == "cuda" and not available:
        fault = f"torch {torch.__version__} sees no CUDA device here. Use auto or cpu"
    elif device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        fault = f"there are only {torch.cuda.device_count()} CUDA devices, from cuda:0 on"
    elif device.type == "mps" and not torch.backends.mps.is_available():
        fault = f"torch {torch.__version__} sees no Apple GPU here. Use auto or cpu"
    elif device.type not in ("cpu", "cuda", "mps"):
        fault = f"forethought does not support this kind of device; {_DEVICES}"
    if fault:
        raise ModelError(f"device = {name!r}: {fault}")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the compute dtype that ``name`` means on ``device``; see :func:`forethought.machine.dtype_for`."""
    import torch

    from forethought.machine import dtype_for, machine

    return torch.bfloat16 if dtype_for(name, device.type, machine()) == "bfloat16" else torch.float32


def bos_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return what comes before the first token of a text: ``(bos,)`` if the tokenizer puts it there, else ``()``.

    Gemma and Llama do.  Qwen has none, and SmolLM2's ``bos_token`` opens a chat turn, not a text.
    """
    added = tokenizer("").input_ids
    return (added[0],) if added and added[0] == tokenizer.bos_token_id else ()


def special_ids(tokenizer: PreTrainedTokenizerBase, vocabulary: int | None = None) -> tuple[int, ...]:
    """Return, sorted, the ids that are not text: BOS, padding, turn markers and unused ones.

    A continuation of raw text never holds one.  With ``vocabulary``, the width of the model's logits, ids past
    its end are left out: Gemma's tokenizer has an image token that its text models lack.
    """
    added = tokenizer.added_tokens_decoder.items()
    marked = {index for index, token in added if token.special or _MARKER.fullmatch(token.content)}
    ids = sorted(marked | set(tokenizer.all_special_ids))
    return tuple(index for index in ids if vocabulary is None or index < vocabulary)


def content_identity(folder: Path) -> str:
    """Return 12 hex digits that name the config, weights and tokenizer files in ``folder`` by their content."""
    names = sorted({path.name for pattern in _CONTENT_FILES for path in folder.glob(pattern) if path.is_file()})
    return _short(*(f"{name}:{sha256_of([folder / name])}" for name in names))


def _files(config: ModelConfig, seed: int, progress: Callable[[str], None]) -> tuple[Path | None, str]:
    """Return the model's folder (a tiny model has none) and its identity; converts or downloads if need be."""
    source = resolve(config)
    scratch = config.init == "scratch"
    if source.kind == "tiny":
        return None, _short(source.name, str(seed if scratch else 0))
    if source.package is not None:
        folder, name = source.package.convert(progress), source.package.identity
    elif source.path is None:
        folder = _download(config, progress)
        check_folder(folder, weights=not scratch)
        name = _short(folder.name)  # the commit
    elif source.kind == "gguf":
        from forethought.models.gguf import convert_file

        folder = convert_file(source.path, progress)
        name = folder.name[-12:]
    else:
        folder, name = source.path, content_identity(source.path)
    return folder, _short(name, "scratch", str(seed)) if scratch else name


def _download(config: ModelConfig, progress: Callable[[str], None]) -> Path:
    patterns = ["*.json", "model*.safetensors", "tokenizer*", "vocab*", "merges.txt", "*.jinja"]
    progress(f"{config.model}: looking it up on the hub")
    try:
        folder = huggingface_hub.snapshot_download(
            config.model,
            revision=config.revision,
            allow_patterns=[*patterns, "*.py"] if config.trust_remote_code else patterns,
            local_files_only=huggingface_hub.is_offline_mode(),
        )
    except (OSError, ValueError) as error:
        hint = name_hint(config.model)
        raise ModelError(f"{config.model}: could not download it from the hub: {error}.{hint}") from error
    return Path(folder)


def _tokenizer(config: ModelConfig, folder: Path | None) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    from forethought.models.tiny import byte_tokenizer

    if folder is None:
        return byte_tokenizer()
    with _reading(f"{config.model}: could not read the tokenizer in {folder}"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=config.trust_remote_code
        )
    return tokenizer


def _weights(config: ModelConfig, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    with _reading(f"{config.model}: could not read the weights in {folder}"):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=config.trust_remote_code, output_loading_info=True
        )
    missing = sorted(report["missing_keys"])
    if missing:
        # transformers would go on with random numbers in their place.
        raise ModelError(
            f"{config.model}: {folder} lacks {len(missing)} weights that its config.json asks for: {missing[:5]}"
        )
    return model


@contextlib.contextmanager
def _reading(failure: str) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        hint = ""
        if "trust_remote_code" in str(error):
            hint = (
                ". If you trust that code: trust_remote_code = true in your own config, "
                "or --trust-remote-code with `forethought try` and `forethought export`"
            )
        raise ModelError(f"{failure}: {error}{hint}") from error


def _short(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:12]
