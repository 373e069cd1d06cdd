"""Rows of results: appended to a JSON file, rendered into a page; no figure is ever written by hand."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.measure import Options, Pairs, spread
from forethought.run.files import atomic_write

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison."""

    benchmark: str
    """Name on the command line."""
    what: str
    """What both sides do, with its sizes."""
    model: str
    """On which model."""
    opponent: str
    """The peer and its setting."""
    target: float | None = None
    """How many times faster we mean to be."""
    ratio: tuple[float, float, float] | None = None
    """Median, smallest and largest of the paired ratios."""
    ours: float | None = None
    """Our median, in ``unit``."""
    peer: float | None = None
    """The peer's median, in ``unit``."""
    pairs: int = 0
    """How many."""
    unit: str = "s"
    """Seconds, or so many of something per second."""
    limit: float | None = None
    """Share of the machine's limit that our side reaches: limiting seconds over measured ones."""
    memory: dict[str, float] = field(default_factory=dict)
    """Bytes: peak of a step above what was in use before it, and in all, of both sides."""
    checked: str = ""
    """What was found equal before timing."""
    reason: str = ""
    """Why there is no figure."""


def compared(pairs: Pairs, amount: float | None, limit: float | None) -> dict[str, Any]:
    """Return the figures of a :class:`Row`.

    ``amount`` is the work of one run (``None``: the figures are seconds), ``limit`` the seconds that it takes at least.
    """
    ours, peer = spread(pairs.ours)[0], spread(pairs.peer)[0]
    return {
        "ratio": pairs.ratio,
        "pairs": len(pairs.ours),
        "ours": amount / ours if amount else ours,
        "peer": amount / peer if amount else peer,
        "limit": limit / ours if limit else None,
    }


