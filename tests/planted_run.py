"""A run folder whose texts, thoughts, names and errors try to be markup, for the tests of the report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forethought import graph
from forethought.records import Measurement, content_id
from forethought.run.store import Run

EVIL = (
    "</script><script>window.ran=1</script><img src=x onerror=window.ran=2><svg onload=window.ran=3>"
    "<!--<script>{{ 7*7 }} &lt;b&gt; $\\frac{1}{2}$ \u2028\u2029 \x00\x1b[31m \"'>"
)
"""What a corpus, a model or a server might say."""
ARMS = tuple(arm.name for arm in graph.ARMS if not arm.control)
JUDGE = f"evil {EVIL}"
PAIRS = (("self-improved", "base"), ("continued", "base"))
CONDITIONS = ("blank thought", "generic thought", f"swapped {EVIL}")


def plant(path: Path, pools: int = 9) -> Run:
    """Write a run with every kind of log, and return it."""
    run = Run.create_or_open(path)
    run.measure(figures())
    _chunks(run)
    _improve(run, pools)
    _thoughts(run)
    _rollouts(run)
    return run


def figures() -> Iterator[Measurement]:
    """Yield figures of all stages; their values are all different."""
    number = 0

    def one(stage: str, arm: str, metric: str, value: float, **more: Any) -> Measurement:
        nonlocal number
        number += 1
        shift = number / 7919
        ends = {"low": value - 0.071 + shift, "high": value + 0.083 + shift}
        known = {"n": 40 + number, "unit": f"share; {EVIL}", "subject": "1f0c", **ends}
        return Measurement(stage=stage, arm=arm, metric=metric, value=value + shift, **(known | more))

    for arm, against in PAIRS:
        for condition in ("sampled", "greedy", "entropy-matched"):
            place = {"against": against, "condition": condition, "judge": JUDGE}
            yield one("evaluate", arm, "win_rate", 0.61, **place)
            yield one("evaluate", arm, "unscored_rate", 0.02, **place)
        yield one("evaluate", arm, "suffix_nll", 3.1)
        yield one("evaluate", arm, "suffix_nll_change", 0.21, against=against)
    for arm in ARMS:
        yield one("evaluate-sft", arm, "thought NLL", 2.4, condition="per token")
        yield one("evaluate-sft", arm, "thought with tags NLL", 2.9, condition="per row")
        yield one("evaluate-rlmt", arm, "gate reward", 0.12)
    for lineage in ("base", "self-improved"):
        think = f"{lineage}-think"
        yield one("evaluate-sft", think, "thought NLL change", -0.4, against=lineage, condition="per token")
        yield one("evaluate-sft", think, "next-text NLL change", -0.2, condition="own thought against none")
        yield one("evaluate-rlmt", f"{lineage}-rlmt", "gate reward difference", 0.09, against=think)
        foreign = "own against thought about another window"
        yield one("evaluate-rlmt", f"{lineage}-rlmt", "probe gain difference", 0.09, condition=foreign)
    yield one("evaluate-rlmt", "self-improved-rlmt", "gate reward difference", 0.2, against="base-rlmt")
    yield one("evaluate-rlmt", "self-improved-rlmt", "gate score difference", 0.15, against="base-rlmt")
    for condition in CONDITIONS:
        yield one("evaluate-rlmt", "base-rlmt", "probe reward", 0.1, condition=condition)
        yield one("evaluate-rlmt", "base-rlmt", "probe score difference", 0.1, condition=f"own against {condition}")
    for task in ("gsm8k", "macro", EVIL.replace("/", "")):
        for interface in ("plain", "thought"):
            for metric in ("mean@4", "pass@4", "no_answer_rate"):
                yield one("reasoning", "base-think", metric, 0.15, condition=f"{task}/{interface}")
        strict = {"condition": f"{task}/plain", "judge": "math-verify, strict"}
        yield one("reasoning", "base-think", "mean@4", 0.1, **strict)
        change = {"against": "base", "condition": f"{task}/plain"}
        yield one("reasoning", "base-think", "mean@4 smallest detectable difference", 0.1, **change)
        yield one("reasoning", "base-think", "pass@2", 0.12, condition=f"{task}/plain")
        yield one("reasoning", "base-think", "mean@4", 0.1, **change)
    yield one("audit", JUDGE, "accuracy", 0.9, condition="shuffled", judge=JUDGE)
    yield one("interleave", "sft", "rows", 9.0)
    yield one("interleave", "sft", "places_per_row", 1.5)
    yield one("run", "shared", "seconds", 12.0, condition="chunk", low=None, high=None)


def _chunks(run: Run) -> None:
    folder = run.stage("shared", "chunk")
    policy = {"model": EVIL, "revision": None}
    folder.write_config({"policy": policy, "corpus": {"source": "jsonl", "path": EVIL}})
    for split in ("improve", "rlmt"):
        rows = (
            {"id": f"c{i}", "prefix": f"Town {i} {EVIL}", "suffix": f" lies {EVIL}", "prefix_ids": [1, 2]}
            for i in range(12)
        )
        folder.append(f"chunks.{split}", list(rows))
    folder.finish({}, {})


def _improve(run: Run, pools: int) -> None:
    folder = run.stage("self-improved", "improve")
    folder.write_config({"judges": [JUDGE]})
    steps = [
        {"step": step, "improve/selection_rate": 0.3 + 0.01 * step, "improve/selection_null": 0.75,
         "improve/margin": 0.1 * step, "improve/suffix_nll": 3.0, "improve/seconds_sample": 2.0,
         "improve/tokens_per_second_sample": 50.0}
        for step in range(1, 60)
    ]  # fmt: skip
    folder.append("metrics", steps)
    folder.append("pools", [_pool(number) for number in range(pools)])
    folder.finish({}, {})


def _pool(number: int) -> dict[str, Any]:
    texts = [("corpus", f" lies {EVIL}", 0.5), ("rollout", f" rollout{number} {EVIL}", 0.1 * number)]
    candidates = [{"id": f"p{number}{origin}", "origin": origin, "text": text} for origin, text, _ in texts]
    lost = {"outcome": "unscored", "first": 0, "second": 1, "reason": f"HTTP 500 {EVIL}"}
    return {
        "step": number,
        "chunk_id": f"c{number % 12}",
        "candidates": candidates,
        "scores": [score for _, _, score in texts],
        "chosen": candidates[0]["id"],
        "rejected": candidates[1]["id"],
        "verdicts": {JUDGE: [lost, {"outcome": "preferred", "first": 0, "second": 1, "winner": 0}]},
    }


def _thoughts(run: Run) -> None:
    folder = run.stage("shared", "interleave")
    folder.write_config({})
    text = f"It is big. It sings. {EVIL}"
    row = {"chunk_id": "c0", "document_id": "d", "text": text, "places": [{"position": 10, "token": 4}]}
    told = {"split": "sft", "thoughts": [f"How does it breathe? {EVIL}"]}
    folder.append("rows.sft", [row | told | {"id": "r0"}])
    folder.append("rows.rlmt", [row | {"id": "r1", "split": "rlmt", "thoughts": []}])
    folder.finish({}, {})


def _rollouts(run: Run) -> None:
    for arm in ("base-rlmt", "self-improved-rlmt"):
        folder = run.stage(arm, "rlmt")
        folder.write_config({})
        folder.append("metrics", [{"step": step, "rlmt/reward": 0.1, "rlmt/dead_rate": 0.5} for step in range(4)])
        group = {
            "step": 1,
            "window": content_id("c0", 4),
            "thoughts": [f"dull {EVIL}", f"bright {EVIL}"],
            "suffixes": [f" no {EVIL}", f" yes {EVIL}"],
            "closed": [True, False],
            "rewards": [0.0, 1.0],
            "advantages": [-0.5, 0.5],
        }
        folder.append("groups", [group])
    folder = run.stage("shared", "evaluate-rlmt")
    folder.write_config({})
    condition = {"thought": EVIL, "prediction": EVIL, "score": None}
    probe = {"arm": "base-rlmt", "window": "w", "prefix": EVIL, "suffix": EVIL}
    folder.append("examples", [probe | {"conditions": {"own thought": condition, EVIL: condition}}])
    folder = run.stage("self-improved", "evaluate")
    folder.write_config({})
    said = {JUDGE: {"judge": JUDGE, "points": 0.5, "policy": None, "base": None, "reason": EVIL}}
    sides = {"policy": EVIL, "base": EVIL, "base_temperature": 1.0, "judges": said}
    folder.append("examples", [{"chunk_id": "c1", "prefix": EVIL, "suffix": EVIL, "conditions": {"greedy": sides}}])
