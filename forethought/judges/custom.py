"""A judge of the user's own, which the config names by a dotted path."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forethought.judges import Judge
from forethought.judges.base import QuestionJudge
from forethought.judges.cache import CachedJudge
from forethought.llm.cache import TextCache
from forethought.records import JudgeRequest, Verdict, content_id
from forethought.user_code import call, load


class CustomJudge:
    """Asks the user's object; what fails in it is an error that names file and line of the user's code.

    Its name has a hash of the object's own name, its source and its options.
    """

    def __init__(self, path: str, options: dict[str, Any], key: str, cache: Path | None) -> None:
        """Load ``path``, a ``module:attribute`` that returns a judge when it is called with ``options``.

        ``key`` is the section of the config, for messages; ``cache`` keeps the verdicts of a :class:`QuestionJudge`.

        Raises:
            UserCodeError: if it cannot be loaded or made, or if what is made is no judge.
        """
        user = load(path, f"{key}.path")
        user.takes(**options)
        judge: Judge = call(user, user.object, **options)
        own, rank = getattr(judge, "name", None), getattr(judge, "rank", None)
        if not isinstance(own, str) or not callable(rank):
            raise user.error(
                f"a judge has `name` (text) and `rank(requests)`; {judge!r} has name = {own!r}, rank = {rank!r}"
            )
        user.check_signature(rank, "requests")
        self.user = user
        # The judge's own hash gives way to one that has its source and its options, too.
        self.name = f"{own.partition('@')[0]}@{content_id(own, user.source_hash, sorted(options.items()))[:8]}"
        self.judge = judge
        # Only such a judge can be asked single questions, which is what a cache needs.
        if isinstance(judge, QuestionJudge):
            user.check_signature(judge.questions, "request")
            user.check_signature(judge.answer, "requests", "questions")
            judge.name = self.name  # under which its verdicts are kept
            if cache is not None:
                self.judge = CachedJudge(judge, TextCache(cache, "verdicts"))

    def rank(self, requests: Sequence[JudgeRequest]) -> list[list[Verdict]]:
        """Return the verdicts of each request; see :class:`forethought.judges.Judge`."""
        rows: Any = call(self.user, self.judge.rank, requests)
        # A flat list would be read as the verdicts of the wrong candidates.
        as_lists = isinstance(rows, Sequence) and all(isinstance(row, Sequence) for row in rows)
        if not as_lists or len(rows) != len(requests) or not all(isinstance(v, Verdict) for row in rows for v in row):
            raise self.user.error(
                f"rank returned {str(rows)[:200]}; expected, for each of {len(requests)} requests, a list of Verdict: "
                "one per candidate, or one per ordered pair"
            )
        return [[dataclasses.replace(verdict, judge=self.name) for verdict in row] for row in rows]
