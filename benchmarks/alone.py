"""One side of a benchmark in a process of its own, for its memory: ``python -m benchmarks.alone dpo ours MODEL``."""

from __future__ import annotations

import argparse
import importlib
import json

from benchmarks.measure import Options, measure_memory

MODULES = {"dpo": "training", "sft": "training", "rlmt": "rlmt", "flat": "flat"}


def main() -> None:
    """Build the step, run it, and print its memory as one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("benchmark")
    parser.add_argument("side")
    parser.add_argument("model")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=2)
    given = parser.parse_args()
    options = Options(quick=given.quick, device=given.device, models=(given.model,))
    module = importlib.import_module(f"benchmarks.{MODULES[given.benchmark]}")
    step = module.alone(given.benchmark, given.side, given.model, options)
    print(json.dumps(measure_memory(step, given.steps)))


if __name__ == "__main__":
    main()
