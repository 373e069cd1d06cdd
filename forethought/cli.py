"""The command line: parses, then imports what the command needs."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from forethought import __version__
from forethought.config import Config, ConfigError, load, reasoning_overrides
from forethought.store import Run

if TYPE_CHECKING:
    from forethought.midtraining import WholeLifecycle

app = typer.Typer(
    name="forethought",
    help="Ordinary pretraining text as training environments for small language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out, err = Console(), Console(stderr=True)

ConfigPath = Annotated[Path, typer.Argument(help="A TOML config; the shipped ones are in configs/.", metavar="CONFIG")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a value: section.key=value, e.g. improve.steps=10. May be repeated."),
]
RunPath = Annotated[Path | None, typer.Option("--run", help="Run folder; by default runs/ and the name of the config.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Validate everything and print the plan; write and train nothing.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Start stages over whose config changed, instead of refusing to mix them.")
]
Tasks = Annotated[str | None, typer.Option(help="Reasoning tasks, comma-separated: gsm8k,math500,gpqa,...")]
Arms = Annotated[str | None, typer.Option(help="Arms of the run that take part in them; default: all.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="Another model in place of the arms: a folder, hub name or package. May be repeated."),
]


@app.command()
def run(
    config: ConfigPath, set_: Overrides = None, run_: RunPath = None, dry_run: DryRun = False, force: Force = False
) -> None:
    """Run the whole lifecycle; interrupted, the same command goes on.

    Chunk, audit, improve, evaluate; interleave and sft with these tables in the config, rlmt with [rlmt].
    """
    _work(config, set_, run_, dry_run, force, lambda lifecycle: lifecycle.everything())


@app.command()
def chunk(
    config: ConfigPath, set_: Overrides = None, run_: RunPath = None, dry_run: DryRun = False, force: Force = False
) -> None:
    """Cut the corpus into prefixes and suffixes, and split it by document."""
    _work(config, set_, run_, dry_run, force, lambda lifecycle: lifecycle.chunk())


@app.command("audit-judge")
def audit_judge(
    config: ConfigPath, set_: Overrides = None, run_: RunPath = None, dry_run: DryRun = False, force: Force = False
) -> None:
    """Examine the judges on planted pairs whose better side is known."""
    _work(config, set_, run_, dry_run, force, lambda lifecycle: lifecycle.audit())


@app.command()
def improve(
    config: ConfigPath, set_: Overrides = None, run_: RunPath = None, dry_run: DryRun = False, force: Force = False
) -> None:
    """Train the policy on ranked continuations (stage 1), with the stages that it needs."""
    _work(config, set_, run_, dry_run, force, lambda lifecycle: lifecycle.improve())


@app.command()
def interleave(
    config: ConfigPath, set_: Overrides = None, run_: RunPath = None, dry_run: DryRun = False, force: Force = False
) -> None:
    """Have a teacher put thoughts beside the text of the SFT split, whose bytes stay as they are (stage 2)."""
    _work(config, set_, run_, dry_run, force, lambda lifecycle: lifecycle.interleave())


@app.command()
def sft(
    config: ConfigPath, set_: Overrides = None, run_: RunPath = None, dry_run: DryRun = False, force: Force = False
) -> None:
    """Train both lineages on the text with its thoughts (stage 2), with the stages that they need."""
    _work(config, set_, run_, dry_run, force, lambda lifecycle: lifecycle.sft())


@app.command()
def rlmt(
    config: ConfigPath, set_: Overrides = None, run_: RunPath = None, dry_run: DryRun = False, force: Force = False
) -> None:
    """Train both lineages by reward of what follows their thoughts (stage 3), with the stages that they need."""
    _work(config, set_, run_, dry_run, force, lambda lifecycle: lifecycle.rlmt())


@app.command()
def evaluate(
    config: ConfigPath,
    tasks: Tasks = None,
    arms: Arms = None,
    model: Models = None,
    set_: Overrides = None,
    run_: RunPath = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Compare trained policies with the base on held-out documents, with the stages that this needs.

    With --tasks, --arms or --model: reasoning benchmarks only.
    """
    chosen = reasoning_overrides(tasks, arms, model or ())
    overrides = [*chosen, *(set_ or ())]

    def action(lifecycle: WholeLifecycle) -> None:
        lifecycle.evaluate_reasoning() if chosen else lifecycle.evaluate_all()

    _work(config, overrides, run_, dry_run, force, action)


