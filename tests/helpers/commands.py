"""Command lines, parsed as ``forethought`` parses them and not run."""

from __future__ import annotations

import shlex
from typing import Any

import typer

from forethought.cli.app import app

UsageError = typer.BadParameter.__mro__[1]
"""Typer's own copy of click's class, which has no public name."""


def parsed(line: str) -> tuple[str, dict[str, Any]]:
    """Return the command and the parameters of a command line, without running it; raise UsageError if it is wrong."""
    arguments = shlex.split(line)[1:]
    group: Any = typer.main.get_command(app)
    if arguments[0].startswith("-"):
        return arguments[0], {}
    command = group.get_command(None, arguments[0])
    if command is None:
        raise UsageError(f"no such command: {arguments[0]}")
    return arguments[0], command.make_context(arguments[0], arguments[1:]).params
