"""Graders: the ways of writing an answer that other graders got wrong, each from a public report or of its kind."""

from __future__ import annotations

import time

import pytest

from forethought.evals.reasoning.catalogue import TASKS
from forethought.evals.reasoning.grading import (
    number,
    read_letter,
    read_maths,
    read_number,
    same_maths,
    same_number,
    vote_number,
)
from forethought.evals.reasoning.task import problem
from forethought.evals.reasoning.verifier import Verifier
from forethought.evals.reasoning.writing import boxes, plain

REPORTED = [
    # A list without its commas is one number (lm-evaluation-harness#4038).
    ("math500", "4, 9, 11", r"\boxed{4911}", False),
    ("math500", "-3,2", r"\boxed{-32}", False),
    ("aime2025", "85", r"\boxed{8,5}", False),
    ("olympiad", "1,2", r"\boxed{12}", False),
    # A leading point is a decimal point.
    ("math500", "5", r"\boxed{.5}", False),
    ("math500", "25", r"\boxed{.25}", False),
    ("aime2025", "70", r"\boxed{.70}", False),
    # Other characters for minus (open-instruct#1530).
    ("gsm8k", "5", "#### \u22125", False),
    ("procedural", "-33", " \u221233", True),
    ("gsm8k", "-5", "The answer is \u20135.", True),
    # LaTeX between thousands (opencompass#2647).
    ("gsm8k", "9500", r"So it is \boxed{9{,}500}.", True),
    ("gsm8k", "9500", "The answer is $9{,}500$.", True),
    # An equation or a sentence in the box is no letter (NeMo-Skills#1511).
    ("gpqa", "B", r"The energy is \boxed{E = 3 \text{ eV}}. The answer is (B).", True),
    ("gpqa", "D", r"So \boxed{D = 4 \text{ cm}}. The answer is (A).", False),
    ("gpqa", "A", r"\boxed{A decrease in entropy}", False),
    # Two letters are no answer; spellings of one (evalscope#1588).
    ("gpqa", "A", "The answer is (A) or (B).", False),
    ("gpqa", "B", "The answer is ( B ).", True),
    ("gpqa", "B", r"\text{(B)}", True),
    ("gpqa", "B", r"The answer is \text{(B)}.", True),
    ("gpqa", "B", "\uff08B\uff09", True),
    ("gpqa", "B", "The answer is \uff08B\uff09.", True),
    ("gpqa", "B", r"\boxed{b}", True),
    # Spellings of a number (Math-Verify#69).
    ("math500", "5", "The answer is **5**.", True),
    ("math500", "90", "\\boxed{90\u00b0}", True),
    ("math500", "5", r"\boxed{5} and so \boxed{}", True),
    ("olympiad", r"3 \times 10^{8}", r"\boxed{3e8}", True),
]


@pytest.mark.parametrize(("task", "gold", "completion", "right"), REPORTED)
def test_what_other_graders_got_wrong(task: str, gold: str, completion: str, right: bool) -> None:
    assert TASKS[task].grade(problem(task, "?", gold, gold), completion).right is right


