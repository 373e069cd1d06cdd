"""Replies of every shape: each gives a typed result or a reason, in time that grows with its length."""

from __future__ import annotations

import gzip
import json
import math
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.endpoint import Server, completion
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from forethought.config import EndpointConfig
from forethought.judges import pairwise
from forethought.judges.multiple_choice import EndpointChoiceModel, WrittenChoiceModel, _from_server, conclusion
from forethought.judges.pairwise import PairwiseJudge
from forethought.judges.rewrite import strip_join
from forethought.keys import Key
from forethought.llm.endpoint import SHORT_REQUEST, Endpoint
from forethought.llm.generate import EndpointGenerator, GenerationConfig
from forethought.llm.prompts import load_prompt
from forethought.llm.replies import MalformedReplyError, Reply, answer_of, read
from forethought.records import Chunk, JudgeRequest, Outcome, Place, Split
from forethought.tags import Tags
from forethought.thoughts import teacher
from forethought.thoughts.checks import Rejection, clean

from .conftest import WHOLE

NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 710, 1e308, -1e308, 0.05, math.nan, math.inf, -math.inf, True, -9999.0]),
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(alphabet=st.characters(), max_size=5),  # halves of surrogate pairs, too
    st.sampled_from(["1", " 2", "Conclusion: Option 1", "<think>", "</think>Conclusion: Option 2", "\x00\x1b[31m"]),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def mutated(value: Any) -> st.SearchStrategy[Any]:
    """Return strategies of ``value`` with any JSON value at any place, places that are missing included."""
    if isinstance(value, dict):
        whole = st.fixed_dictionaries(
            {}, optional={key: mutated(one) for key, one in value.items()} | {"surplus": VALUES}
        ) | st.fixed_dictionaries({key: mutated(one) for key, one in value.items()})
    elif isinstance(value, list):
        whole = st.lists(st.one_of(*map(mutated, value)), max_size=3) | st.tuples(*map(mutated, value)).map(list)
    else:
        whole = st.just(value) | TEXTS if isinstance(value, str) else st.just(value) | NUMBERS
    # The given shape mostly: what is wrong at the top hides what may be wrong below.
    return st.one_of(whole, whole, whole, whole, VALUES)


LISTED = {"content": [{"token": "1", "logprob": -0.1, "top_logprobs": [{"token": "1", "logprob": -0.1}] * 2}]}
MESSAGE = {"role": "assistant", "content": "Conclusion: Option 1", "reasoning_content": "hm"}
SHAPES = st.one_of(
    mutated({"choices": [{"message": MESSAGE, "logprobs": LISTED, "finish_reason": "stop"}]}),
    mutated({"choices": [{"text": " a", "logprobs": {"tokens": ["a"]}, "finish_reason": "length"}]}),
)
EXAMPLES = 100_000 if WHOLE else 2_000


def survives(payload: bytes) -> bool:
    """Return whether a body gives a reply of the right types, or a reason, and a verdict or a reason."""
    try:
        reply = read(payload)
    except MalformedReplyError as error:
        return bool(str(error))
    reply.text.encode()
    assert isinstance(reply, Reply)
    assert isinstance(reply.finish, str)
    for token, value in (reply.top_logprobs or {}).items():
        token.encode()
        assert value < 1  # two of one spelling may add up to more than each may have
    for choices in (("1", "2"), ("YES", "NO")):
        probs = _from_server(reply, choices)
        assert probs.reason or math.isclose(sum(probs.probs or ()), 1.0)
        assert conclusion(reply.text, choices) in (None, 0, 1)
    return True


def test_any_json_value_at_any_place_of_a_reply(attack: Callable[[str], Any]) -> None:
    counted = attack("replies of servers: any JSON value at any place")

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(shape=SHAPES)
    def tried(shape: Any) -> None:
        payload = json.dumps(shape).encode()
        counted.case(repr(payload[:200]), survives(payload))

    tried()


