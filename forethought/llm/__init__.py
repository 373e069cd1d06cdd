"""Language models as judges and teachers use them: text in, text out, nothing asked twice."""

from __future__ import annotations

TRANSPORT = "transport: "
"""Start of the reason why there is no reply, where asking again may well succeed; such replies are not cached."""


class LanguageError(ValueError):
    """A language model, or a prompt for one, that cannot do what its config asks; the message says the way out."""
