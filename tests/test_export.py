"""What is exported from a run works without it: model folders, data sets, and texts of arms side by side."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from helpers.smoke_runs import CONFIG, SMALL, Finished, cli
from transformers import AutoModelForCausalLM, AutoTokenizer

from forethought.export import arms, try_arms
from forethought.records import Completion, Rollout, Split, ThoughtRow, from_dict
from forethought.report.values import text as reading
from forethought.run.store import Run
from forethought.testing import byte_tokenizer, tiny_model

FEWER = (*SMALL, "improve.control=false", "sft.control=false")


def sets(overrides: tuple[str, ...]) -> list[str]:
    return [f"--set={item}" for item in overrides]


@pytest.fixture(scope="module")
def done(finished: Finished) -> Path:
    """A finished run."""
    return finished(FEWER)


@pytest.fixture(scope="module")
def exported(done: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last arm, exported."""
    target = tmp_path_factory.mktemp("exported") / "model"
    result = cli("export", done, "self-improved-rlmt", target)
    assert result.exit_code == 0, result.output
    return target


def generate(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run generate.py as somebody who has the folder and transformers, and nothing of ours."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    code = "import sys, runpy; sys.modules['forethought'] = None; sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(folder / "generate.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd="/")


def test_an_exported_arm_is_the_arm(done: Path, exported: Path) -> None:
    ours = done / "self-improved-rlmt" / "rlmt" / "checkpoints" / "final" / "model.safetensors"
    assert (exported / "model.safetensors").read_bytes() == ours.read_bytes()
    assert AutoTokenizer.from_pretrained(exported)("ab").input_ids == byte_tokenizer()("ab").input_ids
    assert not (exported / "trainer").exists()
    config = json.loads((exported / "forethought.json").read_text())
    assert config["rlmt"]["steps"] == 4
    planned = cli("run", exported / "forethought.json", "--dry-run")
    assert planned.exit_code == 0, planned.output


def test_the_card_says_what_the_run_knows(done: Path, exported: Path) -> None:
    text = (exported / "README.md").read_text()
    figure = next(
        one
        for one in Run.open(done).measurements()
        if (one.stage, one.arm, one.metric) == ("evaluate-rlmt", "self-improved-rlmt", "gate reward")
    )
    assert "### Reward gate: all arms" in text
    assert f"| self-improved-rlmt | T = 1 | {reading(figure)} |" in text
    for part in (
        "1. **improve** (self-improved)",
        "2. **sft** (self-improved-think)",
        "3. **rlmt** (self-improved-rlmt)",
    ):
        assert part in text
    assert "4. " not in text
    assert "`tiny-llama`: none needed" in text
    assert "--until self-improved-rlmt/rlmt" in text
    assert "base-rlmt** " not in text


@pytest.mark.slow
def test_the_example_thinks_and_goes_on(exported: Path) -> None:
    shown = generate(exported, "The town of", "--tokens", "5")
    assert shown.returncode == 0, shown.stderr
    thought, text = shown.stdout.split("\n[text] ")
    assert thought.startswith("[thought] ")
    assert text.startswith("The town of")
    assert len(text) > len("The town of")
    assert generate(exported, "The town of", "--tokens", "5").stdout == shown.stdout
    assert generate(exported, "The town of", "--tokens", "5", "--seed", "7").stdout != shown.stdout


def test_the_base_is_exported_and_only_goes_on(done: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()  # an empty folder is fine
    assert cli("export", done, "base", tmp_path / "base").exit_code == 0
    shown = generate(tmp_path / "base", "The town of", "--temperature", "0", "--tokens", "6")
    assert shown.returncode == 0, shown.stderr
    assert "[thought]" not in shown.stdout
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    for ours, theirs in zip(model.state_dict().values(), tiny_model("llama", 0).state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert "as it was before any training" in (tmp_path / "base" / "README.md").read_text()


def test_what_cannot_be_exported_is_one_message_and_leaves_nothing(done: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("keep me")
    for arguments, message in (
        ([done, "base", tmp_path / "full"], "it exists and is not an empty folder"),
        ([done, "bas", tmp_path / "new"], "no such arm, or it is not done. Done: base, self-improved, base-think"),
        ([tmp_path / "nowhere", "base", tmp_path / "new"], "no such run folder"),
    ):
        result = cli("export", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr
    Run.create_or_open(tmp_path / "old")
    assert (
        "run.json, the config of the run, is not there"
        in cli("export", tmp_path / "old", "base", tmp_path / "new").stderr
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "old"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def converter(folder: Path, code: str) -> Path:
    path = folder / "convert_hf_to_gguf.py"
    path.write_text(f"#!{sys.executable}\nimport sys, pathlib\n{code}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


WRITES = "pathlib.Path(sys.argv[3]).write_text(' '.join(sys.argv[1:]))\n"


def test_gguf_is_made_by_the_public_converter(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    missing = cli("export", done, "base-rlmt", tmp_path / "a", "--gguf")
    assert missing.exit_code == 2
    assert "convert_hf_to_gguf.py is not on the PATH" in missing.stderr
    assert not (tmp_path / "a").exists()
    converter(tmp_path / "bin", WRITES)
    made = cli("export", done, "base-rlmt", tmp_path / "a", "--gguf")
    assert made.exit_code == 0, made.output
    target = tmp_path / "a" / "base-rlmt.gguf"
    assert target.read_text() == f"{tmp_path / 'a'} --outfile {target}"
    failing = converter(tmp_path, "sys.exit('this architecture is not known')\n")
    failed = cli("export", done, "base-rlmt", tmp_path / "b", "--gguf", "--converter", failing)
    assert failed.exit_code == 2
    assert "this architecture is not known" in failed.stderr
    assert (tmp_path / "b" / "README.md").exists()


@pytest.fixture(scope="module", params=["parquet", "jsonl"])
def data(request: pytest.FixtureRequest, done: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the run, once in each format."""
    target = tmp_path_factory.mktemp("data") / "sets"
    options = ["--jsonl"] if request.param == "jsonl" else []
    result = cli("export-data", done, target, *options)
    assert result.exit_code == 0, result.output
    assert "preference/train: " in result.stdout
    return target


@pytest.fixture
def loaded(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Loads a data set of it."""
    return lambda name, split: datasets.load_dataset(str(data), name, split=split, cache_dir=str(tmp_path / "cache"))


def test_preferences_are_those_of_the_run(done: Path, loaded) -> None:
    rows = loaded("preference", "train")
    pools = [row for row in Run.open(done).look("self-improved", "improve").read("pools") if row["chosen"]]
    assert len(rows) == len(pools)
    chunks = {row["id"]: row for row in Run.open(done).look("shared", "chunk").read("chunks.improve")}
    for row, pool in zip(rows, pools, strict=True):
        texts = {one["id"]: one["text"] for one in pool["candidates"]}
        assert row["prompt"] == chunks[pool["chunk_id"]]["prefix"]
        assert (row["chosen"], row["rejected"]) == (texts[pool["chosen"]], texts[pool["rejected"]])


def test_thoughts_stand_between_tags_in_text_that_is_whole(done: Path, loaded) -> None:
    for split, name in ((Split.SFT, "train"), (Split.HELDOUT, "test")):
        rows = loaded("sft", name)
        kept = [from_dict(ThoughtRow, row) for row in Run.open(done).look("shared", "interleave").read(f"rows.{split}")]
        assert [row["raw"] for row in rows] == [row.text for row in kept]
        assert any(row["thoughts"] for row in rows)
        for row in rows:
            bare = row["text"]
            for thought in row["thoughts"]:
                bare = bare.replace(f"<think>{thought}</think>", "", 1)
            assert bare == row["raw"]


def test_prompts_join_with_their_suffixes(done: Path, loaded) -> None:
    texts = {row["text"] for row in Run.open(done).look("shared", "interleave").read("rows.rlmt")}
    rows = loaded("prompts", "train")
    assert len(rows) >= len(texts) > 0
    assert {row["prompt"] + row["suffix"] for row in rows} == texts
    assert all(row["prompt"] and row["suffix"] for row in rows)


def test_trl_takes_the_data_as_it_is(loaded, tmp_path: Path) -> None:
    shared = {"output_dir": str(tmp_path / "trl"), "use_cpu": True, "bf16": False, "report_to": "none", "max_steps": 1}
    shared |= {"disable_tqdm": True, "gradient_checkpointing": False}
    preference = loaded("preference", "train").select_columns(["prompt", "chosen", "rejected"])
    trl = pytest.importorskip("trl")
    dpo = trl.DPOTrainer(
        model=tiny_model("llama", seed=0),
        ref_model=tiny_model("llama", seed=1),
        args=trl.DPOConfig(**shared),
        train_dataset=preference,
        processing_class=byte_tokenizer(),
    )
    assert bytes(dpo.train_dataset[0]["prompt_ids"]).decode() == preference[0]["prompt"]
    assert dpo.train().training_loss > 0
    sft = trl.SFTTrainer(
        model=tiny_model("llama", seed=0),
        args=trl.SFTConfig(**shared),
        train_dataset=loaded("sft", "train"),
        processing_class=byte_tokenizer(),
    )
    assert sft.train().training_loss > 0


def test_data_goes_into_an_empty_folder_only_and_must_be_there(done: Path, data: Path, tmp_path: Path) -> None:
    assert "it exists and is not an empty folder" in cli("export-data", done, data).stderr
    opened = Run.create_or_open(tmp_path / "new")
    opened.save_config(Run.open(done).config())
    refused = cli("export-data", opened.path, tmp_path / "none")
    assert refused.exit_code == 2
    assert "neither improve nor interleave has made anything yet" in refused.stderr


def test_two_arms_side_by_side(done: Path) -> None:
    shown = cli("try", done, "The town of", "--tokens", "5")
    assert shown.exit_code == 0, shown.output
    for part in ("The town of", "base-rlmt", "self-improved-rlmt", "<think>", "</think>"):
        assert part in shown.stdout
    assert cli("try", done, "The town of", "--tokens", "5").stdout == shown.stdout
    plain = cli("try", done, "base,self-improved", "The town of", "--tokens", "5")
    assert plain.exit_code == 0
    assert "<think>" not in plain.stdout


def test_samples_seeds_and_temperature(done: Path) -> None:
    run = Run.open(done)
    options = try_arms.SamplingOptions(samples=3, tokens=6, thought_tokens=4)
    said = try_arms.ask(run, ["self-improved-think", "base"], "The town of", options)
    assert {name: len(rows) for name, rows in said.items()} == {"self-improved-think": 3, "base": 3}
    assert all(isinstance(sample, Completion) for sample in said["base"])
    assert all(isinstance(sample, Rollout) for sample in said["self-improved-think"])
    assert len({one.text for one in said["base"]}) > 1
    other = try_arms.ask(run, ["base"], "The town of", try_arms.SamplingOptions(samples=3, tokens=6, seed=1))
    assert other["base"] != said["base"]
    greedy = try_arms.ask(run, ["base"], "The town of", try_arms.SamplingOptions(samples=2, tokens=6, temperature=0.0))
    assert greedy["base"][0].text == greedy["base"][1].text


def test_without_later_stages_the_last_arms_are_asked(tmp_path: Path) -> None:
    assert cli("run", CONFIG, "--run", tmp_path / "run", "--until", "improve", *sets(FEWER)).exit_code == 0
    said = try_arms.ask(Run.open(tmp_path / "run"), [], "The town of", try_arms.SamplingOptions(tokens=3))
    assert list(said) == ["base", "self-improved"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base,bas", "The"], "bas: "),
        (["base", "The", "town"], "the text in quotes; got 3 words"),
        ([""], "the text is empty"),
    ],
)
def test_what_cannot_be_tried_is_one_message(done: Path, arguments: list[str], message: str) -> None:
    result = cli("try", done, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_arms_of_a_run(done: Path) -> None:
    run = Run.open(done)
    found = arms.arms(run, arms.config_of(run))
    assert list(found) == [
        "base",
        "self-improved",
        "base-think",
        "self-improved-think",
        "base-rlmt",
        "self-improved-rlmt",
    ]
    assert [one.thinks for one in found.values()] == [False, False, True, True, True, True]
