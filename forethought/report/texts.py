"""The texts of a run: candidates, thoughts in place, rollouts, the probe, comparisons, free continuations.

What is here is written by models and by strangers.  It stays text: pieces that the page's script puts into text nodes.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from forethought import metrics as m
from forethought.records import Origin, SpanKind, Split, ThoughtRow, content_id, from_dict
from forethought.store import SHARED, Run, StageFolder
from forethought.tags import spans

Row = Mapping[str, Any]
Item = dict[str, Any]
"""Kind, arm, where, score (or none) and what it scores, and blocks: label, note, tone and pieces."""

Maker = Callable[[str, Row], Iterator[Item]]
"""What a row of a log of an arm shows."""
Group = tuple[str, str]
"""Kind and arm."""

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
    kept: list[Item] = []
    shares: list[dict[str, Any]] = []
    windows = _windows(run)
    for folder in run.stages():
        for log, make in makers(folder, windows):
            some, counts = _chosen(folder, log, make)
            kept += some
            shares += [{"kind": kind, "arm": arm, "of": count} for (kind, arm), count in counts.items()]
    _give_prefixes(run, kept)
    return _within(kept, shares)


def makers(folder: StageFolder, windows: Mapping[str, tuple[str, str]] | None = None) -> list[tuple[str, Maker]]:
    """Return the logs of a stage that hold texts, with what makes items of their rows."""
    known: dict[str, list[tuple[str, Maker]]] = {
        "improve": [("pools", _pools)],
        m.INTERLEAVE: [(f"rows.{split}", _rows) for split in (Split.SFT, Split.HELDOUT)],
        "rlmt": [("groups", lambda arm, row: _groups(arm, row, windows or {}))],
        m.EVALUATE: [("examples", _comparisons)],
        m.EVALUATE_RLMT: [("examples", _probes)],
        m.EVALUATE_SFT: [("examples", _continuations)],
    }
    return known.get(folder.stage, [])


def _chosen(folder: StageFolder, log: str, make: Maker) -> tuple[list[Item], dict[Group, int]]:
    """Return the items of a log that are kept, and how many there are; the log may be larger than memory."""

    def items() -> Iterator[Item]:
        return itertools.chain.from_iterable(make(folder.arm, row) for row in folder.read(log))

    scores: dict[Group, list[float | None]] = {}
    for item in items():
        scores.setdefault((item["kind"], item["arm"]), []).append(item["score"])
    wanted = {group: set(thin(found, MOST)) for group, found in scores.items()}
    seen: Counter[Group] = Counter()
    kept = []
    for item in items():
        group = item["kind"], item["arm"]
        if seen[group] in wanted.get(group, ()):
            kept.append(item)
        seen[group] += 1
    return kept, {group: len(found) for group, found in scores.items()}


def thin(scores: Sequence[float | None], most: int) -> list[int]:
    """Return at most ``most`` places in ``scores``, ascending: the best, the worst, and some between them."""
    if len(scores) <= most:
        return list(range(len(scores)))
    ranked = sorted(range(len(scores)), key=lambda i: (scores[i] is None, -(scores[i] or 0.0), i))
    ends = most // 3
    middle, left = ranked[ends : len(ranked) - ends], most - 2 * ends
    between = [middle[number * len(middle) // left] for number in range(left)]
    return sorted({*ranked[:ends], *ranked[len(ranked) - ends :], *between})


def _within(items: list[Item], shares: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the items that fit, of each kind and arm the same share."""
    groups: dict[Group, list[Item]] = {}
    for item in items:
        groups.setdefault((item["kind"], item["arm"]), []).append(item)
    share = min(1.0, BUDGET / max(1, sum(map(_size, items))))
    for group, some in groups.items():
        kept = thin([item["score"] for item in some], max(1, int(share * len(some))))
        groups[group] = [some[place] for place in kept]
    for one in shares:
        one["shown"] = len(groups[one["kind"], one["arm"]])
    return {"items": list(itertools.chain.from_iterable(groups.values())), "shares": shares}


def _size(item: Item) -> int:
    return sum(len(one["note"]) + sum(len(text) for _, text in one["pieces"]) for one in item["blocks"])


