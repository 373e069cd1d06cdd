"""Random models: tiny ones over bytes, with a tokenizer, and any architecture with weights drawn from a seed.

With them every stage runs end to end in seconds without a language model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from forethought.engine import Group

Architecture = Literal["llama", "qwen3", "gemma3"]

BOS_ID, EOS_ID, PAD_ID = 256, 257, 258  # of byte_tokenizer; ids below 256 are the bytes themselves
VOCABULARY = 259
SLIDING_WINDOW = 16  # of every other layer of the tiny Gemma 3, in tokens


def byte_tokenizer(*, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose token ids are UTF-8 bytes, plus ``<bos>``, ``<eos>`` and ``<pad>``.

    ``decode(encode(text)) == text`` for every valid text.  With ``adds_bos`` it puts ``<bos>`` in front of a
    text unless told not to, as Gemma's tokenizer does.
    """
    vocabulary = {symbol: byte for byte, symbol in bytes_to_unicode().items()}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<bos>", "<eos>", "<pad>"])
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", BOS_ID)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def tiny_config(architecture: Architecture) -> PretrainedConfig:
    """Return the config of a model of about 200,000 parameters over :func:`byte_tokenizer`'s vocabulary."""
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 2048,
        # Ten times the usual spread: with less, every prediction is nearly uniform and a wrong mask goes unseen.
        "initializer_range": 0.2,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
    }
    if architecture in ("llama", "qwen3"):
        kind = LlamaConfig if architecture == "llama" else Qwen3Config
        return kind(**shape, num_hidden_layers=2, tie_word_embeddings=False)
    if architecture == "gemma3":
        return Gemma3TextConfig(
            **shape,
            num_hidden_layers=4,
            layer_types=["sliding_attention", "full_attention"] * 2,
            sliding_window=SLIDING_WINDOW,
            query_pre_attn_scalar=16,
            tie_word_embeddings=True,
        )
    raise ValueError(f"architecture = {architecture!r}: known are llama, qwen3 and gemma3")


def tiny_model(architecture: Architecture = "llama", seed: int = 0) -> PreTrainedModel:
    """Return a tiny :func:`random_model`."""
    return random_model(tiny_config(architecture), seed)


def random_model(config: PretrainedConfig, seed: int) -> PreTrainedModel:
    """Return a causal LM with weights drawn from ``seed`` alone: float32, eval mode, on the CPU.

    The global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@dataclass(frozen=True, slots=True)
class UniformScorer:
    """A scorer without a model: every token has probability ``1 / vocabulary``."""

    vocabulary: int = VOCABULARY

    def logprobs(self, groups: Sequence[Group]) -> list[list[np.ndarray]]:
        return [
            [np.full(len(branch), -math.log(self.vocabulary), dtype=np.float32) for branch in group.branches]
            for group in groups
        ]

    def choices(self, groups: Sequence[Group], choice_ids: Sequence[int]) -> list[np.ndarray]:
        shapes = [(len(group.branches), len(choice_ids)) for group in groups]
        return [np.full(shape, -math.log(self.vocabulary), dtype=np.float32) for shape in shapes]
