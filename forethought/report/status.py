"""What of a run is done, begun and missing, and what it cost: read from the folder alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType

from forethought import config as settings
from forethought import graph
from forethought.metrics import AUDIT_UNSCORED, GATE_UNSCORED, STAGE_SECONDS, UNSCORED_RATE, clock_time
from forethought.records import Measurement
from forethought.report.facts import machines, phases_of, schedule_line, verdicts
from forethought.report.tables import OTHER, Table, build
from forethought.run.store import REPLACED, SHARED, Run, StageFolder
from forethought.run.terminal import plain

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

    Without a kept config (:meth:`Run.config`) what is missing is not known; then it is what is there.
    """
    config = run.config()
    wanted = [] if config is None else graph.graph(settings.build(config, where=str(run.path / "run.json")))
    present = {
        f"{folder.arm}/{folder.stage}": DONE if folder.done else BEGUN if folder.begun else MISSING
        for folder in run.stages()
    }
    names = {step.name for step in wanted} | present.keys()
    known = [step.name for step in graph.STEPS if step.name in names]
    return {name: present.get(name, MISSING) for name in dict.fromkeys([*known, *present])}


def survey(run: Run) -> list[StepStatus]:
    """Return where every step of a run stands and what it took."""
    folders = {f"{folder.arm}/{folder.stage}": folder for folder in run.stages()}
    figures = run.measurements()
    return [
        _status(name, state, folders[name], figures) if name in folders else StepStatus(name=name, state=state)
        for name, state in states(run).items()
    ]


def render(run: Run) -> RenderableType:
    """Return the survey as a table, and under it who works on the run and what room it takes."""
    steps = survey(run)
    table = Table("Steps of the run", ("step", "state", "time", "tokens", "verdicts", "disk"))
    for step in steps:
        state = step.state
        if state == BEGUN and step.of is not None:
            state += f": {step.step or 0}/{step.of}" + (f", saved {step.checkpoint}" if step.checkpoint else "")
        seconds = clock_time(step.seconds) if step.seconds is not None else "–"
        counts = ("–" if count is None else f"{count:,}" for count in (step.tokens, step.verdicts))
        table.rows.append((step.name, state, seconds, *counts, size(step.bytes)))
    tables = [table, *build(run.measurements()).get(OTHER, [])]
    return Group(*(table.rich() for table in tables), *map(plain, _lines(run, steps)))


def size(count: int) -> str:
    """Return a number of bytes in a unit that suits it."""
    value, units = float(count), iter(("B", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while value >= 1024:
        value, unit = value / 1024, next(units)
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


def _status(name: str, state: str, folder: StageFolder, figures: Sequence[Measurement]) -> StepStatus:
    rows = list(folder.read("metrics"))
    phases = phases_of(rows).values()
    tokens = [phase["tokens"] for phase in phases if "tokens" in phase]
    timed = [figure.value for figure in figures if (figure.metric, figure.subject) == (STAGE_SECONDS, name)]
    # The logs of training count what was judged, and so do the shares that stayed unscored.
    judged = verdicts(folder) + sum(
        figure.n
        for figure in figures
        if figure.stage == folder.stage and figure.metric in (UNSCORED_RATE, GATE_UNSCORED, AUDIT_UNSCORED)
        if folder.arm in (SHARED, figure.arm)
    )
    own = (folder.read_json("config") or {}).get(folder.stage)
    return StepStatus(
        name=name,
        state=state,
        step=max((row["step"] for row in rows), default=None),
        of=own.get("steps") if isinstance(own, Mapping) else None,
        checkpoint=max(
            (int(path.name.removeprefix("step_")) for path in folder.checkpoints.glob("step_*")), default=None
        ),
        seconds=timed[-1] if timed else sum(phase["seconds"] for phase in phases) if phases else None,
        tokens=round(sum(tokens)) if tokens else None,
        verdicts=judged or None,
        bytes=_bytes(folder.path),
    )


def _lines(run: Run, steps: Sequence[StepStatus]) -> Iterable[str]:
    done = sum(step.state == DONE for step in steps)
    yield f"\n{done} of {len(steps)} steps done; {clock_time(sum(step.seconds or 0 for step in steps))}"
    yield from (f"made in {line}" for line in machines(run))
    process = run.writer()
    yield f"process {process} is working on it" if process else "no process is working on it"
    if run.config() is None:
        yield "run.json is not there, so what is missing is not known: the next `forethought run` writes it"
    if line := schedule_line(run):
        yield f"schedule: {line}"
    caches = sum(path.lstat().st_size for path in run.path.glob("*.sqlite"))
    replaced = _bytes(run.path / REPLACED)
    part = f", {size(replaced)} of it replaced stages in {run.path / REPLACED}" if replaced else ""
    yield f"disk: {size(_bytes(run.path))}{part}; verdicts and replies: {size(caches)}"


def _bytes(path: Path) -> int:
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
