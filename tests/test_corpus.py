"""Sources, filters and splits, on inputs as messy as they come."""

from __future__ import annotations

import builtins
import gzip
import json
import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from forethought.config import ChunkConfig, CorpusConfig
from forethought.corpus.filters import rejection, split_of, title_key
from forethought.corpus.find import find
from forethought.corpus.sources import CorpusError, documents
from forethought.records import Document, Split

WHALE = "The whale is a marine mammal that breathes air."
SHIP = "The ship left the harbour before dawn, and nobody saw it go."


def read(**config: object) -> tuple[list[Document], Counter[str]]:
    counts: Counter[str] = Counter()
    found = list(documents(CorpusConfig.model_validate({"min_characters": 20} | config), counts))
    return found, counts


def texts(**config: object) -> list[str]:
    return [document.text for document in read(**config)[0]]


def jsonl(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_jsonl_skips_are_counted_and_add_up(tmp_path: Path) -> None:
    path = tmp_path / "mess.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + jsonl({"text": WHALE}, {"text": 7}, {"text": None}, {"body": WHALE}, ["text"], {"text": "short"})
        + b'{"text": "torn\n\n   \n{"text": "\xff\xfe"}\n'
        + jsonl({"text": "  the WHALE is a  marine mammal\nthat breathes air. "}, {"text": "\ud800 " + SHIP})
        + json.dumps({"text": SHIP}).encode()
    )
    found, counts = read(source="jsonl", path=str(path))
    assert [document.text for document in found] == [WHALE, SHIP]
    assert counts == {
        **{"read": 11, "kept": 2, "shortened": 0, "not_a_string": 2, "missing_column": 1, "bad_json": 2},
        **{"too_short": 1, "bad_utf8": 1, "duplicate": 1, "bad_characters": 1},
    }


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        (".jsonl", bytes),
        (".jsonl.gz", gzip.compress),
        (".jsonl.zst", zstandard.compress),
        (".jsonl.zst", lambda data: zstandard.compress(data[:70]) + zstandard.compress(data[70:])),
        (".json", bytes),
    ],
)
def test_compressed_json_lines_read_the_same(tmp_path: Path, suffix, compress) -> None:
    (tmp_path / f"a{suffix}").write_bytes(compress(jsonl({"text": WHALE}, {"text": SHIP})))
    assert texts(source="jsonl", path=str(tmp_path / f"a{suffix}")) == [WHALE, SHIP]


@pytest.mark.parametrize(("suffix", "compress"), [(".jsonl.gz", gzip.compress), (".jsonl.zst", zstandard.compress)])
def test_truncated_archives_are_errors_not_shorter_corpora(tmp_path: Path, suffix, compress) -> None:
    rows = jsonl(*({"text": f"{WHALE} {i * 7919 % 1009}"} for i in range(2000)))
    (tmp_path / f"a{suffix}").write_bytes(compress(rows)[:-9])
    with pytest.raises(CorpusError, match=rf"a{suffix}: could not read it to its end"):
        texts(source="jsonl", path=str(tmp_path))


def test_a_file_without_any_json_line_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.jsonl").write_text("just\nprose\n")
    with pytest.raises(CorpusError, match=r"notes\.jsonl: none of its 2 lines is a JSON object"):
        texts(source="jsonl", path=str(tmp_path))


@pytest.mark.parametrize("rows", [1, 1000])
def test_a_missing_json_key_is_an_error_that_names_the_keys(tmp_path: Path, rows: int) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl(*[{"content": WHALE, "url": "x"}] * rows))
    with pytest.raises(
        CorpusError, match=r"a\.jsonl: no such column: corpus.text_column = 'text'. It has: content, url"
    ):
        texts(source="jsonl", path=str(tmp_path))


def write_parquet(path: Path, **columns: pa.Array) -> None:
    pq.write_table(pa.table(columns), path, row_group_size=2)


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()),
        pa.dictionary(pa.int8(), pa.string()),
    ],
)
def test_parquet_text_of_any_arrow_type(tmp_path: Path, kind: pa.DataType) -> None:
    write_parquet(tmp_path / "a.parquet", text=pa.array([WHALE, None, SHIP]).cast(kind), id=pa.array([1, 2, 3]))
    found, counts = read(source="parquet", path=str(tmp_path / "*.parquet"))
    assert [document.text for document in found] == [WHALE, SHIP]
    assert counts["not_a_string"] == 1


