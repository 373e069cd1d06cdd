"""What a run reads: a finished one nothing long and no weights, and one that goes on each long file at most once."""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.smoke_runs import Finished, smoke

from forethought.models import model
from forethought.run.store import Run

LONG = re.compile(r"/shared/(?:chunk|interleave)/((?:chunks|rows)\.\w+\.jsonl)$")


class Watch:
    """Notes which long files are opened, by whatever code, and which weights are loaded."""

    def __init__(self) -> None:
        self.active = True
        self.opened: Counter[str] = Counter()
        self.loaded: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.active and event == "open" and (found := LONG.search(str(arguments[0]))):
            self.opened[found[1]] += 1


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    found, load = Watch(), model.load_parts

    def loading(config: Any, *more: Any) -> Any:
        found.loaded.append(config.model)
        return load(config, *more)

    monkeypatch.setattr(model, "load_parts", loading)
    # The page reads on its own, for the texts that it shows.
    monkeypatch.setattr("forethought.report.page.write_page", lambda run: run.path / "report.html")
    sys.addaudithook(found)  # which nothing removes
    yield found
    found.active = False


def test_a_finished_run_reads_nothing_long_and_loads_no_weights(done: Path, watch: Watch) -> None:
    assert (done / "shared" / "chunk" / "chunks.improve.jsonl").read_bytes()
    assert watch.opened == {"chunks.improve.jsonl": 1}  # it does see what is read
    watch.opened.clear()
    again = smoke("run", done)
    assert again.exit_code == 0, again.output
    assert watch.opened == {}
    assert watch.loaded == []


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["shared/evaluate-rlmt", "self-improved/evaluate"])
def test_a_run_without_a_late_stage_reads_each_long_file_once(missing: str, finished: Finished, watch: Watch) -> None:
    place = finished()
    folder = Run.open(place).look(*missing.split("/"))
    before = folder.identity
    shutil.rmtree(folder.path)
    watch.opened.clear()
    again = smoke("run", place)
    assert again.exit_code == 0, again.output
    assert watch.loaded != []
    assert "chunks.heldout.jsonl" in watch.opened
    assert max(watch.opened.values()) == 1
    assert folder.identity == before
