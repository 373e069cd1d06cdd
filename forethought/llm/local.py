"""A language model in this process, as judges and teachers use it: text in, ids and likelihoods out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forethought.engine import Sampler, Scorer
from forethought.llm.base import LanguageError

PLACE = "@@REQUEST@@"
"""Stands for a text while the chat template is taken apart around it, so that no text ever passes through it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A model with its tokenizer."""

    name: str
    """Short name for tables."""
    identity: str
    """Hash of weights and tokenizer."""
    tokenizer: Any
    """A transformers tokenizer."""
    scorer: Scorer
    """Knows how likely text is."""
    sampler: Sampler
    """Continues prompts."""
    bos: tuple[int, ...] = ()
    """Ids that stand before every text."""
    context: int = 2**31
    """Longest sequence that the model was made for, in tokens."""

    def encode(self, text: str, markup: bool = False) -> tuple[int, ...]:
        """Return the ids of ``text``, without BOS.

        Special tokens are recognised in our own ``markup`` only: a judged text that spells ``<|im_end|>`` must not
        end the turn it is quoted in.
        """
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=not markup)["input_ids"]
        return tuple(ids)

    def stops(self) -> tuple[int, ...]:
        """Return the ids that end a reply: EOS, and the special token with which the chat template closes a turn."""
        found = {self.tokenizer.eos_token_id}
        if self.tokenizer.chat_template is not None:
            messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": PLACE}]
            after = self._chat(messages).partition(PLACE)[2].lstrip()
            first = self.encode(after, markup=True)[:1]
            found |= {token for token in first if token in self.tokenizer.added_tokens_decoder}
        return tuple(sorted(found - {None}))

    def frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids before and after a request: the chat template's, or a plain ``Answer:`` for a base model."""
        if self.tokenizer.chat_template is None:
            return self.bos, self.encode("\n\nAnswer:")
        chat = self._chat([{"role": "user", "content": PLACE}], add_generation_prompt=True)
        head, found, tail = chat.partition(PLACE)
        if not found:
            raise LanguageError(
                f"{self.name}: its chat template drops the user's message, so it cannot be asked anything"
            )
        return self.encode(head, markup=True), self.encode(tail, markup=True)

    def _chat(self, messages: list[dict[str, str]], **options: bool) -> str:
        # Templates that know no thinking ignore the switch; Qwen3's would open with it where an answer is expected.
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False, **options)
        return text
