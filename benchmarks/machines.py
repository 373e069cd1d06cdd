"""Where forethought runs: ``python -m benchmarks machines`` measures this machine and fills docs/machines.md.

One entry of docs/machines.json belongs to each kind of machine; a run replaces that of its own kind and no other.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import kinds, machine, sampling
from benchmarks.kinds import Entry, MachinesError
from benchmarks.measure import ROOT, Options
from benchmarks.results import latest, line
from forethought.engine.backends.selection import decided
from forethought.engine.heap import keep_freed_memory
from forethought.machine import machine as processor
from forethought.models import resolve_device
from forethought.run.files import atomic_write
from forethought.run.store import Run

DOCS = ROOT / "docs"


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks machines", description="Measure this machine and fill docs/machines.md."
    )
    parser.add_argument("--suite-log", type=Path, help="what pytest printed here when the whole suite passed")
    parser.add_argument("--demo", type=Path, help="the folder of a demo run that was made here")
    parser.add_argument("--smoke", type=Path, help="the folder of a smoke run that was made here")
    parser.add_argument("--record", action="store_true", help="measure nothing, record the given logs and runs only")
    parser.add_argument("--emulated", metavar="KIND", help="as --record, of an emulated machine of this kind")
    parser.add_argument(
        "--import", dest="imported", action="store_true", help="as --record, of the AMX machine's files"
    )
    parser.add_argument("--render", action="store_true", help="write the table from the entries there are")
    parser.add_argument("--quick", action="store_true", help="a tiny random model: tests the command itself")
    parser.add_argument("--repeats", type=int, help="timed pairs of each comparison (3; quick: 1)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--out", type=Path, help="folder of machines.json and machines.md (docs)")
    parser.add_argument("--vllm-python", help="interpreter of an environment with vLLM")
    given = parser.parse_args(words)
    if given.quick and given.out is None:
        parser.error("--quick measures nothing worth keeping: name a folder for its results with --out")
    return given


def main(words: Sequence[str]) -> int:
    """Measure or record, write the entry and the table; return the exit code."""
    given = arguments(words)
    folder = given.out or DOCS
    try:
        entries = read(folder)
        if not given.render:
            entries = kinds.put(entries, entry(given))
        write(folder, entries)
    except MachinesError as error:
        print(f"error: {error}")
        return 1
    return 0


def read(folder: Path) -> list[Entry]:
    """Return the entries there are."""
    path = folder / "machines.json"
    found: list[Entry] = json.loads(path.read_text()) if path.exists() else []
    return found


def write(folder: Path, entries: Sequence[Entry]) -> None:
    """Write entries and table; the page around it comes from docs/ where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "machines.md"
    text = (page if page.exists() else DOCS / "machines.md").read_text(encoding="utf-8")
    atomic_write(folder / "machines.json", json.dumps(entries, indent=1) + "\n")
    atomic_write(page, kinds.between(text, kinds.render(entries)))


def entry(given: argparse.Namespace) -> Entry:
    """Return the entry that was asked for, with every part of it."""
    device = str(resolve_device(given.device))
    if given.imported:
        found = imported(DOCS)
    else:
        found = kinds.emulated(given.emulated) if given.emulated else kinds.here(device)
    if given.suite_log:
        found["suite"] = suite(given.suite_log)
    for name, folder in (("demo", given.demo), ("smoke", given.smoke)):
        if folder:
            found[name] = run_of(name, folder)
    if not (given.record or given.emulated or given.imported):
        found["sampling"] = measured(given, device)
    if not any(part in found for part in kinds.PARTS):
        raise MachinesError("nothing to record: give --suite-log, --demo or --smoke, or leave --record out")
    return found


def measured(given: argparse.Namespace, device: str) -> dict[str, Any]:
    """Time rollouts beside ``generate`` and vLLM; what both compute is compared first (:mod:`benchmarks.sampling`)."""
    options = Options(
        quick=given.quick,
        repeats=given.repeats or (1 if given.quick else 3),
        device=device,
        vllm_python=given.vllm_python,
    )
    keep_freed_memory()
    rows = []
    for row in sampling.run(options):
        print(line(asdict(row)), flush=True)
        rows.append(figures(asdict(row)))
    words = ["python", "-m", "benchmarks", "machines", *(["--quick"] if given.quick else [])]
    words += ["--repeats", str(given.repeats)] if given.repeats else []
    return {
        "date": today(),
        "source": f"`{shlex.join(words)}`",
        "dtype": str(options.dtype).removeprefix("torch."),
        "kernels": decided(),
        "versions": machine.versions(),
        "rows": rows,
    }


def figures(row: dict[str, Any]) -> dict[str, Any]:
    """Return what the table needs of a row of the benchmarks."""
    needed = ("what", "model", "opponent", "ours", "peer", "unit", "ratio", "pairs", "checked", "reason")
    return {name: row[name] for name in needed}


def today() -> str:
    """Return the date."""
    return datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d")


