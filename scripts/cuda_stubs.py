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

CUDA = re.compile(r"_*(cu|nccl|nvshmem|nvml|nvrtc|nvJitLink|nvtx)[A-Za-z_]")
"""Beginnings of the names of CUDA's functions."""
FUNCTIONS = "libcuda_functions_for_nothing.so"
"""Holds them all."""
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
    # The functions stand in a library that none of their versions names: the loader wants versions where one is named.
    build(place / FUNCTIONS, sorted(functions - made))
    for name in sorted(wanted - {FUNCTIONS}):
        build(place / name, [], place / FUNCTIONS)
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


def build(path: Path, functions: list[str], *with_it: Path) -> None:
    """Compile a library of ``functions`` that do nothing, which loads ``with_it`` from its own folder."""
    with tempfile.NamedTemporaryFile("w", suffix=".c") as source:
        # Everything that is called fails, which torch takes as "there is no GPU"; what names an error gives it a name.
        for name in functions:
            named = name.endswith(("ErrorString", "ErrorName"))
            kind, value = ("const char *", '"no GPU"') if named else ("int ", "100")
            source.write(f"{kind}{name}(void) {{ return {value}; }}\n")
        source.flush()
        options = ["-shared", "-fPIC", "-nostdlib", "-w", "-fno-builtin", f"-Wl,-soname,{path.name}"]
        more = ["-Wl,--no-as-needed", *with_it, "-Wl,-rpath,$ORIGIN"] if with_it else []
        subprocess.run(["aarch64-linux-gnu-gcc", *options, "-o", path, source.name, *more], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
