"""What all commands share: where they write, and how an error that users can mend ends them."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable

import typer
from rich.console import Console

from forethought.config import ConfigError
from forethought.monitor import Terminal

out = Console()
"""Results."""
err = Terminal(stderr=True)
"""Talk."""

_SHORT = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "alloc_failed")
"""What torch, CUDA, the system and C++ say when memory is refused."""
_ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) ([A-Za-z]+)", re.IGNORECASE)


def guard(work: Callable[[], None]) -> None:
    """Run ``work``; what users can mend ends as one message, not as a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    _tell_kernels()
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
    """End a command that writes a run on Windows itself: locks and flushed folders are not to be had there."""
    if sys.platform == "win32":
        say("error: forethought runs on Linux, macOS and WSL2 (Windows Subsystem for Linux). Start it inside WSL2")
        raise typer.Exit(1)


def say(line: str) -> None:
    """Tell the user; paths stay in one piece, whatever the width of the terminal."""
    err.print(
        line, style="bold red" if line.startswith("error:") else None, markup=False, highlight=False, soft_wrap=True
    )


class _Telling(logging.Handler):
    """Says each line once: several models may run on the same kernels."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Say the record's message, unless it was said."""
        line = record.getMessage()
        if line not in self._told:
            self._told.add(line)
            say(line)


def _tell_kernels() -> None:
    """Say which kernels are chosen."""
    log = logging.getLogger("forethought.engine.backends")
    if not any(isinstance(handler, _Telling) for handler in log.handlers):
        log.addHandler(_Telling())
    log.setLevel(logging.INFO)
    log.propagate = False


def _is_ours(error: Exception) -> bool:
    return type(error).__module__.startswith("forethought.") or isinstance(error, ConfigError | FloatingPointError)


def _refused_memory(error: Exception) -> BaseException | None:
    """Return what says that memory was refused: ``error``, or what an error of ours was made from, or nothing."""
    # The text of one of ours may quote a server, whose memory is its own matter.
    found = error.__cause__ if _is_ours(error) else error
    said = str(found).lower()
    return found if isinstance(found, MemoryError) or any(words in said for words in _SHORT) else None


def _memory_advice(error: BaseException) -> str:
    """Return which memory was too little, and the ways out."""
    said = str(error)
    gpu = type(error).__name__ == "OutOfMemoryError" or any(name in said for name in ("CUDA", "MPS", "HIP", "XPU"))
    asked = _ASKED.search(said)
    return (
        f"the memory of {'the GPU' if gpu else 'this machine'} is too small"
        f"{f' for {_amount(*asked.groups())} more' if asked else ''}. Lower improve.micro_tokens and "
        "improve.sample_rows (in stages 2 and 3 sft.micro_tokens, rlmt.micro_tokens, rlmt.sample_rows), or take a "
        "smaller policy. Nothing is lost: the same command goes on where it was, and with a lower value the stage that "
        "has it starts over"
    )


def _amount(number: str, unit: str) -> str:
    from forethought.report.status import size

    return size(int(number)) if unit == "bytes" else f"{number} {unit}"
