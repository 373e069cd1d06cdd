"""The run folder: what is written is read back, and a kill at any moment loses at most the line being written."""

import dataclasses
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forethought.records import Candidate, Chunk, Measurement, Origin, Split, to_dict
from forethought.run import files
from forethought.run.files import StoreError, atomic_write, hash_file, publish, read_jsonl
from forethought.run.store import ConfigChangedError, Run, RunLockedError, StageFolder

CONFIG = {"steps": 2, "judge": {"kind": "shorter"}}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create_or_open(tmp_path / "runs" / "demo")


@pytest.fixture
def folder(run: Run) -> StageFolder:
    folder = run.stage("self-improved", "improve")
    folder.write_config(CONFIG)
    return folder


def figure(value: float, **changes: str) -> Measurement:
    names = {"stage": "evaluate", "arm": "self-improved", "against": "base", "metric": "win_rate"} | changes
    return Measurement(value=value, n=64, unit="share of prefixes", subject="abc", **names)


def test_records_mappings_and_batches_are_appended(folder: StageFolder) -> None:
    candidate = Candidate(id="c", chunk_id="k", origin=Origin.ROLLOUT, text="Zürich\u2028\n", token_ids=(5, 6))
    folder.append("candidates", candidate)
    folder.append("candidates", {"step": np.int64(3), "score": np.float32(0.5), "path": Path("a")})
    folder.append("candidates", ({"step": step} for step in (4, 5)))
    folder.append("candidates", [])
    assert list(folder.read("candidates")) == [
        {"id": "c", "chunk_id": "k", "origin": "rollout", "text": "Zürich\u2028\n", "token_ids": [5, 6]},
        {"step": 3, "score": 0.5, "path": "a"},
        {"step": 4},
        {"step": 5},
    ]
    assert list(folder.read("nothing")) == []


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none(), max_size=3), max_size=5))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]) -> None:
    folder = StageFolder(tmp_path_factory.mktemp("log"))
    folder.append("rows", rows)
    assert list(folder.read("rows")) == rows


def test_lone_surrogates_survive(folder: StageFolder) -> None:
    folder.append("rows", {"text": "bad \ud83d half, Zürich"})
    folder.write_json("value", "\udcff")
    assert list(folder.read("rows")) == [{"text": "bad \ud83d half, Zürich"}]
    assert folder.read_json("value") == "\udcff"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan")])
def test_numbers_that_are_not_finite_are_refused_before_anything_is_written(folder: StageFolder, value: float) -> None:
    with pytest.raises(StoreError, match="cannot be stored as JSON"):
        folder.append("rows", [{"loss": 1.0}, {"loss": value}])
    assert list(folder.read("rows")) == []


def test_every_torn_tail_is_dropped_and_then_overwritten(folder: StageFolder) -> None:
    folder.append("rows", [{"step": 1}, {"step": 2, "text": "ü" * 40}])
    path = folder.path / "rows.jsonl"
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert list(folder.read("rows")) == [{"step": 1}], cut
        folder.append("rows", {"step": 3})
        assert list(folder.read("rows")) == [{"step": 1}, {"step": 3}], cut


def test_a_torn_tail_longer_than_a_block_is_cut_off(folder: StageFolder) -> None:
    path = folder.path / "rows.jsonl"
    path.write_bytes(b'{"step": 1}\n{"text": "' + b"x" * 200_000)
    folder.append("rows", {"step": 2})
    assert list(folder.read("rows")) == [{"step": 1}, {"step": 2}]
    path.write_bytes(b'{"text": "' + b"x" * 200_000)
    folder.append("rows", {"step": 2})
    assert list(folder.read("rows")) == [{"step": 2}]


@pytest.mark.parametrize("line", [b'{"step": 2\n', b"\0\0\0\0\n", b'{"text": "\xff\xfe"}\n'])
def test_a_torn_line_in_the_middle_is_an_error(folder: StageFolder, line: bytes) -> None:
    (folder.path / "rows.jsonl").write_bytes(b'{"step": 1}\n' + line + b'{"step": 3}\n')
    with pytest.raises(StoreError, match=r"rows\.jsonl, line 2: not JSON"):
        list(folder.read("rows"))


CHUNK = Chunk(
    id="c",
    document_id="d",
    split=Split.HELDOUT,
    start=3,
    prefix="half \ud83d",
    suffix=" Zürich",
    prefix_ids=(7,),
    suffix_ids=(8, 9),
)


