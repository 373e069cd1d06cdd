"""What servers and language models send back, read without trust: a typed reply, or a reason, whatever comes.

:func:`read` is the one parser of the OpenAI protocol, :func:`answer_of` takes a model's reasoning off its answer, and
:func:`whole_lines` what a limit cut off.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from forethought.text import printable

ERROR_CHARACTERS = 300
"""Characters of a server's error text that are kept."""
HIGHEST = 0.1
"""A log-probability is never above 0; servers round, but not by more."""
LENGTH = "length"
"""A server's word for a reply that its limit of tokens cut."""

_REASONING = re.compile(r"<(/?)(?:think|thinking|reasoning)>|\[(/?)THINK\]", re.IGNORECASE)


class MalformedReplyError(ValueError):
    """A body that is no completion; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A server's answer to one request, or why there is none."""

    text: str = ""
    top_logprobs: Mapping[str, float] | None = None
    """Log-probabilities of the likeliest first tokens (nats), if they were asked for and the server gives them."""
    finish: str = ""
    """Why a continuation ended, in the server's words: ``stop`` or ``length``."""
    reasoned: bool = False
    """Whether the server sent reasoning apart from the text."""
    error: str | None = None
    """Why there is no answer, after all retries."""
    again: bool = False
    """Whether the error may pass: a server that is busy, broken or gone, not a request that it refuses."""
    fatal: bool = False
    """Whether the error concerns the whole server: it is not running, or the key, the path or the model is wrong."""


def read(payload: bytes) -> Reply:
    """Return the first choice of a completion, chat or plain.

    Raises:
        MalformedReplyError: if the body is none, whatever else it is.
    """
    try:
        body = json.loads(payload)
    except RecursionError:
        raise MalformedReplyError("its JSON is nested too deeply") from None
    except ValueError:
        raise MalformedReplyError("it is no JSON") from None
    choices = _get(body, "choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise MalformedReplyError("it has no list of choices")
    choice: dict[str, Any] = choices[0]
    message = choice.get("message")
    if not isinstance(message, dict) and "text" not in choice:
        raise MalformedReplyError("its choice has neither a message nor a text")
    reasoned = any(isinstance(value := _get(message, key), str) and value for key in ("reasoning_content", "reasoning"))
    if isinstance(message, dict) and "content" not in message and not reasoned:
        raise MalformedReplyError("its message has no content")
    text = message.get("content") if isinstance(message, dict) else choice["text"]
    if text is not None and not isinstance(text, str):
        raise MalformedReplyError(f"its text is of type {type(text).__name__}")
    finish = choice.get("finish_reason")
    return Reply(
        text=_unicode(text or ""),
        top_logprobs=_top_logprobs(choice.get("logprobs")),
        finish=finish if isinstance(finish, str) else "",
        reasoned=reasoned,
    )


def _get(value: object, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _top_logprobs(logprobs: object) -> dict[str, float] | None:
    """Return the likeliest first tokens of a chat completion; ``None`` where none are listed, as in plain ones."""
    listed = _get(logprobs, "content")
    if listed is None or listed == []:
        return None
    first = listed[0] if isinstance(listed, list) else None
    items = _get(first, "top_logprobs")
    if not isinstance(items, list):
        raise MalformedReplyError("its log-probabilities are no lists of tokens")
    top: dict[str, float] = {}
    for item in items:
        token, value = _get(item, "token"), _logprob(_get(item, "logprob"))
        if not isinstance(token, str):
            raise MalformedReplyError("one of its tokens is no text")
        token = _unicode(token)
        # Different tokens may have one spelling, of broken characters above all: together they are as likely as both.
        top[token] = value if token not in top else _both(top[token], value)
    return top


def _logprob(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedReplyError("one of its log-probabilities is no number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not number <= HIGHEST:  # NaN, too
        raise MalformedReplyError(f"one of its log-probabilities is {number:g}, and none can be above 0")
    return number


def _both(one: float, other: float) -> float:
    return math.log(total) if (total := math.exp(one) + math.exp(other)) > 0 else -math.inf


def _unicode(text: str) -> str:
    """Return ``text`` with U+FFFD for halves of surrogate pairs, which JSON may spell and no file can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def excerpt(text: str) -> str:
    """Return the beginning of ``text`` as an error quotes it: on one line, and no longer than it needs."""
    return " ".join(printable(text[: 4 * ERROR_CHARACTERS]).split())[:ERROR_CHARACTERS]


def answer_of(text: str) -> str | None:
    """Return what ``text`` says after the model's reasoning (``<think>...</think>`` and its like).

    ``None`` if the reasoning does not end: then there is no answer.
    """
    marks = list(_REASONING.finditer(text))
    if not marks:
        return text
    last = marks[-1]
    return text[last.end() :] if last.group(1) or last.group(2) else None


def reasons(text: str) -> bool:
    """Return whether ``text`` holds a mark of reasoning."""
    return _REASONING.search(text) is not None


def whole_lines(text: str) -> str:
    """Return ``text`` without its last line, which a limit may have cut."""
    return text.rpartition("\n")[0]