class Book:
    """The file of results and the page that is made of it."""

    def __init__(self, folder: Path, options: Options, command: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "benchmarks.json"
        self.page = folder / "benchmarks.md"
        self.options = options
        self.command = command

    def read(self) -> list[dict[str, Any]]:
        """Return all rows, oldest first."""
        found: list[dict[str, Any]] = json.loads(self.data.read_text()) if self.data.exists() else []
        return found

    def add(self, row: dict[str, Any]) -> None:
        """Append a row with what it was measured on, and render the page anew."""
        stamp = {
            "device": "cuda" if self.options.device.startswith("cuda") else "cpu",
            "machine": machine.describe(self.options.device),
            "date": datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d"),
            "versions": machine.versions(),
            "command": self.command,
            "pairs": self.options.repeats,
        }
        rows = [*self.read(), {**row, **{name: row.get(name, value) for name, value in stamp.items()}}]
        atomic_write(self.data, json.dumps(rows, indent=1) + "\n")
        self.write()

    def write(self) -> None:
        """Render the page."""
        atomic_write(self.page, render(self.read()))

    def add_row(self, row: Row) -> None:
        """Append a comparison, print it, and render the page anew."""
        print(line(asdict(row)), flush=True)
        self.add({"kind": "comparison", **asdict(row)})


def latest(rows: Sequence[dict[str, Any]], kind: str, *names: str) -> list[dict[str, Any]]:
    """Return the last row of ``kind`` for each value of ``names``, in the order in which they first came."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        if row["kind"] == kind:
            found[tuple(row[name] for name in names)] = row
    return list(found.values())


def line(row: dict[str, Any]) -> str:
    """Return a comparison as one line for the terminal."""
    head = f"{row['benchmark']:10} {row['model']:28} vs {row['opponent']}"
    return f"{head}: {_result(row)}{_memory(row, '; memory ')}" + (
        f"; {_share(row)} of the limit" if row["limit"] else ""
    )


def render(rows: Sequence[dict[str, Any]]) -> str:
    """Return the page."""
    parts = [INTRODUCTION]
    for device, otherwise in (("cpu", "Not run yet."), ("cuda", "Not run: there was no CUDA device.")):
        found = [row for row in rows if row["device"] == device]
        parts.append(f"## {device.upper()}\n\n" + (_tables(found) if found else otherwise))
    return "\n\n".join(parts) + "\n"


INTRODUCTION = """# Benchmarks

<!-- Written by `python -m benchmarks` from benchmarks.json. Do not edit. -->

Both sides run in turn on the same machine, model, dtype, prompts and lengths: ours, peer, ours, peer. **Ratio** is the
median of the paired ratios with the smallest and the largest in brackets: 2x means that we take half the time. Before
anything is timed, both sides must compute the same; otherwise the benchmark stops.

**Limit** is the share of what this machine can do that our side reaches: the seconds that its arithmetic would take at
the rate of torch's plain matrix products of the same shapes and dtype, or its memory traffic at the rate of a large
copy, over the seconds that it took. Both rates are measured in the same run. Products of our own that beat torch's can
pass 100%.

**Memory** is the peak of a step above what was in use before it, ours / peer, each measured in a process of its own
(in brackets: the peak of the whole process).

Run them with `make bench`, or some of them with `make bench ARGS="sampling dpo"`: a partial run updates its own
rows."""


def _tables(rows: Sequence[dict[str, Any]]) -> str:
    parts = []
    found = latest(rows, "comparison", "what", "model", "opponent")
    if found:
        head = "| What | Model | Opponent | Target | Ratio | Ours | Peer | Limit | Memory |\n" + "|---" * 9 + "|\n"
        parts.append(head + "\n".join(_table_row(row) for row in found))
        parts.append("### What was checked\n\n" + "\n".join(_checked(found)))
    for row in latest(rows, "growth", "title"):
        parts.append(_growth(row))
    for row in latest(rows, "flat", "what"):
        parts.append(_flat(row))
    parts.append("### Where and when\n\n" + "\n".join(_provenance(rows)))
    return "\n\n".join(parts)


def _table_row(row: dict[str, Any]) -> str:
    cells = [
        row["what"],
        row["model"],
        row["opponent"],
        f"{row['target']:g}x" if row["target"] else "",
        _result(row) if row["reason"] else ratio(row),
        _figure(row, "ours"),
        _figure(row, "peer"),
        _share(row),
        _memory(row),
    ]
    return "| " + " | ".join(cells) + " |"


def _result(row: dict[str, Any]) -> str:
    if row["reason"]:
        return f"not run: {row['reason']}"
    return f"{ratio(row)}  ours {_figure(row, 'ours')}, peer {_figure(row, 'peer')}"


def ratio(row: Mapping[str, Any]) -> str:
    """Return median, smallest and largest of the paired ratios; nothing where there is none."""
    return "{:.2f}x [{:.2f}, {:.2f}]".format(*row["ratio"]) if row["ratio"] else ""


def _figure(row: dict[str, Any], side: str) -> str:
    return f"{row[side]:.4g} {row['unit']}" if row[side] is not None else ""


def _share(row: dict[str, Any]) -> str:
    return f"{row['limit']:.0%}" if row["limit"] else ""


def _memory(row: dict[str, Any], before: str = "") -> str:
    found = {name: value / GIB for name, value in row["memory"].items()}
    if not found:
        return ""
    return before + "{ours_step:.2f} / {peer_step:.2f} GiB ({ours_total:.2f} / {peer_total:.2f})".format(**found)


def _checked(rows: Sequence[dict[str, Any]]) -> list[str]:
    texts = {(row["benchmark"], row["model"], row["checked"]) for row in rows if row["checked"]}
    return [f"- {benchmark}, {model}: {checked}" for benchmark, model, checked in sorted(texts)]


def _growth(row: dict[str, Any]) -> str:
    phases = list(row["points"][0]["seconds"])
    head = f"| {row['title']} | " + " | ".join(phases) + " |\n" + "|---" * (len(phases) + 1) + "|\n"
    body = [
        f"| {point['size']:,} | " + " | ".join(f"{point['seconds'][phase]:.3f} s" for phase in phases) + " |"
        for point in row["points"]
    ]
    slopes = "| exponent | " + " | ".join(f"{row['exponents'][phase]:.2f}" for phase in phases) + " |"
    first = f"### Growth with {row['title']}\n\n{row['what']}; exponent 1 is linear growth.\n\n"
    return first + head + "\n".join([*body, slopes]) + (f"\n\n![Growth]({row['plot']})" if row.get("plot") else "")


def _flat(row: dict[str, Any]) -> str:
    after = row["after"]
    return (
        f"### Memory over {len(after)} steps\n\n{row['what']}: {after[0] / GIB:.3f} GiB in use after the first step, "
        f"{after[-1] / GIB:.3f} GiB after the last; the slope of the second half is {row['slope'] / 2**20:+.2f} MiB a "
        "step."
    )


def _provenance(rows: Sequence[dict[str, Any]]) -> list[str]:
    newest: dict[str, dict[str, Any]] = {}
    for row in rows:
        newest[row["benchmark"]] = row
    return [
        f"- {name}: {row['date']}, {row['machine']}; "
        + ", ".join(f"{package} {version}" for package, version in row["versions"].items())
        + f"; {row['pairs']} pairs; `{row['command']}`"
        for name, row in newest.items()
    ]
