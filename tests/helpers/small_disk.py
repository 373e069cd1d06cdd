"""A disk of a few KiB, or one that cannot be written to, mounted for one process alone and gone with it."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@functools.cache
def _mountable() -> bool:
    unshare = shutil.which("unshare")
    return sys.platform == "linux" and unshare is not None and not _unshared("mount -t tmpfs tmpfs /mnt").returncode


def _unshared(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Mounts of a namespace of its own are seen by nobody else; mapped to root, any user may make them.
    shell = ["unshare", "--mount", "--map-root-user", "sh", "-c", command, "sh"]
    return subprocess.run([*shell, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)


def on_small_disk(folder: Path, options: str, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python's ``code`` where ``folder`` is a disk of these mount options (``size=12k``, ``ro``)."""
    if not _mountable():
        pytest.skip("no disk can be mounted here: it takes Linux, and root or user namespaces")
    command = 'mount -t tmpfs -o "$1" tmpfs "$2" && shift 2 && exec "$@"'
    return _unshared(command, options, str(folder), sys.executable, "-c", code, *arguments)
