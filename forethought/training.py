"""What every stage that trains shares: settings from the config, the order of the rows, checkpoints, going on.

An interrupted stage goes on at its last checkpoint and ends with the same weights bit for bit (CPU): the batches come
from keys, and what was logged after the checkpoint is dropped and computed again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from forethought.config import TrainingConfig
from forethought.engine import checkpoint
from forethought.engine.policy import Policy
from forethought.engine.trainer import Adam, Schedule, Trainer
from forethought.keys import Key
from forethought.metric_log import peak_memory
from forethought.store import StageFolder, hash_file

T = TypeVar("T")


def trainer(policy: Policy, cfg: TrainingConfig, forbidden_ids: Sequence[int] = ()) -> Trainer:
    """Return a trainer of ``policy`` with the settings of ``cfg``."""
    schedule = Schedule(peak=cfg.learning_rate, warmup=cfg.warmup_steps, total=cfg.steps, min_ratio=cfg.min_rate_ratio)
    adam = Adam(betas=cfg.adam_betas, eps=cfg.adam_eps, weight_decay=cfg.weight_decay, clip_norm=cfg.clip_norm)
    return Trainer(policy, schedule, adam, micro_tokens=cfg.micro_tokens, forbidden_ids=forbidden_ids)


def batch(items: Sequence[T], size: int, step: int, seed: int) -> list[T]:
    """Return the items of ``step``: every epoch is a keyed permutation, and batches cross from one to the next."""
    count, order = len(items), Key(seed, "order")
    places = [divmod(place, count) for place in range(step * size, (step + 1) * size)]
    shuffled = {epoch: order.at(epoch).generator().permutation(count) for epoch in {epoch for epoch, _ in places}}
    return [items[shuffled[epoch][place]] for epoch, place in places]


def due(every: int, done: int, total: int) -> bool:
    """Return whether something that happens ``every`` n steps, and at the end, happens after ``done`` of them."""
    return done == total or (every > 0 and done % every == 0)


def final(folder: StageFolder) -> Path:
    """Return where the trained model goes."""
    return folder.checkpoints / "final"


def resume(folder: StageFolder, trained: Trainer, logs: Sequence[str] = (), reference: Any = None) -> int:
    """Restore the last checkpoint, drop what was logged after it, and return the step to go on with.

    Args:
        folder: the stage.
        trained: gets weights and optimiser.
        logs: logs with a row for each step, counted from 0; ``metrics`` has the state after each step, hence from 1.
        reference: a model whose weights move along, or ``None``.
    """
    saved = sorted(folder.checkpoints.glob("step_*"))
    start = checkpoint.load_into(saved[-1], trained, reference) if saved else 0
    for log in logs:
        folder.truncate(log, lambda row: row["step"] < start)
    folder.truncate("metrics", lambda row: 0 < row["step"] <= start or (row["step"] == 0 and start > 0))
    return start


def save(folder: StageFolder, trained: Trainer, tokenizer: Any, step: int, reference: Any = None) -> None:
    """Write a checkpoint after ``step`` steps and remove the older ones."""
    older = list(folder.checkpoints.glob("step_*"))
    checkpoint.save(folder.checkpoints / f"step_{step:06d}", trained, tokenizer, step, reference=reference)
    for path in older:
        shutil.rmtree(path)


def finish(folder: StageFolder, trained: Trainer, tokenizer: Any, steps: int, inputs: Mapping[str, str]) -> Path:
    """Write the trained model and the manifest, and return the model's folder."""
    place = final(folder)
    checkpoint.save(place, trained, tokenizer, steps, resumable=False)
    weights = {path.name: hash_file(path) for path in sorted(place.glob("*.safetensors"))}
    folder.finish(inputs, {"weights": weights, "steps": steps})
    forget(folder)
    return place


def forget(folder: StageFolder) -> None:
    """Remove the checkpoints that a finished stage no longer needs."""
    for path in folder.checkpoints.glob("step_*"):
        shutil.rmtree(path)


def peak(trained: Trainer) -> Callable[[], int]:
    """Return what measures the peak memory of training, in bytes."""
    return torch.cuda.max_memory_allocated if trained.policy.device.type == "cuda" else peak_memory
