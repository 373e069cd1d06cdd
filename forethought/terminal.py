"""What all commands share: where they write, and how an error that users can mend ends them."""

from __future__ import annotations

import logging
from collections.abc import Callable

import typer
from rich.console import Console

from forethought.config import ConfigError
from forethought.monitor import Terminal

out = Console()
"""Results."""
err = Terminal(stderr=True)
"""Talk."""


def guard(work: Callable[[], None]) -> None:
    """Run ``work``; what users can mend ends as one message, not as a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        work()
    except (ValueError, FloatingPointError) as error:
        if not _is_ours(error):
            raise
        say(f"error: {error}")
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        say("\ninterrupted; the same command goes on where it was")
        raise typer.Exit(130) from None


def say(line: str) -> None:
    """Tell the user; paths stay in one piece, whatever the width of the terminal."""
    err.print(
        line, style="bold red" if line.startswith("error:") else None, markup=False, highlight=False, soft_wrap=True
    )


def _is_ours(error: Exception) -> bool:
    return type(error).__module__.startswith("forethought.") or isinstance(error, ConfigError | FloatingPointError)
