"""The kernels, the engine and a short smoke run as on other machines, simulated by hiding features of this processor.

``make test-machines`` runs it: no root, two cores, at most 15 minutes.  At the end it lists what ran as which machine,
and what cannot be tested on this machine.  A feature that the processor lacks cannot be simulated.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from forethought.machine import Machine, machine

ROOT = Path(__file__).parents[1]
FILES = ("sampler", "engine", "trainer", "onednn", "amx", "backends", "machine", "trl_oracle")
"""Tests of what is computed: tests/test_NAME.py."""

SHORT = (
    "audit.prefixes=2",
    "improve.steps=2",
    "improve.prefixes_per_step=2",
    "improve.warmup_steps=0",
    "interleave.rows=8",
    "interleave.heldout_rows=4",
    "sft.steps=2",
    "sft.rows_per_step=2",
    "sft.warmup_steps=0",
    "rlmt.steps=2",
    "rlmt.windows_per_step=2",
    "rlmt.rollouts=4",
    "rlmt.warmup_steps=0",
    "evaluate.prefixes=4",
    "evaluate.nll_chunks=4",
    "evaluate.thoughts.prefixes=2",
    "thinking.windows=2",
    "reasoning.problems=2",
)
"""Overrides of smoke.toml: two steps a stage."""

LIMIT = 600
"""Seconds that one part may take."""


@dataclass(frozen=True)
class Planted:
    """A machine that this one simulates."""

    name: str
    hides: dict[str, str] = field(default_factory=dict)
    """Environment variables that hide features from the libraries."""
    needs: str = ""
    """Feature of x86-64 without which it cannot be simulated."""
    tests: tuple[str, ...] = tuple(f"tests/test_{name}.py" for name in FILES)
    """Arguments of pytest."""
    smoke: bool = True
    """Whether to make a short smoke run, too."""

    def impossible(self, here: Machine) -> str:
        """Return why it cannot be simulated ``here``; empty if it can."""
        if not self.needs:
            return ""
        if here.architecture != "x86_64":
            return f"it is an x86-64 processor, and this is {here.architecture}"
        if self.needs != "sse4_1" and self.needs not in here.features:
            return f"this processor ({here.kind}) has no {self.needs}"
        return ""


NO_COMPILER = {"CXX": "/bin/false"}
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
NO_AVX = {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}
MACHINES = (
    Planted("plain AVX2", AVX2 | NO_COMPILER, needs="avx2"),
    Planted("no AVX", NO_AVX | NO_COMPILER, needs="sse4_1"),
    Planted("as here, without a compiler", NO_COMPILER),
    Planted("no float64 (Apple's GPUs)", tests=("tests/test_backends.py", "-k", "float64"), smoke=False),
    Planted("as here: the kernels of amx.cpp", tests=("tests/test_amx.py",), smoke=False),
)


@dataclass
class Part:
    """What ran as one machine: tests, or a smoke run."""

    machine: str
    what: str
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """Reasons by test."""
    seconds: float = 0.0


def main() -> int:
    """Run everything, print the summary, and return the exit code."""
    here, parts, not_shown = machine(), list[Part](), list[str]()
    print(f"here: {here.processor}, {here.kind}, {here.cores} cores\n", flush=True)
    for planted in MACHINES:
        reason = planted.impossible(here)
        if reason:
            not_shown.append(f"{planted.name}: {reason}")
            continue
        for part in run(planted):
            parts.append(part)
            print(f"{part.machine}: {part.what}: {outcome(part)} in {part.seconds:.0f} s", flush=True)
    print("\n" + table(parts) + "\n")
    print("\n".join(unseen(here, parts, not_shown)))
    failed = [f"{part.machine}: {name}" for part in parts for name in part.failed]
    print("\n" + "\n".join(["failed:", *failed] if failed else ["nothing failed"]))
    return int(bool(failed))


def run(planted: Planted) -> Iterator[Part]:
    """Run the tests and smoke runs of one machine."""
    environment = os.environ | planted.hides | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        yield run_tests(planted, environment, Path(folder))
        if planted.smoke:
            refused = ask(environment, "from forethought.machine import machine; print(machine().no_bf16('cpu'))")
            for dtype in ("float32", "bfloat16"):
                yield run_smoke(planted, environment, Path(folder), dtype, refused if dtype == "bfloat16" else "")


def run_tests(planted: Planted, environment: dict[str, str], folder: Path) -> Part:
    """Run the tests in two processes."""
    level = ask(environment, "import torch; print(torch.backends.cpu.get_cpu_capability())")
    part, report = Part(planted.name, f"tests, torch at {level}"), folder / "report.xml"
    options = ("-q", "-n", "2", "-p", "no:cacheprovider", f"--junitxml={report}")
    code, output, part.seconds = timed(environment, "pytest", *planted.tests, *options)
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        name, skipped = f"{case.get('classname')}::{case.get('name')}", case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            part.failed.append(name)
        elif skipped is not None:
            part.skipped[name] = skipped.get("message", "")
        else:
            part.passed += 1
    if code and not part.failed:
        part.failed.append(f"pytest ended with {code}: {last_line(output)}")
    if part.failed:
        print(output, flush=True)
    return part


def run_smoke(planted: Planted, environment: dict[str, str], folder: Path, dtype: str, refused: str) -> Part:
    """Make a short smoke run in ``dtype``, or check that it is refused, if it has to be."""
    part = Part(planted.name, f"smoke run in {dtype}" + (", which is refused" if refused else ""))
    settings = [f"--set={item}" for item in (*SHORT, f"dtype={dtype}")]
    place = str(folder / dtype)
    code, output, part.seconds = timed(environment, "forethought", "run", "smoke", "--run", place, *settings)
    if refused:
        fine = code == 2 and refused in " ".join(output.split())
    else:
        fine = code == 0 and (folder / dtype / "report.html").exists()
    if fine:
        part.passed = 1
    else:
        part.failed.append(f"{part.what}: ended with {code}: {last_line(output)}")
        print(output, flush=True)
    return part


def timed(environment: dict[str, str], module: str, *arguments: str) -> tuple[int, str, float]:
    """Run a module with this Python; return its exit code, what it printed, and the seconds that it took."""
    start = time.perf_counter()
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT
        )
    except subprocess.TimeoutExpired as late:
        return 124, f"{(late.output or b'').decode(errors='replace')}\nstopped after {LIMIT} s", float(LIMIT)
    return done.returncode, done.stdout.decode(errors="replace"), time.perf_counter() - start


def ask(environment: dict[str, str], code: str) -> str:
    """Return what ``code`` prints on the simulated machine."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def outcome(part: Part) -> str:
    """Return the counts of one part."""
    return f"{part.passed} passed, {len(part.failed)} failed, {len(part.skipped)} skipped"


