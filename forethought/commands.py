"""The commands that read a run folder; each imports what it needs once it is called."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from forethought.store import Run
from forethought.terminal import guard, out, say

app = typer.Typer()

TargetFolder = Annotated[
    Path, typer.Argument(help="Where to write it; a folder that is empty or not there.", metavar="DIR")
]
RunFolder = Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")]


@app.command()
def status(folder: RunFolder) -> None:
    """Say what of a run is done, begun and missing, what it cost, and whether a process works on it."""

    def work() -> None:
        from forethought.report.status import render

        out.print(render(Run.open(folder)), soft_wrap=False)

    guard(work)


@app.command()
def doctor() -> None:
    """Examine this machine: arithmetic, kernels, memory, packages, models; exit code 1 if something is missing."""

    def work() -> None:
        from forethought.budget import demo
        from forethought.doctor import examine, render

        logging.getLogger("forethought.engine.backends").setLevel(logging.WARNING)  # the table says it
        checks = examine(demo)
        out.print(render(checks))
        if any(check.fault for check in checks):
            raise typer.Exit(1)

    guard(work)


@app.command()
def compare(
    left: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    right: Annotated[Path, typer.Argument(help="Another run folder.", metavar="RUN")],
    stage: Annotated[
        list[str] | None, typer.Option(help="Figures of this stage only, e.g. evaluate-rlmt. May be repeated.")
    ] = None,
    significant_only: Annotated[
        bool, typer.Option("--significant-only", help="Only figures whose intervals do not overlap.")
    ] = False,
) -> None:
    """Set two runs side by side: keys of the config that differ, then the figures that both have."""

    def work() -> None:
        from forethought.report.compare import render

        out.print(render(Run.open(left), Run.open(right), stages=stage or (), significant_only=significant_only))

    guard(work)


@app.command()
def export(
    folder: RunFolder,
    arm: Annotated[str, typer.Argument(help="The arm, e.g. self-improved-rlmt; base is the untrained policy.")],
    target: TargetFolder,
    gguf: Annotated[
        bool, typer.Option("--gguf", help="Convert it, too, with llama.cpp's convert_hf_to_gguf.py.")
    ] = False,
    converter: Annotated[Path | None, typer.Option(help="Where that program is, if not on the PATH.")] = None,
) -> None:
    """Write an arm as a Hugging Face folder with a model card and an example that needs transformers only."""

    def work() -> None:
        from forethought.takeaway import model

        program = model.converter(converter) if gguf else None
        model.export(Run.open(folder), arm, target, say)
        out.print(f"{arm}: {target}", soft_wrap=True, highlight=False)
        if program is not None:
            out.print(str(model.to_gguf(target, program, arm)), soft_wrap=True, highlight=False)

    guard(work)


@app.command("export-data")
def export_data(
    folder: RunFolder,
    target: TargetFolder,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Write JSON lines instead of parquet.")] = False,
) -> None:
    """Write preferences, text with thoughts, and prompts of a run as data sets that TRL and `datasets` load."""

    def work() -> None:
        from forethought.takeaway.data import export_data as write

        for name, rows in write(Run.open(folder), target, "jsonl" if jsonl else "parquet").items():
            out.print(f"{target / name}: {rows} rows", soft_wrap=True, highlight=False)

    guard(work)


@app.command("try")
def try_(
    folder: RunFolder,
    words: Annotated[
        list[str], typer.Argument(help="Arms, by commas (default: the last of both lineages), and a text in quotes.")
    ],
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest tokens.", min=0.0)] = 1.0,
    tokens: Annotated[int | None, typer.Option(help="Length of the continuations.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws other texts.")] = 0,
    samples: Annotated[int, typer.Option(help="So many texts of each arm.", min=1)] = 1,
) -> None:
    """Show thought and continuation of arms of a run side by side."""

    def work() -> None:
        from forethought.takeaway import trying
        from forethought.takeaway.arms import TakeawayError, config_of, tags_of

        if len(words) > 2:
            raise TakeawayError(
                f'write [ARM[,ARM]] "TEXT" after the run folder, the text in quotes; got {len(words)} words'
            )
        opened, text = Run.open(folder), words[-1]
        names = [name.strip() for name in words[0].split(",")] if len(words) == 2 else []
        wish = trying.Wish(temperature=temperature, tokens=tokens, samples=samples, seed=seed)
        said = trying.ask(opened, names, text, wish, say)
        out.print(trying.render(text, said, tags_of(config_of(opened))))

    guard(work)
