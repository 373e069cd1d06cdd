"""Multiple-choice questions to language models: by the probability of the answer's first token, or in writing."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from forethought.engine import Group
from forethought.judges.base import JudgeError
from forethought.llm import TRANSPORT
from forethought.llm import replies as server
from forethought.llm.endpoint import Endpoint
from forethought.llm.generate import GenerationConfig, Generator, Reply, chat_frame, unfinished_reasoning
from forethought.llm.prompts import PromptTemplate
from forethought.llm.replies import answer_of, whole_lines
from forethought.models.model import Model
from forethought.records import content_id

TOP_LOGPROBS = 20
"""Likeliest tokens that a server is asked for; OpenAI's and vLLM's limit."""
KEPT = 2000
"""Characters of a written verdict that are kept."""
_NONE, _CUT = "no conclusion in", ", which was cut at max_tokens (raise max_tokens of this judge)"
_WRITTEN = "set verdict = 'written' and a max_tokens that leaves room for both"
_CONCLUSION = re.compile(
    r"[\W_]*(?:\d{1,2}[.)][\W_]*)?(?:(?:my|the|final|overall|in)[\W_]+){0,2}conclusion[\W_]*?[:\N{FULLWIDTH COLON}]",
    re.IGNORECASE,
)
"""What the last line of a written verdict begins with, whatever stands around the word."""
_SENTENCE = re.compile(r"(?<=[.!;:)*] )\**conclusion[*_ ]{0,4}:", re.IGNORECASE)
_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['\N{RIGHT SINGLE QUOTATION MARK}][^\W\d_]+)*")
_UNDECIDED = frozenset(
    re.findall(
        r"\w+",
        "or nor not no non none never neither either both cannot without unless if maybe perhaps possibly unclear all "
        "any undecided tie tied equal equally draw worse worst weaker inferior loses lose wrong incorrect false "
        "rejected except instead rather versus vs another other others unknown undetermined unable depends",
    )
)
"""Words of a conclusion that leaves it open or takes it back."""


@dataclass(frozen=True, slots=True)
class ChoiceRequest:
    """Questions that begin alike: what they share, and how each goes on and ends."""

    shared: str
    branches: tuple[str, ...]

    @classmethod
    def of(cls, prompt: PromptTemplate, field: str, texts: Sequence[str], values: Mapping[str, str]) -> ChoiceRequest:
        """Return the questions in which ``field`` is each of ``texts``, and the other fields are ``values``."""
        splits = [prompt.split(field, {**values, field: text}) for text in texts]
        return cls(splits[0][0], tuple(rest for _, rest in splits))


@dataclass(frozen=True, slots=True)
class ChoiceProbs:
    """A distribution over the choices, which adds up to 1, or none."""

    probs: tuple[float, ...] | None
    reason: str = ""
    """What was written, or why there is no distribution."""


class ChoiceModel(Protocol):
    """Answers multiple-choice questions."""

    name: str
    identity: str
    """Hash of the model and of how it is asked."""

    def ask(self, requests: Sequence[ChoiceRequest], choices: Sequence[str]) -> list[list[ChoiceProbs]]:
        """Return a distribution per branch."""
        ...


class LocalChoiceModel:
    """Compares the probabilities of the choices' first tokens under a model in this process; one forward, no text."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.name = model.name
        self.identity = content_id("letter", model.identity)

    def ask(self, requests: Sequence[ChoiceRequest], choices: Sequence[str]) -> list[list[ChoiceProbs]]:
        model = self.model
        ids_of_choice = choice_ids(model, choices)
        head, tail = chat_frame(model)
        results: list[list[ChoiceProbs]] = []
        groups: list[Group] = []
        places: list[tuple[int, list[int]]] = []
        for number, request in enumerate(requests):
            shared = head + model.encode(request.shared)
            branches = [model.encode(branch) + tail for branch in request.branches]
            room = model.context - len(shared)
            reason = f"the question exceeds the judge's context of {model.context} tokens"
            # Unscored until computed; branches that do not fit stay so.
            results.append([ChoiceProbs(None, reason)] * len(branches))
            fitting = [index for index, branch in enumerate(branches) if len(branch) <= room]
            if fitting:
                groups.append(Group(prefix=shared, branches=tuple(branches[index] for index in fitting)))
                places.append((number, fitting))
        flat = [token for ids in ids_of_choice for token in ids]
        ends = np.cumsum([len(ids) for ids in ids_of_choice])[:-1]
        for (number, fitting), logprobs in zip(places, model.scorer.choices(groups, flat), strict=True):
            for index, row in zip(fitting, np.exp(logprobs.astype(np.float64)), strict=True):
                shares = [float(part.sum()) for part in np.split(row, ends)]
                results[number][index] = _normalised(shares, f"the answers' probabilities add up to {sum(shares)}")
        return results


