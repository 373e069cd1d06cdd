"""Freed memory stays with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource
from forethought.engine.heap import keep_freed_memory, release
{call}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b'x' * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
{then}
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a matter of glibc")
def test_a_large_object_gets_the_pages_of_the_one_before() -> None:
    def faults(call: str, then: str = "") -> int:
        done = subprocess.run(
            [sys.executable, "-c", CODE.format(call=call, then=then)], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert faults("") > 10_000  # 64 MiB in pages of 4 KiB
    assert faults("assert keep_freed_memory()") < 100
    assert faults("assert keep_freed_memory()", "release()") > 10_000
