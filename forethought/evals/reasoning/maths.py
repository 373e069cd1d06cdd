"""What the tasks with LaTeX answers share: the prompt, four worked examples, and the grader."""

from __future__ import annotations

from typing import Any

from forethought.evals.reasoning.grading import MATHS
from forethought.evals.reasoning.task import Shot

SHOTS = (
    Shot(
        r"If $3x - 7 = 2x + 5$, what is $x^2 - x$?",
        r"Subtracting $2x$ and adding $7$ gives $x = 12$. Then $x^2 - x = 12 \cdot 11 = \boxed{132}$.",
    ),
    Shot(
        r"A bag holds $4$ red and $6$ blue marbles. Two are drawn without putting the first one back. "
        r"What is the probability that both are red? Give a common fraction.",
        r"The first is red with probability $\frac{4}{10}$, and then the second with probability $\frac{3}{9}$. "
        r"The product is $\frac{4}{10} \cdot \frac{3}{9} = \frac{12}{90} = \boxed{\frac{2}{15}}$.",
    ),
    Shot(
        r"A right triangle has legs of $5$ and $12$. How long is the altitude to its hypotenuse?",
        r"The hypotenuse is $\sqrt{5^2 + 12^2} = 13$. Twice the area is $5 \cdot 12 = 60$, and it is also $13h$. "
        r"So $h = \boxed{\frac{60}{13}}$.",
    ),
    Shot(
        r"For which real numbers $t$ does $y = t^2 - 4t + 3$ take negative values? Give an interval.",
        r"We factor $t^2 - 4t + 3 = (t - 1)(t - 3)$, which is negative between its roots. "
        r"The interval is $\boxed{(1, 3)}$.",
    ),
)

FORM: dict[str, Any] = {
    "shots": SHOTS,
    "grader": MATHS,
    "layout": "Problem: {question}\nSolution:",
    "stops": ("\nProblem:",),
    "private": True,
}
"""The fields that tasks of competition mathematics share."""
