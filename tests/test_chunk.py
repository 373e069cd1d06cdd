"""Chunks are exact slices, in characters and in tokens, and the stage that makes them can be killed."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import records
from helpers.stages import GivenContext, run_stage, stage_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from forethought.config import ChunkConfig, Config, build
from forethought.corpus.chunker import chunks, windows
from forethought.corpus.rows import CorpusError
from forethought.keys import Key
from forethought.pipeline.runner import Lifecycle
from forethought.records import Chunk, Document, Split, content_id
from forethought.run.files import StoreError
from forethought.run.store import Run
from forethought.stages.base import Context, spread
from forethought.stages.chunk import EmptySplitError

PROSE = (
    "The whale is a marine mammal. It breathes air, and it feeds its young with milk; "
    "in 1851 a whale sank the ship Ann Alexander. Qu'est-ce que c'est ? It does n't , say . 鲸鱼是海洋哺乳动物。 🐋 "
)
KEY = Key(seed=1, purpose="chunk")
SHORT = ChunkConfig(prefix_tokens=(2, 6), suffix_tokens=3)


def wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", clean_up_tokenization_spaces=True
    )


def byte_level(trim_offsets: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE as in GPT-2 and Qwen; with trim_offsets a word's offsets leave out the space before it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([PROSE] * 4, trainer)
    tokenizer.add_special_tokens(["<bos>", "<eos>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    return wrap(tokenizer)


def byte_fallback() -> PreTrainedTokenizerFast:
    """A SentencePiece-like tokenizer as in Gemma: spaces are visible characters, unknown ones fall back to bytes."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    for piece in ["▁", *sorted(set(PROSE) - set(" 鲸🐋")), "▁w", "al", "▁wh"]:
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [("▁", "w"), ("a", "l"), ("▁w", "h")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<bos>", "<eos>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
    )
    return wrap(tokenizer)


def lowercasing() -> PreTrainedTokenizerFast:
    tokenizer = byte_level(trim_offsets=False)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


TOKENIZERS = {"bytes": byte_level(False), "trimmed": byte_level(True), "fallback": byte_fallback()}


def document(text: str) -> Document:
    identity = content_id(text)
    return Document(id=identity, text=text, source="test", split_key=identity)


def cut(text: str, tokenizer: Any, config: ChunkConfig = SHORT, key: Key = KEY) -> tuple[list[Chunk], Counter[str]]:
    counts: Counter[str] = Counter()
    return chunks(document(text), tokenizer, config, key, counts), counts


def decoded(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return tokenizer.decode(list(ids), clean_up_tokenization_spaces=False, skip_special_tokens=False)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
    | st.text("a 鲸🐋é\n▁", min_size=8, max_size=80)
    | st.lists(st.sampled_from(["<bos>", "<eos>", " whale", "  ", "🧑‍🚀", "鲸鱼", "é", ".\n\n"]), min_size=4).map(
        "".join
    )
)
@example(text="  two  spaces   three    four <eos> <bos> end  ")
@example(text="🧑‍🚀🧑‍🚀🧑‍🚀 鲸鱼鲸鱼鲸鱼 e\u0301e\u0301e\u0301 ▁▁ ▁")
@settings(deadline=None, max_examples=200)
def test_chunks_are_exact_slices_and_never_overlap(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    found, counts = cut(text, tokenizer)
    end = 0
    for chunk in found:
        assert chunk.start >= end
        end = chunk.start + len(chunk.prefix) + len(chunk.suffix)
        assert text[chunk.start : end] == chunk.prefix + chunk.suffix
        assert decoded(tokenizer, chunk.prefix_ids) == chunk.prefix
        assert decoded(tokenizer, chunk.suffix_ids) == chunk.suffix
        assert 2 <= len(chunk.prefix_ids) <= 6
        assert len(chunk.suffix_ids) == 3
        assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & {*chunk.prefix_ids, *chunk.suffix_ids}
        assert chunk.id == content_id(chunk.document_id, chunk.start, chunk.prefix, chunk.suffix)
    tokens = len(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])
    places = tokens // 9 + (tokens % 9 >= 5)
    assert len(found) + counts["inside_character"] + counts["inexact_tokens"] == places
    assert counts["too_few_tokens"] == (places == 0)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_real_text_loses_no_place(name: str) -> None:
    found, counts = cut(PROSE * 20, TOKENIZERS[name], ChunkConfig(prefix_tokens=(8, 24), suffix_tokens=8))
    assert len(found) > 50
    assert counts["inexact_tokens"] == counts["inside_character"] == 0


