"""The table of machines: an entry per kind, figures from files and runs only, and nothing taken for what it is not."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import kinds, machines, sampling
from benchmarks.kinds import HIDDEN, NATIVE, MachinesError
from benchmarks.vllm_worker import hide
from forethought.machine import Machine, machine

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"

AVX2 = frozenset({"avx2"})
ZEN5 = AVX2 | {"avx512f", "avx512_bf16"}

HIDING = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


def planted(features: frozenset[str], system: str = "Linux", cuda: str = "") -> Machine:
    return Machine(system=system, architecture="x86_64", processor="a processor", cores=2, features=features, cuda=cuda)


def entry(kind: str, way: str = NATIVE, processor: str = "a processor", **parts: Any) -> kinds.Entry:
    place = "an AVX-512 machine with its features hidden" if way == HIDDEN else ""
    return {"kind": kind, "way": way, "place": place, "processor": processor, "cores": 2, "system": "Linux", **parts}


def timed(ours: float, model: str = "gemma-3-270m", opponent: str = "vLLM 0.32.0") -> dict[str, Any]:
    row = {"model": model, "opponent": opponent, "ours": ours, "peer": 50.0, "unit": "tokens/s", "reason": ""}
    row |= {"ratio": [ours / 50, 1.0, 9.0], "pairs": 3, "checked": "all equal", "what": "w"}
    return {
        "date": "2026-01-02",
        "source": "s",
        "dtype": "float32",
        "kernels": ["onednn"],
        "versions": {},
        "rows": [row],
    }


def cells(table: str, start: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_page_holds_the_table_of_its_json() -> None:
    entries = machines.read(DOCS)
    page = (DOCS / "machines.md").read_text()
    assert kinds.between(page, kinds.render(entries)) == page
    assert len({(one["kind"], one["way"]) for one in entries}) == len(entries)


def test_every_kind_has_a_row_and_those_that_nobody_ran_say_so() -> None:
    table = kinds.render([entry("AVX2", sampling=timed(150.0))])
    names = [kind.name for kind in kinds.KINDS]
    assert len(names) == 10
    for name in names:
        row = cells(table, f"{name}:")
        assert len(row) == 10
        assert (row[1] == "nobody has run it: by reading only") == (name != "AVX2")
        assert all(not cell for cell in row[3:]) == (name != "AVX2")
    assert cells(table, "AVX2:")[1:] == [
        "benchmarks",
        "float32, onednn",
        *[""] * 3,
        "150 / 50, 3.00x",
        "",
        "",
        "2026-01-02",
    ]
    assert "  - gemma-3-270m beside vLLM 0.32.0: 3.00x [1.00, 9.00] of 3 pairs; all equal" in table


def test_a_run_replaces_the_entry_of_its_own_kind_and_no_other() -> None:
    others = [entry("AMX", sampling=timed(1.0)), entry("AVX2", HIDDEN, sampling=timed(2.0)), entry("ARM")]
    before = copy.deepcopy(others)
    first = kinds.put(others, entry("AVX2", sampling=timed(3.0)))
    again = kinds.put(first, entry("AVX2", sampling=timed(4.0)))
    assert others == before
    assert [(one["kind"], one["way"]) for one in again] == [
        ("AMX", "native"),
        ("AVX2", "native"),
        ("AVX2", "hidden"),
        ("ARM", "native"),
    ]
    assert [one for one in again if one not in before] == [entry("AVX2", sampling=timed(4.0))]
    assert all(one in again for one in before)


def test_what_the_same_processor_did_before_stays_and_what_another_did_goes() -> None:
    suite = {"date": "2026-01-01", "source": "s", "passed": 1898, "seconds": 819.0}
    known = [entry("AVX2", suite=suite)]
    assert kinds.put(known, entry("AVX2", sampling=timed(3.0))) == [entry("AVX2", suite=suite, sampling=timed(3.0))]
    other = entry("AVX2", processor="another", sampling=timed(3.0))
    assert kinds.put(known, other) == [other]


def test_hidden_features_stand_in_the_row_until_a_real_machine_comes() -> None:
    hidden = entry("AVX2", HIDDEN, sampling=timed(100.0))
    table = kinds.render([hidden])
    assert cells(table, "AVX2")[0].startswith("AVX2 (an AVX-512 machine with its features hidden): a processor")
    both = kinds.render(kinds.put([hidden], entry("AVX2", sampling=timed(150.0))))
    assert cells(both, "AVX2")[6] == "150 / 50, 3.00x"
    assert "hidden" not in both


def test_the_kind_is_what_is_left_when_features_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in HIDING:
        monkeypatch.delenv(name, raising=False)
    assert kinds.here("cpu", planted(ZEN5), ZEN5)["kind"] == "AVX-512 with bf16"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    with pytest.raises(MachinesError, match="set ATEN_CPU_CAPABILITY and MKL_ENABLE_INSTRUCTIONS, too"):
        kinds.here("cpu", planted(AVX2), ZEN5)
    for name, value in HIDING.items():
        monkeypatch.setenv(name, value)
    found = kinds.here("cpu", planted(AVX2), ZEN5)
    assert (found["kind"], found["way"]) == ("AVX2", "hidden")
    assert found["place"] == "an AVX-512 machine with its features hidden"
    real = kinds.here("cpu", planted(AVX2), AVX2)  # nothing there to hide
    assert (real["kind"], real["way"], real["place"]) == ("AVX2", "native", "")


def test_systems_and_gpus_are_kinds_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kinds.here("cuda:0", planted(ZEN5, cuda="a GPU"))["kind"] == "NVIDIA GPU"
    assert kinds.here("cuda:0", planted(ZEN5, cuda="a GPU"))["processor"] == "a GPU"
    assert kinds.here("mps", planted(AVX2, system="Darwin"))["kind"] == "Apple's processors and GPUs"
    monkeypatch.setattr(kinds.platform, "release", lambda: "6.6.87-microsoft-standard-WSL2")
    assert kinds.here("cpu", planted(AVX2))["kind"] == "Windows, inside WSL2"


def test_vllm_is_denied_what_is_hidden_from_us(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert sampling.hidden_from_torch(AVX2) == []
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    found = sampling.hidden_from_torch(AVX2)
    assert found == ["avx512", "avx512_bf16", "vnni", "amx_tile", "amx_fp16"]
    names = [f"_is_{name}_supported" for name in found]
    assert all(hasattr(torch.cpu, name) for name in names)
    for name in names:
        monkeypatch.setattr(torch.cpu, name, lambda: True)
    monkeypatch.setenv("CXX", "false")
    hide([name for name in found if name != "avx512"])
    assert "CXX" not in os.environ
    assert [getattr(torch.cpu, name)() for name in names] == [True, False, False, False, False]


LOG = """\
tests/test_store.py ..... [100%]
SKIPPED [1] tests/test_page.py:3: no Chromium
============ 1898 passed, 3 skipped, 2 warnings in 819.41s (0:13:39) ============
make: leaving
"""


def test_the_time_of_the_suite_is_what_pytest_said(tmp_path: Path) -> None:
    log = tmp_path / "suite.log"
    log.write_text(LOG)
    os.utime(log, (0, 0))
    assert machines.suite(log) == {
        "date": "1970-01-01",
        "source": "the last line of pytest's log: 1898 passed, 3 skipped, 2 warnings in 819.41s (0:13:39)",
        "passed": 1898,
        "skipped": 3,
        "seconds": 819.41,
    }
    row = cells(kinds.render([entry("AVX2", suite=machines.suite(log))]), "AVX2:")
    assert (row[1], row[7]) == ("tests (1,898 passed)", "13:39")


@pytest.mark.parametrize(
    ("last", "told"),
    [
        ("= 1 failed, 1897 passed in 819.41s (0:13:39) =", "did not pass: 1 failed, 1897 passed"),
        ("= 1898 passed, 2 errors in 819.41s (0:13:39) =", "did not pass: 1898 passed, 2 errors"),
        ("= no tests ran in 0.01s =", "no line like"),
        ("Killed", "no line like"),
    ],
)
def test_a_suite_that_did_not_pass_is_no_time(tmp_path: Path, last: str, told: str) -> None:
    log = tmp_path / "suite.log"
    log.write_text(f"tests/test_store.py .F\n{last}\n")
    with pytest.raises(MachinesError, match=told):
        machines.suite(log)


def made_run(place: Path, name: str = "demo", **instead: Any) -> Path:
    """Write a run of two finished stages, as far as the table reads it."""
    here = {"processor": machine().processor, "kind": machine().kind, "dtype": "float32", "kernels": ["onednn"]}
    rows = []
    for stage, seconds in (("chunk", 12.5), ("improve", 100.0)):
        folder = place / "shared" / stage
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        empty: dict[str, Any] = {"config": "", "version": "", "inputs": {}, "summary": {}, "files": {}}
        manifest = empty | {"machine": here | instead, "finished": f"2026-03-04T05:06:0{len(rows)}+00:00"}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        for metric in ("seconds", "peak_memory_bytes"):
            named = {"stage": "run", "arm": "shared", "metric": metric, "condition": stage}
            rows.append(named | {"value": seconds, "n": 1, "unit": metric, "subject": stage})
    (place / "measurements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "run.json").write_text(json.dumps({"config": {"name": name, "schedule": "small"}}))
    return place


def test_the_time_of_a_run_is_the_sum_of_its_stages(tmp_path: Path) -> None:
    found = machines.run_of("demo", made_run(tmp_path / "demo"))
    assert found == {
        "date": "2026-03-04",
        "source": "the measurements of a run of demo.toml",
        "dtype": "float32",
        "kernels": ["onednn"],
        "schedule": "small",
        "seconds": 112.5,
    }
    row = cells(kinds.render([entry("AVX2", demo=found)]), "AVX2:")
    assert (row[1], row[2], row[8]) == ("demo", "float32, onednn", "1:53 in its stages (schedule small)")
    smoke = cells(kinds.render([entry("AVX2", smoke=found)]), "AVX2:")
    assert (smoke[1], smoke[8], smoke[9]) == ("smoke only", "", "2026-03-04")


def test_a_run_of_another_config_or_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MachinesError, match="a run of laptop, and not of demo"):
        machines.run_of("demo", made_run(tmp_path / "a", name="laptop"))
    with pytest.raises(MachinesError, match=r"made on Another \("):
        machines.run_of("demo", made_run(tmp_path / "b", processor="Another"))
    with pytest.raises(MachinesError, match=r"\(a kind, float32\); this is"):  # features were hidden there, or are here
        machines.run_of("demo", made_run(tmp_path / "c", kind="a kind"))
    unfinished = made_run(tmp_path / "d")
    (unfinished / "shared" / "improve" / "manifest.json").unlink()
    with pytest.raises(MachinesError, match="not finished"):
        machines.run_of("demo", unfinished)


def test_the_row_of_the_amx_machine_comes_from_the_files_that_recorded_it() -> None:
    found = machines.imported(DOCS)
    recorded = json.loads((DOCS / "benchmarks.json").read_text())
    assert (found["kind"], found["way"], len(found["sampling"]["rows"])) == ("AMX", "native", 4)
    for row in found["sampling"]["rows"]:
        assert any(row.items() <= one.items() for one in recorded if one["kind"] == "comparison")
    assert "from benchmarks.json" in found["sampling"]["source"]
    assert "from log.md, 2026-11-24" in found["demo"]["source"]
    assert kinds.clock(found["demo"]["elapsed"]) == "24:34"


def test_rows_of_another_machine_are_not_imported_as_amx(tmp_path: Path) -> None:
    rows = [row for row in json.loads((DOCS / "benchmarks.json").read_text()) if row["benchmark"] == "sampling"]
    (tmp_path / "benchmarks.json").write_text(json.dumps([*rows, rows[-1] | {"machine": "AMD EPYC, 2 cores"}]))
    with pytest.raises(MachinesError, match="not those of the AMX machine"):
        machines.imported(tmp_path)


def test_tests_in_an_emulator_are_marked(tmp_path: Path) -> None:
    log = tmp_path / "arm.log"
    log.write_text("12 passed in 139.00s (0:02:19)\n")
    arguments = ["--emulated", "ARM", "--suite-log", str(log), "--out", str(tmp_path)]
    assert machines.main(arguments) == 0
    row = cells((tmp_path / "machines.md").read_text(), "ARM (")
    assert row[0] == f"ARM (by emulation on {machine().processor})"
    assert row[1] == "tests (12 passed)"
    assert machines.main(["--emulated", "PDP-11", *arguments[2:]]) == 1
    assert machines.main(["--record", "--out", str(tmp_path)]) == 1
    assert [one["kind"] for one in machines.read(tmp_path)] == ["ARM"]


@pytest.mark.slow
def test_measuring_here_writes_the_entry_of_this_kind(tmp_path: Path) -> None:
    other = [entry("a", sampling=timed(7.0)) | {"kind": kind.name} for kind in kinds.KINDS]
    others = [one for one in other if one["kind"] != kinds.here("cpu")["kind"]]
    machines.write(tmp_path, others)
    command = [sys.executable, "-m", "benchmarks", "machines", "--quick", "--device", "cpu", "--out", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    entries = machines.read(tmp_path)
    assert [one for one in entries if one in others] == others
    (mine,) = [one for one in entries if one not in others]
    (row,) = mine["sampling"]["rows"]
    assert mine["processor"] == machine().processor
    assert (row["model"], row["opponent"], mine["sampling"]["dtype"]) == ("tiny-llama", "generate", "float32")
    assert row["ratio"][0] > 0
    assert "log-probabilities of" in row["checked"]
    assert mine["sampling"]["kernels"]
    page = (tmp_path / "machines.md").read_text()
    assert kinds.between(page, kinds.render(entries)) == page
    assert f"tiny-llama beside generate: {row['ratio'][0]:.2f}x" in page
