"""Replies as servers send them: cut ones, ones that reason, ones that refuse; the specimens of public bug reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.endpoint import Server
from helpers.stages import GivenContext, run_stage, stage_of

from forethought import config
from forethought.config import EndpointConfig, InterleaveConfig
from forethought.judges.multiple_choice import ChoiceRequest, EndpointChoiceModel, WrittenChoiceModel, conclusion
from forethought.keys import Key
from forethought.llm.cache import CachedGenerator, TextCache
from forethought.llm.endpoint import SHORT_REQUEST, Endpoint, EndpointError
from forethought.llm.generate import EndpointGenerator, GenerationConfig, LocalGenerator
from forethought.llm.replies import MalformedReplyError, read
from forethought.records import Chunk, Place, Split
from forethought.thoughts.dataset import ThoughtCounts, augment
from forethought.thoughts.teacher import ChunkTeacher, Draft, PlaceTeacher

TEXT = "The guild kept its rules in a book. Every master paid the same share of the costs, and the profits were split."


def reply(content: str | None, finish: str = "stop", reasoning: str = "") -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **({"reasoning_content": reasoning} if reasoning else {})}
    return {"choices": [{"message": message, "finish_reason": finish}]}


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[Server, Endpoint]]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers: list[Server] = []

    def start(behave: Callable[[str, int], Any]) -> tuple[Server, Endpoint]:
        servers.append(Server(behave))
        return servers[-1], Endpoint(EndpointConfig(base_url=servers[-1].url, model="m", retries=0), backoff=0.01)

    yield start
    for server in servers:
        server.close()


def drafts() -> list[Draft]:
    half = TEXT.index(" Every")
    chunk = Chunk(
        id="c",
        document_id="d",
        split=Split.SFT,
        start=0,
        prefix=TEXT[:half],
        suffix=TEXT[half:],
        prefix_ids=tuple(TEXT[:half].encode()),
        suffix_ids=tuple(TEXT[half:].encode()),
    )
    return [Draft(chunk=chunk, places=[Place(position=half, token=half)])]


def interleaving(**changes: Any) -> InterleaveConfig:
    teacher = {"endpoint": {"base_url": "http://x/v1", "model": "m"}, "max_tokens": 16, "retries": 1}
    return InterleaveConfig.model_validate({"teacher": teacher, "thoughts": (1, 1), "gap": 10, **changes})


def generator(endpoint: Endpoint, seed: int = 0) -> EndpointGenerator:
    return EndpointGenerator(endpoint, Key(seed=seed, purpose="test"))


# --- 24, 35: reasoning that does not end


@pytest.mark.parametrize("content", [None, "", "  ", "<think>\nLet me see. Option 1"])
def test_a_reply_that_was_cut_while_the_model_reasoned_says_which_key_to_raise(serve, content):
    _, endpoint = serve(lambda message, visit: (200, {}, reply(content, "length", "Let me compare the two options.")))
    written = WrittenChoiceModel(generator(endpoint), GenerationConfig(max_tokens=64))
    [[answer]] = written.ask([ChoiceRequest("a", ("b",))], ["1", "2"])
    assert answer.probs is None
    assert "cut at max_tokens = 64 while the model reasoned" in answer.reason
    assert "raise max_tokens" in answer.reason


def test_a_letter_of_a_model_that_reasons_first_is_none_and_says_what_to_set(serve):
    _, endpoint = serve(lambda message, visit: (200, {}, reply(None, "length", "Let")))
    [[answer]] = EndpointChoiceModel(endpoint).ask([ChoiceRequest("a", ("b",))], ["1", "2"])
    assert answer.probs is None
    assert "verdict = 'written'" in answer.reason


# --- 30: a reply that names no choice, or several


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("Conclusion: Option 1\nor\nConclusion: Option 2", ("1", "2")),
        ("Conclusion: Option 1, Option 2", ("1", "2")),
        ("Conclusion: NONE\nConclusion: POSSIBLE\nConclusion: DEFINITE", ("NONE", "POSSIBLE", "DEFINITE")),
        ("Conclusion: NONE, POSSIBLE or DEFINITE", ("NONE", "POSSIBLE", "DEFINITE")),
    ],
)
def test_a_reply_that_repeats_the_form_or_names_several_is_no_vote(text, choices):
    assert conclusion(text, choices) is None


def test_a_conclusion_that_a_limit_cut_is_none(serve):
    """It may have gone on with "or Option 2"."""
    _, endpoint = serve(lambda message, visit: (200, {}, reply("Conclusion: Option 1", "length")))
    [cut] = WrittenChoiceModel(generator(endpoint), GenerationConfig(max_tokens=8)).ask(
        [ChoiceRequest("a", ("b",))], ["1", "2"]
    )
    assert cut[0].probs is None
    assert "raise max_tokens of this judge" in cut[0].reason


# --- 33: a thought that a limit cut


def test_a_thought_that_was_cut_is_rejected_counted_and_asked_for_again(serve):
    whole = "The costs were shared, so the guild probably shared the profits as well."

    def behave(message: str, visit: int):
        return 200, {}, reply(whole[:52], "length") if visit == 1 else reply(whole)

    server, endpoint = serve(behave)
    made, counts = drafts(), ThoughtCounts()
    cfg = interleaving(max_leak=1.0)
    augment(made, PlaceTeacher([generator(endpoint), generator(endpoint, 1)], cfg), cfg, counts)
    assert list(made[0].thoughts.values()) == [whole]
    assert counts.rejected == {"cut at max_tokens": 1}
    assert len(server.requests) == 2


def test_of_a_cut_reply_about_a_chunk_the_whole_lines_are_kept(serve):
    _, endpoint = serve(lambda message, visit: (200, {}, reply("1: The costs were shared.\n2: So the prof", "length")))
    [proposals] = ChunkTeacher([generator(endpoint)], interleaving()).ask(drafts(), 0)
    assert [str(one.rejection) for one in proposals if one.rejection] == ["cut at max_tokens"]
    assert [one.thought for one in proposals if one.thought] == ["The costs were shared."]


def test_a_cut_reply_is_still_one_when_it_comes_from_the_cache(serve, tmp_path: Path):
    _, endpoint = serve(lambda message, visit: (200, {}, reply("half a", "length")))
    for _ in range(2):
        cache = TextCache(tmp_path / "replies.sqlite", "replies")
        [[kept]] = CachedGenerator(generator(endpoint), cache).generate(["q"], 1, GenerationConfig(max_tokens=2))
        assert (kept.text, kept.cut) == ("half a", True)
        cache.close()


def test_a_reply_of_a_model_in_this_process_is_cut_by_the_same_rule():
    from helpers.language import local_model

    local = LocalGenerator(local_model(), Key(seed=1, purpose="test"))
    [[drawn]] = local.generate(["hello"], 1, GenerationConfig(max_tokens=12, temperature=1.0))
    assert drawn.cut


# --- 34: a server that says why


def test_a_stage_whose_teacher_refuses_every_request_ends_with_the_servers_reason(serve, tmp_path: Path):
    why = "max_tokens is not accepted by this model; send max_completion_tokens"
    server, _ = serve(lambda message, visit: (400, {}, {"error": {"message": why}}))
    teacher = f'interleave.teacher={{endpoint={{base_url="{server.url}", model="m", retries=0}}}}'
    cfg = config.load("smoke", (teacher, "interleave.thoughts=[1, 1]", "interleave.positions=teacher"))
    chunks = [
        Chunk(
            id=f"c{n}",
            document_id=f"d{n}",
            split=split,
            start=0,
            prefix=TEXT,
            suffix=" " + TEXT,
            prefix_ids=tuple(TEXT.encode()),
            suffix_ids=tuple(f" {TEXT}".encode()),
        )
        for n, split in enumerate(Split)
    ]
    stage = stage_of(GivenContext(cfg, tmp_path, chunks=chunks), "shared/interleave")
    with pytest.raises(EndpointError, match=rf"{why}.*\(1 of 1 requests\)"):
        run_stage(stage)


def test_reasons_of_single_requests_are_told_too(serve, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "forethought")

    def behave(message: str, visit: int):
        return (200, {}, reply("yes")) if message == SHORT_REQUEST else (400, {}, "content filter")

    _, endpoint = serve(behave)
    made, counts, cfg = drafts(), ThoughtCounts(), interleaving()
    augment(made, PlaceTeacher([generator(endpoint), generator(endpoint, 1)], cfg), cfg, counts)
    assert counts.rejected == {"no reply": 2}
    assert counts.unanswered == {'transport: status 400: "content filter"': 2}


# --- the parser


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "no JSON"),
        (b'{"choices": [{"message": {"content": 3}}]}', "its text is of type int"),
        (b'{"choices": [{"text": "a", "logprobs": {"content": [{"top_logprobs": [{"token": null}]}]}}]}', "no number"),
    ],
)
def test_what_is_no_completion_says_why(body, reason):
    with pytest.raises(MalformedReplyError, match=reason):
        read(body)


def test_half_of_a_surrogate_pair_becomes_a_character_that_files_can_hold():
    assert read(b'{"choices": [{"text": "a \\ud800 b \\ud83d\\ude00"}]}').text == "a \N{REPLACEMENT CHARACTER} b 😀"