def table(parts: list[Part]) -> str:
    """Return one line for every part."""
    rows = [("machine", "what was run", "passed", "failed", "skipped", "seconds")]
    for part in parts:
        counts = (part.passed, len(part.failed), len(part.skipped), round(part.seconds))
        rows.append((part.machine, part.what, *map(str, counts)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def unseen(here: Machine, parts: list[Part], not_planted: list[str]) -> list[str]:
    """Return what was not tested on this machine."""
    lines = [f"not shown here: {line}" for line in not_planted]
    if here.architecture == "x86_64":
        lines.append("not shown here: ARM (make test-arm emulates one), and GPUs")
        if "AMD" in here.processor:
            lines.append("not shown here: MKL on AVX2 alone, which can be simulated on Intel's processors only")
        if "amx_bf16" not in here.features:
            ran = any(part.passed for part in parts if part.machine == MACHINES[-1].name)
            how = "the kernels of amx.cpp ran on tiles in software" if ran else "the kernels of amx.cpp did not run"
            lines.append(f"not shown here: AMX: this processor has none; {how}")
    for part in parts:
        for reason in dict.fromkeys(part.skipped.values()):
            names = [name for name, why in part.skipped.items() if why == reason]
            lines += [f"skipped as {part.machine}: {reason}", *(f"    {name}" for name in names)]
    return lines


def last_line(output: str) -> str:
    """Return the last line that is not empty."""
    return next((line for line in reversed(output.splitlines()) if line.strip()), "nothing was printed")


if __name__ == "__main__":
    sys.exit(main())