@given(
    tokens=st.integers(0, 400),
    prefix=st.tuples(st.integers(1, 20), st.integers(0, 20)),
    suffix=st.integers(1, 10),
    limit=st.none() | st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_windows_fit_and_are_as_many_as_can_be(
    tokens: int, prefix: tuple[int, int], suffix: int, limit: int | None, seed: int
) -> None:
    shortest, longest = prefix[0], sum(prefix)
    config = ChunkConfig(prefix_tokens=(shortest, longest), suffix_tokens=suffix, chunks_per_document=limit)
    found = windows(tokens, config, np.random.default_rng(seed))
    assert all(0 <= first < end <= tokens for first, end in found)
    assert all(end <= first for (_, end), (first, _) in pairwise(found))
    lengths = sorted(end - first for first, end in found)
    full, rest = divmod(tokens, longest + suffix)
    expected = [rest] * (rest >= shortest + suffix) + [longest + suffix] * full
    assert lengths == (expected if limit is None else sorted(expected[::-1][:limit]))


def test_every_place_is_equally_likely() -> None:
    config = ChunkConfig(prefix_tokens=(4, 4), suffix_tokens=2)
    seen = Counter(tuple(windows(14, config, np.random.default_rng(seed))) for seed in range(3000))
    # Two windows of 6 in 14 tokens leave 2 tokens for 3 gaps: 6 ways, 500 each; five deviations are 102.
    assert len(seen) == 6
    assert all(abs(count - 500) < 102 for count in seen.values())


def test_chunks_depend_on_the_key_and_on_nothing_else() -> None:
    tokenizer = TOKENIZERS["bytes"]
    config = ChunkConfig(prefix_tokens=(8, 24), suffix_tokens=8, chunks_per_document=1)
    first, again = (cut(PROSE * 5, tokenizer, config)[0] for _ in range(2))
    other = cut(PROSE * 5, tokenizer, config, Key(seed=2, purpose="chunk"))[0]
    assert first == again
    assert len(first) == len(other) == 1
    assert first[0].start != other[0].start


def test_a_tokenizer_that_loses_text_is_counted_not_trusted() -> None:
    found, counts = cut("ABC DEF GHI JKL MNO PQR STU", lowercasing())
    assert found == []
    assert counts["inexact_tokens"] >= 2


def test_a_slow_tokenizer_is_refused_by_name() -> None:
    class Slow:
        is_fast = False
        name_or_path = "old/model"

    with pytest.raises(ValueError, match="old/model: chunks need a fast tokenizer"):
        cut(PROSE, Slow())


def config_of(path: Path, seed: int = 0, **sections: Any) -> Config:
    defaults: dict[str, Any] = {
        "policy": {"model": "tiny-llama"},
        "corpus": {"source": "jsonl", "path": str(path)},
        "chunk": {"prefix_tokens": [8, 24], "suffix_tokens": 8},
        "improve": {"objective": "continued"},
    }
    return build({"name": "test", "seed": seed} | {key: defaults[key] | sections.get(key, {}) for key in defaults})


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows = [{"text": f"Whale number {number}. {PROSE * (2 + number % 3)}"} for number in range(60)]
    path.write_text("\n".join([json.dumps(row) for row in rows] + ["{torn"]), encoding="utf-8")
    return path


def chunk_stage(config: Config, place: Path, tokenizer: Any = TOKENIZERS["bytes"]) -> Any:
    return stage_of(GivenContext(config, place, tokenizer=tokenizer), "shared/chunk")


def test_the_stage_writes_every_split_and_counts_everything(corpus: Path, tmp_path: Path) -> None:
    folder = run_stage(chunk_stage(config_of(corpus), tmp_path / "run"))
    assert folder.done
    summary = folder.manifest()["summary"]
    assert summary["documents"] == {"read": 61, "kept": 60, "shortened": 0, "bad_json": 1}
    splits = {split: folder.load(f"chunks.{split}", Chunk) for split in Split}
    owners = [{chunk.document_id for chunk in found} for found in splits.values()]
    assert sum(map(len, owners)) == len(set().union(*owners)) == 60
    for split, found in splits.items():
        assert {chunk.split for chunk in found} == {split}
        assert summary["splits"][split] == {
            "documents": len({chunk.document_id for chunk in found}),
            "chunks": len(found),
            "prefix_tokens": sum(len(chunk.prefix_ids) for chunk in found),
            "suffix_tokens": 8 * len(found),
        }


def test_a_finished_stage_is_not_run_again_whatever_became_of_the_corpus(corpus: Path, tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    made = Lifecycle(config_of(corpus), run).make("shared/chunk")
    identity = made.identity
    corpus.unlink()
    assert Lifecycle(config_of(corpus, improve={"steps": 7}), run).make("shared/chunk").identity == identity
    with pytest.raises(CorpusError):  # another seed cuts other chunks: they would have to be made again
        Lifecycle(config_of(corpus, seed=1), run).make("shared/chunk")


def test_a_killed_stage_starts_over(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = itertools.count(1)

    def deadly(*arguments: Any) -> list[Chunk]:
        if next(count) == 31:
            raise KeyboardInterrupt
        return chunks(*arguments)

    stage = chunk_stage(config_of(corpus), tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("forethought.stages.chunk.BATCH", 10)
        patch.setattr("forethought.stages.chunk.chunks", deadly)
        with pytest.raises(KeyboardInterrupt):
            run_stage(stage)
    run = Run.open(tmp_path / "run")
    assert list(run.look("shared", "chunk").read("chunks.improve"))
    with pytest.raises(StoreError, match=r"shared/chunk is not done.*--until shared/chunk"):
        Context(config_of(corpus), run).chunks(Split.IMPROVE)
    assert run_stage(stage).identity == run_stage(chunk_stage(config_of(corpus), tmp_path / "other")).identity


def test_an_empty_split_is_refused_by_name(corpus: Path, tmp_path: Path) -> None:
    config = config_of(corpus, corpus={"max_documents": 2}, chunk={"rlmt_share": 0.0})
    with pytest.raises(EmptySplitError, match=r"no chunk for .*\(share 0.25\).*kept 2.*max_documents") as caught:
        run_stage(chunk_stage(config, tmp_path / "run"))
    assert "rlmt (share" not in str(caught.value)
    assert not Run.open(tmp_path / "run").look("shared", "chunk").done


def test_documents_shorter_than_a_chunk_are_named_as_the_cause(corpus: Path, tmp_path: Path) -> None:
    config = config_of(corpus, chunk={"prefix_tokens": [2000, 4000]})
    with pytest.raises(EmptySplitError, match=r"Places: too_few_tokens 60\..*chunk.prefix_tokens"):
        run_stage(chunk_stage(config, tmp_path / "run"))


def test_a_lossy_tokenizer_is_named_as_the_cause(corpus: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{number} {'THE WHALE BREATHES AIR. ' * 20}"} for number in range(60)]
    corpus.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(EmptySplitError, match=r"Places: inexact_tokens \d+\. .*does not give its text back"):
        run_stage(chunk_stage(config_of(corpus), tmp_path / "run", lowercasing()))


def test_spread_takes_every_document_once_before_any_twice() -> None:
    def one(document: str, start: int) -> Chunk:
        only = records.chunk("a", "b", split=Split.HELDOUT)
        return dataclasses.replace(only, id=f"{document}{start}", document_id=document, start=start)

    cut = [one("long", start) for start in range(5)] + [one(name, 0) for name in "abc"]
    found = spread(cut, KEY)
    assert {c.document_id for c in found[:4]} == {"long", "a", "b", "c"}
    assert sorted(c.id for c in found) == sorted(c.id for c in cut)
    assert spread(cut, KEY.at(1)) != found
