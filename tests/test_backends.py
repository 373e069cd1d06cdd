"""Which kernels are chosen, that wrong ones are refused, and that whatever is missing is a reason and no crash."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.dtypes import DTYPES
from helpers.engine import ARCHITECTURES, DPO, flat, ids, make_trainer, model_of, pairs, ragged_groups
from helpers.small_disk import on_small_disk
from torch.utils._python_dispatch import TorchDispatchMode

from forethought.engine import head as heads
from forethought.engine import sampler as sampling_module
from forethought.engine.backends import BackendError, amx, amx_library, onednn
from forethought.engine.backends import select as select_function
from forethought.engine.backends.onednn import FusedLayer, Norm, OneDNNBackend, PackedHead
from forethought.engine.backends.selection import MAX_RELATIVE_ERROR, VARIABLE, forget, largest_relative_error
from forethought.engine.branches import Prompt, Sampling, Thinking
from forethought.engine.policy import Policy
from forethought.engine.sampler import TorchSampler
from forethought.engine.scorer import TorchScorer
from forethought.keys import Key
from forethought.testing import tiny_model

KEY = Key(0, "test")
PROMPTS = [Prompt(id="a", token_ids=ids(0, 30)), Prompt(id="b", token_ids=ids(1, 4))]


@pytest.fixture(autouse=True)
def forget_choices(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(OneDNNBackend, "why_not_default", classmethod(lambda kind: ""))  # on processors of any kind
    forget()
    yield
    forget()


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "qwen2"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_best_backend_is_chosen_and_the_line_says_why(architecture: str, dtype: torch.dtype) -> None:
    policy = Policy(model_of(architecture, 32).to(dtype))
    unfit = amx.AMXBackend.why_unavailable(policy.model)
    expected = f"kernels: onednn; amx not used: {unfit}" if unfit else "kernels: amx"
    assert str(policy.kernels) == expected
    assert policy.backend.name == ("onednn" if unfit else "amx")
    assert policy.kernels.error < MAX_RELATIVE_ERROR[dtype]


def test_a_backend_can_be_forced_by_config_and_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    assert Policy(model, "torch").backend.name == "torch"
    monkeypatch.setenv(VARIABLE, "torch")
    assert Policy(model).backend.name == "torch"
    assert Policy(model, "onednn").backend.name == "onednn"  # the config's word comes first
    monkeypatch.setenv(VARIABLE, "abacus")
    with pytest.raises(BackendError, match=r"engine.backend = 'abacus': choose one of auto, amx, onednn, torch"):
        _ = Policy(model).backend
    with pytest.raises(BackendError, match=r'engine.backend: amx: .+ Write engine.backend = "auto"'):
        _ = Policy(model, "amx").backend  # float32, whatever the processor


def test_a_choice_is_made_once_for_models_of_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    monkeypatch.setattr(
        "forethought.engine.backends.selection.largest_relative_error",
        lambda backend: compared.append(backend.name) or 0.0,
    )
    for _ in range(3):
        assert Policy(tiny_model("llama")).backend.name == "onednn"
    assert compared == ["onednn"]
    assert Policy(tiny_model("gemma3")).backend.name == "onednn"
    assert compared == ["onednn"] * 2


@pytest.mark.parametrize(("features", "chosen"), [({"avx2"}, "onednn"), ({"avx"}, "torch")])
def test_fused_layers_are_chosen_where_they_were_seen_to_pay(
    features: set[str], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    here = dataclasses.replace(onednn.machine(), features=frozenset(features))
    monkeypatch.setattr(onednn, "machine", lambda: here)
    policy = Policy(tiny_model("llama"))
    assert policy.backend.name == chosen
    if chosen == "torch":
        assert "only with AVX2" in policy.kernels.reasons["onednn"]
        assert Policy(tiny_model("llama"), "onednn").backend.name == "onednn"  # whoever asks for it gets it


def without_residual(layer: FusedLayer, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
    return RIGHT_REST(layer, x, attended) - x


def overwriting(norm: Norm, x: torch.Tensor) -> torch.Tensor:
    """What the norm did in float32: the residual stream became its own norm."""
    exact = x.float()
    size = torch.linalg.vector_norm(exact, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(norm.eps)
    return exact.mul_(size.rsqrt_()).mul_(norm.scale).to(x.dtype)


def unturned(layer: FusedLayer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return RIGHT_HEADS(layer, x, cos, torch.zeros_like(sin))


def shifted(head: PackedHead, hidden: torch.Tensor) -> Any:
    for stretch, logits in RIGHT_PRODUCTS(head, hidden):
        yield stretch, logits.roll(1, -1)


def a_little_off(norm: Norm, x: torch.Tensor) -> torch.Tensor:
    """Wrong by 5% in bfloat16, by one in a thousand in float32: more than rounding, much less than a wrong formula."""
    return RIGHT_NORM(norm, x) * (1.05 if x.dtype == torch.bfloat16 else 1.001)


RIGHT_REST, RIGHT_HEADS, RIGHT_NORM = FusedLayer._rest, FusedLayer._heads, Norm.__call__
RIGHT_PRODUCTS = PackedHead._products
WRONG: list[tuple[type, str, Callable[..., Any]]] = [
    (FusedLayer, "_rest", without_residual),
    (FusedLayer, "_heads", unturned),
    (Norm, "__call__", a_little_off),
    (PackedHead, "_products", shifted),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("kind", "name", "wrong"), WRONG, ids=[wrong.__name__ for _, _, wrong in WRONG])
def test_a_kernel_that_computes_something_else_is_refused(
    kind: type, name: str, wrong: Callable[..., Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama").to(dtype)
    assert largest_relative_error(OneDNNBackend(Policy(model).model)) < MAX_RELATIVE_ERROR[dtype] / 2
    monkeypatch.setattr(kind, name, wrong)
    assert largest_relative_error(OneDNNBackend(model)) > MAX_RELATIVE_ERROR[dtype]
    forget()
    policy = Policy(model)
    assert policy.backend.name == "torch"
    assert "its results differ from those of plain torch" in policy.kernels.reasons["onednn"]
    with pytest.raises(BackendError, match="differ"):
        select_function(model, "onednn")


def test_a_norm_that_overwrites_the_residual_stream_is_refused_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Policy(tiny_model("gemma3")).model
    monkeypatch.setattr(Norm, "__call__", overwriting)
    assert largest_relative_error(OneDNNBackend(model)) > MAX_RELATIVE_ERROR[torch.float32]


def test_not_a_number_is_no_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Policy(tiny_model("llama")).model
    monkeypatch.setattr(FusedLayer, "_rest", lambda layer, x, attended: x * torch.nan)
    assert largest_relative_error(OneDNNBackend(model)) == float("inf")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_of_all_backends_are_the_models_own(architecture: str) -> None:
    found = {
        name: flat(TorchScorer(Policy(tiny_model(architecture), name)), ragged_groups()) for name in ("torch", "onednn")
    }
    np.testing.assert_allclose(found["onednn"], found["torch"], atol=2e-5)
    trained = flat(TorchScorer(Policy(tiny_model(architecture)), as_trained=True), ragged_groups())
    np.testing.assert_allclose(found["torch"], trained, atol=2e-5)


def test_without_onednn_the_models_own_modules_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    policy = Policy(tiny_model("llama"))
    assert policy.backend.name == "torch"
    assert policy.kernels.reasons["onednn"] == "this torch has no oneDNN"
    assert len(TorchSampler(policy).sample(PROMPTS, 2, Sampling(max_tokens=3), KEY)) == 2


def test_new_weights_are_told_to_the_backend() -> None:
    trainer = make_trainer(peak=0.05)
    told: list[str] = []
    trainer.policy.backend.weights_changed = lambda: told.append("changed")  # type: ignore[method-assign]
    trainer.step(pairs(), DPO, step=0, normaliser=4)
    assert told == ["changed"]


# The kernels of amx.cpp: what is missing on the way to them; what they compute is in test_amx.py.


@pytest.fixture
def with_amx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A processor with AMX, as far as words go, and an empty cache."""
    here = dataclasses.replace(amx_library.machine(), system="Linux", features=amx_library.NEEDED)
    monkeypatch.setattr(amx_library, "machine", lambda: here)
    monkeypatch.setenv("FORETHOUGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path


def script(folder: Path, text: str) -> str:
    path = folder / "compiler"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 0\n{text}\n')
    path.chmod(0o755)
    return str(path)


def test_without_a_compiler_there_is_a_reason(with_amx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(with_amx))
    assert amx_library.kernels.__wrapped__() == "there is no C++ compiler (g++)"


def test_a_compiler_that_fails_is_named_with_its_error(with_amx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = script(with_amx, "echo 'x.cpp:1: error: no such thing' >&2\nexit 1")
    monkeypatch.setenv("CXX", broken)
    assert amx_library.kernels.__wrapped__() == f"{broken} does not compile its kernels: x.cpp:1: error: no such thing"
    assert list((with_amx / "cache" / "kernels").iterdir()) == []
    monkeypatch.setenv("CXX", str(with_amx / "nowhere"))
    assert "No such file" in str(amx_library.kernels.__wrapped__())
    monkeypatch.setenv("CXX", "/bin/false")
    assert "/bin/false does not compile its kernels" in str(amx_library.kernels.__wrapped__())


def test_a_cache_that_cannot_be_written_is_a_reason(with_amx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", script(with_amx, "exit 0"))
    monkeypatch.setenv("FORETHOUGHT_CACHE", "/proc/nowhere")
    assert "its kernels cannot be stored or loaded" in str(amx_library.kernels.__wrapped__())


def test_a_compiler_that_writes_no_library_is_a_reason(with_amx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a full disk leaves: a file that is none."""
    monkeypatch.setenv("CXX", script(with_amx, 'while [ "$1" != -o ]; do shift; done; echo torn > "$2"'))
    assert "its kernels cannot be stored or loaded" in str(amx_library.kernels.__wrapped__())


COMPILED = """
import dataclasses, os, pathlib, sys
os.environ["FORETHOUGHT_CACHE"], os.environ["CXX"] = sys.argv[1], "g++"
from forethought.engine.backends import amx_library
here = dataclasses.replace(amx_library.machine(), system="Linux", features=amx_library.NEEDED)
amx_library.machine = lambda: here
print(amx_library.kernels(), [path.suffix for path in pathlib.Path(sys.argv[1], "kernels").glob("*")])
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="cannot be shown on this machine: there is no g++")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="cannot be shown on this machine: it is not x86-64")
@pytest.mark.parametrize(
    ("options", "reason", "left"),
    [
        ("noexec,size=8m", "its kernels cannot be stored or loaded", [".so"]),  # compiled, and the system loads nothing
        ("size=8k", "its kernels", []),  # the compiler's own words, or the system's
        ("ro", "its kernels cannot be stored or loaded", []),
    ],
)
def test_a_disk_that_cannot_hold_or_run_kernels_is_a_reason(
    options: str, reason: str, left: list[str], tmp_path: Path
) -> None:
    shown = on_small_disk(tmp_path, options, COMPILED, str(tmp_path))
    assert shown.returncode == 0, shown.stderr
    assert reason in shown.stdout
    assert shown.stdout.endswith(f"{left}\n")


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
def test_kernels_that_others_may_write_are_not_loaded(with_amx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", script(with_amx, 'while [ "$1" != -o ]; do shift; done; echo x > "$2"'))
    folder = with_amx / "cache" / "kernels"
    library = amx_library._built(os.environ["CXX"])
    assert library.parent == folder
    assert (library.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o700, 0o700)
    folder.chmod(0o777)
    assert "must be owned by you and writable by nobody else" in str(amx_library.kernels.__wrapped__())
    folder.chmod(0o700)
    library.chmod(0o720)
    assert f"{library} must be owned by you" in str(amx_library.kernels.__wrapped__())
    library.unlink()
    library.symlink_to(with_amx / "compiler")
    assert f"{library} must be owned by you" in str(amx_library.kernels.__wrapped__())
    library.unlink()
    (folder / "planted").write_text("")
    monkeypatch.setattr(amx_library.os, "getuid", lambda: 4711)
    assert f"{folder} must be owned by you" in str(amx_library.kernels.__wrapped__())


def test_another_processor_or_source_is_another_library(with_amx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual machine that was moved, and a version that was updated, compile theirs."""
    compiler = script(with_amx, 'while [ "$1" != -o ]; do shift; done; echo x > "$2"')
    first, here = amx_library._built(compiler), amx_library.machine()
    assert amx_library._built(compiler) == first
    monkeypatch.setattr(
        amx_library, "machine", lambda: dataclasses.replace(here, features=here.features | {"amx_fp16"})
    )
    assert amx_library._built(compiler) != first
    monkeypatch.setattr(amx_library, "machine", lambda: here)
    changed = with_amx / "amx.cpp"
    changed.write_text(amx_library.SOURCE.read_text() + "// changed\n")
    monkeypatch.setattr(amx_library, "SOURCE", changed)
    assert amx_library._built(compiler) != first


class NoFloat64(TorchDispatchMode):
    """Refuses float64 tensors, as Apple's GPUs do; what comes from numpy is cast on the CPU, before it leaves."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.lift_fresh.default:
            return made
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float64:
                raise TypeError(f"{function}: there is no float64 on this device")
        return made


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_float64_is_needed_where_there_is_none(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampling, thinking, scoring and a training step, as on Apple's GPUs."""
    for module in (heads, sampling_module):
        monkeypatch.setattr(module, "widest", lambda device: torch.float32)
    monkeypatch.setattr("forethought.engine.backends.selection.widest", lambda device: torch.float32)
    trainer = make_trainer(architecture)
    sampler, sampling = TorchSampler(trainer.policy), Sampling(max_tokens=6)
    thinking = Thinking(max_tokens=5, close_ids=(251,), closed=lambda tokens: tokens[-1] % 7 == 0)
    with NoFloat64():
        drawn = sampler.sample(PROMPTS, 3, sampling, KEY)
        assert len(sampler.think(PROMPTS, 3, thinking, sampling, KEY)) == len(drawn) == 2
        assert np.isfinite(flat(TorchScorer(trainer.policy), ragged_groups())).all()
        trainer.step(pairs(), DPO, step=0, normaliser=4)
    with NoFloat64(), pytest.raises(TypeError, match="no float64"):
        torch.ones(2, dtype=torch.float64)
    assert heads.widest.__name__ == "<lambda>"
    monkeypatch.undo()
    assert heads.widest(torch.device("mps")) is torch.float32
    assert heads.widest(torch.device("cpu")) is torch.float64