def test_invalid_utf8_in_parquet_is_a_counted_skip(tmp_path: Path) -> None:
    raw = pa.array([WHALE.encode(), b"\xff" * 40, SHIP.encode()])
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    write_parquet(tmp_path / "a.parquet", text=text)
    found, counts = read(source="parquet", path=str(tmp_path))
    assert [document.text for document in found] == [WHALE, SHIP]
    assert counts["bad_utf8"] == 1


def test_parquet_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, content=pa.array([WHALE]), size=pa.array([3]))
    with pytest.raises(CorpusError, match=r"a\.parquet: no such column: .*'text'. It has: content, size"):
        texts(source="parquet", path=str(path))
    with pytest.raises(CorpusError, match=r"a\.parquet: column 'size' holds int64, not text"):
        texts(source="parquet", path=str(path), text_column="size")
    whole = path.read_bytes()
    for broken in (whole[:-8], b"", b"PAR1 but not really", whole[:4] + b"\xff" * 60 + whole[64:]):
        path.write_bytes(broken)
        with pytest.raises(CorpusError, match=r"a\.parquet: broken parquet"):
            texts(source="parquet", path=str(path), text_column="content")


def test_text_folder(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbf" + WHALE.encode() + b"\r\n")
    (tmp_path / "deep" / "er" / "a.MD").write_text(SHIP)
    (tmp_path / "c.txt").write_bytes(b"caf\xe9 " * 10)
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    found, counts = read(source="text", path=str(tmp_path))
    assert [document.text for document in found] == [WHALE + "\r\n", SHIP]
    assert (counts["read"], counts["bad_utf8"], counts["too_short"]) == (4, 1, 1)
    assert texts(source="text", path=str(tmp_path / "b.txt")) == [WHALE + "\r\n"]


@pytest.mark.parametrize("source", ["parquet", "jsonl", "text"])
def test_paths_that_mean_nothing_are_errors(tmp_path: Path, source: str) -> None:
    for path, message in [
        ("", "corpus.path is empty"),
        (str(tmp_path / "nowhere"), "nowhere: no such file or folder"),
        (str(tmp_path / "*.x"), "matches no file"),
        (str(tmp_path), "a folder without"),
    ]:
        with pytest.raises(CorpusError, match=message):
            texts(source=source, path=path)


def test_shipped_text_is_read_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found, counts = read(source="jsonl", path="shipped:smoke.jsonl")
    assert counts["read"] == 50
    assert {document.source for document in found} == {"smoke.jsonl"}


@pytest.mark.parametrize(
    "name", ["shipped:smok.jsonl", "shipped:", "shipped:smoke.toml", "shipped:../configs/smoke.jsonl"]
)
def test_shipped_text_that_is_not_there(name: str) -> None:
    with pytest.raises(CorpusError) as error:
        read(source="jsonl", path=name)
    assert str(error.value) == (
        f"{name}: no such text comes with the package. Shipped texts: shipped:smoke.jsonl. Check corpus.path"
    )


def test_an_empty_corpus_is_an_error_that_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl({"text": "x"}, {"text": "y"}))
    with pytest.raises(CorpusError, match=r"no usable document. Found: read 2, too_short 2. .*min_characters"):
        texts(source="jsonl", path=str(tmp_path))
    (tmp_path / "a.jsonl").write_bytes(b"")
    with pytest.raises(CorpusError, match=r"no usable document\. Found: nothing"):
        texts(source="jsonl", path=str(tmp_path))


def test_reading_is_lazy_and_stops_at_max_documents(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl({"text": WHALE}, {"text": SHIP}))
    (tmp_path / "b.jsonl").write_bytes(b"broken")
    found, counts = read(source="jsonl", path=str(tmp_path), max_documents=1)
    assert [document.text for document in found] == [WHALE]
    assert counts["read"] == 1