@app.command()
def validate(
    tasks: Tasks = None,
    source: Annotated[str, typer.Option(help="Where problems come from: auto, package or hub.")] = "auto",
) -> None:
    """List the reasoning tasks, and feed their graders every right answer, worth 1, and wrong ones, worth 0."""

    def table() -> None:
        from forethought.report.validation import validation

        shown, passed = validation(tasks.split(",") if tasks else None, source)
        out.print(shown)
        if not passed:
            raise typer.Exit(1)

    _guard(table)


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    examples: Annotated[int, typer.Option(help="So many held-out continuations side by side, per arm.", min=0)] = 2,
) -> None:
    """Print the figures of a run, and a few continuations side by side."""
    _guard(lambda: _show(Run.open(folder), examples))


@app.command()
def models() -> None:
    """List the models that install as packages, and what of them is here."""

    def table() -> None:
        from forethought.models import describe

        listing = Table("name", "kind", "weights", "file", "licence", "here", box=None)
        rows = describe()
        for row in rows:
            here = "converted" if row.converted else "installed" if row.installed else "no"
            size = f"{row.bytes / 2**20:,.0f} MiB" if row.bytes else "-"
            listing.add_row(row.name, row.kind, f"{row.parameters / 1e6:,.1f} M", size, row.licence, here)
        out.print(listing)
        for row in rows:
            if row.pip and not row.installed:
                out.print(f"\n{row.name}:\n{row.pip}", soft_wrap=True, highlight=False)
        out.print("\nAny causal LM folder, .gguf file or hub name of a Llama, Qwen or Gemma model works as well.")

    _guard(table)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit


def _work(
    path: Path,
    overrides: list[str] | None,
    folder: Path | None,
    dry_run: bool,
    force: bool,
    action: Callable[[WholeLifecycle], object],
) -> None:
    def work() -> None:
        config = load(path, overrides or ())
        place = folder or Path("runs") / config.name
        if dry_run:
            _plan(config, place)
            return
        from forethought.midtraining import WholeLifecycle
        from forethought.report.summary import write_summary

        opened = Run.create_or_open(place)
        with opened.lock():
            try:
                action(WholeLifecycle(config, opened, force=force, say=_say))
            finally:
                write_summary(opened)
        _show(opened, examples=2)
        out.print(f"\nrun folder: {place}")

    _guard(work)


def _plan(config: Config, place: Path) -> None:
    from forethought.plan import plan

    out.print(plan(config, place))


def _show(opened: Run, examples: int) -> None:
    from forethought.report.examples import render_examples
    from forethought.report.summary import read_curves, render

    out.print(render(opened.measurements(), read_curves(opened)))
    out.print(render_examples(opened, examples))


def _guard(work: Callable[[], None]) -> None:
    """Run ``work``; what users can mend ends as one message, not as a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        work()
    except (ValueError, FloatingPointError) as error:
        if not _is_ours(error):
            raise
        _say(f"error: {error}")
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        _say("\ninterrupted; the same command goes on where it was")
        raise typer.Exit(130) from None


def _is_ours(error: Exception) -> bool:
    return type(error).__module__.startswith("forethought.") or isinstance(error, ConfigError | FloatingPointError)


def _say(line: str) -> None:
    """Tell the user; paths stay in one piece, whatever the width of the terminal."""
    err.print(
        line, style="bold red" if line.startswith("error:") else None, markup=False, highlight=False, soft_wrap=True
    )


def main() -> None:
    """Entry point of the ``forethought`` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # no run ends because a terminal cannot show a sparkline
            stream.reconfigure(errors="replace")
    app(prog_name="forethought")


if __name__ == "__main__":
    main()