DEEP = 200_000
KINDS: dict[str, tuple[int, dict[str, str], bytes] | None] = {
    "nothing": None,
    "empty": (200, {}, b""),
    "no JSON": (200, {}, b"<html>"),
    "no UTF-8": (200, {}, b'{"choices": "\xff\xfe"}'),
    "UTF-16": (200, {}, '{"choices": []}'.encode("utf-16")),
    "deep lists": (200, {}, b"[" * DEEP),
    "deep objects": (200, {}, b'{"choices":' * DEEP),
    "deep and closed": (200, {}, b"[" * DEEP + b"]" * DEEP),
    "deep inside": (200, {}, b'{"choices": [{"message": {"content": ' + b"[" * DEEP + b"]" * DEEP + b"}}]}"),
    "long number": (200, {}, b'{"choices": ' + b"9" * 100_000 + b"}"),
    "broken gzip": (200, {"content-encoding": "gzip"}, b"not packed at all"),
    "torn gzip": (200, {"content-encoding": "gzip"}, gzip.compress(b"x" * 10_000)[:20]),
    "flipped gzip": (200, {"content-encoding": "gzip"}, b"\x1f\x8b\x08\x00" + b"\xff" * 40),
    "broken deflate": (200, {"content-encoding": "deflate"}, b"\x00\x01\x02"),
    "torn deflate": (200, {"content-encoding": "deflate"}, zlib.compress(b"x" * 10_000)[:9]),
    "broken br": (200, {"content-encoding": "br"}, b"\xff\xff\xff"),
    "broken zstd": (200, {"content-encoding": "zstd"}, b"\xff\xff\xff"),
    "unknown encoding": (200, {"content-encoding": "x-none"}, b"\x00"),
    "two encodings": (200, {"content-encoding": "gzip, deflate"}, b"\x00"),
    "gzip bomb": (200, {"content-encoding": "gzip"}, gzip.compress(b"[" * (64 << 20), 1)),
    "unknown charset": (200, {"content-type": "text/plain; charset=klingon"}, b"\xff"),
    "error of an unknown charset": (400, {"content-type": "text/plain; charset=klingon"}, b"\xff\x1b[31m"),
    "broken gzip of an error": (500, {"content-encoding": "gzip"}, b"no"),
    "redirect to nowhere": (307, {"location": "http://127.0.0.1:1/"}, b""),
    "redirect to itself": (302, {"location": ""}, b""),
    "no content": (204, {}, b""),
    "not modified": (304, {}, b""),
    "status 999": (999, {}, b"?"),
    **{
        f"Retry-After: {wait}": (429, {"retry-after": wait}, b"busy")
        for wait in (
            "nan", "inf", "-inf", "1e999", "-5", "9" * 400, "soon", "Fri, 31 Dec 9999 23:59:59 GMT", "\x01",
            "Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 99 Foo 99999 99:99:99 GMT", "Thu, 01 Jan 1970 00:00:00 -9999", "",
        )
    },
}  # fmt: skip
for number in ("710", "1e308", "NaN", "Infinity", "1" + "0" * 400, "null", '"x"', "true", "[]", "{}"):
    one = b'{"token": "1", "logprob": ' + number.encode() + b"}"
    top = b'{"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{"top_logprobs": [' + one + b"]}]}}]}"
    KINDS[f"logprob {number[:20]}"] = (200, {}, top)
for token in ("null", "1", "[]", "{}", "true"):
    one = b'{"token": ' + token.encode() + b', "logprob": -1}'
    top = b'{"choices": [{"message": {"content": "x"}, "logprobs": {"content": [{"top_logprobs": [' + one + b"]}]}}]}"
    KINDS[f"token {token}"] = (200, {}, top)
for value in ("null", "1", '"x"', "[]", "{}", "[null]", "[[]]", '["x"]', "[{}]", "true"):
    for frame in (
        "%s",
        '{"choices": %s}',
        '{"choices": [{"message": %s}]}',
        '{"choices": [{"message": {"content": %s}}]}',
    ):
        KINDS[frame % value] = (200, {}, (frame % value).encode())
    for frame in ("%s", '{"content": %s}', '{"content": [{"top_logprobs": %s}]}'):
        body = '{"choices": [{"message": {"content": "x"}, "logprobs": ' + frame % value + "}]}"
        KINDS[body] = (200, {}, body.encode())