NUMBERS = """
9500 | #### 9 500 | 9500 | #### 9\u202f500 | 9500 | #### 9\\,500 | 9500 | #### 9'500
9500 | #### **9,500** of them | 9500 | **#### 9500** | 7 | #### 10 - 3 = 7
7 | so \\boxed{7} apples, in 3 days | -5 | #### -$5 | -5 | #### $-5 | -5 | #### \u2212$5.00 | -5 | #### - 5
-5 | #### \uff0d5 | -5 | #### \u20145 | 5 | #### \\$5 | 5 | #### \uff15 | 50 | #### 5e1 | 5 | #### 5!
5 | The answer is x = 5. | 21 | So the answer is **21**! | 2 | it is 10-3, then 2
18 | #### 18 of them, 3 days | 0.5 | #### .5 | 8 | #### 8% | 1000000 | #### 1,000,000
"""
NO_NUMBERS = """
4 | #### 4, 9 | 49 | #### 4, 9 | 49 | #### 4,9 | 4 | #### 4,9 | 1 | #### 1/2 | 5 | #### 5 or 6
5 | #### 5 apples or 6 | 10 | #### 10 - 3 = 7 | 10 | #### 10 - 3 | 3 | #### 3 1/2 | 3 | #### 3:30
10 | #### 10-12 | 5 | #### -5 | 5 | #### 5^2 | 5 | #### .5 | 5 | #### 5.5 | 1200 | #### 1.200
1000000 | #### 1,00,000 | 500 | #### 0,500 | 35 | 33, 34, 35 | 35 | 33 or 35
3 | so \\boxed{7} apples, in 3 days | 5 | The answer is 5 and 6. | 5 | #### \u20145 | 12 | #### 1 2
"""
EXPRESSIONS = """
9500 | 9 500 | 10000 | 10,\\!000 | 1,234 | 1234 | (1, 234) | (1,234) | 0.5 | 50\\% | 50 | 50\\%
3 \\times 10^{8} | 3\u00d710\u2078 | x^2 | x\u00b2 | \\sqrt{2} | \u221a2 | \\frac12 | \u00bd
\\frac32 | 1\u00bd | -5 | \uff0d5 | -5 | - 5 | 5 | \\mathbf{5} | 5 | $5$ | 5 | {5} | 5 | 5. | 5 | +5
-0.5 | -.5 | 90^\\circ | 90 degrees | \\pm 5 | \u00b15 | (-\\infty,3) | (\u2212\u221e,3) | 6 | 2\u00b73
(1,3)\\cup(4,5) | (1,3)\u222a(4,5) | 5 \\text{ cm} | 5 | 5 \\text{ cm} | 5 \\text{ centimeters}
1010_2 | 1010 | 1,2 | 2,1 | 3 \\text{ cm}^2 | 3 \\text{ square centimeters}
"""
NO_EXPRESSIONS = """
1, 234 | 1,234 | 1234 | 1, 234 | 4, 911 | 4,911 | 5 | 5, 5 | 12 | 1 2 | 500 | 0,500
3 \\times 10^{8} | 3e-8 | x^2 | x2 | 1,2,3 | 123 | 1,2,3 | 1,23 | 12,3 | 1,23 | 5 | \u20145 | 5 | \u00b15
(1,2) | (12) | (1,2) | (1.2) | 1.2 | 1,2 | 5 | 5$ or $6 | 5 \\text{ cm} | 5 \\text{ m}
5 \\text{ cm} | 5 \\text{ cm}^2 | 90^\\circ | 90 \\text{ radians} | 1010_2 | 1010_3 | 5 | 5}
"""
LETTERS = r"""
\boxed{(B) 10 m} | \boxed{B. 10 m} | \boxed{B) 10 m} | \boxed{\textbf{B}} | \boxed{\text{(b)}}
The answer is **B**. | \fbox{B} | The answer is $\mathbf{(B)}$. | The answer is [B]. | The answer is $B$.
The answer is \(B\). | The answer is B) 10 m. | The answer is $\left(B\right)$. | \boxed{\text{Option (B)}}
The answer is ⒝. | The answer is (B), not (A). | The answer is (\text{B}).
The answer is (B), because (A) or (C) would be wrong. | The answer is (B) since (A), (C) and (D) are wrong.
\boxed{A} \boxed{B} | The answer is (B). (C) is wrong. | The answer is \boxed{B}.
\boxed{B} and \boxed{E = 3}
"""
NO_LETTERS = r"""
\boxed{A, B} | \boxed{A or B} | \boxed{(A) and (B)} | \boxed{A/B} | \boxed{AB} | \boxed{\text{A or B}}
The answer is (A), (B). | The answer is (A)/(B). | The answer is (A) and (B). | The answer is (A, B).
The answer is (A) 5 m or (B) 6 m. | \boxed{-A} | The answer is (A) or B. | The answer is **A** or **B**.
The answer is (A) or possibly (B). | The answer is not (A). | A decrease | The answer is A decrease.
\boxed{A = 5} | \boxed{A > B} | \boxed{A_0 = 3} | \boxed{B^2} | \boxed{a\cdot b} | \boxed{C \approx 3}
\boxed{C_6H_{12}} | \boxed{C: 3, D: 4} | \boxed{\text{A decrease}} | \boxed{C(x) = 3}
\boxed{A\rightarrow B} | \boxed{A:B} | The answer is (A) = 5 | \boxed{c = 3 \times 10^8}
The answer is (A)(B)
"""


