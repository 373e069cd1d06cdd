"""Prompts are text files with ``$fields``; they are filled in one pass, so that a value is never read as a template.

Values stand between tags such as ``<text>`` and ``</text>``.  What looks like a tag of the prompt in a value is
changed in the prompt, never in the data: a text that could close its quotation would speak to the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from forethought.llm import LanguageError

JUDGES = "forethought.judges"
"""The package whose ``prompts`` folder holds the judges' prompts and the rewrite teacher's."""

FIELD = re.compile(r"\$([a-z]+)")
TAG = re.compile(r"<\s*/?\s*(\w+)\s*>")
SECTION = re.compile(r"^=== (\w+) ===\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A prompt with fields that are still empty."""

    text: str
    tags: frozenset[str] = frozenset()
    """Names of the tags that quote values; by default those in the text."""

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the text with every field replaced by its value, whatever the value contains."""
        return FIELD.sub(lambda match: self.quotable(values[match.group(1)]), self.text)

    def quotable(self, value: str) -> str:
        """Return ``value`` as the prompt quotes it: the ``<`` of what looks like one of its tags becomes ``‹``."""
        # Two values may stand side by side, so that a tag begins in the first and ends in the second.
        tags = "|".join(map(re.escape, sorted(self.tags or TAG.findall(self.text))))
        pattern = rf"<(?=[\s/]{{0,9}}(?:(?:{tags})(?!\w)|\w{{0,40}}\s{{0,9}}$))"
        return re.sub(pattern, "‹", value, flags=re.IGNORECASE) if tags else value

    def original(self, reply: str, *quoted: str) -> str:
        """Return a reply with what it took over from the values ``quoted`` as it was before it was quoted."""
        changed = any(self.quotable(value) != value for value in quoted) and not any("‹" in value for value in quoted)
        return reply.replace("‹", "<") if changed else reply

    def split(self, field: str, values: Mapping[str, str]) -> tuple[str, str]:
        """Return the filled text before the first use of ``field``, which branches share, and from there on."""
        # Split before it is filled: a value may hold the name of a field.
        start, tags = self.text.index(f"${field}"), frozenset(TAG.findall(self.text))
        head, tail = (PromptTemplate(part, tags) for part in (self.text[:start], self.text[start:]))
        return head.fill(values), tail.fill(values)


def check_prompt(name: str, path: str, mode: str | None = None, home: str = JUDGES) -> None:
    """Check that the file ``path`` can stand for the shipped prompt ``name``: that it uses the same fields.

    Raises:
        LanguageError: as :func:`load_prompt` does.
    """
    shipped = resources.files(home).joinpath(f"prompts/{name}.txt").read_text(encoding="utf-8")
    body, *sections = SECTION.split(shipped)
    endings = dict(zip(sections[::2], sections[1::2], strict=True))
    load_prompt(name, tuple(sorted(set(FIELD.findall(body + endings.get(mode or "", ""))))), mode, path)


def load_prompt(
    name: str, fields: tuple[str, ...], mode: str | None = None, path: str | None = None, home: str = JUDGES
) -> PromptTemplate:
    """Read the prompt ``name`` that the package ``home`` ships, or the file ``path``.

    A file may end in sections such as ``=== letter ===`` and ``=== written ===``; the one called ``mode`` is put
    behind its body.  ``fields`` is what the prompt must use, and all that it may use.

    Raises:
        LanguageError: naming the file and the field that is missing or unknown.
    """
    where = path or f"prompts/{name}.txt"
    try:
        text = (Path(path) if path else resources.files(home).joinpath(where)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LanguageError(f"prompt = {where!r}: cannot be read as UTF-8 text: {error}") from None
    body, *sections = SECTION.split(text)
    endings = dict(zip(sections[::2], sections[1::2], strict=True))
    if mode is not None and endings and mode not in endings:
        raise LanguageError(f"{where}: has no section === {mode} ===, which is needed here")
    text = body + endings.get(mode or "", "")
    used, known = set(FIELD.findall(text)), set(fields)
    if used != known:
        missing, unknown = (
            ", ".join(f"${field}" for field in sorted(some)) or "none" for some in (known - used, used - known)
        )
        raise LanguageError(
            f"{where}: a prompt for {name} uses ${', $'.join(fields)}; missing: {missing}, unknown: {unknown}"
        )
    return PromptTemplate(text.rstrip("\n"))
