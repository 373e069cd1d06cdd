"""Files that come with the package: configs, which go by name, and the text that one of them reads."""

from __future__ import annotations

import difflib
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "configs"
"""The folder of these files; its path differs between machines, so no result may depend on it."""
SHIPPED = "shipped:"
"""A ``corpus.path`` that begins with this names a file in :data:`FOLDER`."""


def config_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def config_file(asked: Path) -> Path:
    """Return ``asked`` if it exists, else the shipped config of that bare name, if any."""
    if str(asked) in config_names() and not asked.exists():
        return FOLDER / f"{asked}.toml"
    return asked


def config_hint(asked: Path) -> str:
    names = config_names()
    if asked.stem in names:
        return f"For the shipped config of that name write `forethought run {asked.stem}`"
    close = difflib.get_close_matches(asked.stem, names, n=1)
    meant = f"Did you mean {close[0]}? " if close else ""
    return f"{meant}Shipped configs: {', '.join(names)}"


def text_file(name: str) -> Path | None:
    """Return the shipped file that a ``corpus.path`` names (``shipped:smoke.jsonl``), or ``None`` for another path."""
    if not name.startswith(SHIPPED):
        return None
    texts = {f"{SHIPPED}{path.name}": path for path in sorted(FOLDER.glob("*.jsonl"))}
    if name not in texts:
        raise FileNotFoundError(f"{name}: no such text comes with the package. Shipped texts: {', '.join(texts)}")
    return texts[name]
