"""The command line: the commands that run stages; each imports what it needs once it is called."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from forethought import __version__, graph
from forethought.cli import commands
from forethought.cli.terminal import guard, out, refuse_windows, say
from forethought.config import Config, load, reasoning_overrides
from forethought.config.shipped import config_names
from forethought.run.files import StoreError
from forethought.run.progress import STDERR, RunProgress
from forethought.run.store import Run
from forethought.text import printable

app = typer.Typer(
    name="forethought",
    help="Ordinary pretraining text as training environments for small language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path,
    typer.Argument(help=f"A TOML config, or the name of a shipped one: {', '.join(config_names())}.", metavar="CONFIG"),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a config value: section.key=value, e.g. improve.steps=10. May be repeated."),
]
RunFolder = Annotated[Path | None, typer.Option("--run", help="Run folder. Default: runs/ and the name of the config.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and print the plan; write nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Run the stages of this command again even if nothing changed.")]

Choose = Callable[[Config], graph.Selection]


@app.command()
@guard()
def run(
    config: ConfigFile,
    set_: Overrides = None,
    run_: RunFolder = None,
    dry_run: DryRun = False,
    force: Force = False,
    only: Annotated[
        str | None,
        typer.Option(help="Run only these stages, without those they need: STAGE or ARM/STAGE, separated by commas."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Stop after this STAGE or ARM/STAGE.")] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Use the longest schedule that this machine finishes in this time: 25m, 90s, 2h or 1h30m."),
    ] = None,
) -> None:
    """Run all stages of a config. The same command resumes a run; a changed config repeats only what it affects.

    Chunk, audit, improve, evaluate; interleave, sft and rlmt if the config has their tables.
    """

    def choose(config: Config) -> graph.Selection:
        steps = graph.graph(config)
        if only is None:
            return graph.Selection(steps=tuple(steps if until is None else graph.until(steps, until)))
        if until is not None:
            raise graph.SelectionError("--only and --until: choose one of them")
        names = [name.strip() for name in only.split(",")]
        return graph.Selection(steps=tuple(graph.select(steps, names)), alone=True)

    settings = _config(config, set_ or (), run_, budget=budget, keep_schedule=False)
    _run_stages(settings, run_, choose, dry_run=dry_run, force=force)


def _stage_command(name: str, steps: str, text: str) -> None:

    def choose(config: Config) -> graph.Selection:
        return graph.Selection(steps=tuple(graph.select(graph.graph(config), [steps])))

    @app.command(name, help=text)
    @guard()
    def command(
        config: ConfigFile,
        set_: Overrides = None,
        run_: RunFolder = None,
        dry_run: DryRun = False,
        force: Force = False,
    ) -> None:
        _run_stages(_config(config, set_ or (), run_), run_, choose, dry_run=dry_run, force=force)


for _name, _steps, _text in (
    ("chunk", "chunk", "Cut the corpus into prefixes and suffixes, and split it by document."),
    ("audit-judge", "audit", "Test the judges on pairs of texts of which the better one is known."),
    ("improve", f"{graph.IMPROVED}/improve", "Train the policy with DPO on judged continuations (stage 1)."),
    ("interleave", "interleave", "Have a teacher insert thoughts between the sentences of the SFT split (stage 2)."),
    ("sft", "sft", "Train both lineages on the text with thoughts (stage 2)."),
    ("rlmt", "rlmt", "Train both lineages with RL on the suffix that they write after a thought (stage 3)."),
):
    _stage_command(_name, _steps, f"{_text}\n\nRuns the stages that it needs first, if they are not done.")


@app.command()
@guard()
def evaluate(
    config: ConfigFile,
    set_: Overrides = None,
    run_: RunFolder = None,
    dry_run: DryRun = False,
    force: Force = False,
    tasks: Annotated[str | None, commands.TASKS] = None,
    arms: Annotated[
        str | None, typer.Option(help="Arms of the run that answer the tasks, separated by commas. Default: all.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Ask this model instead of the arms: a folder, hub name or package. May be repeated."),
    ] = None,
) -> None:
    """Compare the trained policies with the base on held-out documents.

    Runs the stages that it needs first. With --tasks, --arms or --model: reasoning benchmarks only.
    """
    reasoning = reasoning_overrides(tasks, arms, model or ())

    def choose(config: Config) -> graph.Selection:
        if reasoning:
            return graph.Selection(steps=tuple(graph.select(graph.graph(config), [graph.REASONING])), asks=True)
        steps = [step for step in graph.graph(config) if step.stage.startswith(("evaluate", graph.REASONING))]
        return graph.Selection(steps=tuple(step for step in steps if step.arm != graph.CONTINUED))

    settings = _config(config, [*reasoning, *(set_ or ())], run_)
    _run_stages(settings, run_, choose, dry_run=dry_run, force=force)


@app.command()
@guard()
def sweep(
    config: ConfigFile,
    seeds: Annotated[int, typer.Option(help="How many training seeds.", min=1)] = 8,
    first: Annotated[int, typer.Option(help="The first of them.", min=0)] = 0,
    set_: Overrides = None,
    run_: Annotated[
        Path | None, typer.Option("--run", help="Folder of all runs. Default: runs/ and the config's name, -sweep.")
    ] = None,
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Keep the trained models of finished seeds, gigabytes each.")
    ] = False,
) -> None:
    """Repeat a run with several training seeds on the same data; the same command resumes it.

    Chunks, rows, windows and threshold are made once; training order and rollouts differ. Then: forethought aggregate.
    """
    from forethought.pipeline.sweep import sweep as repeat

    settings = load(config, set_ or ())
    refuse_windows()
    place = run_ or Path("runs") / f"{settings.name}-sweep"
    made = repeat(settings, place, range(first, first + seeds), _steps_done, keep_weights=keep_weights, say=say)
    out.print(f"\nforethought aggregate {' '.join(map(str, made))}", soft_wrap=True, highlight=False)


app.add_typer(commands.app)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit


def _config(
    path: Path, overrides: Sequence[str], folder: Path | None, *, budget: str | None = None, keep_schedule: bool = True
) -> Config:
    """Return the config, with the schedule that fits a budget or else the one that the run was started with.

    Without ``keep_schedule`` and without a budget, the config's own values are used.
    """
    refuse_windows()
    if budget:
        from forethought.pipeline.budget import BudgetRequest, choose_schedule

        return choose_schedule(BudgetRequest(path=path, overrides=overrides, budget=budget, run=folder), say)
    config = load(path, overrides)
    place = folder or Path("runs") / config.name
    started = Run(place).config() or {}
    name = started.get("schedule")
    if not name or name not in config.schedules:
        return config
    if not keep_schedule:
        say(f"{place} was started with --budget {started['budget']}; without --budget the config's own values are used")
        return config
    say(f"schedule {name}, which this run was started with")
    return load(path, overrides, name).model_copy(update={"budget": started["budget"]})


def _run_stages(config: Config, folder: Path | None, choose: Choose, *, dry_run: bool, force: bool) -> None:
    from forethought.pipeline.check import check, check_new

    place = folder or Path("runs") / config.name
    selection = dataclasses.replace(choose(config), force=force)
    # Before the imports that take seconds.
    check(config) if dry_run else check_new(config, place)
    from forethought.pipeline import plan
    from forethought.pipeline.runner import settled

    config = settled(config, place)
    if dry_run:
        out.print(plan.plan(config, place, say))
        return
    opened, page = _make(config, place, selection)
    commands.print_results(opened, examples=2)
    out.print(f"\nrun folder: {place}\nreport: {page}", soft_wrap=True, highlight=False)


def _steps_done(config: Config, place: Path, selection: graph.Selection) -> None:
    from forethought.pipeline.runner import settled

    _make(settled(config, place), place, selection)


def _make(config: Config, place: Path, selection: graph.Selection) -> tuple[Run, Path]:
    """Do the selected steps, and return the run with its report."""
    from forethought.pipeline import plan
    from forethought.pipeline.runner import Lifecycle
    from forethought.report.page import write_page
    from forethought.report.summary import write_summary

    opened = Run.create_or_open(place)
    steps = graph.graph(config)
    needed = () if selection.alone else graph.needs(selection.steps, steps)
    names = [step.name for step in steps if step in selection.steps or step in needed]
    with opened.lock():
        progress = RunProgress(names, STDERR, plan.estimate(config))
        try:
            with progress:
                Lifecycle(config, opened, selection=selection, say=say, progress=progress).everything()
        except BaseException:  # after a run that ends well, write_page writes it
            with contextlib.suppress(StoreError):  # what ended the run is said, not that this cannot be read either
                write_summary(opened)
            raise
        return opened, write_page(opened)


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # no run ends because a terminal cannot show a character
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="forethought")
    except Exception:  # a fault of ours, whose message may quote what was read
        sys.stderr.write(printable(traceback.format_exc()))
        sys.exit(1)


if __name__ == "__main__":
    main()