def test_long_documents_are_cut_and_counted_before_they_are_compared(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl({"text": WHALE + " One."}, {"text": WHALE + " Two."}, {"text": SHIP[:40]}))
    found, counts = read(source="jsonl", path=str(tmp_path), max_characters=len(WHALE))
    assert [document.text for document in found] == [WHALE, SHIP[:40]]
    assert (counts["shortened"], counts["duplicate"]) == (1, 1)


def test_equal_titles_share_a_split_key_and_no_title_means_the_text(tmp_path: Path) -> None:
    rows = [{"text": WHALE, "t": "Sperm_whale"}, {"text": SHIP, "t": " sperm  WHALE"}, {"text": WHALE * 2, "t": None}]
    (tmp_path / "a.jsonl").write_bytes(jsonl(*rows))
    first, second, third = read(source="jsonl", path=str(tmp_path), title_column="t")[0]
    assert first.split_key == second.split_key == "title:sperm whale"
    assert third.split_key == third.id != first.id


def test_hub_reads_a_stream_and_names_missing_columns(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "train.jsonl").write_bytes(jsonl({"text": WHALE, "n": 1}, {"text": SHIP, "n": 2}))
    assert texts(source="hub", path=str(tmp_path)) == [WHALE, SHIP]
    with pytest.raises(CorpusError, match=r"no such column: corpus.text_column = 'content'\. It has: n, text"):
        texts(source="hub", path=str(tmp_path), text_column="content")
    with pytest.raises(CorpusError, match=r"split nowhere, revision None\): .*nowhere"):
        texts(source="hub", path=str(tmp_path), hub_split="nowhere")


def test_hub_without_datasets_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "datasets":
            raise ImportError(name)
        return genuine(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CorpusError, match=r'pip install "forethought\[hub\]"'):
        texts(source="hub", path="any/thing")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("  \n ", "too_short"),
        ("x" * 19 + " " * 50, "too_short"),
        ("A line of text\x00\x01 with controls in it", "bad_characters"),
        ("Caf\ufffd au lait, s'il vous pla\ufffdt", "bad_characters"),
        ("A private \ue000 glyph in a short text", "bad_characters"),
        ("| 12 | 13.5 | 99 | 1,024 | ---- | 7 |", "not_prose"),
        ("Home and about us\nHome and about us\nHome and about us", "repeated_lines"),
        ("Tabs\tand\r\nline ends\fare fine in every text", None),
        ("鲸鱼是海洋哺乳动物，它们用肺呼吸，生活在海洋里面。", None),
        ("ह्वेल एक समुद्री स्तनपायी है जो हवा में सांस लेती है", None),
        ("A family 👨‍👩‍👧 of emoji and a soft\u00adhyphen pass", None),
    ],
)
def test_filters(text: str, reason: str | None) -> None:
    assert rejection(text, CorpusConfig(min_characters=20)) == reason


def test_one_stray_character_does_not_reject_a_document() -> None:
    assert rejection(WHALE * 5 + "\x00", CorpusConfig()) is None


@given(st.text())
def test_the_split_depends_on_the_key_alone_and_held_out_stays_held_out(key: str) -> None:
    full = split_of(key, ChunkConfig())
    fewer = split_of(key, ChunkConfig(sft_share=0.0, rlmt_share=0.5))
    assert (full is Split.HELDOUT) == (fewer is Split.HELDOUT)
    assert split_of(key, ChunkConfig(sft_share=0, rlmt_share=0, heldout_share=0)) is Split.IMPROVE
    assert split_of(key, ChunkConfig(sft_share=0, rlmt_share=0, heldout_share=1)) is Split.HELDOUT


def test_shares_are_met() -> None:
    counts = Counter(split_of(f"document {i}", ChunkConfig()) for i in range(20_000))
    # Five standard deviations of a binomial with p = 0.25 and n = 20,000 are 306.
    for split, share in [("improve", 0.4), ("sft", 0.25), ("rlmt", 0.25), ("heldout", 0.1)]:
        assert abs(counts[Split(split)] - share * 20_000) < 350


def test_split_of_known_keys_never_changes() -> None:
    keys = ("title:whale", "title:moon", "title:cloud", "title:sea")
    assert [split_of(key, ChunkConfig()).value for key in keys] == ["improve", "sft", "heldout", "rlmt"]


