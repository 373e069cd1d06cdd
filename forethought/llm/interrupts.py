"""What was paid is kept: Ctrl-C ends requests at once, and is raised after the cache has stored what was answered."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from contextvars import ContextVar
from typing import Any

JOIN_SECONDS = 1.0
"""How long an interrupted call waits for its connections to close."""

_held: ContextVar[list[BaseException] | None] = ContextVar("held", default=None)


@contextlib.contextmanager
def stored_first() -> Iterator[None]:
    """Hold what :func:`raise_or_hold` is given until the end of the (outermost) block, which stores what is known."""
    if _held.get() is not None:
        yield
        return
    held: list[BaseException] = []
    token = _held.set(held)
    try:
        yield
    finally:
        _held.reset(token)
        if held:  # comes before whatever it led to
            raise held[0]


def raise_or_hold(error: BaseException) -> None:
    """Raise ``error``: at once, or where a cache waits for the rest of its batch, after that is stored."""
    held = _held.get()
    if held is None:
        raise error
    held.append(error)


def holding() -> bool:
    """Whether an error is held: no request is to be sent any more."""
    return bool(_held.get())


def in_thread(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` to its end; an interrupt cancels it, and waits for its connections no longer than a moment.

    In a thread of its own: the caller's may have an event loop already, as in a notebook.
    """
    loop = asyncio.new_event_loop()
    failed: list[BaseException] = []
    task = loop.create_task(work)

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        except BaseExceptionGroup as error:
            failed.append(error.exceptions[0])
        except BaseException as error:
            failed.append(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    thread = threading.Thread(target=run, name="forethought requests", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        with contextlib.suppress(RuntimeError):  # it has just ended
            loop.call_soon_threadsafe(task.cancel)
        thread.join(JOIN_SECONDS)
        raise
    if failed:
        raise failed[0]
