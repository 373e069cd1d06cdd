"""The texts of a run for the report's browser: candidates, thoughts in place, rollouts, comparisons.

What is here is written by models and by strangers.  It stays text: pieces that the page's script puts into text nodes.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from forethought.records import ThoughtRow, content_id, from_dict
from forethought.store import SHARED, Run, StageFolder
from forethought.tags import spans

Row = Mapping[str, Any]
Item = dict[str, Any]
"""Kind, arm, where, score (or none) and what it scores, and blocks: label, note, tone and pieces."""

Maker = Callable[[Row], Iterator[Item]]
"""What a row of a log shows."""
Place = tuple[str, str]
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
        for name, make in _sources(folder, windows):
            some, counts = _chosen(folder, name, make)
            kept += some
            shares += [{"kind": kind, "arm": arm, "of": count} for (kind, arm), count in counts.items()]
    _give_prefixes(run, kept)
    return _within(kept, shares)


def _chosen(folder: StageFolder, name: str, make: Maker) -> tuple[list[Item], dict[Place, int]]:
    """Return the items of a log that are kept, and how many there are; the log may be larger than memory."""
    scores: dict[Place, list[float | None]] = {}
    for item in itertools.chain.from_iterable(map(make, folder.read(name))):
        scores.setdefault((item["kind"], item["arm"]), []).append(item["score"])
    wanted = {place: set(thin(found, MOST)) for place, found in scores.items()}
    seen: Counter[Place] = Counter()
    kept = []
    for item in itertools.chain.from_iterable(map(make, folder.read(name))):
        place = item["kind"], item["arm"]
        if seen[place] in wanted.get(place, ()):
            kept.append(item)
        seen[place] += 1
    return kept, {place: len(found) for place, found in scores.items()}


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
    """Halve the largest kind until everything fits."""
    groups: dict[Place, list[Item]] = {}
    for item in items:
        groups.setdefault((item["kind"], item["arm"]), []).append(item)
    sizes = {place: sum(map(_size, group)) for place, group in groups.items()}
    while sum(sizes.values()) > BUDGET:
        largest = max(sizes, key=lambda place: sizes[place])
        if len(groups[largest]) < 2:
            break
        group = groups[largest]
        groups[largest] = [group[i] for i in thin([item["score"] for item in group], len(group) // 2)]
        sizes[largest] = sum(map(_size, groups[largest]))
    for share in shares:
        share["shown"] = len(groups[share["kind"], share["arm"]])
    return {"items": list(itertools.chain.from_iterable(groups.values())), "shares": shares}


def _size(item: Item) -> int:
    return sum(len(text) + 8 for block in item["blocks"] for _, text in block["pieces"])


def _sources(folder: StageFolder, windows: Mapping[str, tuple[str, str]]) -> Sequence[tuple[str, Maker]]:
    arm = folder.arm
    if folder.stage == "improve":
        return [("pools", lambda row: _pools(arm, row))]
    if folder.stage == "interleave":
        return [(f"rows.{split}", _rows) for split in ("sft", "heldout")]
    if folder.stage == "rlmt":
        return [("groups", lambda row: _groups(arm, row, windows))]
    if folder.stage == "evaluate":
        return [("examples", lambda row: _comparisons(arm, row))]
    return {"evaluate-rlmt": [("examples", _probes)], "evaluate-sft": [("examples", _continuations)]}.get(
        folder.stage, []
    )


def _pools(arm: str, row: Row) -> Iterator[Item]:
    if not row["candidates"]:  # plain next-token training has no pools
        return
    scored = [pair for pair in zip(row["candidates"], row["scores"], strict=False) if pair[1] is not None]
    ranked = sorted(scored, key=lambda pair: -pair[1])
    seen = {one["id"] for one, _ in ranked}
    ranked += [(one, None) for one in row["candidates"] if one["id"] not in seen]
    best = {
        origin: max((s for one, s in scored if one["origin"] == origin), default=None)
        for origin in ("rollout", "corpus")
    }
    gap = None if None in best.values() else best["rollout"] - best["corpus"]  # type: ignore[operator]
    index = {one["id"]: number for number, one in enumerate(row["candidates"])}
    ranked.sort(key=lambda pair: pair[0]["origin"] != "corpus")  # what the author wrote stands first
    blocks = [block("prefix", "", DIM)]
    for one, score in ranked:
        marks = [mark for mark in ("chosen", "rejected") if row.get(mark) == one["id"]]
        notes = [*marks, "no score" if score is None else f"score {score:.3f}", *_said(row, index[one["id"]])]
        name = "original" if one["origin"] == "corpus" else one["origin"]
        tone = marks[0] if marks else "truth" if name == "original" else ""
        blocks.append(block(name, one["text"], note=", ".join(notes), tone=tone))
    where = f"step {row['step']}, chunk {row['chunk_id']}"
    item = _item("candidates", arm, where, gap, blocks, "best rollout above the original by")
    yield item | {"chunk": row["chunk_id"]}


def _said(row: Row, index: int) -> Iterator[str]:
    """Yield what each judge said about a candidate that a score does not say: wins, losses, and why it is unscored."""
    for judge, verdicts in row.get("verdicts", {}).items():
        about = [one for one in verdicts if index in (one["first"], one.get("second"))]
        kinds = Counter(
            one["outcome"] if one["outcome"] != "preferred" else "won" if one.get("winner") == index else "lost"
            for one in about
        )
        kinds.pop("scored", None)
        if kinds:
            reasons = dict.fromkeys(
                one["reason"] for one in about if one["outcome"] == "unscored" and one.get("reason")
            )
            why = f" ({'; '.join(itertools.islice(reasons, 2))})" if reasons else ""
            yield f"{judge}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()) + why


def _rows(data: Row) -> Iterator[Item]:
    row = from_dict(ThoughtRow, data)
    pieces = [[THOUGHT if span.kind.value == "thought" else TEXT, clip(span.text)] for span in spans(row)]
    count = len(row.thoughts)
    where = f"{count} thought{'s' * (count != 1)}, chunk {row.chunk_id}"
    density = 1000 * count / max(1, len(row.text))
    yield _item(
        "thoughts",
        row.split.value,
        where,
        density,
        [_block("text with thoughts", pieces)],
        "thoughts per 1,000 characters",
    )


def _groups(arm: str, row: Row, windows: Mapping[str, tuple[str, str]]) -> Iterator[Item]:
    rewards = row["rewards"]
    known = [reward for reward in rewards if reward is not None]
    mean = sum(known) / len(known) if known else None
    order = sorted(range(len(rewards)), key=lambda i: (rewards[i] is None, -(rewards[i] or 0.0), i))
    blocks = []
    if row["window"] in windows:
        prefix, reference = windows[row["window"]]
        longest = max(map(len, row["suffixes"]), default=0)
        blocks = [block("prefix", prefix, DIM), block("true suffix", reference[: 2 * longest or LONGEST], tone="truth")]
    for i in order:
        reward = "unscored" if rewards[i] is None else f"reward {rewards[i]:.2f}"
        closed = "" if row["closed"][i] else ", closed by the harness"
        pieces = [[THOUGHT, clip(row["thoughts"][i])], [TEXT, clip(row["suffixes"][i])]]
        blocks.append(_block("rollout", pieces, reward + closed, "chosen" if (rewards[i] or 0) > 0 else ""))
    yield _item(
        "rollouts", arm, f"step {row['step']}, window {row['window']}", mean, blocks, "mean reward of the group"
    )


def _probes(row: Row) -> Iterator[Item]:
    blocks = [block("prefix", row["prefix"], DIM), block("true suffix", row["suffix"], tone="truth")]
    for name, one in row["conditions"].items():
        pieces = [[THOUGHT, clip(one["thought"])]] if one["thought"] else []
        score = "unscored" if one["score"] is None else f"score {one['score']:.2f}"
        blocks.append(_block(name, [*pieces, [TEXT, clip(one["prediction"])]], score))
    own = row["conditions"].get("own thought", {}).get("score")
    yield _item("probe", row["arm"], f"window {row['window']}", own, blocks, "score after its own thought")


def _comparisons(arm: str, row: Row) -> Iterator[Item]:
    for condition, one in row["conditions"].items():
        said, lead = [], []
        for judge, verdict in one["judges"].items():
            points = {None: "unscored", 1.0: f"prefers {arm}", 0.5: "tie", 0.0: "prefers base"}[verdict["points"]]
            said.append(f"{judge}: {points}" + (f" ({verdict['reason']})" if verdict.get("reason") else ""))
            if verdict["points"] is not None:
                gap = 0.0 if verdict["policy"] is None else verdict["policy"] - verdict["base"]
                lead.append(verdict["points"] - 0.5 + 0.1 * max(-1.0, min(1.0, gap)))
        blocks = [
            block("prefix", row["prefix"], DIM),
            block("original", row["suffix"], tone="truth"),
            block(arm, one["policy"], note="; ".join(said)),
            block("base", one["base"], note=f"temperature {one['base_temperature']:.2f}"),
        ]
        score = sum(lead) / len(lead) if lead else None
        yield _item(
            "comparisons", arm, f"{condition}, chunk {row['chunk_id']}", score, blocks, "how clearly judges prefer it"
        )


def _continuations(row: Row) -> Iterator[Item]:
    blocks = [block("prefix", row["prefix"], DIM), block("free continuation", row["continuation"])]
    if row.get("thought"):
        blocks.append(_block("when a thought is opened for it", [[THOUGHT, clip(row["thought"])]]))
    yield _item("continuations", row["arm"], f"row {row['row']}", None, blocks, "")


def _windows(run: Run) -> dict[str, tuple[str, str]]:
    """Return prefix and true continuation of every window of the `rlmt` rows, by the window's id."""
    found: dict[str, tuple[str, str]] = {}
    folders = [folder for folder in run.stages() if (folder.arm, folder.stage) == (SHARED, "interleave")]
    rows = [row for folder in folders for row in folder.load("rows.rlmt", ThoughtRow)]
    for row in rows:
        for place in row.places:
            text = row.text[: place.position], row.text[place.position :]
            found[content_id(row.chunk_id, place.token)] = text
    texts = {row.chunk_id: row.text for row in rows}
    for chunk in _chunks(run, ("rlmt",)):  # windows that are cut where the chunks were
        if chunk["id"] in texts:
            text = chunk["prefix"], chunk["suffix"]
            found.setdefault(content_id(chunk["id"], len(chunk["prefix_ids"])), text)
    return found


