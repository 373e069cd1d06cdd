"""``forethought doctor`` says what a machine has, and what is missing is an exit code and a way out."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from forethought.cli import doctor
from forethought.cli.app import app
from forethought.cli.doctor import Check, examine
from forethought.machine import machine


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def faults(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.fault for check in checks if check.fault}


def test_a_machine_that_has_everything(own_cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forethought.pipeline.budget.demo", lambda: "schedule short, about 20 min")
    shown = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    here = machine()
    for word in (here.processor, here.kind, "float32" if here.no_bf16("cpu") else "bfloat16", "about 20 min", "oneDNN"):
        assert word in shown.output
    assert "missing" not in shown.output
    checks = by_name(examine(lambda: "20 min"))
    assert checks["kernels"].said.split(";")[0] in ("amx", "onednn", "torch")
    if not here.features >= {"amx_bf16"}:
        assert "amx not used: this processor has no AMX" in checks["kernels"].said


def test_a_package_that_is_missing_ends_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else there(name))
    checks = examine(lambda: pytest.fail("a demo cannot be planned"))
    assert faults(checks) == {"packages": "pip install pyarrow"}
    assert "kernels" not in by_name(checks)
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 1
    assert "missing: pip install pyarrow" in shown.output


def test_an_older_transformers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    there = doctor.metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "5.9.1" if name == "transformers" else there(name))
    assert "this is 5.9.1" in faults(examine(str))["packages"]


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORETHOUGHT_CACHE", "/proc/nowhere/models")
    assert "set FORETHOUGHT_CACHE to a folder that you own" in faults(examine(str))["cache"]


def test_too_little_memory_and_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "memory", lambda: (2 * 2**30, 2**30))
    monkeypatch.setenv("FORETHOUGHT_CACHE", str(tmp_path))
    usage = doctor.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage._replace(free=2**30))
    found = faults(examine(str))
    assert set(found) == {"memory", "cache"}
    assert "room for converted models" in found["cache"]


def test_native_windows_is_told_where_forethought_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = dataclasses.replace(machine(), system="Windows")
    monkeypatch.setattr(doctor, "machine", lambda: windows)
    assert "WSL2" in faults(examine(str))["machine"]


def test_a_compiler_that_does_not_run_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/bin/false")
    assert "/bin/false does not run" in by_name(examine(str))["compiler"].said
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "/nowhere")
    compiler = by_name(examine(str))["compiler"]
    assert (compiler.said.split(";")[0], compiler.fault) == ("no g++", "")