def _pools(arm: str, row: Row) -> Iterator[Item]:
    scored = dict(zip((one["id"] for one in row["candidates"]), row["scores"], strict=False))
    if not scored:  # plain next-token training has no pools
        return
    index = {one["id"]: number for number, one in enumerate(row["candidates"])}

    def order(one: Row) -> tuple[bool, bool, float]:  # what the author wrote stands first
        score = scored.get(one["id"])
        return one["origin"] != Origin.CORPUS, score is None, -(score or 0.0)

    blocks = [block("prefix")]
    best: dict[str, float] = {}
    for one in sorted(row["candidates"], key=order):
        score, origin = scored.get(one["id"]), one["origin"]
        if score is not None:
            best[origin] = max(score, best.get(origin, score))
        marks = [mark for mark in ("chosen", "rejected") if row.get(mark) == one["id"]]
        notes = [*marks, "no score" if score is None else f"score {score:.3f}", *_said(row, index[one["id"]])]
        name = "original" if origin == Origin.CORPUS else origin
        tone = marks[0] if marks else "truth" if name == "original" else ""
        blocks.append(block(name, one["text"], note=", ".join(notes), tone=tone))
    both = Origin.ROLLOUT in best and Origin.CORPUS in best
    gap = best[Origin.ROLLOUT] - best[Origin.CORPUS] if both else None
    where = f"step {row['step']}, chunk {row['chunk_id']}"
    yield item("candidates", arm, where, blocks, gap, "best rollout above the original by") | {"chunk": row["chunk_id"]}


def _said(row: Row, index: int) -> Iterator[str]:
    """Yield what each judge said about a candidate that a score does not say: wins, losses, and why it is unscored."""
    for judge, verdicts in row.get("verdicts", {}).items():
        about = [one for one in verdicts if index in (one["first"], one.get("second"))]
        kinds = Counter(
            one["outcome"] if one["outcome"] != "preferred" else "won" if one.get("winner") == index else "lost"
            for one in about
            if one["outcome"] != "scored"
        )
        if kinds:
            reasons = dict.fromkeys(
                one["reason"] for one in about if one["outcome"] == "unscored" and one.get("reason")
            )
            why = f" ({'; '.join(itertools.islice(reasons, 2))})" if reasons else ""
            yield f"{judge}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()) + why


def _rows(_: str, data: Row) -> Iterator[Item]:
    row = from_dict(ThoughtRow, data)
    pieces = [(THOUGHT if span.kind is SpanKind.THOUGHT else TEXT, span.text) for span in spans(row)]
    count = len(row.thoughts)
    where = f"{count} thought{'s' * (count != 1)}, chunk {row.chunk_id}"
    density = 1000 * count / max(1, len(row.text))
    text = [block("text with thoughts", *pieces)]
    yield item("thoughts", row.split.value, where, text, density, "thoughts per 1,000 characters")


def _groups(arm: str, row: Row, windows: Mapping[str, tuple[str, str]]) -> Iterator[Item]:
    rewards = row["rewards"]
    known = [reward for reward in rewards if reward is not None]
    blocks = []
    if row["window"] in windows:
        prefix, reference = windows[row["window"]]
        longest = max(map(len, row["suffixes"]), default=0)
        blocks = [
            block("prefix", (DIM, prefix)),
            block("true suffix", reference[: 2 * longest or LONGEST], tone="truth"),
        ]
    for i in sorted(range(len(rewards)), key=lambda i: (rewards[i] is None, -(rewards[i] or 0.0), i)):
        reward = "unscored" if rewards[i] is None else f"reward {rewards[i]:.2f}"
        note = reward + ("" if row["closed"][i] else ", closed by the harness")
        pieces = (THOUGHT, row["thoughts"][i]), (TEXT, row["suffixes"][i])
        blocks.append(block("rollout", *pieces, note=note, tone="chosen" if (rewards[i] or 0) > 0 else ""))
    mean = sum(known) / len(known) if known else None
    yield item("rollouts", arm, f"step {row['step']}, window {row['window']}", blocks, mean, "mean reward of the group")


def _probes(_: str, row: Row) -> Iterator[Item]:
    blocks = [block("prefix", (DIM, row["prefix"])), block("true suffix", row["suffix"], tone="truth")]
    for name, one in row["conditions"].items():
        pieces = [(THOUGHT, one["thought"])] if one["thought"] else []
        note = "unscored" if one["score"] is None else f"score {one['score']:.2f}"
        blocks.append(block(name, *pieces, (TEXT, one["prediction"]), note=note))
    own = row["conditions"].get(m.OWN, {}).get("score")
    yield item("probe", row["arm"], f"window {row['window']}", blocks, own, "score after its own thought")


