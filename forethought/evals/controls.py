"""Planted controls of the probe: scripted policies of which it is known whether they use their thoughts.

Both think the true suffix.  One copies whatever thought stands before it, the other writes the same whatever stands
there.  A probe that sees no difference for the first, or one for the second, is broken.
"""

from __future__ import annotations

from collections.abc import Sequence

from forethought.algorithms.windows import Window
from forethought.engine import Prompt, Sampling, Thinking
from forethought.keys import Key
from forethought.metrics import COPIES, IGNORES
from forethought.models.model import Model, Parts
from forethought.models.tiny import UniformScorer
from forethought.records import Completion, Rollout, StopReason


class ScriptedThinker:
    """A sampler that knows its windows."""

    def __init__(self, windows: Sequence[Window], model: Model, *, copies: bool) -> None:
        self.windows = {window.id: window for window in windows}
        # The wrong answer to a window is the suffix of the next one.
        self.others = {a.id: b for a, b in zip(windows, [*windows[1:], *windows[:1]], strict=True)}
        self.tokens, self.bos, self.copies = model.thoughts, model.bos, copies

    def think(
        self, prompts: Sequence[Prompt], k: int, thinking: Thinking, sampling: Sampling, key: Key
    ) -> list[list[Rollout]]:

        def rollout(prompt: Prompt, branch: int) -> Rollout:
            thought = self.windows[prompt.id].suffix_ids[: thinking.max_tokens] + self.tokens.close
            text = self._write(f"{prompt.id}/{branch}", prompt.token_ids + thought, key)
            ids = thought + text[: sampling.max_tokens]
            # Scripted text has no probabilities; nothing that is measured here reads them.
            flat, drawn = (0.0,) * len(ids), (True,) * len(ids)
            return Rollout(token_ids=ids, logprobs=flat, drawn=drawn, thought_tokens=len(thought), closed=True)

        return [[rollout(prompt, branch) for branch in range(k)] for prompt in prompts]

    def sample(self, prompts: Sequence[Prompt], k: int, sampling: Sampling, key: Key) -> list[list[Completion]]:

        def completion(prompt: Prompt, name: str) -> Completion:
            ids = self._write(name, prompt.token_ids, key)[: sampling.max_tokens]
            return Completion(token_ids=ids, logprobs=(0.0,) * len(ids), stop=StopReason.LENGTH)

        branches = [""] if k == 1 else [f"/{branch}" for branch in range(k)]
        return [[completion(prompt, prompt.id + branch) for branch in branches] for prompt in prompts]

    def _write(self, name: str, ids: tuple[int, ...], key: Key) -> tuple[int, ...]:
        # The probe names its prompts "window/sample".
        window = self.windows[name.partition("/")[0]]
        thought = ids[len(self.bos) + len(window.prefix_ids) :][len(self.tokens.open) : -len(self.tokens.close)]
        if self.copies:
            return thought + self.others[window.id].suffix_ids
        right = key.uniforms(name, 0, 1)[0] < 0.5  # sometimes right, or it could not be told from broken
        return window.suffix_ids if right else self.others[window.id].suffix_ids


def controls(windows: Sequence[Window], model: Model) -> list[Model]:
    """Return both controls, with tokenizer, tags and BOS of ``model``."""
    models = []
    for name in (COPIES, IGNORES):
        sampler = ScriptedThinker(windows, model, copies=name == COPIES)
        parts = Parts(tokenizer=model.tokenizer, sampler=sampler, scorer=UniformScorer(), bos=model.bos)
        models.append(Model(name, "scripted", parts, model.tags))
    return models
