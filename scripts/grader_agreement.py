"""Compare the GSM8K graders with Math-Verify alone and with lm-eval's own filters and metric, on stored completions.

python scripts/grader_agreement.py RUN...                      runs with answers to gsm8k, by several models
python scripts/grader_agreement.py RUN... --lm-eval FOLDER     lm-eval lies there (pip install --no-deps --target)

Completions come from the runs' logs, and from worked solutions with a right, a wrong or a differently written answer.
All graders read the same texts in this process.  Prints tables in Markdown and every kind of disagreement; it quotes
answers, never problems.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from forethought.evals.reasoning.catalogue import TASKS
from forethought.evals.reasoning.grading import number
from forethought.evals.reasoning.task import Problem
from forethought.metrics import PLAIN
from forethought.run.store import Run
from forethought.stages.reasoning import ANSWERS

TASK = TASKS["gsm8k"]
PERTURBED = 60
"""Problems whose worked solution is used, in several ways of writing its answer."""


class Completion(NamedTuple):
    """One text to grade."""

    writer: str
    problem: Problem
    text: str


def main() -> None:
    """Read, grade, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--lm-eval", type=Path, default=None, help="folder that lm_eval was installed into")
    arguments = parser.parse_args()
    if arguments.lm_eval is not None:
        sys.path.append(str(arguments.lm_eval))
    problems = {one.id: one for one in TASK.load("auto")}
    found = [*stored(arguments.runs, problems), *perturbed(list(problems.values())[:PERTURBED])]
    ours = [TASK.grade(one.problem, one.text) for one in found]
    flexible = [grade.right for grade in ours]
    strict = [grade.right and grade.reading.formatted for grade in ours]
    others = {
        "lm-eval strict-match": (strict, lm_eval(found, "strict-match")),
        "lm-eval flexible-extract": (flexible, lm_eval(found, "flexible-extract")),
        "Math-Verify alone": (flexible, math_verify(found)),
    }
    print(scores(found, {"ours strict": strict, "ours": flexible} | {name: pair[1] for name, pair in others.items()}))
    for name, (mine, theirs) in others.items():
        print(agreement(name, found, mine, theirs))


def stored(runs: list[Path], problems: dict[str, Problem]) -> Iterator[Completion]:
    """Yield the plain answers that are in the runs' logs."""
    for path in runs:
        for folder in Run.open(path).stages():
            if folder.stage != f"reasoning-{TASK.name}":
                continue
            for row in folder.read(ANSWERS):
                if row["interface"] == PLAIN:
                    for text in row["answers"]:
                        yield Completion(folder.arm, problems[row["problem"]], text)


def perturbed(problems: list[Problem]) -> Iterator[Completion]:
    """Yield worked solutions with their answer right, wrong, and written in other ways."""
    for problem in problems:
        worked = problem.solution.rpartition("####")[0].rstrip()
        gold = number(problem.gold)
        assert gold is not None
        ends = {
            "as it is": f"{worked}\n#### {problem.gold}",
            "off by one": f"{worked}\n#### {gold + 1}",
            "with decimals": f"{worked}\n#### ${gold}.00",
            "in words": f"{worked} The answer is {problem.gold}.",
            "in a box": f"{worked} $\\boxed{{{problem.gold}}}$",
            "with a unit": f"{worked}\n#### {problem.gold} of them",
        }
        for kind, text in ends.items():
            yield Completion(f"worked solution, answer {kind}", problem, text)


def lm_eval(found: list[Completion], name: str) -> list[bool]:
    """Return what lm-eval says: the filter ``name`` of its gsm8k task and its exact_match, from its own files."""
    import yaml

    metrics = importlib.import_module("lm_eval.api.metrics")
    filters = importlib.import_module("lm_eval.filters")
    instances = importlib.import_module("lm_eval.api.instance")
    root = Path(filters.__file__).parents[1]
    task = yaml.safe_load((root / "tasks" / "gsm8k" / "gsm8k.yaml").read_text())
    steps = next(one["filter"] for one in task["filter_list"] if one["name"] == name)
    parts = [(step["function"], {k: v for k, v in step.items() if k != "function"}) for step in steps]
    metric: dict[str, Any] = {k: task["metric_list"][0][k] for k in ("regexes_to_ignore", "ignore_case")}
    asked = [
        instances.Instance(request_type="generate_until", doc={}, arguments=(), idx=0, resps=[one.text])
        for one in found
    ]
    filters.build_filter_ensemble(name, parts).apply(asked)
    return [
        bool(
            metrics.exact_match_hf_evaluate(
                predictions=[one.filtered_resps[name]], references=[completion.problem.solution], **metric
            )["exact_match"]
        )
        for one, completion in zip(asked, found, strict=True)
    ]


def math_verify(found: list[Completion]) -> list[bool]:
    """Return what Math-Verify says when it reads whole completions itself."""
    import math_verify

    return [
        bool(math_verify.verify(math_verify.parse(f"${one.problem.gold}$"), math_verify.parse(one.text)))
        for one in found
    ]


def scores(found: list[Completion], verdicts: dict[str, list[bool]]) -> str:
    """Return a table of the share of right completions, by writer and grader."""
    lines = [f"| completions | n | {' | '.join(verdicts)} |", "|---|---|" + "---|" * len(verdicts)]
    for writer in dict.fromkeys(one.writer for one in found):
        places = [index for index, one in enumerate(found) if one.writer == writer]
        cells = [f"{100 * sum(says[index] for index in places) / len(places):.1f}%" for says in verdicts.values()]
        lines.append(f"| {writer} | {len(places)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def agreement(name: str, found: list[Completion], ours: list[bool], theirs: list[bool]) -> str:
    """Return how often two graders agree, and where they do not."""
    apart = [index for index in range(len(found)) if ours[index] != theirs[index]]
    lines = [f"\n{name}: {len(found) - len(apart)} of {len(found)} alike ({1 - len(apart) / len(found):.1%})"]
    kinds = Counter((found[index].writer, "ours right" if ours[index] else "theirs right") for index in apart)
    for (writer, which), count in kinds.items():
        example = next(
            i for i in apart if (found[i].writer, "ours right" if ours[i] else "theirs right") == (writer, which)
        )
        read = TASK.grade(found[example].problem, found[example].text).reading.answer
        end = " ".join(found[example].text[-70:].split())
        lines.append(f"- {count} x {which}, {writer}: gold {found[example].problem.gold}, we read {read}: ...{end}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
