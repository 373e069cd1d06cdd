"""Math-Verify in a process of its own, which is killed when an answer takes it too long.

A completion may hold ``10^{10^{10}}``, which sympy computes in one uninterruptible call.  Signals, which Math-Verify
uses, do not end that, and exist on the main thread only.  A process can be killed, from any thread.

The process reads ``{"gold": ..., "answer": ...}`` lines and answers ``true`` or ``false``.  What it prints otherwise
is thrown away: an error text may quote a problem.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import re
import subprocess
import sys
import threading
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

TIMEOUT = 20.0
"""Seconds until the process is killed; its first answer comes after it has imported sympy."""
LIBRARY_TIMEOUT = 5
"""Seconds that Math-Verify gives itself for one expression."""
MEMORY = 4 << 30
"""Bytes that the process may map, where the system keeps such a limit: Linux does."""
_UNIT = re.compile(
    r"(?:[\d})]|\\pi)\s*"
    r"((?:\s|/|\\[,;:! ]|\\(?:text|textrm|mathrm|mbox)\s*\{[^{}]*\}|(?<!\\)\b[A-Za-z]+|\^\s*\{?-?\d\}?)+)$"
)
_UNITS = {"min": "minute", "sec": "second", "hr": "hour", "in": "inch", "feet": "foot", "inches": "inch"}
"""What sympy calls by another name."""
SMALL = 0.01
"""From here on six decimals are too few."""
LONGEST = 400
"""Characters; no benchmark has a longer answer, and a parser's time grows with it."""


class Verifier:
    """Asks the process, which it starts when it is first needed, and again after a kill."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.timeout = timeout
        self.killed = 0
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def same(self, gold: str, answer: str) -> bool:
        """Return whether two LaTeX or plain expressions are equal; what cannot be decided in time is not."""
        if max(len(gold), len(answer)) > LONGEST:
            return False
        with self._lock:
            return self._ask(json.dumps({"gold": gold, "answer": answer}).encode() + b"\n") == b"true\n"

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError), process:  # what it has not read is still in the pipe
                process.kill()

    def _ask(self, line: bytes) -> bytes:
        """Return the line that answers; nothing if the process ended, or was killed for taking too long."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = _start()
            atexit.register(self.close)
        process, expired = self._process, threading.Event()
        assert process.stdin is not None
        assert process.stdout is not None

        def stop() -> None:
            expired.set()
            process.kill()

        # No select: on Windows it takes no pipes.
        timer = threading.Timer(self.timeout, stop)
        timer.daemon = True
        timer.start()
        try:
            process.stdin.write(line)
            process.stdin.flush()
            reply = process.stdout.readline()
        except OSError:  # the pipe is broken
            reply = b""
        finally:
            timer.cancel()
            # A timer that is just firing must not kill the process of the next question.
            timer.join()
        # Half a line is no answer: the process was killed while it wrote.
        if expired.is_set() or not reply.endswith(b"\n"):
            self.killed += 1
            self.close()
            return b""
        return reply


def _start() -> subprocess.Popen[bytes]:
    # The same interpreter finds the same modules, wherever this one was started.
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", "forethought.evals.reasoning.verifier"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )


def _compare(gold: str, answer: str) -> bool:
    """Return what Math-Verify says: gold first, for its comparison is not symmetric.

    It drops units and bases and rounds to six decimals, so units and bases are compared here where both name one
    that is known, and small numbers once more.
    """
    from math_verify import parse, verify

    # LaTeX is read as such only in a maths environment, which nothing inside may end.
    texts = [text.replace("\\$", "").replace("$", "").strip() for text in (gold, answer)]
    if any(text.count("{") != text.count("}") for text in texts):
        return False
    parsed: list[list[Any]] = [parse(f"$\\boxed{{{text}}}$", parsing_timeout=LIBRARY_TIMEOUT) for text in texts]
    if not all(parsed) or not verify(parsed[0], parsed[1], timeout_seconds=LIBRARY_TIMEOUT):
        return False
    known = [[_base(text) for text in texts], [_unit(text) for text in texts]]
    return all(None in pair or pair[0] == pair[1] for pair in known) and _close(*(one[0] for one in parsed))


def _close(gold: Any, answer: Any) -> bool:
    """Return whether two small numbers differ by little of themselves: Math-Verify rounds to six decimals."""
    try:
        first, second = float(gold), float(answer)
    except (TypeError, ValueError):  # no numbers
        return True
    return max(abs(first), abs(second)) > SMALL or math.isclose(first, second, rel_tol=1e-4)


def _base(text: str) -> int | None:
    """Return the base that a number is written in: ``1010_2``; ``None`` without one."""
    found = re.search(r"\d\s*_\{?(\d+)\}?$", text)
    return int(found[1]) if found else None


def _unit(text: str) -> Any:
    """Return the unit behind a number, in units of the SI; ``None`` if there is none, or none that sympy knows."""
    from sympy.physics import units

    found = _UNIT.search(re.sub(r"\s*\^\s*\{?\s*\\circ\s*\}?|\\degree\b", " degree", text))
    words = re.findall(
        r"\s*(/|per\b|square\b|cubic\b)?\s*([A-Za-z]+)(?:\s*\^\s*\{?(-?\d)\}?)?", _unset(found[1] if found else "")
    )
    product = units.meter / units.meter
    for before, word, power in words:
        known = [getattr(units, name, None) for name in (_UNITS.get(word, word), word.removesuffix("s"))]
        one = next((unit for unit in known if isinstance(unit, units.Quantity)), None)
        if one is None:
            return None
        sign = -1 if before in ("/", "per") else 1
        product *= one ** (sign * int(power or {"square": 2, "cubic": 3}.get(before, 1)))
    base = units.meter, units.kilogram, units.second, units.ampere, units.kelvin, units.mole, units.degree
    return units.convert_to(product, base) if words else None


def _unset(text: str) -> str:
    return re.sub(r"\\(?:text|textrm|mathrm|mbox)\s*\{([^{}]*)\}|\\[,;:!]", r" \1 ", text).replace("\\", " ")


def main() -> None:
    if resource is not None:
        # macOS does not keep this limit, and Windows has none: there, only the caller's timeout ends an answer.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    # Whatever a library prints goes to stderr, which is thrown away; only answers go to the pipe.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    sys.stdout = sys.stderr
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        try:
            same = _compare(asked["gold"], asked["answer"])
        except Exception:  # whatever a parser makes of a model's words, it is no right answer
            same = False
        replies.write(json.dumps(same).encode() + b"\n")


if __name__ == "__main__":
    main()
