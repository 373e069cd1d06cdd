"""Verdicts on disk, keyed by content: nothing is judged twice and nothing judged is lost."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from forethought.judges.base import TRANSPORT, JudgeError, Question, QuestionJudge
from forethought.records import Contest, Outcome, Verdict, content_id

COLUMNS = "key TEXT PRIMARY KEY, judge TEXT NOT NULL, verdict TEXT NOT NULL"


class VerdictCache:
    """An SQLite file of verdicts.

    A batch is one transaction in write-ahead mode, so that ``kill -9`` leaves whole batches.  Threads may share an
    instance, and processes may share the file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, timeout=60.0, check_same_thread=False)
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            with self._database:
                self._database.execute(f"CREATE TABLE IF NOT EXISTS verdicts ({COLUMNS}) WITHOUT ROWID")
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise JudgeError(f"{path}: not a usable verdict cache ({error}). Move it away to start a new one") from None

    def get(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the stored verdicts among ``keys``."""
        found: dict[str, str] = {}
        with self._lock:
            for start in range(0, len(keys), 500):
                some = keys[start : start + 500]
                marks = ",".join("?" * len(some))
                found.update(self._database.execute(f"SELECT key, verdict FROM verdicts WHERE key IN ({marks})", some))
        return found

    def put(self, judge: str, rows: Sequence[tuple[str, str]]) -> None:
        """Store ``(key, verdict)`` rows in one transaction; what is there already stays."""
        try:
            with self._lock, self._database:
                self._database.executemany(
                    "INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?)", [(key, judge, verdict) for key, verdict in rows]
                )
        except sqlite3.OperationalError as error:
            raise JudgeError(
                f"{self._path}: {len(rows)} verdicts cannot be stored: {error}. If the disk is full, free some space; "
                "the same command goes on where it was"
            ) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()


class CachedJudge:
    """A judge that asks another one only what the cache does not know.

    Contests are answered and stored in batches of fixed size: what is computed together does not depend on where an
    earlier process was killed, hence neither does the last bit of a score.
    """

    def __init__(self, judge: QuestionJudge, cache: VerdictCache, batch: int = 16) -> None:
        self.judge = judge
        self.cache = cache
        self.batch = batch
        self.hits = 0
        self.misses = 0

    @property
    def name(self) -> str:
        """The name of the judge behind the cache."""
        return self.judge.name

    def rank(self, contests: Sequence[Contest]) -> list[list[Verdict]]:
        """Return the verdicts of each contest; see :class:`forethought.judges.Judge`."""
        verdicts: list[list[Verdict]] = []
        for start in range(0, len(contests), self.batch):
            verdicts.extend(self._rank(contests[start : start + self.batch]))
        return verdicts

    def _rank(self, contests: Sequence[Contest]) -> list[list[Verdict]]:
        asked = [
            [(question, _key(self.name, contest, question)) for question in self.judge.questions(contest)]
            for contest in contests
        ]
        known = self.cache.get([key for row in asked for _, key in row])
        missing = [[(question, key) for question, key in row if key not in known] for row in asked]
        open_contests = [index for index, row in enumerate(missing) if row]
        fresh = self.judge.answer(
            [contests[index] for index in open_contests],
            [[question for question, _ in missing[index]] for index in open_contests],
        )
        answered = {
            (index, question): (key, verdict)
            for index, row in zip(open_contests, fresh, strict=True)
            for (question, key), verdict in zip(missing[index], row, strict=True)
        }
        self.cache.put(
            self.name,
            [(key, _pack(verdict)) for key, verdict in answered.values() if not _passing(verdict)],
        )
        self.misses += len(answered)
        self.hits += sum(map(len, asked)) - len(answered)
        return [
            [
                answered[index, question][1] if (index, question) in answered else self._unpack(known[key], question)
                for question, key in row
            ]
            for index, row in enumerate(asked)
        ]

    def _unpack(self, text: str, question: Question) -> Verdict:
        stored = json.loads(text)
        first, second = question
        return Verdict(
            outcome=Outcome(stored["outcome"]),
            axis=self.judge.axis,
            first=first,
            second=second,
            score=stored["score"],
            winner=None if stored["winner"] is None else (first, second)[stored["winner"]],
            reason=stored["reason"],
            judge=self.name,
        )


def _passing(verdict: Verdict) -> bool:
    return verdict.outcome is Outcome.UNSCORED and verdict.reason.startswith(TRANSPORT)


def _pack(verdict: Verdict) -> str:
    winner = None if verdict.winner is None else int(verdict.winner == verdict.second)
    return json.dumps(
        {"outcome": verdict.outcome.value, "score": verdict.score, "winner": winner, "reason": verdict.reason}
    )


def _key(judge: str, contest: Contest, question: Question) -> str:
    first, second = (None if index is None else contest.candidates[index] for index in question)
    return content_id(judge, contest.prefix, contest.original, first, second)