def _give_prefixes(run: Run, items: Iterable[Item]) -> None:
    """Put the prefixes of the kept pools in: their logs name chunks only."""
    pools = [item for item in items if item["kind"] == "candidates"]
    wanted = {item["chunk"] for item in pools}
    prefixes = {one["id"]: one["prefix"] for one in _chunks(run, ("improve",)) if one["id"] in wanted}
    for item in pools:
        text = prefixes.get(item.pop("chunk"), "(its chunk is not in this run folder)")
        item["blocks"][0] = block("prefix", text, DIM)


def _chunks(run: Run, splits: Iterable[str]) -> Iterator[Row]:
    for folder in run.stages():
        if (folder.arm, folder.stage) == (SHARED, "chunk"):
            for split in splits:
                yield from folder.read(f"chunks.{split}")


def block(label: str, text: str, kind: str = TEXT, note: str = "", tone: str = "") -> dict[str, Any]:
    """Return a block of one piece."""
    return _block(label, [[kind, clip(text)]], note, tone)


def _block(label: str, pieces: list[list[str]], note: str = "", tone: str = "") -> dict[str, Any]:
    return {"label": label, "note": note, "tone": tone, "pieces": pieces}


def _item(kind: str, arm: str, where: str, score: float | None, blocks: list[dict[str, Any]], scored: str) -> Item:
    shown = round(score, 4) if score is not None and math.isfinite(score) else None
    return {"kind": kind, "arm": arm, "where": where, "score": shown, "scored": scored, "blocks": blocks}


def clip(text: str) -> str:
    """Return ``text`` cut to what is embedded."""
    return text if len(text) <= LONGEST else text[:LONGEST] + f" … ({len(text) - LONGEST:,} more characters)"
