"""Counter-based randomness: ``(seed, purpose, step, item, k) -> generator``.

There is no global generator anywhere.  A draw depends on its key alone, never on what was drawn
before it or in the same batch, so that a resumed run, a larger batch or another order gives the same text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, slots=True)
class Key:
    """The name of a stream of random numbers.

    Example: ``Key(seed=0, purpose="rollouts").at(step=12).uniforms(["chunk-a/0", "chunk-a/1"], 48)``
    """

    seed: int
    purpose: str
    """What the numbers are for; streams of two purposes are independent."""
    step: int = 0

    def at(self, step: int) -> Key:
        """Return this key with another step."""
        return replace(self, step=step)

    def generator(self, item: str = "", k: int = 0) -> np.random.Generator:
        """Return the generator of ``(seed, purpose, step, item, k)``: Philox, keyed by their hash."""
        name = "\x1f".join((str(self.seed), self.purpose, str(self.step), item, str(k)))
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))

    def uniforms(self, item: str, k: int, count: int) -> np.ndarray:
        """Return ``count`` float64 numbers in [0, 1) for branch ``k`` of ``item``; shape ``(count,)``."""
        return self.generator(item, k).random(count)

    def integer(self, item: str = "", k: int = 0) -> int:
        """Return one 63-bit integer, to seed other libraries."""
        return int(self.generator(item, k).integers(2**63))
