"""A new stage is one file and one row of the graph: plan, status, resuming, staleness and report follow from them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from helpers.smoke_runs import CONFIG, SMALL, cli

from forethought import graph, stages
from forethought.graph import Step
from forethought.run.store import Run, StageFolder

COUNT = '''"""How many words each arm writes after held-out prefixes."""

from forethought.costs.base import Phase, drawn, known
from forethought.engine import Prompt
from forethought.graph import BASE
from forethought.keys import Key
from forethought.records import Measurement, Split
from forethought.stages.base import Stage

PREFIXES, TOKENS = 3, 12


class Count(Stage):
    name = "count"

    @property
    def arms(self):
        trained = [name.partition("/")[0] for name in self.step.inputs if name.endswith("/improve")]
        return [self.context.arm(name) for name in (BASE, *trained)]

    def depends_on(self):
        return {
            "seed": self.config.seed,
            "chunks": self.context.chunk_ids(Split.HELDOUT, PREFIXES),
            "arms": {arm.name: arm.identity for arm in self.arms},
        }

    def run(self, folder):
        done = {row["arm"] for row in folder.read("counts")}
        for arm in self.arms:
            if arm.name not in done:
                chunks = self.context.chunks(Split.HELDOUT)[:PREFIXES]
                prompts = [Prompt(id=chunk.id, token_ids=arm.bos + chunk.prefix_ids) for chunk in chunks]
                rows = arm.sample(prompts, max_tokens=TOKENS, key=Key(self.config.seed, "count"))
                words = [len(completion.text.split()) for [completion] in rows]
                folder.append("counts", {"arm": arm.name, "words": words})
        self.context.measure(
            Measurement(
                stage=self.name,
                arm=row["arm"],
                metric="words per continuation",
                value=sum(row["words"]) / len(row["words"]),
                n=len(row["words"]),
                unit="words; n continuations",
                subject=self.step.name,
            )
            for row in folder.read("counts")
        )
        folder.finish({arm.name: arm.identity for arm in self.arms}, {"prefixes": PREFIXES})

    @classmethod
    def cost(cls, at, step):
        cost = known(lambda: drawn(at.policy, 2 * PREFIXES, 1, (at.prefix, TOKENS), 256))
        return [Phase(name="count", amount=f"{2 * PREFIXES} continuations", cost=cost)]


STAGE = Count
'''
STEP = Step(arm="shared", stage="count", inputs=("shared/chunk", "self-improved/improve"))
TABLE = "shared/count"


@pytest.fixture(autouse=True)
def stage_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file in the folder of the stages, and the row in the graph, as if they had been written there."""
    (tmp_path / "count.py").write_text(COUNT)
    monkeypatch.setattr(stages, "__path__", [*stages.__path__, str(tmp_path)])
    before = graph.STEPS
    for module in [*sys.modules.values()]:
        if vars(module).get("STEPS") is before:
            monkeypatch.setattr(module, "STEPS", (*before, STEP))
    yield
    sys.modules.pop(STEP.module, None)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Stage 1 of the smoke config, which every other test needs less of."""
    path = tmp_path / "smoke.toml"
    path.write_text(CONFIG.read_text().partition("[interleave]")[0])
    return path


def run(config: Path, name: str, *more: str, dry: bool = False) -> tuple[Path, Result]:
    """Run chunk, improve and count in a folder called ``name``."""
    small = [item for item in SMALL if item.startswith(("dtype", "improve", "evaluate.prefixes", "evaluate.nll"))]
    options = ["audit.enabled=false", "improve.control=false", 'evaluate.conditions=["greedy"]', *small, *more]
    command = ["run", config, "--run", config.parent / name, *(f"--set={item}" for item in options)]
    return config.parent / name, cli(*command, *(["--dry-run"] if dry else []))


def outcome(place: Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Return the log of the stage and its figures."""
    opened = Run.open(place)
    figures = {one.arm: one.value for one in opened.measurements() if one.stage == "count"}
    return list(opened.look("shared", "count").read("counts")), figures


def state(place: Path) -> str:
    """Return how ``forethought status`` calls the step."""
    [line] = (line for line in cli("status", place).stdout.splitlines() if TABLE in line)
    return line.split()[1]


def test_a_new_stage_is_planned_shown_resumed_and_starts_over_when_what_it_reads_changes(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, planned = run(config, "run", dry=True)
    words = " ".join(planned.stdout.split())
    assert f"{TABLE} load models 1 times" in words
    assert "count 6 continuations under 1 s" in words
    assert f"{TABLE} (missing)" in words
    assert not place.exists()

    append = StageFolder.append

    def deadly(folder: StageFolder, name: str, rows: Any) -> None:
        if name == "counts" and list(folder.read(name)):
            raise KeyboardInterrupt
        append(folder, name, rows)

    with monkeypatch.context() as patch:
        patch.setattr(StageFolder, "append", deadly)
        assert run(config, "run")[1].exit_code == 130
    assert [row["arm"] for row in outcome(place)[0]] == ["base"]
    assert state(place) == "begun"
    assert run(config, "run")[1].exit_code == 0
    whole, _ = run(config, "whole")
    assert outcome(place) == outcome(whole)
    assert list(outcome(place)[1]) == ["base", "self-improved"]
    assert state(place) == "done"

    log, figures = outcome(place)
    again, changed = run(config, "run", "improve.steps=2")
    assert (
        f"self-improved/improve starts over: improve.steps: 6 is now 2; after it: self-improved/evaluate, {TABLE}"
        in (" ".join(changed.stderr.split()))
    )
    assert outcome(again) != (log, figures)
    assert outcome(again)[1]["base"] == figures["base"]
    assert outcome(again) == outcome(run(config, "fresh", "improve.steps=2")[0])


def test_its_figures_stand_in_the_tables_and_the_step_in_the_diagram(config: Path) -> None:
    place, done = run(config, "run")
    assert done.exit_code == 0, done.output
    page = (place / "report.html").read_text()
    assert "words per continuation" in page
    assert "shared/count reads self-improved/improve" in page  # what the diagram says to who cannot see it
    shown = cli("show", place).stdout
    assert "words per continuation" in shown
    assert f"{outcome(place)[1]['base']:.3g}" in shown
