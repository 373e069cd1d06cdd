"""The kinds of machine that forethought meets, what was recorded of each, and the table of it in docs/machines.md."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import ratio
from forethought.machine import Machine, machine


@dataclass(frozen=True, slots=True)
class Kind:
    """A row of the table."""

    name: str
    """As :attr:`Machine.kind` has it, or a system or GPU."""
    examples: str
    """Which machines those are."""
    dtype: str
    """What ``dtype = "auto"`` means there, by reading."""
    kernels: str
    """The backend that is chosen there, by reading."""


APPLE, NVIDIA, WSL2 = "Apple's processors and GPUs", "NVIDIA GPU", "Windows, inside WSL2"

KINDS = (
    Kind("AMX", "Intel Xeon since 2023", "bfloat16", "amx"),
    Kind("AVX-512 with bf16", "AMD since Zen 4, some Intel Xeon since 2020", "bfloat16", "onednn"),
    Kind("AVX-512", "Intel Xeon of 2017 to 2022, some laptops", "float32", "onednn"),
    Kind("AVX2", "AMD Zen 1 to 3, most Intel since 2013", "float32", "onednn"),
    Kind("x86-64 without AVX2", "older ones", "float32", "torch"),
    Kind("ARM with bf16", "servers since Neoverse V1 and N2", "bfloat16", "torch"),
    Kind("ARM", "Neoverse N1, small boards", "float32", "torch"),
    Kind(APPLE, "M1 and later", "float32", "torch"),
    Kind(NVIDIA, "since Ampere; older ones take float32", "bfloat16", "torch"),
    Kind(WSL2, "Windows itself is refused with one line", "as its processor", ""),
)

NATIVE, HIDDEN, EMULATED = "native", "hidden", "emulated"
"""How a kind was had, best first: a machine of it, another one with features hidden, or an emulator."""

UNRUN = "nobody has run it: by reading only"

MODELS = {"smollm2-135m-instruct": "SmolLM2 135M", "gemma-3-270m": "Gemma 3 270M"}
OPPONENTS = {"generate": "`generate`", "vLLM": "vLLM"}

BEGIN = "<!-- The table is written by `python -m benchmarks machines` from machines.json. Do not edit it. -->"
END = "<!-- End of the table. -->"

Entry = dict[str, Any]
"""``kind``, ``way``, ``place``, ``processor``, ``cores``, ``system``, and what was run: ``sampling``, ``suite``,
``demo``, ``smoke``, each with its own ``date`` and ``source``."""

PARTS = ("suite", "demo", "smoke", "sampling")


class MachinesError(ValueError):
    """What was asked for would put a wrong figure into the table."""


def here(device: str, known: Machine | None = None, flags: frozenset[str] | None = None) -> Entry:
    """Return the entry of this machine, with nothing run on it yet.

    Args:
        device: what computes: ``cpu``, ``cuda``, ``mps``.
        known: this machine, unless another is planted.
        flags: features of its processor, hidden ones included; by default Linux is asked.
    """
    known = known or machine()
    entry: Entry = {"processor": known.processor, "cores": known.cores, "system": known.system}
    if device.startswith("cuda"):
        return {"kind": NVIDIA, "way": NATIVE, "place": "", **entry, "processor": known.cuda}
    if known.system == "Darwin":
        return {"kind": APPLE, "way": NATIVE, "place": "", **entry}
    if "microsoft" in platform.release().lower():
        return {"kind": WSL2, "way": NATIVE, "place": "", **entry}
    real = dataclasses.replace(known, features=_flags() if flags is None else flags).kind
    if "ONEDNN_MAX_CPU_ISA" not in os.environ or real == known.kind:
        return {"kind": known.kind, "way": NATIVE, "place": "", **entry}
    _demand_hidden(known.kind)
    named = real.partition(" with")[0]
    return {"kind": known.kind, "way": HIDDEN, "place": f"an {named} machine with its features hidden", **entry}


def emulated(kind: str) -> Entry:
    """Return the entry of a kind that an emulator on this machine gives."""
    if kind not in [known.name for known in KINDS]:
        raise MachinesError(f"no such kind: {kind}. There are {', '.join(known.name for known in KINDS)}")
    place = f"by emulation on {machine().processor}"
    return {"kind": kind, "way": EMULATED, "place": place, "processor": "", "cores": machine().cores, "system": "Linux"}


def _flags() -> frozenset[str]:
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def _demand_hidden(kind: str) -> None:
    """Have all libraries hide the same: one that still multiplies with AVX-512 would make AVX2 look too fast."""
    needed = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
    missing = [name for name in needed if name not in os.environ] if not kind.startswith(("AVX-512", "AMX")) else []
    if missing:
        raise MachinesError(f"ONEDNN_MAX_CPU_ISA hides features from oneDNN only: set {' and '.join(missing)}, too")


def put(entries: Sequence[Entry], fresh: Entry) -> list[Entry]:
    """Return ``entries`` with ``fresh`` in the place of its own kind and way, in the order of the table.

    What was run before and is not part of ``fresh`` stays if it was the same processor.
    """
    own = [entry for entry in entries if _key(entry) == _key(fresh)]
    same = [entry for entry in own if all(entry[name] == fresh[name] for name in ("processor", "cores", "place"))]
    kept = {part: same[0][part] for part in PARTS if same and part in same[0]}
    others = [entry for entry in entries if _key(entry) != _key(fresh)]
    return sorted([*others, {**fresh, **kept, **{part: fresh[part] for part in PARTS if part in fresh}}], key=_order)


def _key(entry: Entry) -> tuple[str, str]:
    return entry["kind"], entry["way"]


def _order(entry: Entry) -> tuple[int, int]:
    return [kind.name for kind in KINDS].index(entry["kind"]), (NATIVE, HIDDEN, EMULATED).index(entry["way"])


# ---- the table --------------------------------------------------------------------------------------------------


def render(entries: Sequence[Entry]) -> str:
    """Return the table, a row for each kind, and what stands below it."""
    beside = [f"{model} beside {opponent}" for model in MODELS.values() for opponent in OPPONENTS.values()]
    head = ["Kind and processor", "What was run there", "dtype, kernels", *beside, "Suite", "Demo", "Date"]
    chosen = [(kind, _best(entries, kind.name)) for kind in KINDS]
    rows = ["| " + " | ".join(_row(kind, entry)) + " |" for kind, entry in chosen]
    table = "\n".join(["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *rows])
    told = [line for _, entry in chosen if entry for line in _told(entry)]
    return "\n\n".join([table, *(["Where, when and what was checked:\n\n" + "\n".join(told)] if told else [])])


def between(page: str, table: str) -> str:
    """Return ``page`` with ``table`` between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise MachinesError("machines.md has no marks between which the table belongs")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def _best(entries: Sequence[Entry], kind: str) -> Entry | None:
    """Return what was had on a machine of this kind, else with features hidden, else by emulation."""
    own = [entry for entry in entries if entry["kind"] == kind]
    return min(own, key=_order) if own else None


