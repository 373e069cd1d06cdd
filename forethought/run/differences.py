"""In which keys two configs differ, in words."""

from __future__ import annotations

import json
from typing import Any

_ABSENT = object()


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Return a line for every dotted key in which two JSON values differ: ``improve.steps: 40 is now 10``."""
    return [f"{name}: {shown(before)} is now {shown(now)}" for name, before, now in changed(old, new, key)]


def changed(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Return (dotted key, old value, new value) wherever two JSON values differ; :func:`shown` tells what is absent."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [(key, old, new)]
    names = sorted(old.keys() | new.keys())
    pairs = ((f"{key}.{name}" if key else name, old.get(name, _ABSENT), new.get(name, _ABSENT)) for name in names)
    return [change for name, before, now in pairs for change in changed(before, now, name)]


def shown(value: Any) -> str:
    """Return a value as JSON, or ``absent``."""
    return "absent" if value is _ABSENT else json.dumps(value, ensure_ascii=False)
