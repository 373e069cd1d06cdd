"""The rewrite teacher: what it is asked, and what becomes of its replies."""

from __future__ import annotations

import pytest
from helpers.language import ScriptedGenerator

from forethought.judges import rewrite
from forethought.judges.rewrite import Rewriter, last_words, strip_join
from forethought.llm.prompts import load_prompt
from forethought.records import Chunk, Split
from forethought.testing import byte_tokenizer


def chunk(prefix: str, suffix: str) -> Chunk:
    return Chunk(
        id="c",
        document_id="d",
        split=Split.IMPROVE,
        start=0,
        prefix=prefix,
        suffix=suffix,
        prefix_ids=tuple(prefix.encode()),
        suffix_ids=tuple(suffix.encode()),
    )


def rewriter(rule, join_words: int = 2) -> Rewriter:
    prompt = load_prompt("rewrite", rewrite.FIELDS, "joined" if join_words else "plain")
    return Rewriter(ScriptedGenerator(rule), prompt, byte_tokenizer(), temperature=0.6, join_words=join_words)


def test_a_rewrite_loses_the_join_and_is_cut_to_the_suffix():
    teacher = rewriter(lambda request, k: "the whale is a marine mammal that sings")
    assert teacher.rewrite([chunk("Biologically, the whale", " is a big fish of sorts.")]) == [
        " is a marine mammal that"
    ]
    assert "\nthe whale is a big fish of sorts.\n" in teacher.generator.requests[0]
    assert teacher.generator.requests[0].endswith("go on from there: the whale")


def test_failed_rewrites_are_none_with_a_counted_reason(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "forethought")
    replies = {
        "A": None,
        "B": "",
        "C": "of C short",
        "D": "of D, which is quite long enough",
        "E": "of E, nineteen letter",  # half of the suffix was enough before
        "F": "of F" + "." * 20,  # 20 of 25 tokens
        "G": "of G" + "." * 32,
    }
    teacher = rewriter(lambda request, k: replies[request.split("\n</beginning>\n\n<cont")[0][-1]])
    chunks = [chunk(f"Story of {name}", ", twenty-four characters.") for name in replies]
    assert teacher.rewrite(chunks) == [None, None, None, ", which is quite long eno", None, "." * 20, None]
    assert teacher.failures == {
        "transport: down": 1,
        "the teacher wrote nothing": 1,
        "the rewrite has less than 0.8 of the suffix's tokens": 2,
        "the rewrite has more than 1.25 times the suffix's tokens": 1,
    }
    assert "no candidate: 2 of 7 rewrites: the rewrite has less than 0.8" in caplog.text


def test_a_rewrite_that_ends_inside_its_reasoning_is_none_and_is_counted() -> None:
    cut = "<think>\nOkay, the user wants me to improve how the text goes on. The beginning says"
    teacher = rewriter(lambda request, k: cut)
    assert teacher.rewrite([chunk("Biologically, the whale", " is" + " big" * 20)]) == [None]
    [(reason, count)] = teacher.failures.items()
    assert "while the model reasoned" in reason
    assert count == 1


def test_a_cut_never_splits_a_character():
    assert rewriter(lambda request, k: "x yz éééé", 2).rewrite([chunk("x yz", " seventh")]) == [" ééé"]


@pytest.mark.parametrize(
    ("reply", "join", "suffix", "rest"),
    [
        ("the  whale\nis big", "the whale", " is", "\nis big"),
        ("is big", "the whale", " is", " is big"),
        ("then on", "the", " n", " then on"),
        ("photosynthesis", "photosyn", "thesis", "thesis"),
        ("<think>the whale</think>the whale is", "the whale", " is", " is"),
        ("End.\n\nNew one", "End.\n\n", "Old", "New one"),
        ("anything", "", " s", " anything"),
        ("a (b) c", "a (b)", " c", " c"),
    ],
)
def test_the_join_is_stripped_however_the_teacher_spaces_it(reply, join, suffix, rest):
    assert strip_join(reply, join, suffix) == rest


def test_last_words():
    assert last_words("one two  three ", 2) == "two  three "
    assert last_words("one", 5) == "one"
    assert last_words("one", 0) == last_words("", 3) == ""
