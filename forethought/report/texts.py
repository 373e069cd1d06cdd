"""The texts of a run: candidates, thoughts in place, rollouts, the probe, comparisons, free continuations.

What is here is written by models and by strangers.  It stays text: pieces that the page's script puts into text nodes.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from forethought import metrics as m
from forethought.records import Origin, SpanKind, Split, ThoughtRow, content_id, from_dict
from forethought.run.store import SHARED, Run
from forethought.tags import spans
from forethought.text import printable

Row = Mapping[str, Any]
Item = dict[str, Any]
"""Kind, arm, where, score (or none) and what it scores, and blocks: label, note, tone and pieces."""
Maker = Callable[[str, Row], Iterator[Item]]
"""What a row of a log of an arm shows."""
Windows = Mapping[str, tuple[str, str]]
"""Prefix and true suffix of each window, by its id."""

MOST = 120
"""Items of one kind and arm that are embedded at most: the best, the worst, and some between them."""
LONGEST = 4000
"""Characters of one text that are embedded at most."""
BUDGET = 4_500_000
"""Characters of all texts together."""

TEXT, THOUGHT, DIM = "t", "h", "d"
"""Kinds of a piece: text, a thought, text that was given."""


def collect(run: Run) -> dict[str, Any]:
    """Return what the browser shows: ``items``, and ``shares``: of each kind and arm, how many of how many."""
    windows = _windows(run)
    groups: dict[tuple[str, str], list[Item]] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for folder in run.stages():
        for log, make in makers(folder.stage, windows):
            # A log may be larger than memory: its scores are read first, then the items that are kept.
            scores: dict[tuple[str, str], list[float | None]] = {}
            for row in folder.read(log):
                for item in make(folder.arm, row):
                    scores.setdefault((item["kind"], item["arm"]), []).append(item["score"])
            wanted = {group: set(thin(values, MOST)) for group, values in scores.items()}
            seen: Counter[tuple[str, str]] = Counter()
            for row in folder.read(log):
                for item in make(folder.arm, row):
                    group = item["kind"], item["arm"]
                    if seen[group] in wanted[group]:
                        groups.setdefault(group, []).append(item)
                    seen[group] += 1
            counts += seen
    _give_prefixes(run, itertools.chain.from_iterable(groups.values()))
    # Of each kind and arm the same share is kept, so that all fit.
    size = sum(
        len(block["note"]) + sum(len(text) for _, text in block["pieces"])
        for items in groups.values()
        for item in items
        for block in item["blocks"]
    )
    share = min(1.0, BUDGET / max(1, size))
    for items in groups.values():
        kept = thin([item["score"] for item in items], max(1, int(share * len(items))))
        items[:] = [items[place] for place in kept]
    return {
        "items": list(itertools.chain.from_iterable(groups.values())),
        "shares": [
            {"kind": kind, "arm": arm, "of": counts[kind, arm], "shown": len(items)}
            for (kind, arm), items in groups.items()
        ],
    }


def makers(stage: str, windows: Windows) -> list[tuple[str, Maker]]:
    """Return the logs of a stage that hold texts, with what makes items of their rows."""
    known: dict[str, list[tuple[str, Maker]]] = {
        "improve": [("pools", _pool)],
        m.INTERLEAVE: [(f"rows.{split}", _thoughts) for split in (Split.SFT, Split.HELDOUT)],
        "rlmt": [("groups", functools.partial(_rollouts, windows=windows))],
        m.EVALUATE: [("examples", _comparisons)],
        m.EVALUATE_RLMT: [("examples", _probe)],
        m.EVALUATE_SFT: [("examples", _continuation)],
    }
    return known.get(stage, [])


def thin(scores: Sequence[float | None], most: int) -> list[int]:
    """Return at most ``most`` places in ``scores``, ascending: the best, the worst, and some between them."""
    if len(scores) <= most:
        return list(range(len(scores)))
    ranked = best_first(scores)
    ends = most // 3
    middle, left = ranked[ends : len(ranked) - ends], most - 2 * ends
    between = [middle[number * len(middle) // left] for number in range(left)]
    return sorted({*ranked[:ends], *ranked[len(ranked) - ends :], *between})


def best_first(scores: Sequence[float | None]) -> list[int]:
    """Return the places in ``scores`` from the highest to the lowest, those without a score last."""
    return sorted(range(len(scores)), key=lambda i: (scores[i] is None, -(scores[i] or 0.0), i))


def _pool(arm: str, row: Row) -> Iterator[Item]:
    if not row["scores"]:  # plain next-token training has no pools
        return
    blocks = [block("prefix")]
    best: dict[str, float] = {}
    candidates = row["candidates"]
    # What the author wrote stands first.
    for i in sorted(best_first(row["scores"]), key=lambda i: candidates[i]["origin"] != Origin.CORPUS):
        candidate, score, origin = candidates[i], row["scores"][i], candidates[i]["origin"]
        if score is not None:
            best[origin] = max(score, best.get(origin, score))
        marks = [mark for mark in ("chosen", "rejected") if row.get(mark) == candidate["id"]]
        notes = [*marks, "no score" if score is None else f"score {score:.3f}", *_said(row, i)]
        name = "original" if origin == Origin.CORPUS else origin
        tone = marks[0] if marks else "truth" if name == "original" else ""
        blocks.append(block(name, candidate["text"], note=", ".join(notes), tone=tone))
    both = Origin.ROLLOUT in best and Origin.CORPUS in best
    gap = best[Origin.ROLLOUT] - best[Origin.CORPUS] if both else None
    where = f"step {row['step']}, chunk {row['chunk_id']}"
    yield _item("candidates", arm, where, blocks, gap, "best rollout above the original by") | {
        "chunk": row["chunk_id"]
    }


def _said(row: Row, index: int) -> Iterator[str]:
    """Yield what each judge said about a candidate that a score does not say: wins, losses, and why it is unscored."""
    for judge, verdicts in row.get("verdicts", {}).items():
        kinds: Counter[str] = Counter()
        reasons: dict[str, None] = {}
        for verdict in verdicts:
            outcome = verdict["outcome"]
            if index in (verdict["first"], verdict.get("second")) and outcome != "scored":
                preferred = "won" if verdict.get("winner") == index else "lost"
                kinds[preferred if outcome == "preferred" else outcome] += 1
                if outcome == "unscored" and verdict.get("reason"):
                    reasons[verdict["reason"]] = None
        if kinds:
            why = f" ({'; '.join(itertools.islice(reasons, 2))})" if reasons else ""
            yield f"{judge}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()) + why


def _thoughts(_: str, data: Row) -> Iterator[Item]:
    row = from_dict(ThoughtRow, data)
    pieces = [(THOUGHT if span.kind is SpanKind.THOUGHT else TEXT, span.text) for span in spans(row)]
    count = len(row.thoughts)
    where = f"{count} thought{'s' * (count != 1)}, chunk {row.chunk_id}"
    density = 1000 * count / max(1, len(row.text))
    text = [block("text with thoughts", *pieces)]
    yield _item("thoughts", row.split.value, where, text, density, "thoughts per 1,000 characters")


def _rollouts(arm: str, row: Row, windows: Windows) -> Iterator[Item]:
    rewards = row["rewards"]
    blocks = []
    if row["window"] in windows:
        prefix, suffix = windows[row["window"]]
        shown = 2 * max(map(len, row["suffixes"]), default=0) or LONGEST
        blocks = [block("prefix", (DIM, prefix)), block("true suffix", suffix[:shown], tone="truth")]
    for i in best_first(rewards):
        reward = "unscored" if rewards[i] is None else f"reward {rewards[i]:.2f}"
        note = reward + ("" if row["closed"][i] else ", closed by the harness")
        pieces = (THOUGHT, row["thoughts"][i]), (TEXT, row["suffixes"][i])
        blocks.append(block("rollout", *pieces, note=note, tone="chosen" if (rewards[i] or 0) > 0 else ""))
    where = f"step {row['step']}, window {row['window']}"
    yield _item("rollouts", arm, where, blocks, _mean(rewards), "mean reward of the group")


def _probe(_: str, row: Row) -> Iterator[Item]:
    blocks = [block("prefix", (DIM, row["prefix"])), block("true suffix", row["suffix"], tone="truth")]
    for name, answer in row["conditions"].items():
        pieces = [(THOUGHT, answer["thought"])] if answer["thought"] else []
        note = "unscored" if answer["score"] is None else f"score {answer['score']:.2f}"
        blocks.append(block(name, *pieces, (TEXT, answer["prediction"]), note=note))
    own = row["conditions"].get(m.OWN, {}).get("score")
    yield _item("probe", row["arm"], f"window {row['window']}", blocks, own, "score after its own thought")


def _comparisons(arm: str, row: Row) -> Iterator[Item]:
    for condition, sides in row["conditions"].items():
        said: list[str] = []
        leads: list[float | None] = []
        for judge, verdict in sides["judges"].items():
            points, scores = verdict["points"], (verdict["policy"], verdict["base"])
            outcome = {None: "unscored", 1.0: f"prefers {arm}", 0.5: "tie", 0.0: "prefers base"}[points]
            more = [] if None in scores else [f"{scores[0]:.2f} against {scores[1]:.2f}"]
            more += filter(None, [verdict.get("reason")])
            said.append(f"{judge}: {outcome}" + (f" ({'; '.join(more)})" if more else ""))
            gap = 0.0 if None in scores else scores[0] - scores[1]
            leads.append(None if points is None else points - 0.5 + 0.1 * max(-1.0, min(1.0, gap)))
        blocks = [
            block("prefix", (DIM, row["prefix"])),
            block("original", row["suffix"], tone="truth"),
            block(arm, sides["policy"], note="; ".join(said)),
            block("base", sides["base"], note=f"temperature {sides['base_temperature']:.2f}"),
        ]
        where = f"{condition}, chunk {row['chunk_id']}"
        yield _item("comparisons", arm, where, blocks, _mean(leads), "how clearly judges prefer it")


def _continuation(_: str, row: Row) -> Iterator[Item]:
    blocks = [block("prefix", (DIM, row["prefix"])), block("free continuation", row["continuation"])]
    if row.get("thought"):
        blocks.append(block("when a thought is opened for it", (THOUGHT, row["thought"])))
    yield _item("continuations", row["arm"], f"row {row['row']}", blocks, None, "")


def _windows(run: Run) -> Windows:
    """Return the windows of the `rlmt` rows: at places of thoughts, and where the chunks were cut."""
    windows: dict[str, tuple[str, str]] = {}
    chunks = set()
    for data in run.look(SHARED, m.INTERLEAVE).read(f"rows.{Split.RLMT}"):
        row = from_dict(ThoughtRow, data)
        chunks.add(row.chunk_id)
        for place in row.places:
            window = content_id(row.chunk_id, place.token)
            windows[window] = row.text[: place.position], row.text[place.position :]
    for chunk in run.look(SHARED, "chunk").read(f"chunks.{Split.RLMT}"):
        if chunk["id"] in chunks:
            window = content_id(chunk["id"], len(chunk["prefix_ids"]))
            windows.setdefault(window, (chunk["prefix"], chunk["suffix"]))
    return windows


def _give_prefixes(run: Run, items: Iterable[Item]) -> None:
    """Put the prefixes of the kept pools in: their logs name chunks only."""
    pools = [item for item in items if item["kind"] == "candidates"]
    wanted = {item["chunk"] for item in pools}
    chunks = run.look(SHARED, "chunk").read(f"chunks.{Split.IMPROVE}") if wanted else iter(())
    prefixes = {chunk["id"]: chunk["prefix"] for chunk in chunks if chunk["id"] in wanted}
    for item in pools:
        text = prefixes.get(item.pop("chunk"), "(its chunk is not in this run folder)")
        item["blocks"][0] = block("prefix", (DIM, text))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def block(label: str, *pieces: str | tuple[str, str], note: str = "", tone: str = "") -> dict[str, Any]:
    """Return a block of a label and pieces of text: (kind, text), or text alone; each cut to what is embedded."""
    typed = [(TEXT, piece) if isinstance(piece, str) else piece for piece in pieces]
    return {
        "label": printable(label),
        "note": printable(note),
        "tone": tone,
        "pieces": [[kind, _clip(text)] for kind, text in typed],
    }


def _clip(text: str) -> str:
    text = printable(text)
    return text if len(text) <= LONGEST else text[:LONGEST] + f" … ({len(text) - LONGEST:,} more characters)"


def _item(kind: str, arm: str, where: str, blocks: list[dict[str, Any]], score: float | None, scored: str) -> Item:
    shown = round(score, 4) if score is not None and math.isfinite(score) else None
    return {
        "kind": kind,
        "arm": printable(arm),
        "where": printable(where),
        "score": shown,
        "scored": scored,
        "blocks": blocks,
    }
