"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
from pathlib import Path

BENCHMARKS = {
    "sampling": ("benchmarks.sampling", "run"),
    "judging": ("benchmarks.judging", "run_pairwise"),
    "scoring": ("benchmarks.judging", "run_scoring"),
    "dpo": ("benchmarks.training", "run_dpo"),
    "rlmt": ("benchmarks.rlmt", "run"),
    "sft": ("benchmarks.training", "run_sft"),
    "stage": ("benchmarks.stage", "run"),
    "growth": ("benchmarks.growth", "run"),
    "flat": ("benchmarks.flat", "run"),
}


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="The engine against its peers.",
        epilog="`python -m benchmarks machines` measures this kind of machine for docs/machines.md; see its --help.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"benchmarks to run: {', '.join(BENCHMARKS)}; all")
    parser.add_argument("--quick", action="store_true", help="tiny random models: tests the benchmarks themselves")
    parser.add_argument("--render", action="store_true", help="run nothing, write the page from the results there are")
    parser.add_argument("--repeats", type=int, help="timed pairs of each comparison (5; quick: 1)")
    parser.add_argument("--model", action="append", default=[], help="a model instead of the benchmark's own")
    parser.add_argument("--opponent", action="append", default=[], help="only opponents with this word in their names")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--out", type=Path, help="folder of the results (docs; quick: none of them is kept there)")
    parser.add_argument("--vllm-python", help="interpreter of an environment with vLLM")
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}. Known: {', '.join(BENCHMARKS)}")
    if given.quick and given.out is None:
        parser.error("--quick measures nothing worth keeping: name a folder for its results with --out")
    return given


def command(given: argparse.Namespace) -> str:
    """Return the command line to show: without paths, which mean nothing elsewhere."""
    words = ["python", "-m", "benchmarks", *given.names, *(["--quick"] if given.quick else [])]
    words += ["--repeats", str(given.repeats)] if given.repeats else []
    for flag, values in (("--model", given.model), ("--opponent", given.opponent)):
        words += [word for value in values for word in (flag, Path(value).name)]
    return shlex.join(words)


def main() -> None:
    """Run the benchmarks that were asked for."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if sys.argv[1:2] == ["machines"]:
        from benchmarks import machines

        sys.exit(machines.main(sys.argv[2:]))
    given = arguments()
    from benchmarks.measure import ROOT, Options
    from benchmarks.results import Book, Row
    from forethought.engine.heap import keep_freed_memory
    from forethought.models import resolve_device

    keep_freed_memory()  # as every run does; the peers in this process have it, too

    options = Options(
        quick=given.quick,
        repeats=given.repeats or (1 if given.quick else 5),
        models=tuple(given.model),
        opponents=tuple(given.opponent),
        device=str(resolve_device(given.device)),
        vllm_python=given.vllm_python,
    )
    book = Book(given.out or ROOT / "docs", options, command(given))
    book.write()
    for name in () if given.render else given.names or BENCHMARKS:
        module, function = BENCHMARKS[name]
        for row in getattr(importlib.import_module(module), function)(options):
            if isinstance(row, Row):
                book.add_row(row)
            else:
                book.add({**row, "benchmark": name})


if __name__ == "__main__":
    main()
