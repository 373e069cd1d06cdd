"""Judges: they see blind text and say which continuation is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from forethought.records import JudgeRequest, Verdict


class Judge(Protocol):
    """Ranks the candidates of requests."""

    @property
    def name(self) -> str:
        """Identity for tables and records, with a hash of model, settings and prompt: ``qwen-1.5b@1f0c9a2b``."""
        ...

    def rank(self, requests: Sequence[JudgeRequest]) -> list[list[Verdict]]:
        """Return the verdicts of each request: one per candidate (pointwise), or one per ordered pair."""
        ...