def test_records_are_loaded_as_they_were_and_a_torn_tail_is_dropped(folder: StageFolder) -> None:
    assert folder.load("chunks", Chunk) == []
    rows = [CHUNK, dataclasses.replace(CHUNK, prefix="whole")]
    folder.append("chunks", rows)
    with open(folder.path / "chunks.jsonl", "ab") as handle:
        handle.write(b'{"id": "c"')
    assert folder.load("chunks", Chunk) == rows


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"start": "three"}, r"not a Chunk: start: .*integer.*'three'"),
        ({"prefix_ids": [1, "x"]}, r"not a Chunk: prefix_ids\.1: .*integer"),
        ({"split": "test"}, r"not a Chunk: split: .*'heldout'"),
        ({"extra": 1}, r"not a Chunk: extra: unknown key"),
    ],
)
def test_a_row_that_is_no_record_names_file_line_and_key(
    folder: StageFolder, change: dict[str, Any], problem: str
) -> None:
    folder.append("chunks", [CHUNK, to_dict(CHUNK) | change])
    with pytest.raises(StoreError, match=rf"chunks\.jsonl, line 2: {problem}"):
        folder.load("chunks", Chunk)


def test_a_broken_line_among_records_is_no_json(folder: StageFolder) -> None:
    (folder.path / "chunks.jsonl").write_bytes(b'{"id": "\xff"}\n')
    with pytest.raises(StoreError, match=r"chunks\.jsonl, line 1: not JSON"):
        folder.load("chunks", Chunk)


def test_tuples_of_a_config_are_lists_on_disk(folder: StageFolder) -> None:
    folder.write_config({"tags": ("a", "b")})
    folder.append("rows", {"step": 1})
    assert folder.read_json("config") == {"tags": ["a", "b"]}
    assert folder.changes({"tags": ("a", "b")}) == []


def test_truncate_keeps_what_is_wanted(folder: StageFolder) -> None:
    folder.append("rows", [{"step": step} for step in range(6)])
    with open(folder.path / "rows.jsonl", "ab") as handle:
        handle.write(b'{"step": 6')
    assert folder.truncate("rows", lambda row: row["step"] <= 3) == 2
    assert [row["step"] for row in folder.read("rows")] == [0, 1, 2, 3]
    assert folder.truncate("missing", lambda row: False) == 0
    assert not (folder.path / "missing.jsonl").exists()


def test_a_stage_is_done_when_its_manifest_is_there(folder: StageFolder) -> None:
    folder.append("rows", {"step": 1})
    assert not folder.done
    assert folder.manifest() is None
    with pytest.raises(StoreError, match="not done"):
        _ = folder.identity
    folder.finish({"chunk": "1234"}, {"steps": 2})
    manifest = folder.manifest()
    assert folder.done
    assert manifest is not None
    assert manifest["inputs"] == {"chunk": "1234"}
    assert manifest["summary"] == {"steps": 2}
    assert manifest["files"] == {"rows.jsonl": hash_file(folder.path / "rows.jsonl")}
    assert manifest["version"] == "0.1.0"
    assert manifest["started"] <= manifest["finished"]


def test_identity_follows_what_was_made_not_when(run: Run) -> None:
    def make(arm: str, config: dict[str, Any] = CONFIG, row: int = 1, seconds: float = 1.0, source: str = "a") -> str:
        folder = run.stage(arm, "improve")
        folder.write_config(config)
        folder.append("rows", {"step": row})
        folder.append("metrics", {"seconds": seconds})
        folder.finish({"chunk": source}, {})
        return folder.identity

    same = make("a")
    assert make("b", seconds=9.0) == same
    others = [make("c", config={"steps": 3}), make("d", row=2), make("e", source="b")]
    assert len({same, *others}) == 4


def test_another_config_is_refused_once_there_is_something(folder: StageFolder) -> None:
    folder.write_config({"judge": {"kind": "shorter"}, "steps": 2})
    folder.write_config({"steps": 5})  # nothing was made yet: mending a config is free
    folder.write_config(CONFIG)
    folder.append("rows", {"step": 1})
    folder.finish({}, {})
    with pytest.raises(ConfigChangedError) as caught:
        folder.write_config({"steps": 3, "judge": {"kind": "likelihood"}})
    assert 'judge.kind: "shorter" is now "likelihood", steps: 2 is now 3' in str(caught.value)
    assert folder.done
    folder.reset()
    assert not any(folder.path.iterdir())
    folder.write_config({"steps": 3})
    assert not folder.done


def test_finish_needs_a_config(run: Run) -> None:
    with pytest.raises(StoreError, match="writes its config before"):
        run.stage("shared", "chunk").finish({}, {})


def test_broken_json_is_named(folder: StageFolder) -> None:
    (folder.path / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match=r"manifest\.json: not JSON"):
        _ = folder.done


