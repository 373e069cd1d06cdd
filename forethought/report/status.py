"""What of a run is done, begun and missing, and what it cost: read from the folder alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from forethought import config as settings
from forethought import graph
from forethought.metrics import AUDIT_UNSCORED, GATE_UNSCORED, STAGE_SECONDS, UNSCORED_RATE, clock_time
from forethought.records import Measurement
from forethought.report.facts import machines, phases_of, scheduled, verdicts
from forethought.report.tables import OTHER, Table, build
from forethought.store import REPLACED, SHARED, Run, StageFolder

DONE, BEGUN, MISSING = "done", "begun", "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStatus:
    """Where one step of the graph, ``arm/stage``, stands.

    ``step`` of ``of`` training steps are logged, and it would go on at ``checkpoint``.  ``seconds`` are wall-clock
    seconds, of a begun stage those of its logged steps; ``tokens`` were sampled, judged and trained on; ``verdicts``
    are candidates, pairs or suffixes that judges were asked about.  What nothing counts is ``None``.
    """

    name: str
    state: str
    step: int | None = None
    of: int | None = None
    checkpoint: int | None = None
    seconds: float | None = None
    tokens: int | None = None
    verdicts: int | None = None
    bytes: int = 0


def states(run: Run) -> dict[str, str]:
    """Return where every step of a run stands, in the order of the graph, steps that the graph does not have last.

    Without a kept config (:meth:`forethought.store.Run.config`) nobody knows what is missing; then it is what is there.
    """
    kept = run.config()
    wanted = [] if kept is None else graph.graph(settings.build(kept, where=str(run.path / "run.json")))
    found = {f"{one.arm}/{one.stage}": DONE if one.done else BEGUN if one.begun else MISSING for one in run.stages()}
    names = {step.name for step in wanted} | found.keys()
    known = [step.name for step in graph.STEPS if step.name in names]
    return {name: found.get(name, MISSING) for name in (*known, *(name for name in found if name not in known))}


def survey(run: Run) -> list[StepStatus]:
    """Return where every step of a run stands and what it took."""
    folders = {f"{one.arm}/{one.stage}": one for one in run.stages()}
    figures = run.measurements()
    return [
        _status(name, state, folders[name], figures) if name in folders else StepStatus(name=name, state=state)
        for name, state in states(run).items()
    ]


def render(run: Run) -> RenderableType:
    """Return the survey as a table, and under it who works on the run and what room it takes."""
    found = survey(run)
    table = Table("Steps of the run", ("step", "state", "time", "tokens", "verdicts", "disk"))
    for one in found:
        seconds = clock_time(one.seconds) if one.seconds is not None else "–"
        state = one.state
        if state == BEGUN and one.of is not None:
            state += f": {one.step or 0}/{one.of}" + (f", saved {one.checkpoint}" if one.checkpoint else "")
        table.rows.append((one.name, state, seconds, _count(one.tokens), _count(one.verdicts), size(one.bytes)))
    other = build(run.measurements()).get(OTHER, [])
    return Group(*(one.rich() for one in (table, *other)), *(Text(line) for line in _lines(run, found)))


def size(count: int) -> str:
    """Return a number of bytes in a unit that suits it."""
    value, units = float(count), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while value >= 1024:
        value, unit = value / 1024, next(units)
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


def _status(name: str, state: str, folder: StageFolder, figures: Iterable[Measurement]) -> StepStatus:
    rows = list(folder.read("metrics"))
    phases = phases_of(rows).values()
    tokens = [phase["tokens"] for phase in phases if "tokens" in phase]
    seconds = sum(phase["seconds"] for phase in phases) if phases else None
    own = (folder.read_json("config") or {}).get(folder.stage)
    saved = [int(path.name.removeprefix("step_")) for path in folder.checkpoints.glob("step_*")]
    timed = [one.value for one in figures if one.metric == STAGE_SECONDS and one.subject == name]
    return StepStatus(
        name=name,
        state=state,
        step=max((row["step"] for row in rows), default=0) if rows else None,
        of=own.get("steps") if isinstance(own, Mapping) else None,
        checkpoint=max(saved, default=None),
        seconds=timed[-1] if timed else seconds,
        tokens=round(sum(tokens)) if tokens else None,
        verdicts=_verdicts(folder, figures),
        bytes=_bytes(folder.path),
    )


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


def _verdicts(folder: StageFolder, figures: Iterable[Measurement]) -> int | None:
    """Return how much was judged: the logs of training count it, and so do the shares that stayed unscored."""
    unscored = (UNSCORED_RATE, GATE_UNSCORED, AUDIT_UNSCORED)
    judged = (one.n for one in figures if one.stage == folder.stage and one.metric in unscored
              if folder.arm in (SHARED, one.arm))  # fmt: skip
    return (verdicts(folder) + sum(judged)) or None


def _bytes(path: Path) -> int:
    return sum(one.lstat().st_size for one in path.rglob("*") if one.is_file())


def _count(value: int | None) -> str:
    return f"{value:,}" if value is not None else "–"
