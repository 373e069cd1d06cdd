"""Carry files to a machine that reaches no index, in pieces over consecutive calls.

Here:   python scripts/carry.py pack PIECES FILE...      split files into numbered pieces, with a manifest
        python scripts/carry.py load PIECES N CARRY      put piece N (and the manifest) into the folder that travels
There:  python scripts/carry.py receive CARRY STAGED     keep the piece; join a file and check its sha256 when whole

Only the standard library is used, so that it runs on both machines before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

PIECE = 56 * 2**20
"""Bytes of one piece; a call carries at most 60 MiB, the working tree included."""


def pack(pieces: Path, files: list[Path]) -> None:
    """Split ``files`` into pieces of one stream, each piece listing the file ranges it holds."""
    shutil.rmtree(pieces, ignore_errors=True)
    pieces.mkdir(parents=True)
    manifest = {file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in files}
    (pieces / "manifest.json").write_text(json.dumps(manifest, indent=1))
    index, room = -1, 0
    for file in files:
        with open(file, "rb") as source:
            while source.tell() < manifest[file.name]["bytes"]:
                if not room:
                    index, room = index + 1, PIECE
                start = source.tell()
                data = source.read(room)
                part = pieces / f"{index:03d}" / f"{file.name}.{start:012d}"
                part.parent.mkdir(exist_ok=True)
                part.write_bytes(data)
                room -= len(data)
    print(f"{len(files)} files in {index + 1} pieces")


def load(pieces: Path, number: int, carry: Path) -> None:
    """Put one piece into ``carry``."""
    shutil.rmtree(carry, ignore_errors=True)
    shutil.copytree(pieces / f"{number:03d}", carry)
    shutil.copy(pieces / "manifest.json", carry)


def receive(carry: Path, staged: Path) -> None:
    """Keep what is in ``carry`` and join what is whole."""
    parts = staged / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    for part in carry.iterdir():
        shutil.move(part, parts / part.name)
    for name, expected in json.loads((parts / "manifest.json").read_text()).items():
        found = sorted(parts.glob(f"{name}.*"))
        if found and sum(part.stat().st_size for part in found) == expected["bytes"]:
            with open(staged / name, "wb") as joined:
                for part in found:
                    joined.write(part.read_bytes())
                    part.unlink()
            if _sha256(staged / name) != expected["sha256"]:
                raise SystemExit(f"{name}: arrived damaged; carry it again")
            print(f"{name}: whole")


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("pack")
    one.add_argument("pieces", type=Path)
    one.add_argument("files", type=Path, nargs="+")
    one.set_defaults(do=lambda a: pack(a.pieces, a.files))
    two = commands.add_parser("load")
    two.add_argument("pieces", type=Path)
    two.add_argument("number", type=int)
    two.add_argument("carry", type=Path)
    two.set_defaults(do=lambda a: load(a.pieces, a.number, a.carry))
    three = commands.add_parser("receive")
    three.add_argument("carry", type=Path)
    three.add_argument("staged", type=Path)
    three.set_defaults(do=lambda a: receive(a.carry, a.staged))
    arguments = parser.parse_args()
    arguments.do(arguments)


if __name__ == "__main__":
    main()
