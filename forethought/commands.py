"""The commands that read a run folder; each imports what it needs once it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forethought.store import Run
from forethought.terminal import guard, out

app = typer.Typer()

RunFolder = Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")]


@app.command()
def status(folder: RunFolder) -> None:
    """Say what of a run is done, begun and missing, what it cost, and whether a process works on it."""

    def work() -> None:
        from forethought.report.status import render

        out.print(render(Run.open(folder)), soft_wrap=False)

    guard(work)


@app.command()
def compare(
    left: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    right: Annotated[Path, typer.Argument(help="Another run folder.", metavar="RUN")],
    stage: Annotated[
        list[str] | None, typer.Option(help="Figures of this stage only, e.g. evaluate-rlmt. May be repeated.")
    ] = None,
    apart: Annotated[bool, typer.Option("--apart", help="Only figures whose intervals do not overlap.")] = False,
) -> None:
    """Set two runs side by side: keys of the config that differ, then the figures that both have."""

    def work() -> None:
        from forethought.report.compare import render

        out.print(render(Run.open(left), Run.open(right), stages=stage or (), apart=apart))

    guard(work)
