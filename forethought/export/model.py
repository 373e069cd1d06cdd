"""An arm as a Hugging Face folder that needs nothing of this package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from forethought import models
from forethought.config import Config
from forethought.export.arms import ExportError, Trained, config_of, find, lengths_of, tags_of
from forethought.export.card import card
from forethought.models.thought_tokens import ThoughtTokens
from forethought.run.files import encode, publish
from forethought.run.store import Run
from forethought.tags import Tags

CONVERTERS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf")
"""What llama.cpp's converter is called on the PATH."""


def export(run: Run, name: str, target: Path, say: Callable[[str], None], *, trust_remote_code: bool = False) -> None:
    """Write arm ``name`` to ``target``: weights, tokenizer, card, generate.py, and the config of the run."""
    demand_empty(target)
    models.quiet()
    config = config_of(run, trust_remote_code=trust_remote_code)
    arm = find(run, config, name)
    with publish(target) as partial:
        _weights(config, arm, partial, say)
        interface = interface_of(config, arm, partial)
        _write(partial / "interface.json", interface)
        _write(partial / "forethought.json", config.model_dump(mode="json"))
        (partial / "README.md").write_text(card(run, config, arm, interface), encoding="utf-8")
        shutil.copyfile(Path(__file__).with_name("generate.py"), partial / "generate.py")


def demand_empty(target: Path) -> None:
    """Raise :class:`ExportError` unless ``target`` is not there or an empty folder."""
    if target.is_symlink():
        raise ExportError(f"{target}: it is a symbolic link. Name the folder itself, or a new one")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ExportError(f"{target}: it exists and is not an empty folder. Choose another folder, or empty it first")


def converter(given: Path | None) -> Path:
    """Return llama.cpp's converter: ``given``, or the one on the PATH."""
    if given is not None and not given.is_file():
        raise ExportError(f"--converter {given}: no such file")
    program = given or next(filter(None, map(shutil.which, CONVERTERS)), None)
    if program is None:
        raise ExportError(
            f"--gguf: {CONVERTERS[0]} is not on the PATH. It comes with llama.cpp; put it there, or name it with "
            "--converter PATH. Nothing was exported"
        )
    return Path(program)


def to_gguf(folder: Path, program: Path, name: str) -> Path:
    """Convert an exported folder with llama.cpp's converter and return the file."""
    target = folder / f"{name}.gguf"
    interpreter = [sys.executable] if program.suffix == ".py" else []
    command = [*interpreter, str(program), str(folder), "--outfile", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not target.is_file():
        output = (done.stderr or done.stdout).strip()[-800:]
        raise ExportError(f"{program} failed ({done.returncode}); the folder {folder} is complete without it: {output}")
    return target


def interface_of(config: Config, arm: Trained, folder: Path) -> dict[str, Any]:
    """Return what generate.py has to know: tags and their ids, lengths, and which ids stand for no text."""
    from transformers import AutoConfig, AutoTokenizer

    # What the folder needs of somebody's code is asked for nowhere: transformers would ask at the terminal.
    trust = arm.model.trust_remote_code
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    vocabulary = AutoConfig.from_pretrained(folder, trust_remote_code=trust).get_text_config().vocab_size
    tags = Tags(*tags_of(config))
    tokens = ThoughtTokens.of(tokenizer, tags) if arm.thinks else None
    opened, closed = (tokens.open, tokens.close) if tokens else ((), ())
    thought_tokens, suffix_tokens = lengths_of(config)
    return {
        "thinks": arm.thinks,
        "tags": [tags.open, tags.close],
        "open": opened,
        "close": closed,
        "bos": models.bos_ids(tokenizer),
        # Tags may be special tokens, and these must be drawn.
        "never": sorted(set(models.special_ids(tokenizer, vocabulary)) - {*opened, *closed}),
        "thought_tokens": thought_tokens,
        "suffix_tokens": suffix_tokens,
    }


def _weights(config: Config, arm: Trained, partial: Path, say: Callable[[str], None]) -> None:
    if arm.folder is not None:
        for path in Path(arm.model.model).iterdir():
            if path.is_file():  # links are inside of the run: arms() has refused others
                shutil.copyfile(path, partial / path.name)
        return
    # Nothing is multiplied here, so the run's dtype holds also where this processor would not compute in it.
    dtype = {"bfloat16": torch.bfloat16}.get(config.dtype, torch.float32)
    loaded = models.load(config.policy, device=torch.device("cpu"), dtype=dtype, seed=config.seed, progress=say)
    loaded.model.save_pretrained(partial)
    loaded.tokenizer.save_pretrained(partial)


def _write(path: Path, content: Any) -> None:
    path.write_bytes(encode(content, indent=2))
