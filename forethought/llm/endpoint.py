"""Client of any OpenAI-compatible server (vLLM, llama.cpp, SGLang, a hosted model): concurrent requests, retries."""

from __future__ import annotations

import datetime
import email.utils
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from forethought.config import EndpointConfig

Message = Mapping[str, str]
"""``{"role": ..., "content": ...}``."""

MAX_WAIT = 120.0
"""Seconds before a retry, at most, even if the server asks for a longer pause."""
FATAL_STATUSES = (401, 403, 404)
"""Statuses that concern the key, the path or the model, hence every request of the same kind."""
ERROR_CHARACTERS = 300
"""Characters of a server's error text that are kept."""


class EndpointError(ValueError):
    """The server answered no request at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A server's answer to one request, or why there is none."""

    text: str = ""
    top_logprobs: Mapping[str, float] | None = None
    """Log-probabilities of the likeliest first tokens (nats), if they were asked for and the server gives them."""
    finish: str = ""
    """Why a continuation ended, in the server's words: ``stop`` or ``length``."""
    error: str | None = None
    """Why there is no answer, after all retries."""
    fatal: bool = False
    """Whether the error concerns the whole server: it is not running, or the key, the path or the model is wrong."""


class _RequestError(Exception):
    """One request that failed; ``again``: whether a retry may help, ``wait``: seconds before it, at least."""

    def __init__(self, reason: str, *, again: bool, fatal: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.again = again
        self.fatal = fatal
        self.wait = wait


class Endpoint:
    """A server.  The API key is read from the environment for each request and kept nowhere."""

    def __init__(self, config: EndpointConfig, backoff: float = 1.0) -> None:
        """``backoff``: seconds before the first retry; each later one waits twice as long, plus or minus a quarter."""
        self.config = config
        self.backoff = backoff
        self._base = config.base_url.rstrip("/")

    def __repr__(self) -> str:
        return f"Endpoint({self.config.base_url!r}, model={self.config.model!r})"

    def chat(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_logprobs: int = 0,
        seeds: Sequence[int] | None = None,
    ) -> list[Reply]:
        """Return one reply per conversation, in order; a request whose retries all fail gives a reply with an error.

        ``top_logprobs`` is how many of the likeliest first tokens are returned; temperature 0 is greedy.

        Raises:
            EndpointError: if no request was answered, and at least one error concerns the whole server.
        """
        shared: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
        if top_logprobs:
            shared |= {"logprobs": True, "top_logprobs": top_logprobs}
        bodies = [{**shared, "messages": [dict(message) for message in messages]} for messages in conversations]
        return self._send_all("/chat/completions", bodies, seeds)

    def complete(
        self,
        texts: Sequence[str],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        stop: Sequence[str] = (),
        seeds: Sequence[int] | None = None,
    ) -> list[Reply]:
        """Return one continuation per text, in order, from `/completions`; errors are as in :meth:`chat`.

        A text of ``stop`` ends a continuation and is not part of it; servers accept at most four.
        """
        shared = {"max_tokens": max_tokens, "temperature": temperature} | ({"stop": list(stop)} if stop else {})
        return self._send_all("/completions", [{**shared, "prompt": text} for text in texts], seeds)

    def _send_all(self, path: str, bodies: list[dict[str, Any]], seeds: Sequence[int] | None) -> list[Reply]:
        if not bodies:
            return []
        for body in bodies:
            body["model"] = self.config.model
        for body, seed in zip(bodies, seeds or (), strict=seeds is not None):
            body["seed"] = seed
        stop = threading.Event()
        with (
            httpx.Client(timeout=self.config.timeout) as client,
            ThreadPoolExecutor(min(self.config.concurrency, len(bodies))) as pool,
        ):
            try:
                replies = list(pool.map(lambda body: self._with_retries(client, path, body, stop), bodies))
            except BaseException:
                # Interrupted: requests that wait for a retry stop waiting, those that have not begun never start.
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        # Nothing was answered, and a reason concerns the whole server: other requests may have failed in other ways.
        fatal = [reply.error for reply in replies if reply.fatal]
        if fatal and all(reply.error is not None for reply in replies):
            config, key = self.config, "is set" if self._key() else "is not set"
            raise EndpointError(
                f"{config.base_url}: no request was answered: {fatal[0]}. Check that the server runs and that base_url "
                f"ends in /v1 (curl {self._base}/models), that it serves the model {config.model!r}, and the API key "
                f"(environment variable {config.api_key_env} {key})"
            )
        return replies

    def _with_retries(self, client: httpx.Client, path: str, body: dict[str, Any], stop: threading.Event) -> Reply:
        """Retry until it works, the retries are used up, or another request could not reach the server."""
        number = 0
        while True:
            try:
                return self._post(client, path, body)
            except _RequestError as failure:
                # Jitter spreads the retries over time; it touches no result, so it needs no key.
                pause = max(failure.wait, self.backoff * 2**number * random.Random().uniform(0.75, 1.25))
                last = number == self.config.retries or not failure.again
                if last or stop.wait(min(pause, MAX_WAIT)):
                    if failure.fatal:
                        stop.set()
                    after = f" (after {number + 1} tries)" if number else ""
                    reason, key = str(failure), self._key()
                    reason = reason.replace(key, "[key]") if key else reason  # servers quote what they refuse
                    return Reply(error=reason + after, fatal=failure.fatal)
            number += 1

    def _post(self, client: httpx.Client, path: str, body: dict[str, Any]) -> Reply:
        key = self._key()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            response = client.post(self._base + path, json=body, headers=headers)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise _RequestError(f"request cannot be sent: {error}", again=False, fatal=True) from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _RequestError(f"no connection: {error}", again=True, fatal=True) from None
        except httpx.TimeoutException:
            raise _RequestError(f"no answer within {self.config.timeout:g} s", again=True) from None
        except httpx.TransportError as error:
            raise _RequestError(f"connection lost: {error}", again=True) from None
        except UnicodeEncodeError as error:
            raise _RequestError(f"request cannot be written as UTF-8: {error.reason}", again=False) from None
        status = response.status_code
        if status != 200:
            # What is busy or broken may recover; a wrong request stays wrong.
            again = status in (408, 425, 429) or status >= 500
            reason = f"status {status}: {response.text[:ERROR_CHARACTERS]}"
            raise _RequestError(reason, again=again, fatal=status in FATAL_STATUSES, wait=_retry_after(response))
        return _read(response)

    def _key(self) -> str:
        return os.environ.get(self.config.api_key_env, "").strip()


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds that the server asks for: a number, or an HTTP date (RFC 9110, section 10.2.3)."""
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp() - time.time())


def _read(response: httpx.Response) -> Reply:
    try:
        choice = response.json()["choices"][0]
        text = (choice["message"]["content"] if "message" in choice else choice["text"]) or ""
        listed = (choice.get("logprobs") or {}).get("content") or []
        top = {item["token"]: float(item["logprob"]) for item in listed[0]["top_logprobs"]} if listed else None
        if not isinstance(text, str):
            raise TypeError(f"content is {type(text).__name__}")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        reason = f"not a completion ({type(error).__name__}: {error}): {response.text[:ERROR_CHARACTERS]}"
        raise _RequestError(reason, again=True) from None
    return Reply(text=text, top_logprobs=top, finish=str(choice.get("finish_reason") or ""))