@pytest.fixture
def judges(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[PairwiseJudge]]]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    kinds = list(KINDS.values())

    def behave(message: str, visit: int) -> Any:
        if message == SHORT_REQUEST:
            return 200, {}, completion("yes")
        return kinds[int(message.rpartition("kind ")[2].split()[0])]

    server = Server(behave)
    config = EndpointConfig(base_url=server.url, model="m", retries=0, timeout=20, concurrency=8)
    endpoint = Endpoint(config, backoff=0.001)
    generator = EndpointGenerator(endpoint, Key(seed=0, purpose="attack"))
    models = (EndpointChoiceModel(endpoint), WrittenChoiceModel(generator, GenerationConfig(max_tokens=8)))
    yield lambda: [
        PairwiseJudge(model, load_prompt("quality", pairwise.FIELDS, mode))
        for model, mode in zip(models, ("letter", "written"), strict=True)
    ]
    server.close()


def test_listed_kinds_of_replies_through_a_real_server(
    attack: Callable[[str], Any], judges: Callable[[], list[PairwiseJudge]]
) -> None:
    counted = attack("replies of servers: broken bodies, encodings, statuses, headers")
    for judge in judges():
        requests = [JudgeRequest(prefix="p", candidates=("a", f"kind {n} ."), original="a") for n in range(len(KINDS))]
        for kind, verdicts in zip(KINDS, judge.rank(requests), strict=True):
            said = all(verdict.outcome is Outcome.UNSCORED and verdict.reason for verdict in verdicts)
            counted.case(f"{judge.name}: {kind[:80]}", said)


UNDECIDED = [
    "Conclusion: Option 1\nor\nConclusion: Option 2",
    "Conclusion: Option 1, Option 2",
    "Conclusion: Option 1 or 2",
    "Conclusion: 1/2",
    "Conclusion: Options 1 and 2",
    "Conclusion: either Option 1 or the second",
    "Conclusion: both",
    "Not my conclusion: Option 1",
    "Conclusion: neither",
    "Conclusion: not Option 1",
    "Conclusion: Option 1 is not better",
    "Conclusion: Option 1 isn't better",
    "Conclusion: Option 1 isn\N{RIGHT SINGLE QUOTATION MARK}t better",
    "Conclusion: Option 1 is worse",
    "Conclusion: Option 1?",
    "Conclusion: Option 1 unless you prefer facts",
    "Conclusion: ~~Option 1~~",
    "Conclusion: ~~Option 1~~ Option 2",
    "Conclusion: Option 1\nWait, Option 2 is better.",
    "Conclusion: Option 1\nConclusion: Option 2",
    "Conclusion: Option 2\nThinking again.\n**Conclusion:** Option 1",
    "Conclusion: Option 1.5",
    "Conclusion: 1 of 10",
    "Conclusion: Option [1|2]",
    "Conclusion: <Option 1 or Option 2>",
    "Conclusion: Option 11",
    "Conclusion:",
    "Conclusion",
    "Finish with one line, exactly in this form:\nConclusion: Option 1\nor\nConclusion: Option 2",
    "It says 'Conclusion: Option 1'.",
    "<think>Conclusion: Option 1",
    "<think>hm</think><think>Conclusion: Option 1",
    "<thinking>Conclusion: Option 1",
    "[THINK]Conclusion: Option 1",
    "Conclusion: it is a tie; Option 1 and the other are equal",
]
DECIDED = {
    "Conclusion: Option 1": 0,
    "Conclusion: Option 2.": 1,
    "**Conclusion: Option 2**": 1,
    "### Conclusion: Option 1": 0,
    "> Conclusion: **Option 1**": 0,
    "CONCLUSION : option 2": 1,
    "Conclusion: (2)": 1,
    "Final conclusion: Option 2": 1,
    "3. **Conclusion:** Option 1": 0,
    "Conclusion\N{FULLWIDTH COLON} Option 2": 1,
    "Conclusion: Option #1": 0,
    "Conclusion:\nOption 1": 0,
    "Conclusion: Option 1 is better, because it keeps to the subject.": 0,
    "Both read well. Conclusion: Option 2": 1,
    "Option 1 is good, and so is Option 2.\nConclusion: Option 2": 1,
    "<think>Option 1? Conclusion: Option 1</think>\nConclusion: Option 2": 1,
    "<thinking>1</thinking>Conclusion: Option 2": 1,
    "so Option 1.</think>Conclusion: Option 2": 1,
    "Conclusion: Option 2\nConclusion: Option 2": 1,
}
GRADES = ("NONE", "POSSIBLE", "DEFINITE")
UNDECIDED_GRADES = [
    "Conclusion: NONE\nConclusion: POSSIBLE\nConclusion: DEFINITE",
    "Conclusion: NONE, POSSIBLE or DEFINITE",
    "Conclusion: NONE/POSSIBLE",
    "Conclusion: not DEFINITE",
    "Conclusion: NON-DEFINITE",
    "Conclusion: IMPOSSIBLE",
    "Conclusion: no definite hallucination",
]


