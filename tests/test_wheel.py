"""The wheel holds all that the package reads, and runs from an empty folder in another environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from helpers.repository import ROOT, tracked
from helpers.stages import GivenContext, stage_of

from forethought.config import load


def pip(*arguments: str | Path) -> None:
    """Run pip of this environment, without network and without a word."""
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--no-index", "--no-deps"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools writes beside what it builds."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in tracked():
        inside = path.relative_to(ROOT)
        if inside.parts[0] in ("forethought", "forethought_offline", "pyproject.toml", "README.md", "LICENSE"):
            (source / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, source / inside)
    pip("wheel", "--no-build-isolation", "--wheel-dir", target, source)
    return next(target.glob("forethought-*.whl"))


def test_everything_of_the_package_is_inside(wheel: Path) -> None:
    packages = ("forethought/", "forethought_offline/")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith(packages)}
    assert inside == {name for path in tracked() if (name := str(path.relative_to(ROOT))).startswith(packages)}
    names = ("article", "demo", "laptop", "paper", "scratch", "smoke")
    assert {f"forethought/configs/{name}.toml" for name in names} < inside
    assert {"forethought/configs/smoke.jsonl", "forethought/py.typed"} < inside
    folders = {name.rpartition("/")[0] for name in inside if not name.endswith(".py")}
    prompts = {"forethought/judges/prompts", "forethought/thoughts/prompts"}
    assert folders >= {"forethought/report/templates", *prompts}
    assert any(name.endswith(".cpp") for name in inside)


@pytest.fixture(scope="module")
def home(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, which takes what it depends on from this one."""
    folder = tmp_path_factory.mktemp("home")
    venv.create(folder, symlinks=True)
    pip("--python", folder / "bin" / "python", "install", wheel)
    here = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (next(folder.glob("lib/python*/site-packages")) / "dependencies.pth").write_text("\n".join(sorted(here)))
    return folder


def installed(home: Path, folder: Path, *arguments: str) -> str:
    """Run a program of the environment in ``folder`` and return what it prints."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FORETHOUGHT"))}
    environment = kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [home / "bin" / arguments[0], *arguments[1:]]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_smoke_config_runs_from_an_empty_folder(home: Path, tmp_path: Path) -> None:
    package = installed(home, tmp_path, "python", "-c", "import forethought; print(forethought.__file__)")
    assert Path(package).is_relative_to(home)

    installed(home, tmp_path, "forethought", "run", "smoke", "--until", "audit")
    run = tmp_path / "runs" / "smoke"
    asked = json.loads((run / "run.json").read_text())["config"]
    assert asked["corpus"]["path"] == "shipped:smoke.jsonl"
    # The same as from this checkout: where the package lies is in none of it.
    made = json.loads((run / "shared" / "chunk" / "config.json").read_text())
    assert made == stage_of(GivenContext(load("smoke"), tmp_path / "other"), "shared/chunk").depends_on()
    texts = {path: path.read_text() for path in run.rglob("*.json")}
    assert {"run.json", "config.json", "manifest.json"} <= {path.name for path in texts}
    assert [path for path, text in texts.items() if any(str(place) in text for place in (home, tmp_path, ROOT))] == []
