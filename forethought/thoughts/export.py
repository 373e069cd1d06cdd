"""Rows as parquet that ``datasets`` loads, and the card that goes with them."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from forethought.records import Split, ThoughtRow
from forethought.stats import Interval
from forethought.tags import Tags, render, spans
from forethought.thoughts.article import ARTICLE
from forethought.thoughts.dataset import ThoughtCounts

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("chunk_id", pa.string()),
        ("document_id", pa.string()),
        ("text", pa.string()),
        ("augmented", pa.string()),
        ("positions", pa.list_(pa.int64())),
        ("tokens", pa.list_(pa.int64())),
        ("thoughts", pa.list_(pa.string())),
        ("spans", pa.list_(pa.struct([("kind", pa.string()), ("text", pa.string())]))),
    ]
)
"""``text`` is the raw chunk; ``positions`` are characters of it, ``tokens`` the policy's tokens before them."""

FILES = {Split.SFT: "sft.parquet", Split.HELDOUT: "heldout.parquet", Split.RLMT: "rlmt.parquet"}
CONFIGS = {"thoughts": ((Split.SFT, "train"), (Split.HELDOUT, "test")), "places": ((Split.RLMT, "train"),)}
"""What ``datasets.load_dataset`` calls them: configuration, then split."""


def parquet(rows: Sequence[ThoughtRow], tags: Tags) -> bytes:
    """Return the content of a parquet file with one row for each of ``rows``."""

    def columns(row: ThoughtRow) -> dict[str, Any]:
        pieces = spans(row)
        return {
            "id": row.id,
            "chunk_id": row.chunk_id,
            "document_id": row.document_id,
            "text": row.text,
            "augmented": render(pieces, tags),
            "positions": [place.position for place in row.places],
            "tokens": [place.token for place in row.places],
            "thoughts": list(row.thoughts),
            "spans": [{"kind": piece.kind.value, "text": piece.text} for piece in pieces],
        }

    return encode(pa.Table.from_pylist([columns(row) for row in rows], schema=SCHEMA))


def encode(table: pa.Table) -> bytes:
    """Return the content of a parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def card(name: str, teacher: str, tags: Tags, made: Mapping[Split, tuple[dict[str, Interval], ThoughtCounts]]) -> str:
    files = {(name, part): FILES[split] for name, parts in CONFIGS.items() for split, part in parts if split in made}
    lines = [
        *card_header(files),
        f"# Interleaved thoughts: {name}",
        "",
        f"Chunks of text with short thoughts of a careful reader, written by {teacher}. `text` is the raw chunk,",
        f"`augmented` the same with each thought between `{tags.open}` and `{tags.close}` at its position. The text",
        "spans joined are the raw chunk, byte for byte. `places` has positions only: there the policy is to write the",
        "thoughts. No two splits share a document.",
        "",
        "| | " + " | ".join(split.value for split in made) + " | the article |",
        "|---|" + "---|" * (len(made) + 1),
    ]
    for metric in dict.fromkeys(metric for figures, _ in made.values() for metric in figures):
        cells = [_cell(metric, figures.get(metric)) for figures, _ in made.values()]
        lines.append(f"| {metric.replace('_', ' ')} | {' | '.join(cells)} | {ARTICLE.get(metric, '')} |")
    lines += ["", "What was not kept:", ""]
    for split, (_, counts) in made.items():
        kept = f"{counts.offered} thoughts offered, {counts.accepted} accepted"
        tried = f"{counts.chunks} chunks tried{_reasons(counts.dropped)}, {counts.lost} accepted thoughts in them"
        lines.append(f"- {split.value}: {kept}{_reasons(counts.rejected)}; {tried}")
    return "\n".join([*lines, "", "The licence is that of the text, and of what the teacher may write."]) + "\n"


def card_header(files: Mapping[tuple[str, str], str]) -> list[str]:
    """Return the lines from which the hub and ``datasets`` learn the file of each (configuration, split)."""
    lines = ["---", "configs:"]
    for config, parts in itertools.groupby(files.items(), key=lambda item: item[0][0]):
        lines += [f"  - config_name: {config}", "    data_files:"]
        for (_, split), path in parts:
            lines += [f"      - split: {split}", f"        path: {path}"]
    return [*lines, "---"]


def _cell(metric: str, figure: Interval | None) -> str:
    if figure is None:
        return ""
    if metric == "rows":
        return f"{figure.value:.0f} of {figure.n} chunks"
    form = "{:.2f}" if metric in ("places_per_row", "words_per_thought") else "{:.1%}"
    ends = [form.format(end) for end in (figure.low, figure.high) if end is not None]
    return f"{form.format(figure.value)}{f' [{ends[0]}, {ends[1]}]' if ends else ''} of {figure.n}"


def _reasons(counts: Mapping[str, int]) -> str:
    return "".join(f", {count} {reason}" for reason, count in sorted(counts.items()))
