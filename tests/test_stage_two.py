"""Stage 2 on the smoke config: what interleave, SFT and their evaluation make; TRL as oracle of the SFT step."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from helpers.records import chunk
from helpers.smoke_runs import CONFIG, SMALL, cli, smoke
from helpers.stages import GivenContext, run_stage, stage_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from forethought import config
from forethought.engine.losses import nll
from forethought.engine.policy import Policy
from forethought.engine.trainer import Adam, Example, Schedule, Trainer
from forethought.models.model import Compute, Model
from forethought.models.thought_tokens import ThoughtTokens, add_tags, as_group
from forethought.records import Chunk, Place, SpanKind, Split, ThoughtRow
from forethought.run.files import read_jsonl
from forethought.run.store import Run, StageFolder
from forethought.stages.sft import nll_by_kind
from forethought.tags import Tags, raw, render, spans, strip
from forethought.testing import byte_tokenizer, tiny_model
from forethought.thoughts.dataset import make_row
from forethought.thoughts.teacher import Draft, Proposal, StubTeacher

THINK = Tags("<think>", "</think>")
TEXTS = ["The whale is big. It sings, too.", "Paris lies on the Seine. Über £ 3 was paid.", "A bridge stands. Why not?"]


CHUNKS = {
    f"c{number}": chunk(text[:8], text[8:], number=number, split=Split.HELDOUT) for number, text in enumerate(TEXTS)
}
ROWS = [
    make_row(one, [Place(position=place, token=len(text[:place].encode()))], ["And then?"])
    for text, one in zip(TEXTS, CHUNKS.values(), strict=True)
    for place in [text.index(".") + 1]
]


def read(folder: Path, split: Split) -> list[ThoughtRow]:
    return Run.open(folder).look("shared", "interleave").load(f"rows.{split}", ThoughtRow)


def test_the_data_set_loads_and_is_what_the_card_says(done: Path, tmp_path: Path) -> None:
    place = done / "shared" / "interleave"
    loaded = datasets.load_dataset(
        "parquet", data_files=str(place / "sft.parquet"), split="train", cache_dir=str(tmp_path)
    )
    assert loaded.column_names == [
        "id", "chunk_id", "document_id", "text", "augmented", "positions", "tokens", "thoughts", "spans",
    ]  # fmt: skip
    assert len(loaded) == len(read(done, Split.SFT)) > 0
    for one in loaded:
        assert "".join(span["text"] for span in one["spans"] if span["kind"] == "text") == one["text"]
        assert one["augmented"].replace("<think>" + one["thoughts"][0] + "</think>", "") == one["text"]
    by_card = datasets.load_dataset(str(place), "thoughts", split="test", cache_dir=str(tmp_path / "2"))
    assert len(by_card) == len(read(done, Split.HELDOUT))
    assert "| places per row | 1.00" in (place / "README.md").read_text()


def test_rlmt_rows_have_places_only_and_no_two_splits_share_a_document(done: Path) -> None:
    rows = {split: read(done, split) for split in (Split.SFT, Split.HELDOUT, Split.RLMT)}
    assert all(rows.values())
    assert all(not one.thoughts and one.places for one in rows[Split.RLMT])
    assert all(one.thoughts for one in rows[Split.SFT])
    documents = [{one.document_id for one in some} for some in rows.values()]
    improve = (done / "shared" / "chunk" / "chunks.improve.jsonl").read_text().splitlines()
    documents.append({json.loads(line)["document_id"] for line in improve})
    assert len(set().union(*documents)) == sum(map(len, documents))


def test_rows_are_slices_of_the_chunks(done: Path) -> None:
    for split in (Split.SFT, Split.HELDOUT, Split.RLMT):
        assert read(done, split)
        chunks = {one.id: one for one in read_jsonl(done / "shared" / "chunk" / f"chunks.{split}.jsonl", Chunk)}
        for one in read(done, split):
            source = chunks[one.chunk_id]
            assert raw(spans(one)) == source.prefix + source.suffix
            for place in one.places:
                ids = (source.prefix_ids + source.suffix_ids)[: place.token]
                assert bytes(ids).decode() == one.text[: place.position]


def test_all_arms_train_on_the_same_rows_and_learn_the_thoughts(done: Path) -> None:
    manifests = {
        arm: json.loads((done / arm / "sft" / "manifest.json").read_text())
        for arm in ("base-think", "base-raw", "self-improved-think", "self-improved-raw")
    }
    assert len({one["inputs"]["rows"] for one in manifests.values()}) == 1
    assert len({json.dumps(one["summary"]["weights"]) for one in manifests.values()}) == 4
    assert manifests["base-think"]["inputs"]["policy"] != manifests["self-improved-think"]["inputs"]["policy"]
    found = {(one.arm, one.against, one.metric, one.condition): one for one in Run.open(done).measurements()}
    for lineage in ("base", "self-improved"):
        change = found[f"{lineage}-think", lineage, "thought NLL change", "per token"]
        assert change.value < -0.5
        assert (change.n, change.low, change.high) == (6, None, None)
        assert change.unit == "nats per token; n rows, interval over documents"
        against_raw = found[f"{lineage}-think", f"{lineage}-raw", "tag NLL change", "per token"]
        assert against_raw.value < 0
    assert ("self-improved-think", "base-think", "win_rate", "sampled") in found
    assert found["sft", "", "exact_preservation", ""].value == 1.0


def test_the_tables_are_printed(done: Path) -> None:
    shown = cli("show", done).stdout
    for title in (
        "Thoughts beside the text",
        "NLL on held-out rows by kind of token",
        "What changed, paired by row",
        "Free continuations of held-out prefixes",
        "NLL of the text after a place",
        "self-improved-think against base-think",
        "Training of base-think",
    ):
        assert title in shown
    assert "8,704" in (done / "report.html").read_text()  # rows of the article


def test_a_finished_stage_is_not_run_again(done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*.safetensors")}
    result = smoke("sft", done)
    assert result.exit_code == 0, result.output
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*.safetensors")} == before


@pytest.mark.parametrize("command", ["interleave", "sft"])
def test_without_its_table_a_command_says_what_to_add(command: str, tmp_path: Path) -> None:
    text = CONFIG.read_text()
    bare = text[: text.index("[interleave]")] + text[text.index("[evaluate]") :]
    (tmp_path / "bare.toml").write_text(bare)
    result = cli(command, tmp_path / "bare.toml", "--run", tmp_path / "run")
    assert result.exit_code == 2
    assert f"there is no [{command}] table" in result.stderr
    assert "Traceback" not in result.output


def test_a_teacher_of_whom_nothing_can_be_kept_ends_with_the_reasons(tmp_path: Path) -> None:
    teacher = 'interleave.teacher={model={model="tiny-llama"}, max_tokens=12, retries=0}'
    result = smoke("interleave", tmp_path / "run", teacher)
    assert result.exit_code == 2
    found = re.search(r"no row of sft is left: (\{.*\})\. Take a stronger teacher", result.stderr)
    assert found is not None, result.output
    counts = json.loads(found[1])
    assert counts["offered"] == sum(counts["rejected"].values()) > 0
    assert counts["dropped"]["too few thoughts"] > 0
    assert not (tmp_path / "run" / "shared" / "interleave" / "manifest.json").exists()


@pytest.mark.slow
def test_tags_as_tokens_survive_export(tmp_path: Path) -> None:
    result = smoke("run", tmp_path / "run", "sft.tags_as_tokens=true", "sft.control=false")
    assert result.exit_code == 0, result.output
    place = tmp_path / "run" / "base-think" / "sft" / "checkpoints" / "final"
    tokenizer, model = AutoTokenizer.from_pretrained(place), AutoModelForCausalLM.from_pretrained(place)
    assert tokenizer("a<think>b</think>", add_special_tokens=False).input_ids == [97, 259, 98, 260]
    assert tokenizer.decode([97, 259, 98, 260], skip_special_tokens=True) == "a<think>b</think>"
    assert model.get_input_embeddings().num_embeddings == model.get_output_embeddings().out_features == 261
    assert not list(tmp_path.rglob("base-raw"))
    metrics = (tmp_path / "run" / "base-think" / "sft" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in metrics]
    assert rows[-1]["sft/tag_nll"] < rows[0]["sft/tag_nll"] - 0.5


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_new_tag_starts_from_the_mean_of_its_old_tokens(architecture: Any) -> None:
    model, tokenizer = tiny_model(architecture), byte_tokenizer()
    old = model.get_input_embeddings().weight.detach().clone()
    state = torch.random.get_rng_state()
    assert add_tags(model, tokenizer, THINK) == [259, 260]
    assert torch.equal(torch.random.get_rng_state(), state)
    new = model.get_input_embeddings().weight
    assert torch.equal(new[:259], old)
    torch.testing.assert_close(new[259], old[list(b"<think>")].mean(dim=0))
    torch.testing.assert_close(new[260], old[list(b"</think>")].mean(dim=0))
    output = model.get_output_embeddings().weight
    assert output.shape == new.shape
    assert (output is new) == (architecture == "gemma3")
    coded = ThoughtTokens.of(tokenizer, THINK)
    assert (coded.open, coded.close) == ((259,), (260,))


def tune(place: Path, arm: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[bytes], dict[str, Any]]:
    """Train an arm of stage 2 for one step on all rows; return the texts of that step and the metrics before it."""
    texts: list[bytes] = []

    def step(self: Trainer, examples: Sequence[Example], *loss: Any, **more: Any) -> dict[str, float]:
        texts.extend(bytes(e.group.prefix + e.group.branches[0]) for e in examples)
        return real(self, examples, *loss, **more)

    cfg = config.load(CONFIG, (*SMALL, "sft.steps=1", f"sft.rows_per_step={len(ROWS)}", "sft.checkpoint_every=0"))
    rows = {Split.SFT: ROWS, Split.HELDOUT: ROWS}
    real = Trainer.step
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        context = GivenContext(cfg, place, chunks=list(CHUNKS.values()), rows=rows, tags=THINK)
        folder = run_stage(stage_of(context, f"{arm}/sft"))
    return texts, next(row for row in folder.read("metrics") if row["step"] == 0)


def test_the_raw_control_sees_the_same_chunks_without_thoughts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    think, before = tune(tmp_path, "base-think", monkeypatch)
    control, before_control = tune(tmp_path, "base-raw", monkeypatch)
    assert sorted(text.decode() for text in think) == sorted(render(spans(row), THINK) for row in ROWS)
    assert [strip(text.decode(), THINK) for text in think] == [text.decode() for text in control]
    assert sorted(TEXTS) == sorted(text.decode() for text in control)
    # Both are measured on the text with its thoughts.
    kinds = [f"sft/{kind}_nll" for kind in SpanKind]
    assert [before[kind] for kind in kinds] == [before_control[kind] for kind in kinds]


def test_monitored_nll_is_per_kind_of_token() -> None:
    model = Model.load("tiny-llama", Compute(device="cpu", dtype="float32"), tags=THINK)
    nll_of = nll_by_kind(model, [model.thoughts.tokens(ROWS[0], CHUNKS["c0"])])
    ids = render(spans(ROWS[0]), THINK).encode()
    [[logprobs]] = model.logprobs([as_group(tuple(ids), ())])
    start = ids.index(b"And then?") - 1  # the first token is predicted by nothing
    assert nll_of["thought_nll"] == pytest.approx(-float(logprobs[start : start + 9].mean()), rel=1e-5)
    assert set(nll_of) == {"text_nll", "tag_nll", "thought_nll"}


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3"])
def test_sft_loss_and_gradients_are_trls(architecture: Any, tmp_path: Path) -> None:
    """TRL gets the rows as padded separate sequences, we pack them; two micro-batches on our side."""
    coded = ThoughtTokens.of(byte_tokenizer(), THINK)
    rows = [coded.tokens(one, CHUNKS[one.chunk_id]) for one in ROWS]
    assert len({len(one.ids) for one in rows}) == 3
    trl = pytest.importorskip("trl")
    theirs = trl.SFTTrainer(
        model=tiny_model(architecture),
        args=trl.SFTConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            per_device_train_batch_size=3,
        ),
        train_dataset=datasets.Dataset.from_list([{"input_ids": list(one.ids)} for one in rows]),
        processing_class=byte_tokenizer(),
    )
    assert [tuple(one["input_ids"]) for one in theirs.train_dataset] == [one.ids for one in rows]
    batch = theirs.data_collator(list(theirs.train_dataset))
    loss = theirs.compute_loss(theirs.model, batch)
    loss.backward()
    groups = [as_group(one.ids, ()) for one in rows]
    tokens = sum(len(group.branches[0]) for group in groups)
    trainer = Trainer(
        Policy(tiny_model(architecture)),
        Schedule(peak=1e-6, warmup=0, total=1, min_ratio=1.0),
        Adam(clip_norm=float("inf")),
        micro_tokens=groups[0].tokens + groups[1].tokens,
    )
    ours: dict[str, torch.Tensor] = {}
    trainer.optimizer.register_step_pre_hook(
        lambda *_: ours.update({name: master.grad.clone() for name, master in trainer.masters.items()})
    )
    found = trainer.step([Example(group=group) for group in groups], nll, step=0, normaliser=float(tokens))
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
    expected = {name: parameter.grad for name, parameter in theirs.model.named_parameters()}
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        largest = float(gradient.abs().max())
        assert largest > 0, name
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5 * largest)


def test_the_stand_in_speaks_of_what_stands_before() -> None:
    [proposals] = StubTeacher().ask([Draft(chunk=CHUNKS["c0"], places=list(ROWS[0].places))], 0)
    assert [proposal.thought for proposal in proposals] == ["So far this is about whale. What follows should say more."]


class OneInThree(StubTeacher):
    """Has a thought about every third chunk only."""

    def ask(self, drafts: Sequence[Draft], attempt: int) -> list[list[Proposal]]:
        offered = super().ask(drafts, attempt)
        return [some if int(d.chunk.id[1:]) % 3 == 0 else [] for d, some in zip(drafts, offered, strict=True)]


def interleaved(place: Path, *overrides: str) -> tuple[StageFolder, Any]:
    """Interleave sixty chunks of each of two splits, and twenty for RL, with a teacher of every third one."""
    sentence = "The whale is big, and it sings in the deep. Paris lies on the Seine."
    splits = {Split.SFT: range(60), Split.HELDOUT: range(60, 120), Split.RLMT: range(120, 140)}
    chunks = [chunk(sentence, sentence, number=n, split=split) for split, some in splits.items() for n in some]
    cfg = config.load(CONFIG, (*SMALL, "interleave.thoughts=[1, 2]", *overrides))
    stage = stage_of(GivenContext(cfg, place, chunks=chunks), "shared/interleave")
    vars(stage)["teacher"] = OneInThree()
    return run_stage(stage), stage


def test_rows_are_those_that_are_kept_not_those_that_are_tried(tmp_path: Path) -> None:
    folder, stage = interleaved(tmp_path / "run", "interleave.rows=8", "interleave.heldout_rows=6")
    rows = folder.load("rows.sft", ThoughtRow)
    assert [row.chunk_id for row in rows] == [f"c{3 * number}" for number in range(8)]
    assert len(folder.load("rows.heldout", ThoughtRow)) == 6
    found = {(one.arm, one.metric): one for one in stage.context.run.measurements()}
    assert (found["sft", "rows"].value, found["sft", "rows"].n) == (8, 22)  # chunk 21 gave the eighth
    assert (found["heldout", "rows"].value, found["heldout", "rows"].n) == (6, 16)
    counts = folder.manifest()["summary"]["ledgers"]["sft"]
    assert counts["chunks"] == 22 == 8 + counts["dropped"]["too few thoughts"]
    assert stage.report(folder)[0].startswith("sft: 8 rows from 22 chunks")


def test_a_split_that_gives_too_few_rows_says_so(tmp_path: Path) -> None:
    folder, stage = interleaved(tmp_path / "run", "interleave.rows=8", "interleave.max_tries=2")
    assert len(folder.load("rows.sft", ThoughtRow)) == 6  # of 8 x 2 chunks
    assert stage.report(folder)[0].startswith("sft: 6 rows of 8 wanted from 16 chunks")
    folder, stage = interleaved(tmp_path / "all", "interleave.rows=50")
    assert len(folder.load("rows.sft", ThoughtRow)) == 20
    assert stage.report(folder)[0].startswith("sft: 20 rows of 50 wanted from 60 chunks")


def test_other_numbers_of_rows_make_the_stage_start_over(tmp_path: Path) -> None:
    def depends_on(name: str, *overrides: str) -> dict[str, Any]:
        found: dict[str, Any] = interleaved(tmp_path / name, *overrides)[1].depends_on()
        return found

    asked = [
        depends_on("a", "interleave.rows=8"),
        # The same chunks may be tried, and other rows are kept.
        depends_on("b", "interleave.rows=4", "interleave.max_tries=8"),
        depends_on("c", "interleave.rows=8", "interleave.max_tries=2"),
    ]
    tried = [one["chunks"]["sft"] for one in asked]
    assert tried[0] == tried[1] != tried[2]
    assert len({json.dumps(one, sort_keys=True) for one in asked}) == 3
    assert asked[0] == depends_on("d", "interleave.rows=8")
