"""What all tests share: no network, one thread, and a skip with a reason where a model package is missing."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import pytest
import torch

from forethought.models.catalogue import CATALOGUE

TEST_MODEL = "smollm2-135m-instruct"

# Sums come out the same whatever the machine, and tests that run side by side do not fight over cores.
torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `model` where the real test model is not installed."""
    if item.get_closest_marker("model") and not CATALOGUE[TEST_MODEL].files():
        pytest.skip(f"{TEST_MODEL} is not installed: {CATALOGUE[TEST_MODEL].pip_command}")


@pytest.fixture
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> os.PathLike[str]:
    """An empty cache of converted models, for this test alone."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FORETHOUGHT_CACHE", str(folder))
    return folder


# A loaded machine is no failure: the deadline of an example says nothing about the code.
hypothesis.settings.register_profile("forethought", deadline=None)
hypothesis.settings.load_profile("forethought")
