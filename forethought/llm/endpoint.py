"""Client of any OpenAI-compatible server (vLLM, llama.cpp, SGLang, a hosted model): concurrent requests, retries.

A request that fails for good is a reply with a reason.  A server that fails is another matter: the requests wait until
it is back, for `patience` seconds at most, and then the stage ends (:class:`OutageError`) instead of going on without
verdicts.  What tells the two apart is a short request that any server answers which answers at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import email.utils
import json
import logging
import math
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import quote

import httpx

from forethought.config import EndpointConfig
from forethought.llm.interrupts import holding, in_thread, raise_or_hold
from forethought.llm.replies import MalformedReplyError, Reply, excerpt, read

log = logging.getLogger(__name__)

Message = Mapping[str, str]
"""``{"role": ..., "content": ...}``."""

MAX_WAIT = 120.0
"""Seconds before a retry, at most, even if the server asks for a longer pause."""
MAX_BYTES = 8 << 20
"""Bytes of a reply, unpacked, that are read at most."""
FATAL_STATUSES = (401, 403, 404)
"""Statuses that concern the key, the path or the model, hence every request of the same kind."""
IN_A_ROW = 8
"""Requests that fail one after the other until the server itself is suspected, and the others wait."""
SHORT_REQUEST = "Answer with the word yes."
"""Tells a server that is gone from a request that it cannot answer."""
SECRET_CHARACTERS = 12
"""A shorter key is no secret but a placeholder, such as EMPTY, and may well be a word of a reply."""

_NOT_SENT = Reply(error="not sent: the call was interrupted", again=True)


class EndpointError(ValueError):
    """A server that cannot be used as it is configured."""


class OutageError(EndpointError):
    """A server that does not answer, though it may do so again: the same command goes on where it was."""

    exit_code = 3


class _RequestError(Exception):
    """One request that failed; ``again``: whether a retry may help, ``wait``: seconds before it, at least."""

    def __init__(self, reason: str, *, again: bool, fatal: bool = False, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.again = again
        self.fatal = fatal
        self.wait = wait


class Endpoint:
    """A server.  The API key is read from the environment for each call and kept nowhere."""

    def __init__(self, config: EndpointConfig, backoff: float = 1.0) -> None:
        """``backoff``: seconds before the first retry; each later one waits twice as long, plus or minus a quarter."""
        self.config = config
        self.backoff = backoff
        self._base = config.base_url.rstrip("/")
        self._answered = False
        """Whether the server has answered anything: one that never did is not waited for."""

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
            EndpointError: if the server refuses every request of this kind, or the API key cannot be sent.
            OutageError: if the server does not answer, or stops answering for longer than `patience`.
        """
        shared: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
        if top_logprobs:
            shared |= {"logprobs": True, "top_logprobs": top_logprobs}
        bodies = [{**shared, "messages": [dict(message) for message in messages]} for messages in conversations]
        short = {**shared, "messages": [{"role": "user", "content": SHORT_REQUEST}]}
        return self._send_all("/chat/completions", bodies, short, seeds)

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
        bodies = [{**shared, "prompt": text} for text in texts]
        return self._send_all("/completions", bodies, {**shared, "prompt": SHORT_REQUEST}, seeds)

    def _send_all(
        self, path: str, bodies: list[dict[str, Any]], short: dict[str, Any], seeds: Sequence[int] | None
    ) -> list[Reply]:
        if not bodies:
            return []
        for body in (*bodies, short):
            body["model"] = self.config.model
        for body, seed in zip(bodies, seeds or (), strict=seeds is not None):
            body["seed"] = seed
        key = self._key()
        if holding():
            return [_NOT_SENT] * len(bodies)
        call = _Call(self, path, bodies, short, key)
        try:
            in_thread(call.everything())
        except (KeyboardInterrupt, EndpointError) as error:
            raise_or_hold(error)
        self._answered |= any(reply is not None and reply.error is None for reply in call.replies)
        return [reply or _NOT_SENT for reply in call.replies]

    def _key(self) -> str:
        """Return the API key.

        Raises:
            EndpointError: if no HTTP header can carry it; the message names the variable and never the value.
        """
        name = self.config.api_key_env
        key = os.environ.get(name, "").strip()
        if not all("!" <= letter <= "~" for letter in key):
            raise EndpointError(
                f"the API key in the environment variable {name} holds a character that no HTTP header may carry (a "
                "line break, a space, a control character, or one that is not ASCII). Set it again without; its value "
                "is not shown"
            )
        return key


