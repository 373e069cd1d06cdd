"""What all commands share: where they write, and how an error that users can correct ends them."""

from __future__ import annotations

import functools
import logging
import re
import sys
from collections.abc import Callable

import typer
from rich.console import Console

from forethought.config import ConfigError
from forethought.progress import STDERR

out = Console()
"""Results; everything else goes to stderr."""

_REFUSED = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "alloc_failed")
"""What torch, CUDA, the system and C++ say when memory is refused."""
_ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) ([A-Za-z]+)", re.IGNORECASE)


def guard(work: Callable[[], None]) -> None:
    """Run ``work``; what users can correct ends as one message, not as a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    _show_kernels()
    try:
        work()
    except KeyboardInterrupt:
        say("\ninterrupted; the same command goes on where it was")
        raise typer.Exit(130) from None
    except Exception as error:
        refused = _refused_memory(error)
        if refused is not None:
            say(f"error: {_memory_advice(refused)}")
            raise typer.Exit(1) from None
        if not _is_ours(error):
            raise
        say(f"error: {error}")
        raise typer.Exit(2) from None


def refuse_windows() -> None:
    """End a command that writes a run on Windows itself, which has no such locks and does not flush folders."""
    if sys.platform == "win32":
        say("error: forethought runs on Linux, macOS and WSL2 (Windows Subsystem for Linux). Start it inside WSL2")
        raise typer.Exit(1)


def say(line: str) -> None:
    """Print to stderr; paths stay in one piece, whatever the width of the terminal."""
    style = "bold red" if line.startswith("error:") else None
    STDERR.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _show_kernels() -> None:
    """Print which kernels are chosen, each line once: several models may run on the same ones."""
    log = logging.getLogger("forethought.engine.backends")
    if not any(isinstance(handler, _Said) for handler in log.handlers):
        log.addHandler(_Said())
    log.setLevel(logging.INFO)
    log.propagate = False


class _Said(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _say_once(record.getMessage())


@functools.cache
def _say_once(line: str) -> None:
    say(line)


def _is_ours(error: Exception) -> bool:
    return type(error).__module__.startswith("forethought.") or isinstance(error, ConfigError | FloatingPointError)


def _refused_memory(error: Exception) -> BaseException | None:
    """Return what says that memory was refused: ``error``, or what an error of ours was made from, or nothing."""
    # The text of one of ours may quote a server, whose memory is its own matter.
    source = error.__cause__ if _is_ours(error) else error
    refused = isinstance(source, MemoryError) or any(words in str(source).lower() for words in _REFUSED)
    return source if refused else None


def _memory_advice(error: BaseException) -> str:
    """Return which memory was too little, and the ways out."""
    from forethought.report.status import size

    gpu = type(error).__name__ == "OutOfMemoryError" or any(n in str(error) for n in ("CUDA", "MPS", "HIP", "XPU"))
    asked = _ASKED.search(str(error))
    amount = ""
    if asked is not None:
        amount = f" for {size(int(asked[1])) if asked[2] == 'bytes' else f'{asked[1]} {asked[2]}'} more"
    return (
        f"the memory of {'the GPU' if gpu else 'this machine'} is too small{amount}. Lower improve.micro_tokens and "
        "improve.sample_rows (in stages 2 and 3 sft.micro_tokens, rlmt.micro_tokens, rlmt.sample_rows), or take a "
        "smaller policy. Nothing is lost: the same command goes on where it was, and with a lower value the stage that "
        "has it starts over"
    )
