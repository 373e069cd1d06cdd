"""Checkpoints that load anywhere and resume exactly.

A checkpoint is a plain Hugging Face folder (float32 weights, tokenizer) with a ``trainer`` folder in it: the
optimiser's moments and the step.  It is written under another name and then renamed, so that it is never incomplete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from forethought.engine.trainer import Trainer
from forethought.run.files import publish
from forethought.run.integrity import STATE, checkpoint_state, hashes_of, with_checksum

MOMENTS = Path("trainer") / "moments.safetensors"
REFERENCE = Path("trainer") / "reference.safetensors"


def save(
    folder: Path,
    trainer: Trainer,
    tokenizer: Any,
    step: int,
    *,
    resumable: bool = True,
    reference: Any = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint after ``step`` steps; ``folder`` appears complete or not at all.

    ``resumable=False`` leaves the optimiser's moments out (a third of the size remains).  ``reference``: a model whose
    weights are needed to resume (a reference that was synced), else ``None``.  ``extra``: what else the state keeps.

    Raises:
        forethought.run.files.StoreError: naming the folder, when the disk is full.
    """
    with publish(folder) as partial:
        save_model(partial, trainer.policy.model, tokenizer, trainer)
        (partial / STATE).parent.mkdir()
        if resumable:
            # AdamW's own count of steps is among them: its bias correction depends on it.
            moments = {
                f"{name}.{moment}": value.contiguous()
                for name, master in trainer.masters.items()
                for moment, value in trainer.optimizer.state[master].items()
            }
            save_file(moments, partial / MOMENTS)
            if reference is not None:
                weights = {name: value.detach().contiguous() for name, value in reference.named_parameters()}
                save_file(weights, partial / REFERENCE)
        files = hashes_of(partial, partial.rglob("*")) if resumable else {}  # the manifest holds those of the last one
        state = {"step": step, "resumable": resumable, "files": files, **(extra or {})}
        (partial / STATE).write_text(json.dumps(with_checksum(state)))


def save_model(folder: Path, model: Any, tokenizer: Any, trainer: Trainer | None = None) -> None:
    """Write ``model`` as a Hugging Face folder that ``AutoModelForCausalLM`` and vLLM load as it is.

    With a ``trainer`` the weights are its float32 masters, else the model's own.
    """
    if trainer is None:
        model.save_pretrained(folder)
    else:
        # The state dict that save_pretrained expects: masters, also under the names tied to them, and buffers.
        names = {parameter.data_ptr(): name for name, parameter in model.named_parameters()}
        weights = {
            name: trainer.masters[names[tensor.data_ptr()]] if tensor.data_ptr() in names else tensor
            for name, tensor in model.state_dict().items()
        }
        model.save_pretrained(folder, state_dict=weights, max_shard_size="50GB")
        # save_pretrained writes the working copy's dtype; the weights are the masters'.
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}, indent=2))
    tokenizer.save_pretrained(folder)


def check(folder: Path, trainer: Trainer) -> tuple[dict[str, Any], str]:
    """Return the state of a checkpoint, and why ``trainer`` cannot go on with it, or nothing; nothing is loaded."""
    state, fault = checkpoint_state(folder)
    if fault:
        return state, fault
    shapes = {name: list(master.shape) for name, master in trainer.masters.items()}
    try:
        stored = {name: shape for path in folder.glob("*.safetensors") for name, shape in _shapes(path).items()}
        moments = _shapes(folder / MOMENTS)
        if (folder / REFERENCE).exists():
            _shapes(folder / REFERENCE)
    except (OSError, SafetensorError) as error:
        return state, str(error)
    wrong = [name for name, shape in shapes.items() if stored.get(name) != shape]
    wrong += [name for name in moments if name.rpartition(".")[0] not in shapes]
    return state, f"its tensors are not those of the model: {', '.join(wrong[:3])}" if wrong else ""


def _shapes(path: Path) -> dict[str, list[int]]:
    """Return the shape of each tensor in a file; its header must fit its size."""
    with safe_open(path, framework="pt") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  not a mapping


def load_into(folder: Path, trainer: Trainer, reference: Any = None) -> int:
    """Restore masters, working copy and optimiser from a resumable checkpoint; return its step."""
    stored: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):  # not those in trainer/
        stored.update(load_file(path))
    with torch.no_grad():
        for name, master in trainer.masters.items():
            master.copy_(stored[name])
    trainer.publish()
    for key, value in load_file(folder / MOMENTS).items():  # none before the first step that had anything to train on
        name, _, moment = key.rpartition(".")
        master = trainer.masters[name]
        trainer.optimizer.state[master][moment] = value.to(master.device)
    if reference is not None and (folder / REFERENCE).exists():
        # Not strict: save() names tied weights once, and no buffers.
        reference.load_state_dict(load_file(folder / REFERENCE), strict=False)
    return int(json.loads((folder / STATE).read_text())["step"])
