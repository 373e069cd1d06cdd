"""Stand-ins for tests: a scripted sampler, and all of :mod:`forethought.models.tiny`."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from forethought.engine import Prompt, Sampling
from forethought.keys import Key
from forethought.models.tiny import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    SLIDING_WINDOW,
    VOCABULARY,
    UniformScorer,
    byte_tokenizer,
    random_model,
    tiny_config,
    tiny_model,
)
from forethought.records import Completion, StopReason

__all__ = [
    "BOS_ID",
    "EOS_ID",
    "PAD_ID",
    "SLIDING_WINDOW",
    "VOCABULARY",
    "ScriptedSampler",
    "UniformScorer",
    "byte_tokenizer",
    "random_model",
    "tiny_config",
    "tiny_model",
]


@dataclass(frozen=True, slots=True)
class ScriptedSampler:
    """A sampler without a model: it replays given completions, or draws letters from the key.

    Example: ``ScriptedSampler({"chunk-a": [(32, 97), (32, 98)]}).sample([Prompt(id="chunk-a", ...)], 2, ...)``
    """

    scripts: Mapping[str, Sequence[tuple[int, ...]]] = field(default_factory=dict)
    """Token ids of branch k of a prompt, by prompt id; they start over when k exceeds them."""
    alphabet: tuple[int, ...] = tuple((string.ascii_lowercase + " ").encode())
    """Ids that are drawn, all equally likely, for prompts without a script."""

    def sample(self, prompts: Sequence[Prompt], k: int, sampling: Sampling, key: Key) -> list[list[Completion]]:
        """Return ``k`` completions of each prompt; a draw depends on (key, prompt id, k) alone.

        At temperature 0 all branches of a prompt are alike.
        """
        return [[self._one(prompt.id, index, sampling, key) for index in range(k)] for prompt in prompts]

    def _one(self, prompt_id: str, k: int, sampling: Sampling, key: Key) -> Completion:
        alphabet = [token for token in self.alphabet if token not in sampling.forbidden_ids]
        branch = 0 if sampling.temperature == 0 else k
        script = self.scripts.get(prompt_id)
        if script:
            tokens = list(script[branch % len(script)])[: sampling.max_tokens]
        else:
            uniforms = key.uniforms(prompt_id, branch, sampling.max_tokens)
            tokens = [alphabet[int(uniform * len(alphabet))] for uniform in uniforms]
        stops = [place for place, token in enumerate(tokens) if token in sampling.stop_ids]
        if stops:
            tokens = tokens[: stops[0] + 1]
        return Completion(
            token_ids=tuple(tokens),
            logprobs=(-math.log(len(alphabet)),) * len(tokens),
            stop=StopReason.STOP if stops else StopReason.LENGTH,
        )
