"""The data sets of a run, in the columns that TRL's trainers expect.

- ``preference``: prompt, chosen, rejected (DPOTrainer); what stage 1 learned from, step by step.
- ``sft``: text with thoughts between tags (SFTTrainer); train and test.
- ``prompts``: prompt, and the true suffix as the reference of a reward (GRPOTrainer, RLOOTrainer).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from forethought.config import Config
from forethought.export.arms import ExportError, config_of, tags_of
from forethought.export.model import demand_empty
from forethought.graph import IMPROVED
from forethought.records import Split, ThoughtRow
from forethought.run import files
from forethought.run.files import publish
from forethought.run.store import SHARED, Run
from forethought.tags import Tags, render, spans
from forethought.text import printable
from forethought.thoughts.export import card_header, encode

Kind = Literal["parquet", "jsonl"]
Rows = list[dict[str, Any]]

ABOUT = {
    "preference": "`prompt`, `chosen`, `rejected`: the pairs that stage 1 learned from. Judges ranked the policy's own "
    "rollouts and the author's suffix; `chosen_origin` and `rejected_origin` say who wrote what, `step` when.",
    "sft": "`text`: chunks with a teacher's thoughts between tags; `raw` is the same text without them, byte for byte.",
    "prompts": "`prompt` and `suffix`, what the author wrote next: for a reward that compares the two.",
}


def export_data(run: Run, target: Path, kind: Kind = "parquet") -> dict[str, int]:
    """Write every data set that the run has to ``target`` with a card; return their rows by ``name/split``."""
    demand_empty(target)
    config = config_of(run)
    # A file without rows would have no columns either.
    sets = {name: rows for name, rows in data(run, config).items() if rows}
    if not sets:
        raise ExportError(f"{run.path}: neither improve nor interleave has made anything yet")
    with publish(target) as partial:
        for (name, split), rows in sets.items():
            path = partial / name / f"{split}.{kind}"
            path.parent.mkdir(exist_ok=True)
            if kind == "parquet":
                path.write_bytes(encode(pa.Table.from_pylist(rows)))
            else:
                path.write_bytes(b"".join(map(files.encode, rows)))
        (partial / "README.md").write_text(printable(_card(config, sets, kind)), encoding="utf-8")
    return {f"{name}/{split}": len(rows) for (name, split), rows in sets.items()}


def data(run: Run, config: Config) -> dict[tuple[str, str], Rows]:
    tags = Tags(*tags_of(config))
    return {
        ("preference", "train"): list(_preferences(run)),
        ("sft", "train"): [_augmented(row, tags) for row in _rows(run, Split.SFT)],
        ("sft", "test"): [_augmented(row, tags) for row in _rows(run, Split.HELDOUT)],
        ("prompts", "train"): list(_prompts(_rows(run, Split.RLMT))),
        ("prompts", "test"): list(_prompts(_rows(run, Split.HELDOUT))),
    }


def _preferences(run: Run) -> Iterator[dict[str, Any]]:
    chunks = {row["id"]: row for row in run.look(SHARED, "chunk").read(f"chunks.{Split.IMPROVE}")}
    for pool in run.look(IMPROVED, "improve").read("pools"):
        if pool.get("chosen") is None or pool.get("rejected") is None:
            continue  # tied or unscored: no preference
        candidates = {candidate["id"]: candidate for candidate in pool["candidates"]}
        chosen, rejected = candidates[pool["chosen"]], candidates[pool["rejected"]]
        yield {
            "prompt": chunks[pool["chunk_id"]]["prefix"],
            "chosen": chosen["text"],
            "rejected": rejected["text"],
            "chosen_origin": chosen["origin"],
            "rejected_origin": rejected["origin"],
            "step": pool["step"],
            "chunk_id": pool["chunk_id"],
        }


def _rows(run: Run, split: Split) -> list[ThoughtRow]:
    folder = run.look(SHARED, "interleave")
    return folder.load(f"rows.{split}", ThoughtRow) if folder.done else []


def _augmented(row: ThoughtRow, tags: Tags) -> dict[str, Any]:
    return {"text": render(spans(row), tags), "raw": row.text, "thoughts": list(row.thoughts), "row_id": row.id}


def _prompts(rows: Sequence[ThoughtRow]) -> Iterator[dict[str, Any]]:
    for row in rows:
        for cut in (place.position for place in row.places):
            yield {"prompt": row.text[:cut], "suffix": row.text[cut:], "row_id": row.id}


def _card(config: Config, sets: Mapping[tuple[str, str], Rows], kind: Kind) -> str:
    names = list(dict.fromkeys(name for name, _ in sets))
    header = card_header({(name, split): f"{name}/{split}.{kind}" for name, split in sets})
    lines = [*header, f"# Data of the run {config.name}", ""]
    lines += [f"- **{name}**: {ABOUT[name]}" for name in names]
    lines += ["", "| data set | split | rows |", "|---|---|---|"]
    lines += [f"| {name} | {split} | {len(rows)} |" for (name, split), rows in sets.items()]
    lines += ["", "```python", "from datasets import load_dataset", "", f'load_dataset(".", "{names[0]}")', "```", ""]
    lines += [
        f"The text comes from the corpus `{config.corpus.path or config.corpus.source}`, rollouts from "
        f"`{config.policy.model}`. `train` and `test` share no document.",
        "",
        "The licence is that of the text, and of what the models may write.",
    ]
    return "\n".join(lines) + "\n"
