"""What all commands share: where they print, and how they end on an error that the user can fix."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Iterator

import typer

from forethought.config import ConfigError
from forethought.run.progress import STDERR
from forethought.run.terminal import PlainConsole
from forethought.text import printable

out = PlainConsole()

_SHORT = ("out of memory", "allocate memory", "not enough memory", "bad_alloc", "alloc_failed")
"""How torch, CUDA, the system and C++ report that an allocation failed."""
_ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) ([A-Za-z]+)", re.IGNORECASE)


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """End the command with one message, not with a traceback, on an error that the user can fix."""
    lines = logging.StreamHandler()
    lines.setFormatter(_PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[lines])
    log = logging.getLogger("forethought.engine.backends")  # says which kernels are chosen
    if not any(isinstance(handler, _OncePerLine) for handler in log.handlers):
        log.addHandler(_OncePerLine())
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    except KeyboardInterrupt:
        say("\ninterrupted; run the same command again to resume")
        raise typer.Exit(130) from None
    except Exception as error:
        refused = _failed_allocation(error)
        if refused is not None:
            say(f"error: {_memory_advice(refused)}")
            raise typer.Exit(1) from None
        if not _is_ours(error):
            raise
        say(f"error: {error}")
        # 3: not a mistake of the config's; what was done is kept, and the same command goes on.
        raise typer.Exit(getattr(error, "exit_code", 2)) from None


def refuse_windows() -> None:
    """End a command that writes a run on native Windows, which has neither the locks nor the flushed folders."""
    if sys.platform == "win32":
        say("error: forethought runs on Linux, macOS and WSL2 (Windows Subsystem for Linux). Start it inside WSL2")
        raise typer.Exit(1)


def say(line: str) -> None:
    """Print a line on stderr; long lines are not wrapped, so that paths can be copied."""
    STDERR.print(
        line, style="bold red" if line.startswith("error:") else None, markup=False, highlight=False, soft_wrap=True
    )


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _OncePerLine(logging.Handler):
    """Prints each line once: several models may run on the same kernels."""

    def __init__(self) -> None:
        super().__init__()
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if line not in self._printed:
            self._printed.add(line)
            say(line)


def _is_ours(error: Exception) -> bool:
    return type(error).__module__.startswith("forethought.") or isinstance(error, ConfigError | FloatingPointError)


def _failed_allocation(error: Exception) -> BaseException | None:
    """Return the error of a failed allocation: ``error``, or the cause of one of our own errors, or ``None``."""
    # The text of our own error may quote a server that is out of memory, which is not this machine.
    cause = error.__cause__ if _is_ours(error) else error
    text = str(cause).lower()
    return cause if isinstance(cause, MemoryError) or any(words in text for words in _SHORT) else None


def _memory_advice(error: BaseException) -> str:
    from forethought.report.status import size

    text = str(error)
    gpu = type(error).__name__ == "OutOfMemoryError" or any(name in text for name in ("CUDA", "MPS", "HIP", "XPU"))
    more, asked = "", _ASKED.search(text)
    if asked is not None:
        number, unit = asked.groups()
        more = f" for {size(int(number)) if unit == 'bytes' else f'{number} {unit}'} more"
    return (
        f"the memory of {'the GPU' if gpu else 'this machine'} is too small"
        f"{more}. Lower improve.micro_tokens and "
        "improve.sample_rows (in stages 2 and 3 sft.micro_tokens, rlmt.micro_tokens, rlmt.sample_rows), or take a "
        "smaller policy. Nothing is lost: run the same command again to resume; only a stage whose values changed "
        "starts over"
    )
