"""Processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from helpers.repository import ROOT


def python(*arguments: str | Path, timeout: float = 60) -> str:
    """Run Python in the root of the repository, on one core, and return what it prints; it must end well."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