class _Call:
    """The requests of one call, and what has become of them."""

    def __init__(
        self, endpoint: Endpoint, path: str, bodies: Sequence[dict[str, Any]], short: dict[str, Any], key: str
    ) -> None:
        self.config, self.backoff, self.waits = endpoint.config, endpoint.backoff, endpoint._answered
        self.url, self.base = endpoint._base + path, endpoint._base
        self.bodies, self.short, self.key = bodies, short, key
        self.replies: list[Reply | None] = [None] * len(bodies)
        """``None``: not asked yet, or to be asked again."""
        self._failed_in_a_row = 0
        self._stop = asyncio.Event()

    async def everything(self) -> None:
        repeated: set[int] = set()
        async with self._client() as client:
            while None in self.replies:
                await self._round(client)
                failed = [(i, reply) for i, reply in enumerate(self.replies) if reply and reply.error is not None]
                fresh = [(i, reply) for i, reply in failed if i not in repeated]
                none = len(failed) == sum(reply is not None for reply in self.replies)
                # A request that is refused by itself says nothing of the server, unless all are.
                if not failed or not (none or any(reply.again or reply.fatal for _, reply in fresh)):
                    continue
                if await self._away(client, failed):
                    # It is back: what failed meanwhile is asked again, once.
                    for i, reply in fresh:
                        if reply.again or reply.fatal:
                            self.replies[i] = None
                            repeated.add(i)
                else:
                    repeated |= {i for i, _ in failed}

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        try:
            # One deadline for a whole request: a limit for each read would let a server drip for ever.
            client = httpx.AsyncClient(timeout=None, limits=httpx.Limits(max_connections=None))
        except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
            # The text of the error may quote a proxy's password.
            raise EndpointError(
                f"{self.config.base_url}: no connection can be set up ({type(error).__name__}): check the environment "
                "variables HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR"
            ) from None
        async with client:
            yield client

    async def _round(self, client: httpx.AsyncClient) -> None:
        """Ask all that is open, until the server itself is suspected."""
        self._stop.clear()
        self._failed_in_a_row = 0
        todo = iter([i for i, reply in enumerate(self.replies) if reply is None])

        async def work(todo: Iterator[int]) -> None:
            for i in todo:
                reply = self.replies[i] = await self._with_retries(client, self.bodies[i])
                if reply is not None:
                    passing = reply.error is not None and reply.again
                    self._failed_in_a_row = self._failed_in_a_row + 1 if passing else 0
                    if reply.fatal or self._failed_in_a_row >= min(IN_A_ROW, self.config.concurrency):
                        self._stop.set()
                if self._stop.is_set():
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.config.concurrency, len(self.bodies))):
                group.create_task(work(todo))

    async def _away(self, client: httpx.AsyncClient, failed: Sequence[tuple[int, Reply]]) -> bool:
        """Return whether the server was away; wait until it is back.

        Raises:
            EndpointError: if it refuses even the short request.
            OutageError: if it does not come back, or never was there.
        """
        begun, pause, away = time.monotonic(), 2 * self.backoff, False
        while True:
            try:
                await self._post(client, self.short)
                return away
            except _RequestError as error:
                waited = time.monotonic() - begun
                left = self.config.patience - waited
                if not error.again or left <= 0 or not (self.waits or self._any_answered()):
                    self._give_up(error, failed, waited if away else 0.0)
                away, pause = True, min(2 * pause, MAX_WAIT, left)
                log.warning(
                    "%s does not answer (%s); asked again in %.0f s, for %.0f s more at most",
                    self.config.base_url,
                    self._clean(str(error)),
                    pause,
                    left,
                )
                await asyncio.sleep(pause)

    def _any_answered(self) -> bool:
        return any(reply is not None and reply.error is None for reply in self.replies)

    def _give_up(self, last: _RequestError, failed: Sequence[tuple[int, Reply]], waited: float) -> NoReturn:
        asked = sum(reply is not None for reply in self.replies)
        fatal = [reply.error for _, reply in failed if reply.fatal]
        [(reason, count)] = Counter(fatal or [reply.error for _, reply in failed]).most_common(1)
        what = "the server stopped answering" if self.waits or len(failed) < asked else "no request was answered"
        text = f"{self.config.base_url}: {what}: {reason} ({count} of {asked} requests)"
        if waited:
            text += f". It was waited for, {waited:.0f} s (endpoint.patience)"
        config, key = self.config, "is set" if self.key else "is not set"
        text += (
            f". Check that the server runs and that base_url ends in /v1 (curl {self.base}/models), that it serves the "
            f"model {config.model!r}, and the API key (environment variable {config.api_key_env} {key})"
        )
        if last.again:
            raise OutageError(text + ". What was answered is kept: the same command goes on where it was")
        raise EndpointError(text)

    async def _with_retries(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Reply | None:
        """Retry until it works or the retries are used up; ``None`` if the server itself is suspected before."""
        number = 0
        while True:
            try:
                return await self._post(client, body)
            except _RequestError as failure:
                # Jitter spreads the retries over time; it touches no result, so it needs no key.
                pause = max(failure.wait, self.backoff * 2**number * random.Random().uniform(0.75, 1.25))
                if failure.again and number < self.config.retries:
                    if await self._stopped(min(pause, MAX_WAIT)):
                        return None
                else:
                    after = f" (after {number + 1} tries)" if number else ""
                    return Reply(error=self._clean(str(failure)) + after, again=failure.again, fatal=failure.fatal)
            number += 1

    async def _stopped(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        return self._stop.is_set()

    async def _post(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Reply:
        # No text of the HTTP library's: it may quote headers, and what it quotes is not what was given to it.
        try:
            async with asyncio.timeout(self.config.timeout):
                status, headers, payload = await self._exchange(client, body)
        except TimeoutError:
            raise _RequestError(f"no answer within {self.config.timeout:g} s", again=True) from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise _RequestError(
                "request cannot be sent: base_url is no http address", again=False, fatal=True
            ) from None
        except httpx.ConnectError as error:
            raise _RequestError(f"no connection: {_cause(error)}", again=True, fatal=True) from None
        except httpx.DecodingError:
            raise _RequestError("not a completion: its compression is broken", again=True) from None
        except httpx.HTTPError as error:
            raise _RequestError(f"connection lost: {_cause(error)}", again=True) from None
        except UnicodeEncodeError as error:
            raise _RequestError(f"request cannot be written as UTF-8: {error.reason}", again=False) from None
        if status != 200:
            # What is busy or broken may recover; a wrong request stays wrong.
            again = status in (408, 425, 429) or status >= 500
            reason = f"status {status}: {self._quoted(payload)}"
            raise _RequestError(reason, again=again, fatal=status in FATAL_STATUSES, wait=_retry_after(headers))
        try:
            reply = read(payload)
        except MalformedReplyError as error:
            raise _RequestError(f"not a completion: {error}: {self._quoted(payload)}", again=True) from None
        secret = len(self.key) >= SECRET_CHARACTERS
        return dataclasses.replace(reply, text=self._clean(reply.text)) if secret else reply

    async def _exchange(self, client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        payload = bytearray()
        async with client.stream("POST", self.url, json=body, headers=headers) as response:
            async for part in response.aiter_bytes():
                payload += part
                if len(payload) > MAX_BYTES:
                    raise _RequestError(f"not a completion: more than {MAX_BYTES >> 20} MiB", again=True)
        return response.status_code, response.headers, bytes(payload)

    def _quoted(self, payload: bytes) -> str:
        """Return the beginning of a body for a message, without the key, which servers quote when they refuse it."""
        return excerpt(self._clean(payload[:MAX_BYTES].decode("utf-8", "replace")))

    def _clean(self, text: str) -> str:
        spellings = {self.key, repr(self.key)[1:-1], json.dumps(self.key)[1:-1], quote(self.key, safe="")} - {""}
        for spelt in spellings:
            text = text.replace(spelt, "[key]")
        return text


def _cause(error: BaseException) -> str:
    """Return what the system says of a failed connection, or the kind of the error."""
    name, seen = type(error).__name__, 0
    current: BaseException | None = error
    while current is not None and seen < 10:
        if isinstance(current, OSError) and current.strerror:
            return f"{name}: {current.strerror}"
        current, seen = current.__cause__ or current.__context__, seen + 1
    return name


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that the server asks for: a number, or an HTTP date (RFC 9110, section 10.2.3)."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(value)
            seconds = moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, IndexError):
            return 0.0
    return min(MAX_WAIT, max(0.0, seconds)) if not math.isnan(seconds) else 0.0
