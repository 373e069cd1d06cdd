"""The rewrite teacher: it writes a better version of a suffix, which becomes one more candidate.

After Tan et al. 2026 (section 1.2.1): the last words of the prefix stand before the suffix and before the answer, so
that the join is smooth, and the rewrite has the suffix's length.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from forethought.llm.generate import GenerationConfig, Generator, Reply, unfinished_reasoning
from forethought.llm.prompts import PromptTemplate
from forethought.llm.replies import answer_of
from forethought.records import Chunk

log = logging.getLogger(__name__)

FIELDS = ("prefix", "suffix", "join", "words")
SHORTEST = 0.8
"""A rewrite with a smaller share of the suffix's tokens is no candidate: a sum of log-probabilities prefers a short
text, and it alone would end its sentence, where suffix and rollouts are cut at a fixed length."""
LONGEST = 1.25
"""Nor is one with a larger share, of which too little is left when it is cut."""
ROOM = 4
"""Teacher tokens per policy token of join and suffix: its tokenizer may be coarser, and it may begin with a remark."""


class Rewriter:
    """Writes one rewrite per chunk."""

    def __init__(
        self, generator: Generator, prompt: PromptTemplate, tokenizer: Any, temperature: float, join_words: int
    ) -> None:
        """``tokenizer`` is the policy's, which measures length."""
        self.generator = generator
        self.prompt = prompt
        self.tokenizer = tokenizer
        self.temperature = temperature
        self.join_words = join_words
        self.failures: Counter[str] = Counter()

    def rewrite(self, chunks: Sequence[Chunk]) -> list[str | None]:
        """Return a rewrite of each chunk's suffix, of at most its tokens; failures are ``None``, and counted."""
        joins = [last_words(chunk.prefix, self.join_words) for chunk in chunks]
        requests = []
        for chunk, join in zip(chunks, joins, strict=True):
            words = str(len((join + chunk.suffix).split()))
            values = {"prefix": chunk.prefix, "suffix": chunk.suffix, "join": join, "words": words}
            requests.append(self.prompt.fill(values))
        longest = max((len(chunk.suffix_ids) for chunk in chunks), default=0)
        # One limit for all; each rewrite is cut to its own suffix's length when it is read.
        config = GenerationConfig(max_tokens=ROOM * (longest + self.join_words), temperature=self.temperature)
        replies = self.generator.generate(requests, 1, config)
        rewrites = [self._read(chunk, join, reply) for chunk, join, [reply] in zip(chunks, joins, replies, strict=True)]
        refused = Counter(rewrite.reason for rewrite in rewrites if rewrite.text is None)
        self.failures.update(refused)
        for reason, count in refused.items():
            log.info("no candidate: %d of %d rewrites: %s", count, len(rewrites), reason)
        return [rewrite.text for rewrite in rewrites]

    def _read(self, chunk: Chunk, join: str, reply: Reply) -> Reply:
        if reply.text is None:
            return reply
        if reply.answer is None:
            return Reply(None, unfinished_reasoning(None))
        text = strip_join(self.prompt.original(reply.text, chunk.prefix, join, chunk.suffix), join, chunk.suffix)
        if not text.strip():
            return Reply(None, "the teacher wrote nothing")
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        length = len(chunk.suffix_ids)
        # Each refusal with a reason of its own, so that a teacher that cannot keep to a length is seen in the counts.
        if len(ids) < SHORTEST * length:
            return Reply(None, f"the rewrite has less than {SHORTEST} of the suffix's tokens")
        if len(ids) > LONGEST * length:
            return Reply(None, f"the rewrite has more than {LONGEST} times the suffix's tokens")
        # As long as a rollout: cut where the suffix is.
        ids = ids[:length]
        cut: str = self.tokenizer.decode(ids)
        while cut.endswith("\N{REPLACEMENT CHARACTER}"):  # the cut went through a character
            ids = ids[:-1]
            cut = self.tokenizer.decode(ids)
        return Reply(cut)


def last_words(text: str, count: int) -> str:
    """Return the end of ``text`` from its ``count``-th last word on, white space after it included."""
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    return text[starts[-min(count, len(starts))] :] if count and starts else ""


def strip_join(reply: str, join: str, suffix: str) -> str:
    """Return what ``reply`` says after ``join``, or all of it if the teacher left the join out.

    White space of the join is matched loosely.  A reply without it begins with the white space of ``suffix``.
    """
    answer = (answer_of(reply) or "").strip()
    words = r"\s+".join(re.escape(word) for word in join.split())
    # The last word of the join is a whole one, unless the suffix goes on within it.
    end = r"(?!\w)" if suffix[:1].isspace() else ""
    match = re.match(words + end, answer) if words else None
    if match is None:
        return suffix[: len(suffix) - len(suffix.lstrip())] + answer
    rest = answer[match.end() :]
    return rest if join == join.rstrip() else rest.lstrip()
