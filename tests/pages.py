"""The pages of the documentation, and what stands in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PRESENT = [page for page in PAGES if page.name != "log.md" and "results" not in page.parts]
"""Pages about what is; the log keeps commands and configs of its day."""

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    text: str


def name_of(value: object) -> str:
    """Return how a test calls a page or a block."""
    path = value.page if isinstance(value, Block) else value
    return str(path.relative_to(ROOT)) if isinstance(path, Path) else str(path)


def blocks(language: str) -> list[Block]:
    """Return the fenced blocks in a language, page by page."""
    return [Block(page, text) for page in PRESENT for kind, text in BLOCK.findall(page.read_text()) if kind == language]


def shell_lines() -> list[tuple[Path, str]]:
    """Return (page, command line) of every fenced shell command, without its remark."""
    lines = [(block.page, line) for block in blocks("bash") for line in block.text.splitlines()]
    return [(page, line.partition("  #")[0].rstrip()) for page, line in lines if line.strip()]


def tables(page: Path) -> list[list[list[str]]]:
    """Return the tables of a page: rows of cells, the head first, the rule under it left out."""
    found: list[list[list[str]]] = [[]]
    for line in page.read_text().splitlines():
        if not line.startswith("|"):
            found.append([])
        elif set(line) - set("|-"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
    return [rows for rows in found if rows]
