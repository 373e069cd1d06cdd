"""What judges cost: a likelihood judge reads a prefix once, a pairwise one with both texts for every verdict."""

from __future__ import annotations

from forethought.config import TRAINING, JudgeConfig, MatchConfig, RewriteConfig
from forethought.config.stages import TeacherConfig
from forethought.costs.base import REPLY, Cost, Setting, drawn, passes, scored, served
from forethought.costs.work import scoring

INSTRUCTIONS, FRAME = 200, 30
"""Tokens of what a judge or teacher is told, and of the turn markers and the question behind what it reads; about."""
SECONDS_PER_EMBEDDING = 0.015
"""A sentence embedding by all-MiniLM-L6-v2, on two cores."""
PIECES = 5
"""Texts of a prefix, itself and pieces of it, that are embedded for a match judge; about."""


def verdicts(judge: JudgeConfig, candidates: int) -> int:
    """Return how often a judge is asked about one pool of candidates."""
    if judge.kind != "pairwise":
        return candidates * judge.repeats
    full = judge.tournament == "full" or candidates <= 2
    return (candidates * (candidates - 1) if full else 2 * (candidates - 1)) * judge.repeats


def judging(at: Setting, name: str, pools: float, candidates: int, tokens: float) -> Cost:
    """Return the cost of one judge's verdicts on pools of ``candidates`` texts of ``tokens`` tokens each."""
    judge = {**at.config.judges, **at.config.evaluate.judges}[name]
    if judge.kind in ("shorter", "custom"):  # what code of the user's own costs is not known
        return Cost()
    if judge.kind == "likelihood":
        roles = [f"judge {name}", *([f"judge {name}, contrast"] if judge.contrast else [])]
        micro = at.config.improve.micro_tokens
        scores = (scored(at.shape(role), pools, at.prefix, candidates * tokens, micro) for role in roles)
        return sum(scores, Cost())
    asked = pools * verdicts(judge, candidates)
    # All that are compared with one text are branches behind it; who grades reads one text at a time.
    told = INSTRUCTIONS + at.prefix
    shared = pools * (candidates * (told + tokens) if judge.kind == "pairwise" else told)
    return _asking(at, judge, f"judge {name}", (asked, shared, told + tokens, tokens))


def matching(at: Setting, windows: float, predictions: float, name: str = TRAINING) -> Cost:
    """Return the cost of comparing ``predictions`` suffixes with the true one of each window by one match judge."""
    assert at.config.rlmt is not None
    match, tokens = at.config.match_judges[name], at.config.rlmt.suffix_tokens
    role = "match judge" if name == TRAINING else f"match judge {name}"
    asked = windows * predictions
    if match.kind == "custom":
        return Cost()
    if match.embeds:
        # Besides the predictions the true suffix and, where that counts, the prefix with its pieces.
        texts = windows * (1 + PIECES * (match.kind == "beyond-prefix")) + asked
        return Cost(seconds=0.0 if match.embedder == "letters" else texts * SECONDS_PER_EMBEDDING)
    if match.kind == "likelihood-gain":
        micro = at.config.improve.micro_tokens
        return scored(at.shape(role), windows + asked, at.prefix + tokens, tokens, micro)
    told = INSTRUCTIONS + at.prefix + 2 * tokens
    return _asking(at, match, role, (asked * match.repeats, windows * told, told, tokens))


def _asking(
    at: Setting, judge: JudgeConfig | MatchConfig, role: str, amount: tuple[float, float, float, float]
) -> Cost:
    """Return the cost of questions to a language model.

    ``amount``: questions; tokens that are read once for several of them; tokens before the last text of a question,
    for whom each question stands alone; tokens of that text.
    """
    asked, shared, alone, tokens = amount
    writes = judge.verdict == "written"
    answer = REPLY * judge.max_tokens if writes else 1
    if judge.endpoint is not None:
        return served(asked, judge.endpoint.concurrency, answer)
    model = at.shape(role)
    if writes:
        sizes = alone + tokens + FRAME, answer
        return drawn(model, asked / judge.repeats, judge.repeats, sizes, at.config.improve.sample_rows)
    read = shared + asked * (tokens + FRAME)
    return Cost(work=(scoring(model, read, 0, passes(read, at.config.improve.micro_tokens)),))


def written(
    at: Setting,
    role: str,
    teacher: TeacherConfig | RewriteConfig,
    requests: float,
    tokens: tuple[float, float],
    rows: int,
) -> Cost:
    """Return the cost of a teacher's replies; ``tokens``: of a request, of a reply; ``rows`` are decoded at once."""
    if teacher.endpoint is not None:
        return served(requests, teacher.endpoint.concurrency, tokens[1])
    return drawn(at.shape(role), requests, 1, tokens, rows)
