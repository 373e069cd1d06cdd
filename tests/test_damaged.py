"""Files that changed after they were written: noticed, named, and made again where that is possible."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.smoke_runs import CONFIG, SMALL, Kill, cli, lifecycle, rows

from forethought.llm.cache import TextCache
from forethought.llm.damage import faults
from forethought.records import Measurement
from forethought.run import integrity, store
from forethought.run.files import StoreError, hash_file, read_jsonl
from forethought.run.folder import StageFolder
from forethought.run.store import Run

IMPROVE = "self-improved/improve"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create_or_open(tmp_path / "run")


@pytest.fixture
def stage(run: Run) -> StageFolder:
    """A finished stage with a log of three rows."""
    folder = run.stage("shared", "chunk")
    folder.write_config({"seed": 1})
    folder.append("rows", [{"step": step, "text": "a whale"} for step in range(3)])
    folder.finish({}, {})
    return folder


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_every_bit_of_a_row_that_turns_is_noticed(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path)
    folder.append("rows", [{"text": "a whale, ähm"}, {}, {"n": 1.5}])
    path = tmp_path / "rows.jsonl"
    written, right = path.read_bytes(), list(folder.read("rows"))
    assert right == [{"text": "a whale, ähm"}, {}, {"n": 1.5}]
    for place in range(written.index(b"\n") + 1, len(written) - 1):  # of the first row, the log may be an older one's
        for bit in range(8):
            data = bytearray(written)
            data[place] ^= 1 << bit
            path.write_bytes(data)
            with pytest.raises(StoreError, match=r"rows\.jsonl, line [123]: "):
                list(folder.read("rows"))


def test_logs_without_checksums_are_read_and_gone_on_with(tmp_path: Path) -> None:
    folder = StageFolder(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    folder.append("rows", {"step": 3})
    assert list(folder.read("rows")) == [{"step": 1}, {"step": 2}, {"step": 3}]
    folder.truncate("rows", lambda row: row["step"] != 2)
    assert list(folder.read("rows")) == [{"step": 1}, {"step": 3}]


@pytest.mark.parametrize("content", [b"3\n", b"[1]\n", b"null\n", b"[" * 100_000 + b"\n"])
def test_a_row_that_is_no_object_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(StoreError, match=r"rows\.jsonl, line 1: "):
        list(StageFolder(tmp_path).read("rows"))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.unlink(), "it is missing"),
        (lambda path: path.write_bytes(b""), "it is not what was written"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "it is not what was written"),
        (lambda path: path.write_text('{"step": 7}\n'), "it is not what was written"),
        (lambda path: (path.unlink(), path.mkdir()), "a folder, where a file is expected"),
        (lambda path: (path.unlink(), path.symlink_to("nowhere")), "a link to nothing"),
    ],
)
def test_a_log_of_a_finished_stage_that_changed_is_named(
    stage: StageFolder, damage: Callable[[Path], Any], problem: str
) -> None:
    assert len(list(stage.read("rows"))) == 3
    damage(stage.path / "rows.jsonl")
    with pytest.raises(StoreError, match=rf"rows\.jsonl: {problem}.*--only shared/chunk --force"):
        stage.read("rows")


@pytest.mark.parametrize(
    ("old", "new"), [('"files"', '"filez"'), ('"config": "', '"config": "0'), ('"version": "', '"version": "9')]
)
def test_a_manifest_that_changed_is_named(stage: StageFolder, old: str, new: str) -> None:
    path = stage.path / "manifest.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(StoreError, match=r"manifest\.json: its checksum does not match"):
        stage.manifest()
    path.write_text('{"version": "99"}')
    with pytest.raises(StoreError, match=r"manifest\.json: it lacks config, inputs, summary, files"):
        assert stage.done


def test_a_large_file_is_hashed_once_in_a_run(run: Run, stage: StageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr(integrity, "SMALL", 10)
    monkeypatch.setattr(store, "hash_file", lambda path: hashed.append(path) or hash_file(path))
    for _ in range(2):
        opened = Run.open(run.path)
        with opened.lock():
            assert len(list(opened.look("shared", "chunk").read("rows"))) == 3
    assert len(hashed) == 1
    flip(stage.path / "rows.jsonl", 3)  # of the same size, at another time
    with pytest.raises(StoreError, match="not what was written"):
        Run.open(run.path).look("shared", "chunk").read("rows")


def test_figures_that_are_gone_are_missed(run: Run) -> None:
    folder = run.stage("shared", "audit")
    folder.write_config({"seed": 1})
    run.measure(
        Measurement(stage="audit", arm="judge", metric=name, value=1.0, n=1, unit="", subject="") for name in ("a", "b")
    )
    folder.finish({}, {})
    path = run.path / "measurements.jsonl"
    assert len(run.measurements()) == 2
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StoreError, match=r"figures of shared/audit are missing.*--only shared/audit --force"):
        run.measurements()


def test_a_stage_whose_config_is_gone_starts_over_only_if_another_is_asked_for(stage: StageFolder) -> None:
    (stage.path / "config.json").unlink()
    assert stage.changes({"seed": 1}) == []
    assert "config.json is missing" in stage.changes({"seed": 2})[0]


def test_verify_names_what_is_damaged(done: Path, tmp_path: Path) -> None:
    run = shutil.copytree(done, tmp_path / "run")
    whole = cli("verify", run)
    assert (whole.exit_code, "0 damaged" in whole.output) == (0, True), whole.output
    weights = next((run / IMPROVE / "checkpoints" / "final").glob("*.safetensors"))
    flip(weights, weights.stat().st_size - 1)
    flip(run / "shared" / "chunk" / "chunks.sft.jsonl", 40)
    (run / "verdicts.sqlite").write_bytes(b"no database" * 100)
    damaged = cli("verify", run)
    assert damaged.exit_code == 1
    assert "3 damaged" in damaged.output
    for name in (weights.name, "chunks.sft.jsonl", "verdicts.sqlite"):
        assert name in damaged.output.replace("\n", "").replace(" ", "")


def test_weights_that_changed_are_not_evaluated(done: Path, tmp_path: Path) -> None:
    run = shutil.copytree(done, tmp_path / "run")
    weights = next((run / IMPROVE / "checkpoints" / "final").glob("*.safetensors"))
    flip(weights, weights.stat().st_size - 1)
    result = forethought(run, "--only", "self-improved/evaluate", "--force")
    assert result.exit_code == 2
    assert f"{weights}: it is not what was written" in result.output
    exported = cli("export", run, "self-improved", tmp_path / "exported")
    assert exported.exit_code == 2
    assert f"{weights}: it is not what was written" in exported.output


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in step 6 of stage 1, with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    assert lifecycle(folder, kill=Kill("write", f"{IMPROVE}/pools.jsonl", 6)) == -9
    names = sorted(path.name for path in (folder / IMPROVE / "checkpoints").glob("step_*"))
    assert names == ["step_000002", "step_000004"]
    return folder


def forethought(folder: Path, *options: str) -> Any:
    return cli("run", CONFIG, "--run", folder, *(f"--set={item}" for item in SMALL), *options)


def older(state: Path) -> None:
    """Make a checkpoint one that older code wrote."""
    kept = json.loads(state.read_text())
    state.write_text(json.dumps({"step": kept["step"], "resumable": True}))


LAST = Path(IMPROVE) / "checkpoints" / "step_000004"
STATE, MOMENTS = LAST / "trainer" / "state.json", LAST / "trainer" / "moments.safetensors"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: None, ""),
        (lambda run: flip(run / MOMENTS, (run / MOMENTS).stat().st_size - 1), "moments.safetensors: it is not what"),
        (lambda run: flip(run / LAST / "model.safetensors", 5000), "model.safetensors: it is not what"),
        (lambda run: (run / LAST / "model.safetensors").unlink(), "model.safetensors: it is missing"),
        (lambda run: (run / STATE).write_text('{"step": 99, "resumable": true}'), "is of step 99"),
        (lambda run: (run / STATE).write_text('{"step": 4'), "not JSON"),
        (lambda run: shutil.rmtree(run / LAST / "trainer"), "tells no step"),
        (lambda run: older(run / STATE), ""),
        (lambda run: (older(run / STATE), (run / MOMENTS).write_bytes(b"torn")), "step_000004 cannot be used"),
        (lambda run: [shutil.rmtree(path / "trainer") for path in (run / LAST.parent).iterdir()], "tells no step"),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    damage: Callable[[Path], Any], said: str, begun: Path, done: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(begun, tmp_path / "run")
    damage(run)
    result = forethought(run, "--until", IMPROVE)
    assert result.exit_code == 0, result.output
    assert (said or "cannot be used") in result.output or not said
    assert ("cannot be used" in result.output) == bool(said)
    for log in ("pools", "metrics"):
        assert rows(run, f"{IMPROVE}/{log}.jsonl") == rows(done, f"{IMPROVE}/{log}.jsonl")
    weights = f"{IMPROVE}/checkpoints/final/model.safetensors"
    assert (run / weights).read_bytes() == (done / weights).read_bytes()


def test_a_log_that_lost_what_was_before_every_checkpoint_is_named(begun: Path, tmp_path: Path) -> None:
    run = shutil.copytree(begun, tmp_path / "run")
    flip(run / IMPROVE / "pools.jsonl", 30)
    result = forethought(run, "--until", IMPROVE)
    assert result.exit_code == 2
    assert f"{run / IMPROVE / 'pools.jsonl'}: rows were changed or lost" in result.output
    assert f"--only {IMPROVE} --force" in result.output
    assert forethought(run, "--only", IMPROVE, "--force").exit_code == 0


def test_what_follows_a_checkpoint_in_a_log_is_cut_without_being_read(begun: Path, done: Path, tmp_path: Path) -> None:
    run = shutil.copytree(begun, tmp_path / "run")
    log = run / IMPROVE / "pools.jsonl"
    size = json.loads((run / STATE).read_text())["logs"]["pools"]["size"]
    log.write_bytes(log.read_bytes()[:size] + b"\0 no rows\n" * 5)
    assert forethought(run, "--until", IMPROVE).exit_code == 0
    assert rows(run, f"{IMPROVE}/pools.jsonl") == rows(done, f"{IMPROVE}/pools.jsonl")


def test_a_damaged_row_of_a_cache_is_asked_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "v.sqlite"
    cache = TextCache(path, "verdicts")
    cache.put("judge", [(key, json.dumps({"winner": 0, "key": key})) for key in "abc"])
    with sqlite3.connect(path) as database:
        database.execute("UPDATE verdicts SET verdict = replace(verdict, '0', '1') WHERE key = 'b'")
        database.execute("UPDATE verdicts SET verdict = x'ff' WHERE key = 'c'")
    assert len(faults(path)) == 1
    asked: list[int] = []

    def ask(missing: list[int]) -> list[str]:
        asked.extend(missing)
        return ["anew"] * len(missing)

    said = cache.complete("judge", list("abc"), ask, json.dumps, lambda index, text: str(json.loads(text)))
    assert (asked, said[1:]) == ([1, 2], ["anew", "anew"])
    assert "2 damaged verdicts are asked again" in caplog.text
    assert set(TextCache(path, "verdicts").get(list("abc"))) == set("abc")
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM damaged").fetchone() == (2,)
    assert faults(path) == []


def test_a_row_of_older_code_that_is_no_verdict_is_asked_again(tmp_path: Path) -> None:
    cache = TextCache(tmp_path / "v.sqlite", "verdicts")
    with sqlite3.connect(tmp_path / "v.sqlite") as database:
        database.execute("INSERT INTO verdicts VALUES ('a', 'judge', '{torn'), ('b', 'judge', '2')")
    said = cache.complete(
        "judge", ["a", "b"], lambda missing: [7] * len(missing), json.dumps, lambda i, text: json.loads(text)
    )
    assert said == [7, 2]


def test_what_can_be_read_of_a_damaged_cache_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "v.sqlite"
    cache = TextCache(path, "verdicts")
    keys = [f"{number:04}" for number in range(2000)]
    cache.put("judge", [(key, json.dumps({"winner": key})) for key in keys])
    cache.close()
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    cache = TextCache(path, "verdicts")
    known = cache.get(keys)
    assert "v.sqlite: damaged" in caplog.text
    assert 500 < len(known) < 2000
    assert all(json.loads(text)["winner"] == key for key, text in known.items())
    cache.put("judge", [(key, "1") for key in keys])
    assert len(cache.get(keys)) == 2000


def test_a_folder_in_the_place_of_a_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "v.sqlite").mkdir()
    with pytest.raises(ValueError, match=r"v\.sqlite: not a usable verdict cache"):
        TextCache(tmp_path / "v.sqlite", "verdicts")


def test_rows_of_a_run_are_read_with_the_keys_that_they_need(run: Run) -> None:
    (run.path / "hashes.jsonl").write_text('{"rows": 1}\n')
    with pytest.raises(StoreError, match=r"hashes\.jsonl, line 1: no name, hash in it"):
        run.hashes()
    assert list(read_jsonl(run.path / "hashes.jsonl")) == [{"rows": 1}]
