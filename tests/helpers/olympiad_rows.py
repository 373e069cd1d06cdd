"""Rows in the schema of OlympiadBench on the hub.  The problems are this project's own."""

from __future__ import annotations

from typing import Any

BASE: dict[str, Any] = {
    "id": 1,
    "question": "Find the sum of all integers $n$ with $n^2 < 10$ and $n > 0$.",
    "solution": ["The integers are $1, 2, 3$.\n\nTheir sum is $6$."],
    "final_answer": ["$6$"],
    "context": None,
    "image_1": None,
    "image_2": None,
    "modality": "Text-only",
    "difficulty": "Competition",
    "is_multiple_answer": False,
    "unit": None,
    "answer_type": "Numerical",
    "error": None,
    "question_type": "Open-ended",
    "subfield": "Algebra",
    "subject": "Math",
    "language": "English",
}

ROWS: list[dict[str, Any]] = [
    BASE,
    BASE
    | {
        "question": "Write $x^2 - 4x + 4$ as a square.",
        "solution": ["It is $(x-2)^2$."],
        "final_answer": ["$(x-2)^{2}$"],
        "answer_type": "Expression",
    },
    BASE
    | {
        "question": "How far does it fall from rest in $t$ seconds?",
        "context": "A stone falls with constant acceleration $g$.",
        "solution": ["Integrate twice."],
        "final_answer": ["$\\frac{g t^{2}}{2}$."],
        "unit": "m",
        "subject": "Physics",
    },
]
"""Rows that can be graded."""

OTHERS: list[dict[str, Any]] = [
    BASE | {"is_multiple_answer": True, "final_answer": ["1, 2"]},
    BASE | {"final_answer": ["1", "2"]},
    BASE | {"error": "1e-2"},
    BASE | {"image_1": {"bytes": b"..."}},
    BASE | {"language": "Chinese"},
    BASE | {"final_answer": None},
]
"""Rows that cannot: several answers, a tolerance, an image, another language, no answer."""
