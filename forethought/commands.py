"""The commands that read a run folder."""

from __future__ import annotations

import typer

app = typer.Typer()