def test_stages_are_listed_and_named(run: Run, folder: StageFolder) -> None:
    run.stage("shared", "chunk").write_config({})
    run.stage("base", "empty")
    (run.path / "base" / ".gone.tmp").mkdir()
    (run.path / "base" / ".gone.tmp" / "config.json").write_text("{}")
    assert [(found.arm, found.stage) for found in run.stages()] == [("self-improved", "improve"), ("shared", "chunk")]
    assert folder.checkpoints == run.path / "self-improved" / "improve" / "checkpoints"


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden"])
def test_names_that_leave_the_run_are_refused(run: Run, name: str) -> None:
    with pytest.raises(StoreError, match="cannot name a folder"):
        run.stage(name, "improve")


def test_open_wants_a_folder_and_create_wants_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such run folder"):
        Run.open(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        Run.create_or_open(tmp_path / "file")
    assert Run.open(Run.create_or_open(tmp_path / "a" / "b").path).stages() == []


def test_the_last_figure_of_a_key_counts(run: Run) -> None:
    run.measure([figure(0.5), figure(0.6, condition="greedy")])
    run.measure([figure(0.7), figure(0.8, judge="q@1"), figure(0.9, arm="continued")])
    assert [row.value for row in run.measurements()] == [0.7, 0.6, 0.8, 0.9]
    assert run.measurements()[0] == figure(0.7)
    run.measure([])
    assert len((run.path / "measurements.jsonl").read_text().splitlines()) == 5


@pytest.fixture
def evaluated(run: Run) -> StageFolder:
    """A stage with figures of its own among others."""
    made = run.stage("self-improved", "evaluate")
    made.write_config(CONFIG)
    made.append("examples", {"n": 1})
    made.finish({}, {})
    others = [figure(0.2, arm="continued"), figure(0.3, stage="audit"), figure(0.4, stage="run", condition="improve")]
    run.measure([figure(0.1, judge="old@1"), *others, figure(0.5, arm="base", against="self-improved")])
    run.measure([figure(0.6, arm="base", against=""), figure(0.7, stage="run", condition="evaluate", against="")])
    return made


def values(run: Run) -> list[float]:
    return sorted(row.value for row in run.measurements())


def test_a_stage_set_aside_takes_its_figures_along_and_brings_them_back(run: Run, evaluated: StageFolder) -> None:
    place = run.set_aside(evaluated)
    assert values(run) == [0.2, 0.3, 0.4]
    assert not evaluated.begun
    assert not evaluated.done
    assert place.is_relative_to(run.path / ".replaced" / "self-improved" / "evaluate")
    assert not run.bring_back(evaluated, {"steps": 3})
    assert run.bring_back(evaluated, CONFIG)
    assert evaluated.done
    assert values(run) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert not place.exists()
    assert {path.name for path in evaluated.path.iterdir()} == {"config.json", "examples.jsonl", "manifest.json"}


def test_the_same_config_can_be_set_aside_more_than_once(run: Run, evaluated: StageFolder) -> None:
    place = run.set_aside(evaluated)
    for number in (1, 2):
        evaluated.write_config(CONFIG)
        evaluated.append("examples", {"n": number + 1})
        assert run.set_aside(evaluated) == place
        kept = read_jsonl(place.parent / f"{place.name}.{number}" / "examples.jsonl")
        assert list(kept) == [{"n": number}]
    assert run.bring_back(evaluated, CONFIG)
    assert [row["n"] for row in evaluated.read("examples")] == [3]


@pytest.mark.parametrize("moment", ["write", "rename"])
def test_a_kill_while_a_stage_is_set_aside_loses_no_figure(
    run: Run, evaluated: StageFolder, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    def die(*arguments: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", die)
        if moment == "write":  # the stage's own figures are written, the table without them is not
            patched.setattr(files, "atomic_write", die)
        with pytest.raises(KilledError):
            run.set_aside(evaluated)
    with run.lock():
        assert values(run) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
        run.set_aside(evaluated)
        assert values(run) == [0.2, 0.3, 0.4]
        run.bring_back(evaluated, CONFIG)
        assert values(run) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


def test_the_config_of_a_run_is_kept(run: Run) -> None:
    assert run.config() is None
    run.save_config({"name": "a"})
    before = (run.path / "run.json").stat().st_mtime_ns
    run.save_config({"name": "a"})
    assert (run.path / "run.json").stat().st_mtime_ns == before
    run.save_config({"name": "b"})
    assert run.config() == {"name": "b"}


def test_who_writes_is_told_without_touching_anything(run: Run) -> None:
    assert run.writer() is None
    assert not (run.path / ".lock").exists()
    with run.lock():
        assert run.writer() == str(os.getpid())
    assert run.writer() is None


def test_a_second_process_is_told_who_holds_the_run(run: Run) -> None:
    attempt = f"from forethought.run.store import Run\nwith Run({str(run.path)!r}).lock(): print('got it')"
    with run.lock():
        with pytest.raises(RunLockedError, match=f"process {os.getpid()} is working on this run"), run.lock():
            pass
        refused = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True, check=False)
        assert f"process {os.getpid()} is working on this run" in refused.stderr
    allowed = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True, check=True)
    assert allowed.stdout == "got it\n"


def publish_text(final: Path, text: str) -> None:
    with publish(final) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "weights").write_text(text)