def _comparisons(arm: str, row: Row) -> Iterator[Item]:
    for condition, one in row["conditions"].items():
        said, lead = [], []
        for judge, verdict in one["judges"].items():
            points, scores = verdict["points"], (verdict["policy"], verdict["base"])
            outcome = {None: "unscored", 1.0: f"prefers {arm}", 0.5: "tie", 0.0: "prefers base"}[points]
            more = [f"{scores[0]:.2f} against {scores[1]:.2f}"] if None not in scores else []
            more += [verdict["reason"]] if verdict.get("reason") else []
            said.append(f"{judge}: {outcome}" + (f" ({'; '.join(more)})" if more else ""))
            if points is not None:
                gap = 0.0 if None in scores else scores[0] - scores[1]
                lead.append(points - 0.5 + 0.1 * max(-1.0, min(1.0, gap)))
        blocks = [
            block("prefix", (DIM, row["prefix"])),
            block("original", row["suffix"], tone="truth"),
            block(arm, one["policy"], note="; ".join(said)),
            block("base", one["base"], note=f"temperature {one['base_temperature']:.2f}"),
        ]
        mean = sum(lead) / len(lead) if lead else None
        where = f"{condition}, chunk {row['chunk_id']}"
        yield item("comparisons", arm, where, blocks, mean, "how clearly judges prefer it")


def _continuations(_: str, row: Row) -> Iterator[Item]:
    blocks = [block("prefix", (DIM, row["prefix"])), block("free continuation", row["continuation"])]
    if row.get("thought"):
        blocks.append(block("when a thought is opened for it", (THOUGHT, row["thought"])))
    yield item("continuations", row["arm"], f"row {row['row']}", blocks, None, "")


def _windows(run: Run) -> dict[str, tuple[str, str]]:
    """Return prefix and true continuation of every window of the `rlmt` rows, by the window's id."""
    found: dict[str, tuple[str, str]] = {}
    rows = [from_dict(ThoughtRow, row) for row in _shared(run, m.INTERLEAVE, f"rows.{Split.RLMT}")]
    for row in rows:
        for place in row.places:
            text = row.text[: place.position], row.text[place.position :]
            found[content_id(row.chunk_id, place.token)] = text
    chunks = {row.chunk_id for row in rows}
    for chunk in _shared(run, "chunk", f"chunks.{Split.RLMT}"):  # windows that are cut where the chunks were
        if chunk["id"] in chunks:
            found.setdefault(content_id(chunk["id"], len(chunk["prefix_ids"])), (chunk["prefix"], chunk["suffix"]))
    return found


def _give_prefixes(run: Run, items: Iterable[Item]) -> None:
    """Put the prefixes of the kept pools in: their logs name chunks only."""
    pools = [one for one in items if one["kind"] == "candidates"]
    wanted = {one["chunk"] for one in pools}
    chunks = _shared(run, "chunk", f"chunks.{Split.IMPROVE}") if wanted else iter(())
    prefixes = {one["id"]: one["prefix"] for one in chunks if one["id"] in wanted}
    for one in pools:
        text = prefixes.get(one.pop("chunk"), "(its chunk is not in this run folder)")
        one["blocks"][0] = block("prefix", (DIM, text))


def _shared(run: Run, stage: str, log: str) -> Iterator[Row]:
    for folder in run.stages():
        if (folder.arm, folder.stage) == (SHARED, stage):
            yield from folder.read(log)


def block(label: str, *pieces: str | tuple[str, str], note: str = "", tone: str = "") -> dict[str, Any]:
    """Return a block of a label and pieces of text: (kind, text), or text alone."""
    typed = [(TEXT, piece) if isinstance(piece, str) else piece for piece in pieces]
    return {"label": label, "note": note, "tone": tone, "pieces": [[kind, clip(text)] for kind, text in typed]}


def item(kind: str, arm: str, where: str, blocks: list[dict[str, Any]], score: float | None, scored: str) -> Item:
    """Return an item; a score that is no number counts as none."""
    shown = round(score, 4) if score is not None and math.isfinite(score) else None
    return {"kind": kind, "arm": arm, "where": where, "score": shown, "scored": scored, "blocks": blocks}


def clip(text: str) -> str:
    """Return ``text`` cut to what is embedded."""
    return text if len(text) <= LONGEST else text[:LONGEST] + f" … ({len(text) - LONGEST:,} more characters)"
