"""Write what the docs say of the code: the keys of a config, the parts of the package, the three training loops.

python scripts/write_docs.py           writes docs/configuration.md, docs/loops.md and parts of docs/architecture.md
python scripts/write_docs.py --check   says whether they are up to date, and exits with 1 if not
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import WrapValidator
from pydantic.fields import FieldInfo

from forethought.config import Config, Section
from forethought.config.base import LARGEST, OneOf
from forethought.config.reading import section_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "forethought"

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

A key without a default is required. NAME stands for a name of your choice, of at most 64 letters, digits, spaces and
`. _ + -`. Numbers are finite, and no count is above 1,000,000,000. The file is UTF-8; a byte order mark does no harm.
"""


LOOPS = {
    "Stage 1, self-improving pretraining": "stages/improve.py",
    "Stage 2, SFT on thoughts": "stages/sft.py",
    "Stage 3, RL mid-training": "stages/rlmt.py",
}
"""Whose ``run`` stands on the page of the loops."""

LOOPS_HEADER = """\
# The three loops

<!-- Written by scripts/write_docs.py from forethought/stages/. Do not edit. -->

Each stage that trains is one method, printed here as it stands in the source. What is around a step, resuming,
batches in keyed order, timers, logs and checkpoints, is in `Session`
([stages/session.py](../forethought/stages/session.py)). `policy` is a `Model`
([models/model.py](../forethought/models/model.py)). The letters after `_` in a name are its shape: P prefixes or
windows, K candidates, G rollouts of a group. In [examples](../examples) each loop is a script of one page.
"""

WALK = {
    "Where is the reward computed?": (
        ("stages/rlmt.py", "groups = self.rollout_groups("),
        ("stages/rlmt.py", "rewards_PG = "),
        ("algorithms/rewards.py", "def match("),
    ),
    "Where is best against worst chosen?": (
        ("stages/improve.py", "rank_pools"),
        ("algorithms/pools.py", "preferred = preference("),
        ("judges/tournament.py", "def preference("),
    ),
    "What is never drawn?": (
        ("models/model.py", "def forbidden("),
        ("models/load.py", "def special_ids("),
    ),
    "What makes a stage start over?": (
        ("pipeline/runner.py", "stage.depends_on()"),
        ("stages/improve.py", "def depends_on("),
    ),
    "Who decides which kernels compute?": (
        ("engine/policy.py", "return select("),
        ("engine/backends/selection.py", "def select("),
    ),
}
"""Questions of a reader, and the lines that lead to the answer."""


def main() -> int:
    """Write the pages or compare them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    check = parser.parse_args().check
    old = []
    for name, text in pages().items():
        page = DOCS / name
        if check and not (page.is_file() and page.read_text(encoding="utf-8") == text):
            old.append(name)
        elif not check:
            page.write_text(text, encoding="utf-8")
    if old:
        print(f"{', '.join(old)}: not what the code says: run python scripts/write_docs.py", file=sys.stderr)
    return int(bool(old))


def pages() -> dict[str, str]:
    """Return the text of every page that is written from the code, in part or whole."""
    architecture = (DOCS / "architecture.md").read_text(encoding="utf-8")
    for name, part in {"parts": parts_table(), "walk": walk()}.items():
        marked = re.compile(
            f"(<!-- {name}: written by scripts/write_docs.py -->\\n).*?(<!-- end of {name} -->)", re.DOTALL
        )
        architecture = marked.sub(lambda found, part=part: f"{found[1]}\n{part}\n{found[2]}", architecture)
    return {"configuration.md": configuration(), "loops.md": loops(), "architecture.md": architecture}


def imports() -> dict[str, set[str]]:
    """Return, for each part of the package (a folder or module at its top), the parts that it imports, lazily too."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part in ("__init__", "__main__"):
            continue
        own = found.setdefault(part, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            own |= {name.split(".")[1] for name in names if name.startswith("forethought.")} - {part, "__version__"}
    return found


def layers() -> list[list[str]]:
    """Return the parts by layer: each stands right below the lowest part that it imports.

    Raises:
        ValueError: if parts import one another in a circle.
    """
    waiting, found = imports(), list[list[str]]()
    while waiting:
        layer = sorted(part for part, needed in waiting.items() if not needed & waiting.keys())
        if not layer:
            raise ValueError(f"these parts import one another in a circle: {', '.join(sorted(waiting))}")
        found.append(layer)
        waiting = {part: needed for part, needed in waiting.items() if part not in layer}
    return found


def parts_table() -> str:
    """Return what each part is and what it imports, layer by layer."""
    needed, rows = imports(), []
    for number, layer in enumerate(layers(), start=1):
        for part in layer:
            place = part if (PACKAGE / part).is_dir() else f"{part}.py"
            module = PACKAGE / part / "__init__.py" if (PACKAGE / part).is_dir() else PACKAGE / place
            cells = [str(number), f"[{place}](../forethought/{place})", says(module), ", ".join(sorted(needed[part]))]
            rows.append(f"| {' | '.join(cells)} |")
    count = f"{len(needed)} parts, {sum(map(len, needed.values()))} arrows, {len(layers())} layers."
    return "\n".join([count, "", "| Layer | Part | What it is | Imports |", "|---|---|---|---|", *rows, ""])


def says(module: Path) -> str:
    """Return the first sentence of a module's docstring, as markdown."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    first = text.partition("\n")[0].partition(". ")[0].rstrip(".:")
    return re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", first).replace("``", "`").replace("|", "\\|")


def loops() -> str:
    """Return the page with the loop of each stage that trains."""
    lines = [LOOPS_HEADER]
    for title, place in LOOPS.items():
        source = (PACKAGE / place).read_text(encoding="utf-8")
        [run] = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == "run")
        body = textwrap.dedent("\n".join(source.splitlines()[run.lineno - 1 : run.end_lineno]))
        lines += [f"## {title}", "", f"[{place}](../forethought/{place}#L{run.lineno})", "", f"```py\n{body}\n```", ""]
    return "\n".join(lines)


def walk() -> str:
    """Return the questions with links to the lines that answer them.

    Raises:
        ValueError: if a file has no such line.
    """
    lines = ["| Question | From file to file |", "|---|---|"]
    for question, steps in WALK.items():
        links = []
        for place, phrase in steps:
            source = enumerate((PACKAGE / place).read_text(encoding="utf-8").splitlines(), start=1)
            found = [n for n, text in source if phrase in text and not text.startswith("from ")]
            if not found:
                raise ValueError(f"{place}: no line with {phrase!r}: change WALK in {Path(__file__).name}")
            links.append(f"[{place}](../forethought/{place}#L{found[0]}) `{phrase.rstrip('( =')}`")
        lines.append(f"| {question} | {' → '.join(links)} |")
    return "\n".join([*lines, ""])


def configuration() -> str:
    """Return the page of the config: each class once, with every place where it may stand."""
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
        zero = "0 or " if any(isinstance(one, WrapValidator) for one in hint.__metadata__) else ""
        return zero + kind(arguments[0]) + limits(hint.__metadata__)
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
    return {str: "string", int: "integer", float: "number", bool: "boolean"}.get(hint, "any value")


def limits(metadata: tuple[Any, ...]) -> str:
    """Return the limits of an annotated number or string."""
    constraints = [one for field in metadata if isinstance(field, FieldInfo) for one in field.metadata]
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "pattern": "like"}
    found = [
        f"{sign} `{value}`" if attribute == "pattern" else f"{sign} {value:,.10g}"
        for one in constraints
        for attribute, sign in signs.items()
        if (value := getattr(one, attribute, None)) is not None and value != LARGEST
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
