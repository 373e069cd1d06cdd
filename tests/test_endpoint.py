"""The endpoint client against a real HTTP server on this machine that misbehaves in every way it can."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.endpoint import Server, completion, nobody

from forethought.config import EndpointConfig
from forethought.llm.endpoint import SHORT_REQUEST, Endpoint, EndpointError

SECRET = "sk-very-secret-123"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Server, Endpoint]]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("TEST_API_KEY", SECRET)
    servers: list[Server] = []

    def start(behave: Callable[[str, int], Any], **changes: Any) -> tuple[Server, Endpoint]:
        servers.append(Server(behave))
        settings = {"retries": 2, "timeout": 5.0, "concurrency": 4, "api_key_env": "TEST_API_KEY", **changes}
        config = EndpointConfig(base_url=servers[-1].url, model="m", **settings)
        return servers[-1], Endpoint(config, backoff=0.01)

    yield start
    for server in servers:
        server.close()


def ask(endpoint: Endpoint, *messages: str, max_tokens: int = 8, **options):
    conversations = [[{"role": "user", "content": message}] for message in messages]
    return endpoint.chat(conversations, max_tokens=max_tokens, **options)


def test_replies_come_in_the_order_of_the_questions_whatever_finishes_first(serve):
    def behave(message: str, visit: int):
        time.sleep(0.05 * (message == "0"))
        return 200, {}, completion(f"reply {message}")

    server, endpoint = serve(behave)
    replies = ask(endpoint, *map(str, range(20)))
    assert [reply.text for reply in replies] == [f"reply {i}" for i in range(20)]
    assert 1 < server.most_under_way <= 4


def test_the_request_says_what_was_asked_for(serve):
    server, endpoint = serve(lambda message, visit: (200, {}, completion("1", {"1": -0.1, " 2": -2.5})))
    options = {"max_tokens": 1, "temperature": 0.5, "top_p": 0.9, "top_logprobs": 20}
    [reply] = ask(endpoint, "which?", **options, seeds=[7])
    assert reply.top_logprobs == {"1": -0.1, " 2": -2.5}
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["authorization" if "authorization" in headers else "Authorization"] == f"Bearer {SECRET}"
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "which?"}],
        "max_tokens": 1,
        "temperature": 0.5,
        "top_p": 0.9,
        "logprobs": True,
        "top_logprobs": 20,
        "seed": 7,
    }


def test_without_a_key_no_header_is_sent(serve, monkeypatch):
    monkeypatch.delenv("TEST_API_KEY")
    server, endpoint = serve(lambda message, visit: (200, {}, completion("x")))
    ask(endpoint, "a")
    assert "authorization" not in {name.lower() for name in server.requests[0][1]}


def test_too_many_requests_waits_as_told_and_succeeds(serve):
    def behave(message: str, visit: int):
        return (429, {"Retry-After": "0.3"}, {}) if visit == 1 else (200, {}, completion("fine"))

    server, endpoint = serve(behave)
    begun = time.monotonic()
    assert ask(endpoint, "a")[0].text == "fine"
    assert time.monotonic() - begun >= 0.3
    assert server.visits["a"] == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, {}, {"error": "out of memory"}), "status 500"),
        ((200, {}, b"<html>busy</html>"), "not a completion"),
        ((200, {}, {"choices": []}), "not a completion"),
        ((200, {}, [1, 2]), "not a completion"),
        ((200, {}, {"choices": [{"message": {"content": 3}}]}), "not a completion"),
        (None, "connection lost"),
    ],
)
def test_what_may_pass_is_retried_and_then_an_error_beside_the_others(serve, answer, reason):
    server, endpoint = serve(lambda message, visit: answer if message == "bad" else (200, {}, completion(message)))
    good, bad, fine = ask(endpoint, "good", "bad", "fine")
    assert (good.text, fine.text, good.error, fine.error) == ("good", "fine", None, None)
    assert bad.error.startswith(reason)
    assert bad.error.endswith("(after 3 tries)")
    assert server.visits["bad"] == 3


def test_a_slow_server_times_out(serve):
    def behave(message: str, visit: int):
        time.sleep(0.6 * (message == "slow"))
        return 200, {}, completion(message)

    _, endpoint = serve(behave, timeout=0.2, retries=1)
    fast, slow = ask(endpoint, "fast", "slow")
    assert (fast.text, slow.error) == ("fast", "no answer within 0.2 s (after 2 tries)")


def test_a_bad_request_is_not_repeated(serve):
    def behave(message: str, visit: int):
        return (400, {}, {"error": "context too long"}) if message == "long" else (200, {}, completion("fine"))

    server, endpoint = serve(behave)
    long, fine = ask(endpoint, "long", "short")
    assert "context too long" in long.error
    assert (server.visits["long"], fine.text) == (1, "fine")


def test_an_empty_reply_is_an_empty_text(serve):
    _, endpoint = serve(lambda message, visit: (200, {}, completion(None)))
    [reply] = ask(endpoint, "a")
    assert (reply.text, reply.error, reply.top_logprobs) == ("", None, None)


def test_a_refused_key_stops_at_once_and_never_shows_the_key(serve, caplog):
    caplog.set_level(logging.DEBUG)
    server, endpoint = serve(lambda message, visit: (401, {}, {"error": f"Incorrect API key: {SECRET}"}), concurrency=1)
    with pytest.raises(EndpointError, match="TEST_API_KEY is set") as caught:
        ask(endpoint, "a", "b")
    assert "status 401" in str(caught.value)
    assert server.visits["a"] == 1
    for text in (str(caught.value), repr(caught.value), repr(endpoint), str(vars(endpoint)), caplog.text):
        assert SECRET not in text


def test_nobody_listening_is_an_error_that_names_the_address(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with nobody() as url:
        endpoint = Endpoint(EndpointConfig(base_url=url, model="m", retries=2), backoff=0.01)
        with pytest.raises(EndpointError) as error:
            ask(endpoint, *map(str, range(50)))
    assert f"{url}: no request was answered: no connection" in str(error.value)
    assert "/v1/models" in str(error.value)


def test_a_server_that_answers_nothing_is_an_error_even_if_it_fails_in_several_ways(serve):
    def behave(message: str, visit: int):
        return {"0": None, "1": (503, {}, "busy"), "2": (400, {}, "too long")}.get(message, (404, {}, "gone"))

    _, endpoint = serve(behave, retries=0)
    with pytest.raises(EndpointError, match="no request was answered: status 404"):
        ask(endpoint, *map(str, range(6)))


def test_a_server_that_answers_a_short_request_is_there_whatever_it_does_not_answer(serve):
    def behave(message: str, visit: int):
        return (200, {}, completion("fine")) if message in ("5", SHORT_REQUEST) else (404, {}, "gone")

    _, endpoint = serve(behave)
    replies = ask(endpoint, *map(str, range(6)))
    assert [reply.error is None for reply in replies] == [False] * 5 + [True]


def test_an_address_without_a_scheme_is_explained():
    endpoint = Endpoint(EndpointConfig(base_url="localhost/v1", model="m"))
    with pytest.raises(EndpointError, match="localhost/v1: no request was answered: request cannot be sent"):
        ask(endpoint, "a")


def test_no_question_no_request():
    assert Endpoint(EndpointConfig(base_url="http://127.0.0.1:1/v1", model="m")).chat([], max_tokens=8) == []


def test_a_text_that_is_no_unicode_spoils_its_own_request_only(serve):
    _, endpoint = serve(lambda message, visit: (200, {}, completion("fine")))
    fine, broken = ask(endpoint, "a", "lone \ud800 surrogate")
    assert fine.text == "fine"
    assert broken.error == "request cannot be written as UTF-8: surrogates not allowed"


def test_a_key_with_a_line_end_is_sent_without_it(serve, monkeypatch):
    monkeypatch.setenv("TEST_API_KEY", SECRET + "\n")
    server, endpoint = serve(lambda message, visit: (200, {}, completion("fine")))
    assert ask(endpoint, "a")[0].text == "fine"
    assert f"Bearer {SECRET}" in server.requests[0][1].values()