class EndpointChoiceModel:
    """Compares the probabilities of the choices' first tokens as a server lists them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.name = endpoint.config.model
        self.identity = content_id("letter", endpoint.config.base_url, endpoint.config.model)

    def ask(self, requests: Sequence[ChoiceRequest], choices: Sequence[str]) -> list[list[ChoiceProbs]]:
        chats = [[{"role": "user", "content": item.shared + branch}] for item in requests for branch in item.branches]
        replies = iter(self.endpoint.chat(chats, max_tokens=1, top_logprobs=TOP_LOGPROBS))
        return [[_from_server(next(replies), choices) for _ in item.branches] for item in requests]


class WrittenChoiceModel:
    """Lets a model reason and takes the conclusion at the end; of several replies, each counts the same."""

    def __init__(self, generator: Generator, config: GenerationConfig, repeats: int = 1) -> None:
        self.generator = generator
        self.config = config
        self.repeats = repeats
        self.name = generator.name
        self.identity = content_id("written", generator.identity, config.identity, repeats)

    def ask(self, requests: Sequence[ChoiceRequest], choices: Sequence[str]) -> list[list[ChoiceProbs]]:
        questions = [item.shared + branch for item in requests for branch in item.branches]
        replies = iter(self.generator.generate(questions, self.repeats, self.config))
        return [[_from_replies(next(replies), choices) for _ in item.branches] for item in requests]


def conclusion(reply: str, choices: Sequence[str]) -> int | None:
    """Return the index of the choice that the line ``Conclusion: ...`` of ``reply`` names, or ``None``.

    A reply that names several, there, in another conclusion or behind it, that negates one or leaves it open, names
    none.  What stands inside ``<think>...</think>`` is not the judge's word; a thought that never ends leaves none.
    """
    lines = [line for line in (answer_of(reply) or "").splitlines() if line.strip()]
    starts = [number for number, line in enumerate(lines) if _CONCLUSION.match(line)]
    if starts:
        said = [_CONCLUSION.sub("", lines[number], count=1) for number in starts]
        after = lines[starts[-1] + 1 :]
    else:
        # A conclusion at the end of the last line counts if it stands there as a sentence of its own.
        last = lines[-1] if lines else ""
        found = list(_SENTENCE.finditer(last))
        said, after = ([last[found[0].end() :]] if len(found) == 1 else []), []
    if said and not re.search(r"\w", said[-1]) and after:
        said[-1], after = after[0], after[1:]
    named = {_named(text, choices) for text in said}
    if len(named) != 1 or None in named:
        return None
    [index] = named
    # Second thoughts; only as the form spells them, since "no" and "possible" are words like others.
    others = {choice for number, choice in enumerate(choices) if number != index}
    return None if others & {word for line in after for word in _WORD.findall(line)} else index


def _named(text: str, choices: Sequence[str]) -> int | None:
    """Return the one choice that ``text`` names and does not take back."""
    folded = [choice.casefold() for choice in choices]
    said = {word.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'") for word in _WORD.findall(text)}
    # Another number is another scale.
    numbers = {word for word in said if word[0].isdigit()} if folded[0].isdigit() else set()
    open_or_denied = (_UNDECIDED - set(folded)) & said or any(word.endswith("n't") for word in said)
    named = said & set(folded)
    if len(named | numbers) != 1 or not named or open_or_denied or "?" in text or "~~" in text:
        return None
    return folded.index(named.pop())


def choice_ids(model: Model, choices: Sequence[str]) -> list[tuple[int, ...]]:
    """Return, per choice, the ids with which it may begin: alone, after a space or after a line end, in any case.

    Tokenizers differ in whether a space or a line end sticks to what follows.  Ids that two choices share (the space
    itself, say) tell nothing and are left out; an error says so when nothing is left for a choice.
    """
    ids_of_choice: list[set[int]] = []
    for choice in choices:
        ids: set[int] = set()
        for form in {choice, choice.lower(), choice.capitalize()}:
            for before in ("", " ", "\n"):
                alone, together = model.encode(before), model.encode(before + form)
                # A line end with an id of its own is skipped here; a space with one is shared, and dropped below.
                start = len(alone) if before == "\n" and together[: len(alone)] == alone else 0
                ids.update(together[start : start + 1])
        ids_of_choice.append(ids)
    uses = Counter(token for ids in ids_of_choice for token in ids)
    distinct = [tuple(sorted(token for token in ids if uses[token] == 1)) for ids in ids_of_choice]
    for choice, kept in zip(choices, distinct, strict=True):
        if not kept:
            raise JudgeError(f"{model.name}: no token of its own begins the answer {choice!r}: set verdict = 'written'")
    return distinct


def _from_replies(replies: Sequence[Reply], choices: Sequence[str]) -> ChoiceProbs:
    named = [None if reply.text is None else conclusion(_finished(reply), choices) for reply in replies]
    # A reply without a conclusion is no vote: shares are of the replies that have one.
    votes = [named.count(index) for index in range(len(choices))]
    if not any(votes):
        first = replies[0]
        if first.text is None:
            return ChoiceProbs(None, first.reason)
        what = unfinished_reasoning(None) if first.answer is None else _NONE + _CUT * first.cut
        return ChoiceProbs(None, f"{what}: {first.text[-KEPT:]}")
    texts = [reply.reason if reply.text is None else reply.text[-KEPT:] for reply in replies]
    return ChoiceProbs(tuple(vote / sum(votes) for vote in votes), "\n---\n".join(texts))


def _finished(reply: Reply) -> str:
    # A line that a limit cut may have gone on: "Conclusion: Option 1 or ...".
    return whole_lines(reply.text or "") if reply.cut else reply.text or ""


def _from_server(reply: server.Reply, choices: Sequence[str]) -> ChoiceProbs:
    if reply.error is not None:
        return ChoiceProbs(None, TRANSPORT + reply.error)
    if reply.reasoned and not reply.text and reply.top_logprobs is None:
        return ChoiceProbs(None, "the model reasons before it answers, and a letter is one token: " + _WRITTEN)
    # A server that lists no probabilities has still said what it would answer.
    top: Mapping[str, float] = reply.top_logprobs or {reply.text: 0.0}
    shares = [0.0] * len(choices)
    for token, logprob in top.items():
        word = token.strip().casefold()
        matches = [index for index, choice in enumerate(choices) if word and choice.casefold().startswith(word)]
        # A beginning that two choices share votes for neither.
        if len(matches) == 1:
            shares[matches[0]] += math.exp(logprob)
    listed = repr(sorted(top))[:KEPT]
    return _normalised(shares, f"none of the likeliest first tokens begins {' or '.join(choices)}: {listed}")


def _normalised(shares: Sequence[float], otherwise: str) -> ChoiceProbs:
    total = sum(shares)
    # No probability on any choice is not an even split: the model would say something else.
    if not (math.isfinite(total) and total > 0):
        return ChoiceProbs(None, otherwise)
    return ChoiceProbs(tuple(share / total for share in shares))
