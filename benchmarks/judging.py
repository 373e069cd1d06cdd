"""17 candidates of one prefix: full pairwise verdicts of a language model, and likelihoods."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.material import Subject, candidates, cut, local, subject
from benchmarks.measure import Options, interleave, require, seconds
from benchmarks.peers import RowScorer, fastest_rows
from benchmarks.results import Row, compared
from forethought.engine import Group
from forethought.engine.scorer import TorchScorer
from forethought.judges.multiple_choice import LocalChoiceModel
from forethought.judges.pairwise import FIELDS, PairwiseJudge
from forethought.llm.prompts import load_prompt
from forethought.records import JudgeRequest, Verdict


def run_pairwise(options: Options) -> Iterator[Row]:
    """Compare verdicts per second: shared prefixes against separate prompts, the judge itself being the same."""
    count, prefix, suffix = (3, 24, 8) if options.quick else (17, 256, 64)
    for name in options.models_or("smollm2-135m-instruct", "qwen2.5-coder-1.5b-instruct"):
        large = "1.5b" in name
        found = subject(name, options)
        chunks = cut(found.tokenizer, options, count, prefix, suffix)
        texts = tuple(chunk.suffix for chunk in chunks)
        contest = JudgeRequest(prefix=chunks[0].prefix, candidates=texts, original=texts[0])
        noted = Noted(TorchScorer(found.policy))
        ours = judge_of(found, noted)
        peer_scorer = best_rows(found, noted, ours, contest)
        peer = judge_of(found, peer_scorer)
        checked = same_verdicts(ours.rank([contest])[0], peer.rank([contest])[0], noted, peer_scorer)
        limit = machine.forward_limit(
            found.plain, noted.groups, scored=sum(len(group.branches) for group in noted.groups)
        )
        pairs = interleave(
            lambda: ours.rank([contest]),  # noqa: B023
            lambda: peer.rank([contest]),  # noqa: B023
            options.at_most(2 if large else 5),
        )
        verdicts = count * (count - 1)
        yield Row(
            benchmark="judging",
            what=f"ranking {count} candidates by {verdicts} pairwise verdicts, {prefix} + {suffix} tokens",
            model=name,
            opponent=f"separate prompts, padded batches of {peer_scorer.rows}",
            target=5.0,
            unit="verdicts/s",
            checked=checked,
            **compared(pairs, verdicts, limit),
        )


class Noted:
    """A scorer that remembers what it was asked."""

    def __init__(self, scorer: TorchScorer) -> None:
        self.scorer = scorer
        self.groups: list[Group] = []
        self.ids: list[int] = []

    def choices(self, groups: Any, choice_ids: Any) -> Any:
        """See :meth:`forethought.engine.Scorer.choices`."""
        self.groups, self.ids = list(groups), list(choice_ids)
        return self.scorer.choices(groups, choice_ids)

    def logprobs(self, groups: Any) -> Any:
        """See :meth:`forethought.engine.Scorer.logprobs`."""
        self.groups = list(groups)
        return self.scorer.logprobs(groups)


def judge_of(found: Subject, scorer: Any) -> PairwiseJudge:
    """Return the shipped pairwise judge, which reads the verdict from the answer's first token."""
    return PairwiseJudge(LocalChoiceModel(local(found, scorer)), load_prompt("quality", FIELDS, "letter"))


def best_rows(found: Subject, noted: Noted, ours: PairwiseJudge, contest: JudgeRequest) -> RowScorer:
    """Return the peer's scorer with its fastest batch size, tried on the first 32 verdicts."""
    ours.rank([contest])
    part = [Group(prefix=group.prefix, branches=group.branches[:16]) for group in noted.groups[:2]]
    return fastest_rows(found.plain, (4, 16, 32), lambda scorer: seconds(lambda: scorer.choices(part, noted.ids)))


def same_verdicts(ours: list[Verdict], peer: list[Verdict], noted: Noted, rows: RowScorer) -> str:
    """Check that answers have the same log-probabilities, and that verdicts agree but for rounding near a tie."""
    part = noted.groups[:2]
    a, b = noted.scorer.choices(part, noted.ids), rows.choices(part, noted.ids)
    apart = float(np.abs(np.concatenate(a) - np.concatenate(b)).mean())
    require(
        apart < (1e-3 if rows.model.dtype.itemsize == 4 else 0.15), f"answers are {apart:.4f} nats apart on average"
    )
    agreed = float(np.mean([one.winner == other.winner for one, other in zip(ours, peer, strict=True)]))
    require(agreed >= 0.9, f"only {agreed:.0%} of the verdicts agree")
    return f"{agreed:.1%} of {len(ours)} verdicts agree, log-probabilities of answers {apart:.1e} nats apart on average"


def run_scoring(options: Options) -> Iterator[Row]:
    """Compare log-likelihoods of candidates: one packed row against separate rows."""
    count, prefix, suffix = (3, 24, 8) if options.quick else (17, 128, 48)
    names = ("smollm2-135m-instruct", "gemma-3-270m", "qwen2.5-coder-1.5b-instruct")
    for name in options.models_or(*names):
        found = subject(name, options)
        chunks = cut(found.tokenizer, options, count, prefix, suffix)
        group = candidates(chunks, found.bos, count)
        ours = TorchScorer(found.policy)
        peer = fastest_rows(found.plain, (1, 4, 17), lambda scorer: seconds(lambda: scorer.logprobs([group])))  # noqa: B023
        checked = same_logprobs(ours.logprobs([group])[0], peer.logprobs([group])[0], options)
        pairs = interleave(
            functools.partial(ours.logprobs, [group]), functools.partial(peer.logprobs, [group]), options
        )
        yield Row(
            benchmark="scoring",
            what=f"likelihood of {count} candidates of one prefix, {prefix} + {suffix} tokens",
            model=name,
            opponent=f"{count} separate rows, padded batches of {peer.rows}",
            target=2.0,
            unit="candidates/s",
            checked=checked,
            **compared(pairs, count, machine.forward_limit(found.plain, [group])),
        )


def same_logprobs(ours: list[np.ndarray], peer: list[np.ndarray], options: Options) -> str:
    """Check that log-probabilities agree to rounding."""
    a, b = np.concatenate(ours), np.concatenate(peer)
    apart = float(np.abs(a - b).mean())
    require(apart < (1e-3 if options.tiny else 0.1), f"log-probabilities are {apart:.4f} nats apart on average")
    shift = abs(float(a.mean() - b.mean()))
    require(shift < 0.02, f"mean log-probabilities are {shift:.4f} nats apart")
    return f"log-probabilities of {len(a)} tokens {apart:.1e} nats apart on average, their means {shift:.1e}"