def _row(kind: Kind, entry: Entry | None) -> list[str]:
    if entry is None:
        return [f"{kind.name}: {kind.examples}", UNRUN, _expected(kind), *[""] * 7]
    sampling = entry.get("sampling", {}).get("rows", [])
    return [
        f"{_name(entry)}: {_machine(entry)}" if entry["processor"] else _name(entry),
        _ran(entry),
        _arithmetic(entry) or _expected(kind),
        *(_pair(sampling, model, opponent) for model in MODELS for opponent in OPPONENTS),
        clock(entry["suite"]["seconds"]) if "suite" in entry else "",
        _demo(entry["demo"]) if "demo" in entry else "",
        max((entry[part]["date"] for part in PARTS if part in entry), default=""),
    ]


def _name(entry: Entry) -> str:
    return f"{entry['kind']} ({entry['place']})" if entry["place"] else str(entry["kind"])


def _machine(entry: Entry) -> str:
    return f"{entry['processor']}, cores: {entry['cores']}" + (f", {entry['system']}" if entry["system"] else "")


def _ran(entry: Entry) -> str:
    parts = []
    if "suite" in entry:
        parts.append(f"tests ({entry['suite']['passed']:,} passed)")
    parts += ["demo"] if "demo" in entry else []
    parts += ["benchmarks"] if "sampling" in entry else []
    parts += ["smoke" if parts else "smoke only"] if "smoke" in entry else []
    return ", ".join(parts) or UNRUN


def _expected(kind: Kind) -> str:
    return ", ".join(filter(None, (kind.dtype, kind.kernels)))


def _arithmetic(entry: Entry) -> str:
    known = [entry[part] for part in ("sampling", "demo", "smoke") if "dtype" in entry.get(part, {})]
    return f"{known[0]['dtype']}, {' and '.join(known[0]['kernels'])}" if known else ""


def _pair(rows: Sequence[Mapping[str, Any]], model: str, opponent: str) -> str:
    found = [row for row in rows if row["model"] == model and row["opponent"].split()[0] == opponent]
    if not found:
        return ""
    row = found[-1]
    return f"{row['ours']:.4g} / {row['peer']:.4g}, {row['ratio'][0]:.2f}x" if row["ratio"] else "not compared"


def _demo(demo: Mapping[str, Any]) -> str:
    told = [f"{clock(demo['seconds'])} in its stages"] if "seconds" in demo else []
    told += [f"{clock(demo['elapsed'])} by the clock"] if "elapsed" in demo else []
    return ", ".join(told) + (f" (schedule {demo['schedule']})" if demo.get("schedule") else "")


def clock(seconds: float) -> str:
    """Return minutes and seconds."""
    return f"{int(seconds + 0.5) // 60}:{int(seconds + 0.5) % 60:02d}"


def _told(entry: Entry) -> list[str]:
    """Return a line for every part of an entry: its date, where it comes from, and what was found equal."""
    lines = []
    for part in PARTS:
        if part not in entry:
            continue
        one = entry[part]
        facts = [one["source"], *(f"{name} {version}" for name, version in one.get("versions", {}).items())]
        lines.append(f"- {_name(entry)}, {part}: {one['date']}, {', '.join(facts)}")
        for row in one.get("rows", []):
            said = f"{ratio(row)} of {row['pairs']} pairs; {row['checked']}" if row["ratio"] else row["reason"]
            lines.append(f"  - {row['model']} beside {row['opponent']}: {said}")
    return lines