def _cells(table: str) -> list[str]:
    return [cell.strip() for line in table.strip().splitlines() for cell in line.split(" | ")]


def _pairs(table: str) -> list[tuple[str, str]]:
    """Return the gold answers and completions of a table that holds one after the other."""
    cells = _cells(table)
    return list(zip(cells[::2], cells[1::2], strict=True))


def test_numbers_are_read_however_they_are_written_and_never_out_of_a_list() -> None:
    for table, right in ((NUMBERS, True), (NO_NUMBERS, False)):
        for gold, text in _pairs(table):
            answer = read_number(text).answer
            assert (answer is not None and same_number(gold, answer)) is right, (gold, text, answer)


def test_expressions_are_compared_however_they_are_written() -> None:
    for table, right in ((EXPRESSIONS, True), (NO_EXPRESSIONS, False)):
        for gold, answer in _pairs(table):
            assert same_maths(gold, answer) is right, (gold, answer)


def test_a_letter_is_read_however_it_is_set_apart_and_never_out_of_several_or_an_equation() -> None:
    for table, letter in ((LETTERS, "B"), (NO_LETTERS, None)):
        for text in _cells(table):
            assert read_letter(text).answer == letter, text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 3, since 3 + 4 = 7.", "3"),
        ("The answer is $5$ because $2+3=5$.", "5"),
        ("The answer is $5$ or $6$.", "5 or 6"),
        (r"The answer is \(\frac{1}{2}\).", r"\frac{1}{2}"),
        ("The answer is .5.", ".5"),
        ("The answer is 3.5. Then", "3.5"),
        (r"The answer is 7\boxed{}", "7"),
        (r"\boxed 12", "12"),
        ("The answer is: $$x+1$$", "x+1"),
    ],
)
def test_an_answer_in_words_ends_with_its_sentence_or_before_its_reason(text: str, answer: str) -> None:
    assert read_maths(text).answer == answer


def test_plain_writing_stays_as_it_is() -> None:
    for text in ("10 - 3 = 7", "f'(1,2)", "it is - well - 5", "a, b", r"\frac{1}{2}", "1, 234"):
        assert plain(text) == text
    assert boxes(r"\boxed{\boxed{5}} \boxed{} \boxed{ \text{ } }") == [r"\boxed{5}", "5"]


def test_numbers_of_any_size_are_compared_and_named_in_no_time() -> None:
    assert number("1e999999999") is None
    assert number("9" * 100_000) is None
    assert same_number("1e400", "1e400")
    assert len(vote_number("1e999")) == 1000
    assert vote_number("3 \\times 10^{2}") == vote_number("300") == vote_number("$300$")


@pytest.mark.parametrize("read", [read_number, read_maths, read_letter])
def test_reading_takes_time_in_proportion_to_the_length(read: object) -> None:
    hostile = (
        "answer is ",
        "\\boxed{",
        "(A) or ",
        "1,",
        "1 ",
        "9",
        "#### ",
        "-",
        "**",
        "\\text{",
        "{,}",
        "answer is (A)",
        "$",
    )
    assert callable(read)
    start = time.process_time()
    for piece in hostile:
        read(piece * (20_000 // len(piece)))
        read("answer is" + " " * 20_000 + piece)
        read("answer is (A) " + piece * (20_000 // len(piece)))
    assert time.process_time() - start < 20  # a quadratic reader takes minutes


def test_a_text_that_ends_the_maths_early_is_no_answer() -> None:
    verifier = Verifier()
    assert verifier.same(r"\frac{1}{2}", "0.5")
    for answer in ("0.5} or $0.6", "0.5$ or $0.6", "}{0.5"):
        assert not verifier.same(r"\frac{1}{2}", answer)
    verifier.close()
