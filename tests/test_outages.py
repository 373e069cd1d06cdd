"""Servers that go away, drip, or refuse; keys that cannot be sent; and what was paid is kept."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from helpers.endpoint import Server, completion

from forethought.cli.terminal import guard
from forethought.config import ConfigError, EndpointConfig, build
from forethought.judges.build import build as build_judge
from forethought.keys import Key
from forethought.llm.cache import CachedGenerator, TextCache
from forethought.llm.endpoint import SHORT_REQUEST, Endpoint, EndpointError, OutageError
from forethought.llm.generate import EndpointGenerator, GenerationConfig
from forethought.records import JudgeRequest, Outcome

FINE = (200, {}, completion("fine"))
ENVIRONMENT = "FORETHOUGHT_TEST_KEY"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Server, Endpoint]]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers: list[Server] = []

    def start(behave: Callable[[str, int], Any], **changes: Any) -> tuple[Server, Endpoint]:
        servers.append(Server(behave))
        settings = {"retries": 1, "timeout": 5.0, "concurrency": 4, "api_key_env": ENVIRONMENT, **changes}
        return servers[-1], Endpoint(EndpointConfig(base_url=servers[-1].url, model="m", **settings), backoff=0.01)

    yield start
    for server in servers:
        server.close()


def ask(endpoint: Endpoint, *messages: str) -> list[Any]:
    return endpoint.chat([[{"role": "user", "content": message}] for message in messages], max_tokens=8)


# --- outages


@pytest.mark.parametrize("answer", [(503, {}, "busy"), (200, {}, b"<html>proxy error</html>"), None])
def test_a_server_that_comes_back_is_waited_for_and_nothing_is_lost(serve, answer):
    gone = [0.0]

    def behave(message: str, visit: int):
        if message == "5" and visit == 1:
            gone[0] = time.monotonic() + 0.5
        return answer if time.monotonic() < gone[0] else FINE

    _, endpoint = serve(behave, patience=30.0, concurrency=1)
    assert [reply.text for reply in ask(endpoint, *map(str, range(12)))] == ["fine"] * 12


@pytest.mark.parametrize("answer", [(500, {}, "broken"), (200, {}, {"junk": 1}), None])
def test_a_server_that_stays_away_ends_the_command_with_code_3_and_can_be_resumed(serve, answer, capsys):
    here = threading.Event()
    here.set()
    _, endpoint = serve(lambda message, visit: FINE if here.is_set() else answer, patience=0.2)
    assert ask(endpoint, "a")[0].text == "fine"
    here.clear()
    with pytest.raises(typer.Exit) as ended, guard():
        ask(endpoint, *map(str, range(40)))
    assert ended.value.exit_code == 3
    said = capsys.readouterr().err
    assert "the server stopped answering" in said
    assert "the same command goes on" in said
    here.set()
    assert {reply.text for reply in ask(endpoint, *map(str, range(40)))} == {"fine"}


def test_a_server_that_never_answered_is_not_waited_for(serve):
    _, endpoint = serve(lambda message, visit: (503, {}, "loading"), patience=600.0)
    begun = time.monotonic()
    with pytest.raises(OutageError, match="no request was answered: status 503"):
        ask(endpoint, "a", "b")
    assert time.monotonic() - begun < 5


def test_an_outage_is_noticed_before_every_request_has_failed(serve):
    server, endpoint = serve(lambda message, visit: (500, {}, "out"), retries=0)
    with pytest.raises(OutageError):
        ask(endpoint, *map(str, range(300)))
    assert len(server.requests) < 20


def test_a_request_that_a_working_server_cannot_answer_is_no_outage(serve):
    server, endpoint = serve(lambda message, visit: (500, {}, "bug") if message == "poison" else FINE, patience=60.0)
    [alone] = ask(endpoint, "poison")
    assert alone.error.startswith("status 500")
    assert server.visits["poison"] == 2


def test_a_server_that_refuses_every_request_says_why_with_the_count(serve):
    why = "max_tokens is not accepted by this model; send max_completion_tokens"
    _, endpoint = serve(lambda message, visit: (400, {}, {"error": {"message": why}}))
    with pytest.raises(EndpointError, match=rf"{why}.*\(6 of 6 requests\)") as error:
        ask(endpoint, *map(str, range(6)))
    assert not isinstance(error.value, OutageError)  # the same command would not go on


# --- one deadline, and Ctrl-C


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"])
def test_a_server_that_drips_is_cut_off_at_the_deadline(monkeypatch, head):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()

        def drip() -> None:
            while not over.is_set():
                try:
                    connection, _ = listening.accept()
                    connection.sendall(head)
                    for _ in range(100):
                        connection.sendall(b"H")
                        if over.wait(0.05):
                            return
                except OSError:
                    pass

        threads = [threading.Thread(target=drip, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        endpoint = Endpoint(EndpointConfig(base_url=url, model="m", timeout=0.4, retries=0), backoff=0.01)
        begun = time.monotonic()
        with pytest.raises(OutageError, match=r"no answer within 0\.4 s"):
            ask(endpoint, "a")
        assert time.monotonic() - begun < 4
        over.set()


def test_ctrl_c_ends_within_two_seconds_and_what_was_answered_is_kept(serve, tmp_path):
    first = threading.Event()

    def behave(message: str, visit: int):
        if message in ("2", "3"):
            first.wait(30)
        return FINE

    server, endpoint = serve(behave, timeout=600.0)
    cache = TextCache(tmp_path / "replies.sqlite", "replies")
    generator = CachedGenerator(EndpointGenerator(endpoint, Key(seed=0, purpose="test")), cache)
    begun = [0.0]

    def interrupt() -> None:
        while server.visits["7"] == 0:
            time.sleep(0.01)
        time.sleep(0.1)
        begun[0] = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    questions = [str(number) for number in range(8)]
    with pytest.raises(KeyboardInterrupt):
        generator.generate(questions, 1, GenerationConfig(max_tokens=4))
    assert time.monotonic() - begun[0] < 2
    first.set()
    cache.close()
    [[kept]] = sqlite3.connect(tmp_path / "replies.sqlite").execute("SELECT count(*) FROM replies").fetchall()
    assert kept == 6
    again = TextCache(tmp_path / "replies.sqlite", "replies")
    generator = CachedGenerator(EndpointGenerator(endpoint, Key(seed=0, purpose="test")), again)
    asked = dict(server.visits)
    assert [row[0].text for row in generator.generate(questions, 1, GenerationConfig(max_tokens=4))] == ["fine"] * 8
    assert {m for m in questions if server.visits[m] > asked.get(m, 0)} == {"2", "3"}


# --- keys


@pytest.mark.parametrize("key", ["sk-secret\nX-Evil: 1", "sk-se cret", "sk-sécret", "sk-secret\x00", "sk-secret\x7f"])
def test_a_key_that_no_header_may_carry_is_refused_by_the_name_of_its_variable(serve, monkeypatch, key):
    if "\x00" in key:  # no environment holds it: a key is checked, whatever it came from
        monkeypatch.setattr("os.environ", {**os.environ, ENVIRONMENT: key})
    else:
        monkeypatch.setenv(ENVIRONMENT, key)
    server, endpoint = serve(lambda message, visit: FINE)
    with pytest.raises(EndpointError, match=f"environment variable {ENVIRONMENT} holds a character") as error:
        ask(endpoint, "a")
    for part in ("sk-", "cret", "Evil"):
        assert part not in str(error.value)
    assert server.requests == []


@pytest.mark.parametrize(
    ("key", "body"),
    [
        ("sk-very-secret-1234567", "refused: sk-very-secret-1234567"),
        ("sk-very-secret-1234567", "x" * 290 + "sk-very-secret-1234567"),  # the cut must not leave half of it
        ('sk-with"quote\\and-more', json.dumps('sk-with"quote\\and-more')),
        ("sk/slash+plus=padding", "https://x/?key=sk%2Fslash%2Bplus%3Dpadding"),
    ],
)
@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_server_that_quotes_the_key_shows_it_to_nobody(serve, monkeypatch, key, body, status):
    monkeypatch.setenv(ENVIRONMENT, key)
    _, endpoint = serve(lambda message, visit: FINE if message == SHORT_REQUEST else (status, {}, body.encode()))
    shown = repr(ask(endpoint, "a"))
    assert "secret" not in shown
    assert "sk-" not in shown
    assert "slash" not in shown


def test_a_reply_that_quotes_the_key_is_kept_without_it(serve, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, "sk-very-secret-1234567")
    _, endpoint = serve(lambda message, visit: (200, {}, completion("You sent sk-very-secret-1234567")))
    assert ask(endpoint, "a")[0].text == "You sent [key]"


def test_a_server_that_sends_escape_sequences_sends_them_to_no_terminal(serve):
    _, endpoint = serve(
        lambda message, visit: FINE if message == SHORT_REQUEST else (500, {}, b"\x1b[31mred\r\nnext\x9b")
    )
    assert (
        ask(endpoint, "a")[0].error
        == "status 500: \N{SYMBOL FOR ESCAPE}[31mred next\N{REPLACEMENT CHARACTER} (after 2 tries)"
    )


def test_a_proxy_that_is_no_address_is_an_error_without_its_password(serve, monkeypatch):
    _, endpoint = serve(lambda message, visit: FINE)
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("HTTP_PROXY", "gopher://me:hidden@host")
    with pytest.raises(EndpointError, match="HTTP_PROXY") as error:
        ask(endpoint, "a")
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("base_url", "http://me:hidden@host/v1"),
        ("base_url", "https://hidden@host/v1"),
        ("base_url", "https://host/v1?api_key=hidden"),
        ("base_url", "me:hidden@host/v1"),
        ("api_key_env", "sk-hidden-key"),
    ],
)
def test_a_secret_in_the_config_is_refused_without_being_shown(key, value):
    endpoint = {"base_url": "http://host/v1", "model": "m", key: value}
    data = {"name": "x", "policy": {"model": "m"}, "judges": {"one": {"kind": "pointwise", "endpoint": endpoint}}}
    with pytest.raises(ConfigError, match=rf"judges\.one\.endpoint: {key} must be") as error:
        build(data)
    assert "hidden" not in str(error.value)
    with pytest.raises(ValueError, match=f"{key} must be") as bare:
        EndpointConfig(**endpoint)
    assert "hidden" not in str(bare.value)


# --- what a judge makes of it


def test_verdicts_that_were_paid_are_kept_when_the_server_goes_away(serve, tmp_path):
    here = threading.Event()
    here.set()

    def behave(message: str, visit: int):
        if "candidate c" in message and not here.is_set():
            return 500, {}, "out"
        if message == SHORT_REQUEST and not here.is_set():
            return 500, {}, "out"
        return 200, {}, completion("Conclusion: YES")

    server, endpoint = serve(behave, retries=0, patience=0.0)
    config = build(
        {
            "name": "x",
            "policy": {"model": "m"},
            "judges": {
                "one": {
                    "axis": "safety",
                    "verdict": "written",
                    "endpoint": endpoint.config.model_dump(),
                    "kind": "pointwise",
                }
            },
        }
    ).judges["one"]
    pool: Any = type("Pool", (), {"compute": type("Compute", (), {"seed": 0})()})()
    judge = build_judge(config, pool, tmp_path / "verdicts.sqlite")
    here.clear()
    server.visits.clear()
    requests = [JudgeRequest(prefix="p", candidates=("candidate a", "candidate b", "candidate c"), original="o")]
    # The first contact: a and b are answered, c is not, and the short request is not either.
    with pytest.raises(OutageError):
        judge.rank(requests)
    here.set()
    before = sum(server.visits.values())
    [verdicts] = judge.rank(requests)
    assert [verdict.outcome for verdict in verdicts] == [Outcome.SCORED] * 3
    assert sum(server.visits.values()) - before == 1
