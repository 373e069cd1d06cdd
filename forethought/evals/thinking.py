"""The evaluation after RL mid-training: every arm goes through the reward gate, those that think through the probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from forethought.config import Config, ThinkingEvaluateConfig
from forethought.evals import probe, reward_gate
from forethought.evals.controls import controls
from forethought.evals.windows import Opener, Player, Task, Thoughts, ledger, play
from forethought.progress import Progress
from forethought.records import Measurement, content_id
from forethought.store import StageFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """An arm that takes part."""

    name: str
    """Its name in the run."""
    identity: str
    """Hash of its weights."""
    open: Opener
    """Loads it."""
    against: tuple[str, ...] = ()
    """Earlier arms that it is compared with."""


def run(
    config: Config, folder: StageFolder, entrants: Sequence[Entrant], task: Task, progress: Progress
) -> list[Measurement]:
    """Let all arms predict, probe those that think; write ``examples.jsonl`` and return the figures."""
    reward_gate.demand(task)
    cfg = config.thinking
    folder.truncate("examples", lambda row: False)
    found: list[Measurement] = []
    results: dict[str, reward_gate.Result] = {}
    probes: dict[str, dict[str, probe.Probed]] = {}
    player: Player | None = None
    for number, entrant in enumerate(entrants):
        progress(number, len(entrants), f"{entrant.name}: gate")
        player = entrant.open()
        scored, thoughts = play(player, task, cfg.samples)
        book = ledger(player, task)
        results[entrant.name], figures = reward_gate.summarise(book, scored, thoughts)
        found += figures
        for other in entrant.against:
            found += reward_gate.compare(book, results[entrant.name], (other, results[other]))
        if thoughts is not None:
            progress(number, len(entrants), f"{entrant.name}: probe")
            probes[entrant.name] = probed = _probed(folder, player, task, cfg, thoughts)
            found += probe.figures(book, probed)
            for other in entrant.against:
                if other in probes:
                    found += probe.compare(book, probed, (other, probes[other]))
    if cfg.controls and player is not None:
        for control in controls(task.windows, player.codec, player.bos):
            probed = _probed(folder, control, task, cfg, play(control, task, cfg.probe_samples)[1])
            found += probe.figures(ledger(control, task), probed)
    return found


def stage_config(config: Config, entrants: Sequence[Entrant], task: Task) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "seed": config.seed,
        "dtype": config.dtype,
        "arms": {entrant.name: entrant.identity for entrant in entrants},
        "judge": task.matcher.name,
        "windows": content_id([window.id for window in task.windows]),
        "tokens": [task.thought_tokens, task.suffix_tokens],
        "thinking": config.thinking.model_dump(mode="json"),
    }


def _probed(
    folder: StageFolder, player: Player, task: Task, cfg: ThinkingEvaluateConfig, thoughts: Thoughts | None
) -> dict[str, probe.Probed]:
    assert thoughts is not None
    inserted = probe.inserts(thoughts, task, player.codec, cfg.probe_samples, cfg.generic)
    probed = probe.probe(player, task, inserted)
    rows = probe.examples(task, inserted, probed, cfg.examples)
    folder.append("examples", [{"arm": player.name, **row} for row in rows])
    return probed
