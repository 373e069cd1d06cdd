"""What everything that asks a language model shares."""

from __future__ import annotations

TRANSPORT = "transport: "
"""Start of the reason why there is no reply, where asking again may well succeed; such replies are not cached."""


class LanguageError(ValueError):
    """A language model, or a prompt for one, that cannot do what its config asks; the message says the way out."""
