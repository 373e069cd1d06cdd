"""The checksum at the end of each row of a log: a bit that the disk turned is noticed when the row is read."""

from __future__ import annotations

import re
import zlib

_CHECKSUM = re.compile(rb'(?:, )?"crc32": "([0-9a-f]{8})"\}\n')
_LONGEST = len(b', "crc32": "00000000"}\n')


def sealed(line: bytes) -> bytes:
    """Return a line that holds a JSON object with its CRC-32 as the last key, ``crc32``."""
    if not line.endswith(b"}\n"):
        return line
    comma = b"" if line == b"{}\n" else b", "
    return line[:-2] + comma + b'"crc32": "%08x"}\n' % zlib.crc32(line)


def unsealed(line: bytes) -> tuple[bytes, bool]:
    """Return a line as it was before :func:`sealed`, and whether it has a checksum; older logs have none.

    Raises:
        ValueError: if the line is not what was written.
    """
    end = max(0, len(line) - _LONGEST)
    found = _CHECKSUM.search(line, end)
    if found is None or found.end() != len(line):
        return line, False
    row = line[: found.start()] + b"}\n"
    if zlib.crc32(row) != int(found[1], 16):
        raise ValueError("its checksum does not match: a part of it has changed since it was written")
    return row, True