def test_publish_replaces_a_folder(folder: StageFolder) -> None:
    final = folder.checkpoints / "step-000001"
    for text in ("one", "two"):
        publish_text(final, text)
        assert (final / "sub" / "weights").read_text() == text
        assert [path.name for path in folder.checkpoints.iterdir()] == ["step-000001"]


def test_a_folder_that_could_not_be_filled_is_not_published(folder: StageFolder) -> None:
    final = folder.checkpoints / "last"
    publish_text(final, "old")

    def fail(error: Exception) -> None:
        with publish(final) as partial:
            (partial / "weights").write_text("new")
            raise error

    with pytest.raises(RuntimeError, match="boom"):
        fail(RuntimeError("boom"))
    with pytest.raises(StoreError, match="last: the disk is full"):
        fail(OSError(errno.ENOSPC, "No space left on device"))
    assert [path.name for path in folder.checkpoints.iterdir()] == ["last"]
    assert (final / "sub" / "weights").read_text() == "old"


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_publish_killed_between_its_renames_leaves_a_whole_folder(run: Run, folder: StageFolder, renames: int) -> None:
    final = folder.checkpoints / "last"
    publish_text(final, "old")
    killer = PUBLISHER.format(final=str(final), renames=renames)
    killed = subprocess.run([sys.executable, "-c", killer], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(folder.checkpoints.iterdir())) == 2
    with run.lock():
        assert [path.name for path in folder.checkpoints.iterdir()] == ["last"]
        assert (final / "sub" / "weights").read_text() == ("new" if renames == 2 else "old")


PUBLISHER = """
import os, pathlib, signal
from forethought.run.files import publish
left, rename = [{renames}], pathlib.Path.rename
def counted(path, target):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    rename(path, target)
    if left[0] == 0 and {renames} == 2:
        os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.rename = counted
with publish({final!r}) as partial:
    (partial / "sub").mkdir()
    (partial / "sub" / "weights").write_text("new")
"""


def test_the_lock_removes_what_a_killed_process_left(run: Run, folder: StageFolder) -> None:
    (folder.checkpoints / ".step-000002.tmp").mkdir(parents=True)
    (folder.path / ".manifest.json.123.tmp").write_text("{")
    (folder.path.parent / ".improve.tmp").mkdir()
    with run.lock():
        names = {path.name for path in run.path.rglob("*")}
    assert names == {".lock", "self-improved", "improve", "config.json", "checkpoints"}


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    atomic_write(path, "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"summary\.json: the disk is full; there was no room to write 2,000 bytes"):
        atomic_write(path, b"x" * 2000)
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has this device")
def test_a_full_device_stops_an_append() -> None:
    with pytest.raises(StoreError, match="the disk is full"):
        files.append_jsonl(Path("/dev/full"), [{"step": 1}])


WRITER = """
import sys
from forethought.run.files import publish
from forethought.run.store import Run
run = Run(sys.argv[1])
with run.lock():
    folder = run.stage("base", "improve")
    print("ready", flush=True)
    for step in range(10**6):
        folder.append("rows", [{"step": step, "text": "x" * 5000}] * 3)
        with publish(folder.checkpoints / "last") as partial:
            for name in "ab":
                (partial / name).write_text(str(step))
"""


@pytest.mark.parametrize("milliseconds", [5, 40, 90])
def test_kill_dash_nine(run: Run, milliseconds: int) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    writer.stdout.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        writer.wait(milliseconds / 1000)
    writer.send_signal(signal.SIGKILL)
    writer.communicate()
    with run.lock():
        folder = run.stage("base", "improve")
        steps = [row["step"] for row in folder.read("rows")]
        assert steps == [number // 3 for number in range(len(steps))]
        if (folder.checkpoints / "last").exists():
            assert {path.name for path in (folder.checkpoints / "last").iterdir()} == {"a", "b"}
            step = int((folder.checkpoints / "last" / "a").read_text())
            assert step in (steps[-1], steps[-1] - 1)
            folder.truncate("rows", lambda row: row["step"] <= step)
            assert [row["step"] for row in folder.read("rows")] == [number // 3 for number in range(3 * step + 3)]
        folder.append("rows", {"step": -1})
        assert list(read_jsonl(folder.path / "rows.jsonl"))[-1] == {"step": -1}
