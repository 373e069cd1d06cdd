"""Puts empty CUDA libraries beside a torch for ARM, whose wheel on PyPI is a CUDA build, so that it can be imported.

    python scripts/cuda_stubs.py SITE

Needs ``readelf`` and ``aarch64-linux-gnu-gcc``.  Nothing in these libraries may be called: tests run on the CPU.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

CUDA = re.compile(r"(cu|nccl|nvshmem|nvml|nvrtc|nvJitLink|nvtx)[A-Za-z]")
"""Beginnings of the names of CUDA's functions."""
LIBRARIES = re.compile(r"lib(cu|nccl|nv)\w*\.so")
"""Names of its libraries."""


def main(site: Path) -> None:
    """Write the libraries that the torch in ``site`` wants and does not bring along."""
    place = site / "torch" / "lib"
    libraries = sorted([*place.glob("*.so*"), *(site / "torch").glob("*.so")])
    brought = {path.name for path in libraries}
    wanted, functions, made = set[str](), set[str](), set[str]()
    for library in libraries:
        wanted |= {name for name in needed(library) if LIBRARIES.match(name)} - brought
        undefined, defined = symbols(library)
        functions |= {name for name in undefined if CUDA.match(name)}
        made |= defined
    for number, name in enumerate(sorted(wanted)):
        build(place / name, sorted(functions - made) if number == 0 else [])
    print(f"{len(wanted)} empty CUDA libraries with {len(functions - made)} functions in {place}")


def needed(library: Path) -> list[str]:
    """Return the names of the libraries that ``library`` asks for."""
    return re.findall(r"\(NEEDED\).*\[(.+)\]", readelf("--dynamic", library))


def symbols(library: Path) -> tuple[set[str], set[str]]:
    """Return the names that ``library`` leaves open, and those that it defines."""
    rows = [line.split() for line in readelf("--dyn-syms", library).splitlines()]
    found = [(row[6] == "UND", row[7].partition("@")[0]) for row in rows if len(row) >= 8 and row[0].endswith(":")]
    return {name for open_, name in found if open_}, {name for open_, name in found if not open_}


def readelf(option: str, library: Path) -> str:
    """Return what ``readelf`` prints of a library."""
    return subprocess.run(["readelf", "--wide", option, library], check=True, capture_output=True, text=True).stdout


def build(path: Path, functions: list[str]) -> None:
    """Compile a library of ``functions`` that do nothing."""
    with tempfile.NamedTemporaryFile("w", suffix=".c") as source:
        source.write("".join(f"int {name}(void) {{ return 1; }}\n" for name in functions))
        source.flush()
        options = ["-shared", "-fPIC", "-nostdlib", "-w", "-fno-builtin", f"-Wl,-soname,{path.name}"]
        subprocess.run(["aarch64-linux-gnu-gcc", *options, "-o", path, source.name], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
