"""Stage 1's loop: what each objective moves, what changes nothing, and what the metrics mean."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.endpoint import Server, completion
from helpers.smoke_runs import CONFIG, SMALL, lifecycle
from helpers.stages import GivenContext, run_stage, stage_of, untrained, weights

from forethought import config, models
from forethought.config import Config
from forethought.engine import Group
from forethought.engine.policy import Policy
from forethought.engine.scorer import TorchScorer
from forethought.judges.base import QuestionJudge
from forethought.judges.likelihood import LikelihoodJudge
from forethought.judges.shorter import ShorterJudge
from forethought.llm.endpoint import SHORT_REQUEST, OutageError
from forethought.models.model import Compute, Model
from forethought.pipeline.runner import Lifecycle
from forethought.records import Axis, Chunk, JudgeRequest, Split, Verdict
from forethought.run.store import Run, StageFolder
from forethought.stages.session import UndecidedError, batch
from forethought.testing import byte_tokenizer

TINY = (
    *SMALL,
    "improve.steps=3",
    "improve.checkpoint_every=0",
    "improve.monitor_every=0",
    "improve.warmup_steps=0",
    "improve.min_rate_ratio=1.0",
    "improve.learning_rate=1e-3",
)


def settings(*overrides: str) -> Config:
    return config.load(CONFIG, (*TINY, *overrides))


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> list[Chunk]:
    run = Run.create_or_open(tmp_path_factory.mktemp("chunks"))
    folder = Lifecycle(settings(), run, say=lambda line: None).make("shared/chunk")
    return [chunk for split in Split for chunk in folder.load(f"chunks.{split}", Chunk)]


@dataclass
class Capitals:
    """A rewrite teacher that fails on every third suffix."""

    asked: list[Chunk] = field(default_factory=list)

    def rewrite(self, chunks: Sequence[Chunk]) -> list[str | None]:
        self.asked += chunks
        return [None if int(chunk.id, 16) % 3 == 0 else chunk.suffix.upper() for chunk in chunks]


def train(
    chunks: Sequence[Chunk],
    place: Path,
    *overrides: str,
    judges: Sequence[Any] = (ShorterJudge(),),
    rewriter: Capitals | None = None,
) -> StageFolder:
    """Run the stage, or go on with it, and return its folder."""
    given = {judge.name: judge for judge in judges}
    stage = stage_of(GivenContext(settings(*overrides), place, chunks=chunks, judges=given), "self-improved/improve")
    stage.teacher = lambda: rewriter
    return run_stage(stage)


def difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def logprob(weights: dict[str, torch.Tensor], groups: Sequence[Group]) -> list[list[float]]:
    """Return the log-probability of each branch under the tiny model with ``weights``."""
    tiny = models.load(config.ModelConfig(model="tiny-llama"), device=torch.device("cpu"), dtype=torch.float32)
    tiny.model.load_state_dict(weights, strict=False)
    return [[float(row.sum()) for row in rows] for rows in TorchScorer(Policy(tiny.model)).logprobs(groups)]


def pairs(folder: StageFolder, chunks: Sequence[Chunk], step: int) -> list[Group]:
    """Return (chosen, rejected) of every decided pool of ``step``, as they were logged."""
    prefixes = {chunk.id: chunk.prefix_ids for chunk in chunks}
    groups = []
    for row in folder.read("pools"):
        ids = {c["id"]: tuple(c["token_ids"]) for c in row["candidates"]}
        if row["step"] == step and row["chosen"]:
            branches = (ids[row["chosen"]], ids[row["rejected"]])
            groups.append(Group(prefix=models.bos_ids(byte_tokenizer()) + prefixes[row["chunk_id"]], branches=branches))
    return groups


def test_dpo_raises_the_chosen_against_the_rejected(chunks: list[Chunk], tmp_path: Path) -> None:
    folder = train(chunks, tmp_path, "improve.steps=1", "improve.prefixes_per_step=12")
    groups = pairs(folder, chunks, 0)
    assert len(groups) >= 3
    gaps = [
        sum(chosen - rejected for chosen, rejected in logprob(model, groups)) / len(groups)
        for model in (untrained(), weights(folder))
    ]
    assert gaps[1] - gaps[0] > 0.1
    rows = list(folder.read("metrics"))
    assert rows[1]["improve/margin"] == 0.0  # measured before the first update
    assert rows[1]["improve/loss"] == pytest.approx(math.log(2))


def test_rf_nll_raises_the_chosen(chunks: list[Chunk], tmp_path: Path) -> None:
    overrides = ("improve.objective=rf-nll", "improve.steps=1", "improve.prefixes_per_step=12")
    folder = train(chunks, tmp_path, *overrides)
    groups = pairs(folder, chunks, 0)
    before_after = [[chosen for chosen, _ in logprob(model, groups)] for model in (untrained(), weights(folder))]
    assert sum(before_after[1]) > sum(before_after[0]) + len(groups)
    # The loss is the mean over the chosen tokens, all 12 of each; special tokens are masked, so it is a little lower.
    assert list(folder.read("metrics"))[1]["improve/loss"] == pytest.approx(
        -sum(before_after[0]) / (12 * len(groups)), rel=0.01
    )


def test_sft_on_rewrites_learns_the_rewrites(chunks: list[Chunk], tmp_path: Path) -> None:
    teacher = Capitals()
    overrides = ("improve.objective=sft-rewrite", "improve.rewrite.model.model=tiny-llama", "improve.steps=4")
    folder = train(chunks, tmp_path, *overrides, judges=[], rewriter=teacher)
    asked = {chunk.id: chunk for chunk in teacher.asked}
    usable = [chunk for chunk in asked.values() if int(chunk.id, 16) % 3]
    groups = [
        Group(prefix=(1, *c.prefix_ids), branches=(tuple(c.suffix.upper().encode()), c.suffix_ids)) for c in usable
    ]
    gain = [
        [sum(column) / len(groups) for column in zip(*logprob(model, groups), strict=True)]
        for model in (untrained(), weights(folder))
    ]
    rewrite_gain, original_gain = (gain[1][i] - gain[0][i] for i in (0, 1))
    assert rewrite_gain > 5.0
    assert rewrite_gain > original_gain
    rows = list(folder.read("metrics"))[1:]
    written = Counter(one["step"] for one in folder.read("pools") if one["candidates"])
    assert [row["improve/rewritten"] for row in rows] == [written[step] / 2 for step in range(4)]
    assert "improve/selection_rate" not in rows[0]


def test_continued_pretraining_lowers_the_nll_of_held_out_suffixes(chunks: list[Chunk], tmp_path: Path) -> None:
    folder = train(chunks, tmp_path, "improve.objective=continued", "improve.steps=6", judges=[])
    rows = list(folder.read("metrics"))
    assert rows[-1]["improve/suffix_nll"] < rows[0]["improve/suffix_nll"] - 0.3
    candidates = [pool["candidates"] for pool in folder.read("pools")]
    assert candidates == [[]] * len(candidates) != []


def test_the_rewrite_is_one_more_candidate(chunks: list[Chunk], tmp_path: Path) -> None:
    rewriting = "improve.rewrite.model.model=tiny-llama"
    folder = train(chunks, tmp_path, rewriting, "improve.original=false", rewriter=Capitals())
    rows = list(folder.read("pools"))
    origins = Counter(one["origin"] for row in rows for one in row["candidates"])
    expected = sum(int(row["chunk_id"], 16) % 3 > 0 for row in rows)
    assert origins == {"rollout": 24, "rewrite": expected}
    assert 0 < expected < 6


@pytest.mark.parametrize("override", ["improve.micro_tokens=1", "improve.sample_rows=1"])
def test_how_work_is_cut_up_changes_nothing(override: str, chunks: list[Chunk], tmp_path: Path) -> None:
    whole, cut = train(chunks, tmp_path / "whole"), train(chunks, tmp_path / "cut", override)
    assert list(whole.read("pools")) == list(cut.read("pools"))
    assert difference(weights(whole), weights(cut)) < 1e-5
    assert difference(weights(whole), untrained()) > 1e-3


def test_the_nll_term_raises_the_chosen_further(chunks: list[Chunk], tmp_path: Path) -> None:
    once = ("improve.steps=1", "improve.prefixes_per_step=12")
    plain = train(chunks, tmp_path / "plain", *once)
    with_nll = train(chunks, tmp_path / "nll", *once, "improve.nll_weight=5.0")
    groups = pairs(plain, chunks, 0)
    chosen = [sum(first for first, _ in logprob(weights(folder), groups)) for folder in (plain, with_nll)]
    assert chosen[1] > chosen[0] + 0.5 * len(groups)


def test_a_reference_that_follows_the_policy(chunks: list[Chunk], tmp_path: Path) -> None:
    overrides = ("improve.sync_reference_every=2", "improve.steps=5", "improve.prefixes_per_step=4")
    folder = train(chunks, tmp_path, *overrides)
    margins = [row["improve/margin"] for row in folder.read("metrics") if row["step"] > 0]
    # Steps 1, 3 and 5 begin with a reference that is the policy.
    assert [margin == pytest.approx(0.0, abs=1e-4) for margin in margins] == [True, False, True, False, True]


def test_steps_in_which_nothing_is_decided_change_nothing_and_can_be_resumed(
    chunks: list[Chunk], tmp_path: Path
) -> None:
    judge = Undecided(interrupt_at=2)
    overrides = ("improve.steps=4", "improve.checkpoint_every=1", "improve.max_undecided=1")
    with pytest.raises(KeyboardInterrupt):
        train(chunks, tmp_path, *overrides, judges=[judge])
    folder = train(chunks, tmp_path, *overrides, judges=[judge])
    assert difference(weights(folder), untrained()) == 0.0
    rows = list(folder.read("metrics"))
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert {row["improve/tie_rate"] for row in rows[1:]} == {1.0}
    assert {row["improve/unscored_rate"] for row in rows[1:]} == {1.0}
    summary = (folder.manifest() or {})["summary"]
    assert (summary["steps_unscored"], summary["steps_tied"]) == (4, 0)  # two of them from before the interrupt


def test_a_stage_without_verdicts_does_not_end_as_done_and_goes_on_when_they_come(
    chunks: list[Chunk], tmp_path: Path
) -> None:
    overrides = ("improve.steps=4", "improve.checkpoint_every=1")
    judge = Undecided(interrupt_at=9, until=2)
    with pytest.raises(UndecidedError, match=r"2 of 4 steps have no training signal \(2 for want of verdicts") as error:
        train(chunks, tmp_path, *overrides, judges=[judge])
    assert error.value.exit_code == 3
    folder = train(chunks, tmp_path, *overrides, judges=[judge])
    assert (folder.manifest() or {})["summary"]["steps_unscored"] == 1
    assert [row["step"] for row in folder.read("metrics")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("answer", [(500, {}, "broken"), (200, {}, {"junk": 1}), None])
def test_an_outage_after_a_good_start_stops_the_stage_which_then_ends_as_if_there_had_been_none(
    answer: Any, chunks: list[Chunk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    out = {"after": 30}

    def behave(message: str, visit: int) -> Any:
        out["after"] -= 1
        good = "1" if len(message) % 2 else "2"
        return (200, {}, completion(good)) if out["after"] >= 0 else answer

    server = Server(behave)
    try:
        endpoint = f'{{base_url="{server.url}", model="m", retries=0, patience=0, concurrency=1}}'
        overrides = (
            "improve.steps=4",
            "improve.checkpoint_every=1",
            f'judges.shorter={{kind="pairwise", endpoint={endpoint}}}',
        )

        def run(place: Path) -> StageFolder:
            context = GivenContext(settings(*overrides), place, chunks=chunks)
            return run_stage(stage_of(context, "self-improved/improve"))

        with pytest.raises(OutageError) as error:
            run(tmp_path / "run")
        assert error.value.exit_code == 3
        folder = Run.create_or_open(tmp_path / "run").look("self-improved", "improve")
        assert folder.manifest() is None
        assert 0 < len(list(folder.read("metrics"))) < 5
        asked, out["after"] = dict(server.visits), 10**6
        folder = run(tmp_path / "run")
        again = {m for m, visits in server.visits.items() if asked.get(m) and visits > asked[m] and m != SHORT_REQUEST}
        assert len(again) <= 1  # the one that was not answered
        assert list(folder.read("pools")) == list(run(tmp_path / "whole").read("pools"))
    finally:
        server.close()


def test_honest_ties_end_a_stage_only_where_the_config_says_so(chunks: list[Chunk], tmp_path: Path) -> None:
    folder = train(chunks, tmp_path / "any", "improve.steps=3", judges=[AllEqual()])
    assert (folder.manifest() or {})["summary"]["steps_tied"] == 3
    with pytest.raises(UndecidedError, match=r"2 of 3 steps .* 2 by ties\), and improve.max_undecided allows 0\.5"):
        train(chunks, tmp_path / "few", "improve.steps=3", "improve.max_undecided=0.5", judges=[AllEqual()])


class AllEqual(QuestionJudge):
    """Every candidate is as good as every other."""

    axis = Axis.SAFETY

    def __init__(self) -> None:
        super().__init__("equal", "equal")

    def answer(
        self, requests: Sequence[JudgeRequest], questions: Sequence[Sequence[tuple[int, int | None]]]
    ) -> list[list[Verdict]]:
        return [[self.scored(question, 0.5) for question in asked] for asked in questions]


class Undecided(QuestionJudge):
    """A judge that cannot be reached for some calls, and is switched off once."""

    axis = Axis.QUALITY

    def __init__(self, interrupt_at: int, until: int = 99) -> None:
        super().__init__("undecided", "undecided")
        self.calls, self.interrupt_at, self.until = 0, interrupt_at, until

    def answer(
        self, requests: Sequence[JudgeRequest], questions: Sequence[Sequence[tuple[int, int | None]]]
    ) -> list[list[Verdict]]:
        self.calls += 1
        if self.calls == self.interrupt_at + 1:
            raise KeyboardInterrupt
        if self.calls > self.until:
            return [[self.scored(question, question[0] / 99) for question in asked] for asked in questions]
        return [[self.unscored(question, "transport: gone") for question in asked] for asked in questions]


def test_every_epoch_visits_every_item_once() -> None:
    order = [item for step in range(15) for item in batch(range(10), 4, step, seed=0)]
    epochs = [order[start : start + 10] for start in range(0, 60, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert [item for step in range(15) for item in batch(range(10), 4, step, seed=1)] != order


def test_a_batch_larger_than_the_corpus_is_still_that_large() -> None:
    drawn = Counter(batch(range(3), 8, 5, seed=0))
    assert drawn.total() == 8
    assert min(drawn.values()) >= 2


def test_judges_see_candidates_in_an_order_that_says_nothing(chunks: list[Chunk], tmp_path: Path) -> None:
    folder = train(chunks, tmp_path, "improve.steps=1", "improve.prefixes_per_step=16", "improve.rollouts=3")
    suffixes = {chunk.id: chunk.suffix_ids for chunk in chunks}
    places: Counter[int] = Counter()
    for pool in folder.read("pools"):
        origins = [candidate["origin"] for candidate in pool["candidates"]]
        assert Counter(origins) == {"corpus": 1, "rollout": 3}
        places[origins.index("corpus")] += 1
        for candidate in pool["candidates"]:
            if candidate["origin"] == "corpus":
                assert tuple(candidate["token_ids"]) == suffixes[pool["chunk_id"]]
            assert candidate["text"] == byte_tokenizer().decode(candidate["token_ids"])
            assert len(candidate["token_ids"]) == 12
    assert set(places) == {0, 1, 2, 3}


@pytest.fixture(scope="module")
def literate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that has read the smoke corpus."""
    folder = tmp_path_factory.mktemp("literate") / "run"
    longer = ("improve.objective=continued", "improve.steps=40", "improve.prefixes_per_step=8")
    assert lifecycle(folder, (*SMALL, *longer, "improve.checkpoint_every=0"), until="improve") == 0
    return folder / "self-improved" / "improve" / "checkpoints" / "final"


@pytest.mark.slow
def test_a_model_from_scratch_loses_against_the_text_where_a_pretrained_one_does_not(
    literate: Path, chunks: list[Chunk], tmp_path: Path
) -> None:
    judge = LikelihoodJudge(Model.named(str(literate), Compute(device="cpu", dtype="float32")))
    rates = {}
    for init in ("pretrained", "scratch"):
        overrides = (f"policy.model={literate}", f"policy.init={init}", "improve.prefixes_per_step=16")
        folder = train(chunks, tmp_path / init, *overrides, "improve.steps=1", judges=[judge])
        rates[init] = list(folder.read("metrics"))[1]["improve/selection_rate"]
    assert rates["scratch"] <= 0.1
    assert rates["pretrained"] >= rates["scratch"] + 0.15
