"""Hold the graders, Math-Verify, lm-eval and the tasks' own checkers to answers whose truth is known.

python scripts/grader_pairs.py                      16 rounds of tests/helpers/graded_answers.py
python scripts/grader_pairs.py --lm-eval FOLDER     lm-eval lies there (pip install --no-deps --target)

All grade the same completions in this process.  Prints how many each graded as the truth is, in a table in Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from helpers.graded_answers import Pair, pairs  # noqa: E402

from forethought.evals.reasoning.catalogue import TASKS  # noqa: E402
from forethought.evals.reasoning.task import problem  # noqa: E402

Checker = Callable[[Pair], bool | None]


def main() -> None:
    """Grade, count, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--lm-eval", type=Path, default=None, help="folder that lm_eval was installed into")
    arguments = parser.parse_args()
    checkers: dict[str, Checker] = {"ours": ours, "Math-Verify": math_verify, "the task's own": own}
    if arguments.lm_eval is not None:
        sys.path.append(str(arguments.lm_eval))
        checkers["lm-eval"] = lm_eval()
    asked, agreed = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for pair in pairs(arguments.rounds, arguments.rounds):
        row = f"{pair.kind.split(' ')[0].rstrip(':,')}, {'right' if pair.right else 'wrong'}"
        for name, checker in checkers.items():
            verdict = checker(pair)
            for kind in (row, "all") if verdict is not None else ():
                asked[kind, name] += 1
                agreed[kind, name] += verdict == pair.right
    print(f"| answers | {' | '.join(checkers)} |\n|---|{'---|' * len(checkers)}")
    for kind in sorted({kind for kind, _ in asked}, key=lambda kind: (kind == "all", kind)):
        print(f"| {kind} | {' | '.join(f'{agreed[kind, name]} of {asked[kind, name]}' for name in checkers)} |")


def ours(pair: Pair) -> bool:
    """Grade as a task of this project does."""
    return TASKS[pair.task].grade(problem(pair.task, "?", pair.gold, pair.gold), pair.completion).right


def math_verify(pair: Pair) -> bool:
    """Have Math-Verify read the whole completion, as it is by default; letters as its examples do."""
    from math_verify import StringExtractionConfig, parse, verify

    if pair.task == "gpqa":
        letters = [StringExtractionConfig()]
        return bool(verify(parse(pair.gold, letters), parse(pair.completion, letters)))
    return bool(verify(parse(f"${pair.gold}$"), parse(pair.completion)))


def own(pair: Pair) -> bool | None:
    """Grade as the authors of GSM8K, of reasoning-gym and of GPQA do; lm-eval has MATH's own comparison."""
    if pair.task == "gsm8k":
        found = re.search(r"#### (-?[0-9.,]+)", pair.completion)
        return found is not None and found[1].replace(",", "") == pair.gold
    if pair.task == "procedural":
        return pair.completion.strip() == pair.gold
    if pair.task == "gpqa":
        for before in ("answer is ", "Answer: ", "answer: ", "answer ", ""):
            said = re.search(rf"{before}\((.)\)", pair.completion)
            if said and said[1] in "ABCD":
                return said[1] == pair.gold
        return False
    return None


def lm_eval() -> Checker:
    """Return what grades as lm-eval's tasks gsm8k (flexible), gpqa (generative, flexible) and aime do."""
    extraction = importlib.import_module("lm_eval.filters.extraction")
    metrics = importlib.import_module("lm_eval.api.metrics")
    path = Path(extraction.__file__).parents[1] / "tasks" / "aime" / "utils.py"
    spec = importlib.util.spec_from_file_location("lm_eval_aime", path)
    assert spec is not None
    assert spec.loader is not None
    strings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(strings)
    number = extraction.RegexFilter(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", group_select=-1)
    letter = extraction.MultiChoiceRegexFilter(
        r"(\([A-Z]\))", group_select=-1, ignore_case=True, ignore_punctuation=True
    )
    options = {"choices": [f"option {letter}" for letter in "ABCD"]}

    def checker(pair: Pair) -> bool:
        if pair.task == "math500":
            return bool(strings.process_results({"answer": pair.gold}, [pair.completion])["exact_match"])
        if pair.task == "gpqa":
            [[read]] = letter.apply([[pair.completion]], [options])
            return bool(read == f"({pair.gold})")
        [[read]] = number.apply([[pair.completion]], [{}])
        ignored = [",", "\\$", "(?s).*#### ", "\\.$"]
        said = metrics.exact_match_hf_evaluate(
            predictions=[read], references=[pair.gold], regexes_to_ignore=ignored, ignore_case=True
        )
        return bool(said["exact_match"])

    return checker


if __name__ == "__main__":
    main()