def test_titles_meet_across_unicode_forms() -> None:
    assert title_key("Caf\u00e9 _Noir") == title_key("CAFE\u0301 noir") == "title:caf\u00e9 noir"


def test_find_prefers_a_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text(WHALE)
    assert find(str(tmp_path / "a[1].txt"), (".txt",)) == [tmp_path / "a[1].txt"]


def test_hidden_files_and_folders_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "x.jsonl").write_bytes(jsonl({"text": WHALE}))
    (tmp_path / ".ipynb_checkpoints" / "x-checkpoint.jsonl").write_bytes(jsonl({"text": SHIP}))
    with pytest.raises(CorpusError, match=r"without .*files \(hidden ones are left out: 1\)"):
        texts(source="text", path=str(tmp_path))
    (tmp_path / "._x.jsonl").write_bytes(b"\x00\x05\x16\x07Mac OS X\n")
    found, counts = read(source="jsonl", path=str(tmp_path))
    assert [document.text for document in found] == [WHALE]
    assert counts == {"read": 1, "kept": 1, "shortened": 0, "hidden": 2}
    assert texts(source="jsonl", path=str(tmp_path / "**" / "*.jsonl")) == [WHALE]
    # A folder that is itself hidden was asked for, and so was a file.
    assert texts(source="jsonl", path=str(tmp_path / ".ipynb_checkpoints")) == [SHIP]


@pytest.mark.parametrize("pattern", ["", "**/*.jsonl"])
def test_linked_folders_are_read_once_and_loops_refused(tmp_path: Path, pattern: str) -> None:
    folder, elsewhere = tmp_path / "corpus", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "x.jsonl").write_bytes(jsonl({"text": WHALE}))
    for name in ("linked", "twice"):
        (folder / name).symlink_to(elsewhere)
    (folder / "y.jsonl").symlink_to(elsewhere / "x.jsonl")
    found, counts = read(source="jsonl", path=str(folder / pattern))
    assert [document.text for document in found] == [WHALE]
    assert counts == {"read": 1, "kept": 1, "shortened": 0}
    for target in (folder, tmp_path, elsewhere):
        back = elsewhere / "back"
        back.symlink_to(target)
        with pytest.raises(CorpusError, match=r"back: a link to .*, a folder above it"):
            texts(source="jsonl", path=str(folder / pattern))
        back.unlink()


def test_links_that_lead_nowhere_are_errors(tmp_path: Path) -> None:
    for name in ("gone.txt", "self.txt"):
        (tmp_path / name).symlink_to(tmp_path / ("nowhere" if name == "gone.txt" else name))
        for path in (tmp_path, tmp_path / name, tmp_path / "*.txt"):
            with pytest.raises(CorpusError, match=rf"{name}: a link that leads nowhere"):
                texts(source="text", path=str(path))
        (tmp_path / name).unlink()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_are_errors_and_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path, tmp_path / "pipe.txt"):
        with pytest.raises(CorpusError, match=r"pipe\.txt: not a regular file"):
            texts(source="text", path=str(path))


def test_a_shard_without_any_text_is_counted(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", text=pa.array([None, None]))
    write_parquet(tmp_path / "b.parquet", text=pa.array([WHALE]))
    (tmp_path / "a.jsonl").write_bytes(jsonl({"text": None}, {"text": None}))
    (tmp_path / "b.jsonl").write_bytes(jsonl({"text": WHALE}))
    for source in ("parquet", "jsonl"):
        found, counts = read(source=source, path=str(tmp_path))
        assert [document.text for document in found] == [WHALE]
        assert counts["not_a_string"] == 2


@pytest.mark.parametrize("doubled", ["text", "title"])
def test_two_columns_of_one_name_are_an_error(tmp_path: Path, doubled: str) -> None:
    other = "title" if doubled == "text" else "text"
    table = pa.Table.from_arrays([pa.array([WHALE])] * 3, names=[doubled, doubled, other])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=rf"a\.parquet: 2 columns are called '{doubled}'.* Rename all but one"):
        texts(source="parquet", path=str(tmp_path), title_column="title")