def test_wordings_that_leave_a_verdict_open_are_no_votes(attack: Callable[[str], Any]) -> None:
    counted = attack("written verdicts: open, negated, echoed, and clear ones")
    for reply in UNDECIDED:
        for text in (reply, reply.lower(), f"Reasons.\n\n{reply}\n", reply.replace("\n", "\r\n")):
            counted.case(text, conclusion(text, ("1", "2")) is None)
    for reply in UNDECIDED_GRADES:
        counted.case(reply, conclusion(reply, GRADES) is None)
    for reply, index in DECIDED.items():
        counted.case(reply, conclusion(reply, ("1", "2")) == index)
    for index, grade in enumerate(GRADES):
        for text in (
            f"Conclusion: {grade}",
            f"No fact is wrong.\n**Conclusion:** {grade.lower()}.",
            f"Conclusion: '{grade}'",
        ):
            counted.case(text, conclusion(text, GRADES) == index)


LONG = [
    "conclusion", "conclusion:", "conclusion ", "Conclusion: ", "Conclusion: Option 1 ", ". Conclusion: ", "'", "a'",
    "Conclusion: 1\n", "option ", "<think>", "</think>", "<think></think>", "<", "[THINK]", "\n", " ", "*", "_", "1",
    "1 ", "1,", "1.", "1. ", "1 - ", "```", "``` ", "{", "[", "the whale ", "\u2028", "\t", "\r\n",
    "\N{REPLACEMENT CHARACTER}",
]  # fmt: skip


def test_time_grows_with_the_length_of_a_reply(attack: Callable[[str], Any]) -> None:
    counted = attack("replies of language models: long and repetitive")
    size = 400_000 if WHOLE else 100_000
    ids: dict[str, Any] = {"id": "c", "document_id": "d", "prefix_ids": (1,), "suffix_ids": (2,)}
    chunk = Chunk(split=Split.SFT, start=0, prefix="a b c. ", suffix="d e f.", **ids)
    draft = teacher.Draft(chunk=chunk, places=[Place(position=7, token=7)])
    readers: list[Callable[[str], object]] = [
        lambda text: conclusion(text, ("1", "2")),
        lambda text: conclusion(text, ("YES", "NO")),
        answer_of,
        lambda text: strip_join(text, "the whale", " is"),
        lambda text: clean(text, Tags("<think>", "</think>")),
        lambda text: teacher._read(draft, teacher.Reply(text), Tags("<think>", "</think>")),
    ]
    for piece in LONG:
        for text in (piece * (size // len(piece)), "Conclusion: " + piece * (size // len(piece)) + "x"):
            for number, reader in enumerate(readers):
                begun = time.process_time()
                reader(text)
                counted.case(f"{piece!r} * n, reader {number}", time.process_time() - begun < 2 * size / 100_000)


def test_replies_that_end_inside_reasoning_are_none(attack: Callable[[str], Any]) -> None:
    counted = attack("replies that a limit cut inside the reasoning")
    for mark in ("<think>", "<THINK>", "<thinking>", "<reasoning>", "[THINK]"):
        for before in ("", "\n", " "):
            text = f"{before}{mark}\nOkay, the user wants me to improve how the text goes on. The beginning says"
            counted.case(f"{text!r}: answer", answer_of(text) is None)
            counted.case(f"{text!r}: rewrite", not strip_join(text, "", "s").strip("s"))
            counted.case(f"{text!r}: thought", isinstance(clean(text, Tags("<t>", "</t>")), Rejection))
