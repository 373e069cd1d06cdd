"""The arithmetic that machines of all kinds get, by planted capabilities; and runs that go on elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from forethought import models
from forethought.config import ConfigError, build, load
from forethought.machine import Machine, MachineError, dtype_for, machine, visible
from forethought.models import ModelError, resolve_device, resolve_dtype
from forethought.pipeline import runner
from forethought.pipeline.runner import settled
from forethought.run.store import Run

AVX2 = frozenset({"avx", "avx2", "fma3"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
BF16 = AVX512 | {"avx512_bf16"}
AMX = BF16 | {"amx_tile", "amx_bf16", "amx_int8"}
NONE = "oneDNN does not multiply in it on this processor"


def planted(architecture: str, features: frozenset[str] = frozenset(), fault: str = "", **more: object) -> Machine:
    given = {"system": "Linux", "processor": "planted", "cores": 2, "architecture": architecture, **more}
    return Machine(features=features, bf16_fault=fault, **given)  # type: ignore[arg-type]


NO_ONEDNN = "this torch has no oneDNN"
MACHINES = [
    ("AMX server (Sapphire Rapids)", planted("x86_64", AMX), "cpu", "AMX", "bfloat16"),
    ("AVX-512 bf16 server (Zen 5, Cooper Lake)", planted("x86_64", BF16), "cpu", "AVX-512 with bf16", "bfloat16"),
    # oneDNN multiplies there by emulation, slower than in float32: a small product alone does not tell.
    ("AVX-512 server without bf16 (Skylake)", planted("x86_64", AVX512), "cpu", "AVX-512", "float32"),
    ("AVX2 desktop (Zen 3, Haswell)", planted("x86_64", AVX2, NONE), "cpu", "AVX2", "float32"),
    ("before AVX2 (Ivy Bridge)", planted("x86_64", frozenset({"avx"}), NONE), "cpu", "x86-64 without AVX2", "float32"),
    ("AMX in a torch without oneDNN", planted("x86_64", AMX, NO_ONEDNN), "cpu", "AMX", "float32"),
    ("AMX whose products come out wrong", planted("x86_64", AMX, "products are off by 30%"), "cpu", "AMX", "float32"),
    ("ARM server with bf16 (Graviton 3)", planted("arm64"), "cpu", "ARM with bf16", "bfloat16"),
    ("ARM board without bf16 (Raspberry Pi 4)", planted("arm64", fault=NONE), "cpu", "ARM", "float32"),
    ("Mac, processor", planted("arm64", fault=NO_ONEDNN, system="Darwin", mps=True), "cpu", "ARM", "float32"),
    ("Mac, its GPU", planted("arm64", system="Darwin", mps=True), "mps", "ARM with bf16", "float32"),
    ("Intel Mac", planted("x86_64", AVX2, NONE, system="Darwin"), "cpu", "AVX2", "float32"),
    ("Windows laptop", planted("x86_64", AVX2, NONE, system="Windows"), "cpu", "AVX2", "float32"),
    ("H100", planted("x86_64", AMX, cuda="H100", cuda_bf16=True), "cuda", "AMX", "bfloat16"),
    ("V100, which has no bf16", planted("x86_64", AVX512, NONE, cuda="V100"), "cuda", "AVX-512", "float32"),
    ("RISC-V board", planted("riscv64", fault=NONE), "cpu", "riscv64", "float32"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("here", "device", "kind", "dtype"), [row[1:] for row in MACHINES], ids=[r[0] for r in MACHINES]
)
def test_every_kind_gets_the_arithmetic_that_it_has(here: Machine, device: str, kind: str, dtype: str) -> None:
    assert here.kind == kind
    assert dtype_for("auto", device, here) == dtype
    assert dtype_for("float32", device, here) == "float32"
    if dtype == "bfloat16":
        assert dtype_for("bfloat16", device, here) == "bfloat16"
        return
    with pytest.raises(MachineError, match=r'dtype = "bfloat16": .+ Write dtype = "auto" or "float32"'):
        dtype_for("bfloat16", device, here)


@pytest.mark.parametrize(
    ("isa", "kind"),
    [
        *[("", "AMX"), ("ALL", "AMX"), ("AVX512_CORE_BF16", "AVX-512 with bf16"), ("AVX512_CORE", "AVX-512")],
        *[("AVX2", "AVX2"), ("avx2_vnni", "AVX2"), ("SSE41", "x86-64 without AVX2")],
    ],
)
def test_what_is_hidden_from_onednn_is_not_there(isa: str, kind: str) -> None:
    assert planted("x86_64", visible(set(AMX), {"ONEDNN_MAX_CPU_ISA": isa})).kind == kind


def test_this_machine_computes_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine()
    assert here.cores >= 1
    assert here.processor
    dtype = resolve_dtype("auto", torch.device("cpu"))
    assert dtype is (torch.float32 if here.no_bf16("cpu") else torch.bfloat16)
    from forethought import machine as module

    def refused(*_: object) -> torch.Tensor:
        raise RuntimeError("needs another processor\nand more words")

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refused)
    assert module._bf16_fault() == "oneDNN does not multiply in it here: needs another processor"
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda weight, rows: weight)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda x, weight, *_: x @ weight.T * 1.05)
    assert "off by 5%" in module._bf16_fault()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mps", "sees no Apple GPU here. Use auto or cpu"),
        ("xpu", "forethought does not support this kind of device; write auto, cpu, cuda, cuda:N or mps"),
        ("gpu", "write auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_a_device_that_is_not_there_is_an_error(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ModelError, match=message):
        resolve_device(name)


def smoke(dtype: str):
    return load("smoke", [f"dtype={dtype}"])


def on(monkeypatch: pytest.MonkeyPatch, here: Machine) -> None:
    monkeypatch.setattr("forethought.machine.machine", lambda: here)
    monkeypatch.setattr(runner, "machine", lambda: here)


def test_a_run_keeps_the_arithmetic_that_it_was_begun_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Begun in one kind of arithmetic, gone on with on a machine of another kind, and of one that lacks it."""
    server, desktop = (planted("x86_64", features, fault) for features, fault in ((AMX, ""), (AVX2, NONE)))
    on(monkeypatch, server)
    config = settled(smoke("auto"), tmp_path)
    assert config.dtype == "bfloat16"
    Run(tmp_path).save_config(config.model_dump(mode="json"))
    assert settled(smoke("auto"), tmp_path).dtype == "bfloat16"
    on(monkeypatch, desktop)
    with pytest.raises(
        MachineError, match=r"was begun in bfloat16, and this processor \(planted, AVX2\) does not"
    ) as refused:
        settled(smoke("auto"), tmp_path)
    assert "--run" in str(refused.value)
    assert "--set dtype=float32" in str(refused.value)
    assert settled(smoke("float32"), tmp_path).dtype == "float32"  # the way out that it names
    assert settled(smoke("auto"), tmp_path / "elsewhere").dtype == "float32"
    Run(tmp_path).save_config(settled(smoke("float32"), tmp_path).model_dump(mode="json"))
    on(monkeypatch, server)
    assert settled(smoke("auto"), tmp_path).dtype == "float32"  # this one can do both: it goes on in float32
    on(monkeypatch, desktop)
    with pytest.raises(MachineError, match='dtype = "bfloat16"'):
        settled(smoke("bfloat16"), tmp_path)


def test_runs_of_older_versions_keep_their_bfloat16(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    on(monkeypatch, planted("x86_64", AMX))
    kept = smoke("bfloat16").model_dump(mode="json", exclude={"engine"})
    (tmp_path / "run.json").write_text(json.dumps({"version": "0.0.1", "config": kept}))
    assert settled(build(kept), tmp_path).dtype == "bfloat16"
    assert settled(smoke("auto"), tmp_path).dtype == "bfloat16"


def test_other_words_for_dtype_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"dtype: .*'auto', 'bfloat16' or 'float32'.*\(got 'fp16'\)"):
        smoke("fp16")


def test_nothing_else_asks_the_processor() -> None:
    """One seam: whoever wants to know what is there asks forethought.machine."""
    asking = ("cpuinfo", "_is_mkldnn_bf16", "get_cpu_capability", "is_bf16_supported", "get_capabilities")
    root = Path(models.__file__).parents[1]
    found = [
        str(path.relative_to(root)) for path in root.rglob("*.py") if any(word in path.read_text() for word in asking)
    ]
    assert found == ["machine.py"]
