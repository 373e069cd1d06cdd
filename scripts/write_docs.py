"""Write docs/configuration.md from the config classes.

python scripts/write_docs.py           writes it
python scripts/write_docs.py --check   says whether it is up to date, and exits with 1 if not
"""

from __future__ import annotations

import argparse
import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic.fields import FieldInfo

from forethought.config import Config, Section
from forethought.config.base import OneOf
from forethought.config.reading import section_of

TARGET = Path(__file__).parents[1] / "docs" / "configuration.md"

HEADER = """\
# Configuration

<!-- Written by scripts/write_docs.py from forethought/config/. Do not edit: change the docstrings there. -->

A run is one TOML file. Every key is below, with its type, its default and what it does. A key that is not below is an
error, which names the keys that exist. `--set section.key=value` overrides a key from the command line; it may be
given several times:

```bash
forethought run smoke --set improve.steps=10 --set improve.beta=0.05 --dry-run
```

The files in [forethought/configs/](../forethought/configs) are worked examples. They come with the package, so
`forethought run smoke` works in every folder: a bare name means the shipped config, unless a file of that name is here.
Other relative paths start from the folder in which the command is given. `corpus.path = "shipped:smoke.jsonl"` names
text that comes with the package. What is kept in a run is this name and not where the package lies, so that two
machines agree on it.

A key without a default is required. NAME stands for a name of your choice.
"""


def main() -> int:
    """Write the page or compare it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    if parser.parse_args().check:
        if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == page():
            return 0
        print(f"{TARGET.name} is not what the config classes say: run python scripts/write_docs.py", file=sys.stderr)
        return 1
    TARGET.write_text(page(), encoding="utf-8")
    return 0


def page() -> str:
    """Return the whole page: each class once, with every place where it may stand."""
    places: dict[type[Section], list[str]] = {}
    for place, section in sections(Config, ""):
        places.setdefault(section, []).append(place)
    return "\n".join([HEADER, *(table(section, where) for section, where in places.items())])


def sections(section: type[Section], place: str) -> Iterator[tuple[str, type[Section]]]:
    """Yield (dotted place, class) of ``section`` and of everything inside it."""
    yield place, section
    for name, hint in typing.get_type_hints(section, include_extras=True).items():
        if name not in section.model_fields:
            continue
        inner = section_of(hint)
        if inner is not None:
            named = ".NAME" if typing.get_origin(hint) is dict else ""
            yield from sections(inner, f"{place}.{name}{named}".lstrip("."))


def table(section: type[Section], places: list[str]) -> str:
    """Return the part of one class."""
    hints = typing.get_type_hints(section, include_extras=True)
    title = "Top level" if places == [""] else section.__name__.removesuffix("Config")
    lines = [f"## {title}", "", " ".join((section.__doc__ or "").split()), ""]
    if places != [""]:
        lines += [f"Where: {', '.join(f'`[{place}]`' for place in places)}", ""]
    lines += ["| Key | Type | Default | What it does |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        cells = [f"`{name}`", kind(hints[name]), default(field), " ".join((field.description or "").split())]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, ""])


def kind(hint: Any) -> str:
    """Return a type in words: ``integer > 0``, ``"full" or "pivot"``, ``table by name``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        for choice in (one for one in hint.__metadata__ if isinstance(one, OneOf)):
            return " or ".join([*(f"`{json.dumps(name)}`" for name in choice.names), "`module:function`"])
        return kind(arguments[0]) + limits(hint.__metadata__)
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(kind(one) for one in arguments if one is not type(None))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {kind(arguments[0])}"
        return f"[{', '.join(kind(one) for one in arguments)}]"
    if origin is dict:
        return f"table by {kind(arguments[0])}: {kind(arguments[1])}"
    if isinstance(hint, type) and issubclass(hint, Section):
        return "table"
    return {str: "string", int: "integer", float: "number", bool: "boolean", Any: "any value"}[hint]


def limits(metadata: tuple[Any, ...]) -> str:
    """Return the limits of an annotated number or string."""
    constraints = [one for field in metadata if isinstance(field, FieldInfo) for one in field.metadata]
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "pattern": "like"}
    found = [
        f"{sign} `{value}`" if attribute == "pattern" else f"{sign} {value:g}"
        for one in constraints
        for attribute, sign in signs.items()
        if (value := getattr(one, attribute, None)) is not None
    ]
    return f" {' and '.join(found)}" if found else ""


def default(field: FieldInfo) -> str:
    """Return a default as TOML writes it."""
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return "none"
    if isinstance(value, Section):
        return "its defaults"
    if isinstance(value, dict):
        return ", ".join(f"`{key} = {one}`" for key, one in value.items()) or "none"
    return f"`{toml(value)}`"


def toml(value: Any) -> str:
    """Return a plain value as TOML."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml, value))}]"
    return repr(value) if isinstance(value, float) else json.dumps(value)


if __name__ == "__main__":
    sys.exit(main())
