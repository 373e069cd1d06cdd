"""What of a run is done, begun and missing, and what it cost: read from the folder alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from forethought import config as settings
from forethought.graph import STEPS, Step, graph
from forethought.progress import clock_time
from forethought.records import Measurement
from forethought.report.cells import titled
from forethought.report.facts import machines, scheduled
from forethought.store import REPLACED, SHARED, Run, StageFolder

DONE, BEGUN, MISSING = "done", "begun", "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStatus:
    """Where one step of the graph stands."""

    name: str
    """``arm/stage``."""
    state: str
    """``done``, ``begun`` or ``missing``."""
    step: int | None = None
    """Training steps that are logged; ``None`` where nothing counts them."""
    of: int | None = None
    """Training steps that the stage takes."""
    checkpoint: int | None = None
    """The training step at which it would go on."""
    seconds: float | None = None
    """Wall-clock seconds; of a begun stage those of its logged training steps."""
    tokens: int | None = None
    """Tokens that were sampled, judged and trained on, where they are counted."""
    verdicts: int | None = None
    """Candidates, pairs or suffixes that judges were asked about."""
    bytes: int = 0
    """Size of its folder."""


def survey(run: Run) -> list[StepStatus]:
    """Return where every step of a run stands, in the order of the graph.

    Without a kept config (:meth:`forethought.store.Run.config`) nobody knows what is missing; then it is what is there.
    """
    there = {f"{one.arm}/{one.stage}": one for one in run.stages()}
    figures = run.measurements()
    wanted = [step.name for step in _steps(run)]
    known = [step.name for step in STEPS if step.name in wanted or step.name in there]
    names = [*known, *(name for name in there if name not in known)]
    return [_status(name, there[name], figures) if name in there else _missing(name) for name in names]


def render(run: Run) -> RenderableType:
    """Return the survey as a table, and under it who works on the run and what room it takes."""
    found = survey(run)
    table = titled("Steps of the run")
    for column in ("step", "state", "time", "tokens", "verdicts", "disk"):
        table.add_column(column, justify="left" if column in ("step", "state") else "right")
    for one in found:
        seconds = clock_time(one.seconds) if one.seconds is not None else "–"
        table.add_row(one.name, _state(one), seconds, _count(one.tokens), _count(one.verdicts), size(one.bytes))
    return Group(table, *(Text(line) for line in _lines(run, found)))


def size(count: int) -> str:
    """Return a number of bytes in a unit that suits it."""
    value, units = float(count), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while value >= 1024:
        value, unit = value / 1024, next(units)
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


def _steps(run: Run) -> list[Step]:
    kept = run.config()
    return [] if kept is None else graph(settings.build(kept, where=str(run.path / "run.json")))


def _missing(name: str) -> StepStatus:
    return StepStatus(name=name, state=MISSING)


def _status(name: str, folder: StageFolder, figures: Iterable[Measurement]) -> StepStatus:
    rows = list(folder.read("metrics"))
    own = (folder.read_json("config") or {}).get(folder.stage)
    saved = [int(path.name.removeprefix("step_")) for path in folder.checkpoints.glob("step_*")]
    timed = [one.value for one in figures if one.metric == "seconds" and one.subject == name]
    return StepStatus(
        name=name,
        state=DONE if folder.done else BEGUN if folder.begun else MISSING,
        step=max((row["step"] for row in rows), default=0) if rows else None,
        of=own.get("steps") if isinstance(own, Mapping) else None,
        checkpoint=max(saved, default=None),
        seconds=timed[-1] if timed else _seconds(rows),
        tokens=_tokens(rows),
        verdicts=_verdicts(folder, figures),
        bytes=_bytes(folder.path),
    )


def _state(one: StepStatus) -> Text:
    if one.state != BEGUN or one.of is None:
        return Text(one.state, style={DONE: "green", BEGUN: "yellow"}.get(one.state, "dim"))
    saved = f", saved {one.checkpoint}" if one.checkpoint else ""
    return Text(f"begun: {one.step or 0}/{one.of}{saved}", style="yellow")


def _lines(run: Run, found: list[StepStatus]) -> Iterable[str]:
    states = [one.state for one in found]
    yield f"\n{states.count(DONE)} of {len(found)} steps done; " + clock_time(sum(one.seconds or 0 for one in found))
    yield from (f"made in {line}" for line in machines(run))
    holder = run.writer()
    yield f"process {holder} is working on it" if holder else "no process is working on it"
    if run.config() is None:
        yield "run.json is not there, so what is missing is not known: the next `forethought run` writes it"
    if line := scheduled(run):
        yield f"schedule: {line}"
    caches = sum(path.stat().st_size for path in run.path.glob("*.sqlite"))
    aside = _bytes(run.path / REPLACED)
    replaced = f", {size(aside)} of it replaced stages in {run.path / REPLACED}" if aside else ""
    yield f"disk: {size(_bytes(run.path))}{replaced}; verdicts and replies: {size(caches)}"


def _seconds(rows: Iterable[Mapping[str, Any]]) -> float | None:
    found = [float(value) for row in rows for key, value in row.items() if "/seconds_" in key]
    return sum(found) if found else None


def _tokens(rows: Iterable[Mapping[str, Any]]) -> int | None:
    """Return what was counted: each phase logs its rate and its seconds."""
    found = [
        float(value) * row[key.replace("tokens_per_second_", "seconds_")]
        for row in rows
        for key, value in row.items()
        if "/tokens_per_second_" in key
    ]
    return round(sum(found)) if found else None


def _verdicts(folder: StageFolder, figures: Iterable[Measurement]) -> int | None:
    """Return how much was judged: the logs of training count it, and so do the shares that stayed unscored."""
    count = sum(len(said) for row in folder.read("pools") for said in row.get("verdicts", {}).values())
    count += sum(reward is not None for row in folder.read("groups") for reward in row["rewards"])
    for one in figures:
        own = folder.arm in (SHARED, one.arm)
        if one.stage == folder.stage and own and "unscored" in one.metric:
            count += one.n
    return count or None


def _bytes(path: Path) -> int:
    return sum(one.lstat().st_size for one in path.rglob("*") if one.is_file())


def _count(value: int | None) -> str:
    return f"{value:,}" if value is not None else "–"
