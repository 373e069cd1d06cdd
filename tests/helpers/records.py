"""Chunks and figures as literal as a test needs them."""

from __future__ import annotations

from typing import Any

from forethought.records import Chunk, Measurement, Split


def chunk(prefix: str, suffix: str, *, number: int = 0, split: Split = Split.IMPROVE) -> Chunk:
    """Return chunk ``c<number>`` of document ``d<number>``; its tokens are the bytes of its text."""
    return Chunk(
        id=f"c{number}",
        document_id=f"d{number}",
        split=split,
        start=0,
        prefix=prefix,
        suffix=suffix,
        prefix_ids=tuple(prefix.encode()),
        suffix_ids=tuple(suffix.encode()),
    )


def figure(metric: str, value: float, **fields: Any) -> Measurement:
    """Return a figure of stage ``evaluate``, arm ``self-improved``, n = 64, unless ``fields`` say otherwise."""
    known = {"stage": "evaluate", "arm": "self-improved", "n": 64, "unit": "share", "subject": "hash"}
    return Measurement(metric=metric, value=value, **(known | fields))
