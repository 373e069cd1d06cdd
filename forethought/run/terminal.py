"""Consoles for data: what is printed comes from texts, servers and other people's runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from forethought.text import printable


def plain(text: str, style: str = "") -> Text:
    """Return ``text`` for any console: it holds no markup and nothing that commands a terminal."""
    return Text(printable(text), style=style)


class PlainConsole(Console):
    """A console on which no text is markup, and none commands the terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        if isinstance(renderable, Text) and (shown := printable(renderable.plain)) != renderable.plain:
            renderable = renderable.copy()
            renderable.plain = shown
        return super().render(renderable, options)