# ---- what was run before ----------------------------------------------------------------------------------------


def suite(path: Path) -> dict[str, Any]:
    """Return what the last line of a pytest log says.

    Raises:
        MachinesError: if it has none, or says that tests failed.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    found = [text for text in text.splitlines() if re.search(r"\b\d+ \w+.* in [\d.]+s\b", text)]
    if not found:
        raise MachinesError(f"{path.name}: no line like '1898 passed in 702.98s', as pytest prints at the end")
    counts = {name: int(count) for count, name in re.findall(r"(\d+) (passed|failed|errors?|skipped)", found[-1])}
    if counts.keys() & {"failed", "error", "errors"} or "passed" not in counts:
        raise MachinesError(f"{path.name}: the suite did not pass: {found[-1].strip('= ')}")
    seconds = re.search(r" in ([\d.]+)s\b", found[-1])
    assert seconds is not None
    date = datetime.datetime.fromtimestamp(path.stat().st_mtime, tz=datetime.UTC).strftime("%Y-%m-%d")
    skipped = {"skipped": counts["skipped"]} if "skipped" in counts else {}
    source = f"the last line of pytest's log: {found[-1].strip('= ')}"
    return {"date": date, "source": source, "passed": counts["passed"], **skipped, "seconds": float(seconds[1])}


def run_of(name: str, path: Path) -> dict[str, Any]:
    """Return seconds, schedule, arithmetic and date of a finished run of the shipped config ``name``.

    The seconds are the sum of its stages, without the start of the program; pauses between them do not count.

    Raises:
        MachinesError: if it is another config's, or was not made on this machine with the present features.
    """
    run = Run.open(path)
    config = run.config() or {}
    if config.get("name") != name:
        raise MachinesError(f"{path.name}: a run of {config.get('name') or 'no config'}, and not of {name}")
    manifests = [manifest for folder in run.stages() if (manifest := folder.manifest())]
    made = [manifest.get("machine") or {} for manifest in manifests]
    places = {(one.get("processor"), one.get("kind"), one.get("dtype")) for one in made}
    if [place[:2] for place in places] != [(processor().processor, processor().kind)]:
        told = " and ".join(sorted(f"{who} ({kind}, {dtype})" for who, kind, dtype in places)) or "no machine"
        raise MachinesError(f"{path.name}: made on {told}; this is {processor().processor} ({processor().kind})")
    if len(manifests) < len(run.stages()):
        raise MachinesError(f"{path.name}: the run is not finished")
    seconds = [one.value for one in run.measurements() if (one.stage, one.metric) == ("run", "seconds")]
    return {
        "date": max(manifest["finished"] for manifest in manifests)[:10],
        "source": f"the measurements of a run of {name}.toml",
        "dtype": made[0]["dtype"],
        "kernels": sorted({kernel for one in made for kernel in one["kernels"]}),
        "schedule": config.get("schedule") or "",
        "seconds": sum(seconds),
    }


def imported(docs: Path) -> Entry:
    """Return what was recorded on the AMX machine before runs said where they were made.

    Rows of sampling come from benchmarks.json; the demo's time by the clock from the log, and that of its stages from
    the summary that was kept.
    """
    rows = [row for row in json.loads((docs / "benchmarks.json").read_text()) if row["benchmark"] == "sampling"]
    rows = [row for row in latest(rows, "comparison", "model", "opponent") if row["model"] in kinds.MODELS]
    places = {row["machine"] for row in rows}
    if len(places) != 1 or "AMX" not in (place := places.pop()):
        raise MachinesError("benchmarks.json: its newest rows of sampling are not those of the AMX machine")
    cores = re.search(r"(\d+) cores", place)
    assert cores is not None
    return {
        "kind": "AMX",
        "way": kinds.NATIVE,
        "place": "",
        "processor": place.partition(",")[0],
        "cores": int(cores[1]),
        "system": "Linux",
        "sampling": {
            "date": max(row["date"] for row in rows),
            "source": "from benchmarks.json",
            "dtype": "bfloat16",  # the one dtype, and the kernels, that there were when these rows were recorded
            "kernels": ["amx"],
            "versions": rows[-1]["versions"],
            "rows": [figures(row) for row in rows],
        },
        "demo": _logged_demo(docs),
    }


def _logged_demo(docs: Path) -> dict[str, Any]:
    title = "the demo in 25 minutes"
    log = (docs / "log.md").read_text(encoding="utf-8")
    found = re.search(rf"^## ([\d-]+): {title}$.*?\*\*(\d+):(\d\d)\*\*", log, re.MULTILINE | re.DOTALL)
    if found is None:
        raise MachinesError(f"log.md: no entry '{title}' with a time")
    date, minutes, seconds = found.groups()
    demo: dict[str, Any] = {"date": date, "source": f"from log.md, {date}: {title}", "schedule": ""}
    demo["elapsed"] = 60 * int(minutes) + int(seconds)
    return demo
