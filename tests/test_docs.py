"""The docs say what is: commands parse, snippets load, links lead somewhere, keys and files exist."""

from __future__ import annotations

import copy
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import UsageError, parsed
from pages import LINK, PAGES, PRESENT, ROOT, SPAN, Block, blocks, name_of, shell_lines, tables
from typer.testing import CliRunner

from forethought import config
from forethought.cli.app import app
from forethought.models.resolve import TINY
from forethought_offline import MODELS

SECTIONS = (
    *("policy", "corpus", "chunk", "judges", "audit", "improve", "interleave", "sft", "rlmt", "evaluate", "thinking"),
    "log",
)
"""Tables of a config whose keys pages may name."""

BASE: dict[str, Any] = {"name": "docs", "policy": {"model": "tiny-llama"}, "judges": {"shorter": {"kind": "shorter"}}}
"""What a snippet that is no whole config is laid over."""


COMMANDS = [(page, line) for page, line in shell_lines() if line.startswith("forethought ")]
SNIPPETS = blocks("toml")


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    for key, value in over.items():
        both_tables = isinstance(value, dict) and isinstance(base.get(key), dict)
        base[key] = merged(base[key], value) if both_tables else value
    return base


def built(text: str) -> config.Config:
    data = tomllib.loads(text)
    whole = "name" in data and "policy" in data
    return config.build(data if whole else merged(copy.deepcopy(BASE), data), where="snippet")


def named_files(page: Path) -> dict[str, str]:
    """Return the snippets of ``page`` that begin with a file name (``# my.toml``)."""
    texts = [block.text for block in SNIPPETS if block.page == page]
    return {found[1]: text for text in texts if (found := re.match(r"# (\S+\.toml)\n", text))}


def test_there_is_something_to_check() -> None:
    assert len(COMMANDS) > 15
    assert len(SNIPPETS) > 5
    assert {"README.md", "configuration.md", "architecture.md", "judges.md", "quickstart.md"} <= {
        p.name for p in PRESENT
    }


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=name_of)
def test_commands_parse_and_their_configs_load(page: Path, line: str, tmp_path: Path) -> None:
    _, params = parsed(line)
    if "config" not in params:
        return
    path = params["config"]
    own = named_files(page).get(str(params["config"]))
    if own is not None:
        path = tmp_path / "own.toml"
        path.write_text(own)
    config.load(path, params["set_"] or ())


def test_wrong_commands_are_caught() -> None:
    for line in ("forethought runn x.toml", "forethought run x.toml --dri", "forethought run", "forethought show a b"):
        with pytest.raises(UsageError):
            parsed(line)


def test_the_smoke_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    lines = [line for _, line in COMMANDS if " smoke" in line]
    assert lines
    for line in lines:
        arguments = shlex.split(line)[1:]
        done = CliRunner().invoke(app, [*arguments, "--dry-run", "--run", str(tmp_path / "run")])
        assert done.exit_code == 0, (line, done.output)
        assert "tiny-llama" in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("snippet", SNIPPETS, ids=name_of)
def test_snippets_are_valid_configs(snippet: Block) -> None:
    built(snippet.text)
    for model in re.findall(r'\bmodel = "([^"/]+)"', snippet.text):
        assert model in MODELS or model in TINY, model


def test_wrong_snippets_are_caught() -> None:
    with pytest.raises(config.ConfigError, match=r"improve\.step: unknown key"):
        built("[improve]\nstep = 3\n")


@pytest.mark.parametrize("page", PRESENT, ids=name_of)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE)
    assert set(named) - targets == set()


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    found = (page.parent / path).resolve() if path else page
    if not (found.exists() and found.is_relative_to(ROOT)):
        return False
    if found.suffix == ".py" and anchor:
        return 0 < int(anchor.removeprefix("L")) <= found.read_text().count("\n")
    return not anchor or anchor in anchors(found)


def spans(pattern: str) -> list[tuple[str, str]]:
    """Return (page, name) of every name in backquotes that looks like ``pattern``."""
    return [
        (name_of(page), name)
        for page in PRESENT
        for name in SPAN.findall(page.read_text())
        if re.fullmatch(pattern, name)
    ]


def test_relative_links_lead_somewhere() -> None:
    links = [(page, target) for page in PAGES for target in LINK.findall(page.read_text()) if "://" not in target]
    assert len(links) > 100
    assert [(name_of(page), target) for page, target in links if not leads_somewhere(page, target)] == []
    assert not leads_somewhere(ROOT / "README.md", "docs/nowhere.md")
    assert not leads_somewhere(ROOT / "README.md", "docs/judges.md#nowhere")


def test_source_files_that_are_named_exist() -> None:
    named = spans(r"[\w/]+\.py")
    assert len(named) > 40
    assert [one for one in named if not any((ROOT / place / one[1]).is_file() for place in ("", "forethought"))] == []


def test_config_keys_that_are_named_exist(write_docs: Any) -> None:
    known = {
        f"{place}.{key}" for place, section in write_docs.sections(config.Config, "") for key in section.model_fields
    }
    files = r"(?!py\b|md\b|jsonl\b|toml\b|parquet\b)"
    named = spans(rf"({'|'.join(SECTIONS)})\.{files}[\w.]+( = .*)?")
    assert len(named) > 50
    assert [(page, name) for page, name in named if name.partition(" = ")[0] not in known] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_stand_alone(page: Path) -> None:
    text = page.read_text()
    assert "shared/design" not in text
    assert "../shared" not in text
    assert "shared/research" not in text


def links(page: Path) -> set[Path]:
    return {(page.parent / target.partition("#")[0]).resolve() for target in LINK.findall(page.read_text())}


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    assert set(PAGES) - {index} <= links(index)


CONFIGS = ("paper", "article", "laptop", "demo")
CHOICES = [rows for head, *rows in tables(ROOT / "docs" / "reproduction.md") if f"{CONFIGS[0]}.toml" in head]
"""Tables: in each row what is chosen, with the keys that choose it, ..., and last what each shipped config has."""


def has(value: Any, key: str) -> Any:
    """Return what a config has under a dotted key; ``*`` is the first of a table by name."""
    for part in key.split("."):
        if isinstance(value, dict):
            value = next(iter(value.values()), None) if part == "*" else value.get(part)
        else:
            value = getattr(value, part) if value is not None else None
    return list(value) if isinstance(value, tuple) else value


def said(cell: str) -> Any:
    """Return the value in a cell: TOML, or else text, as after ``--set``."""
    bare = cell.strip("`")
    try:
        return None if bare == "–" else tomllib.loads(f"value = {bare}")["value"]
    except tomllib.TOMLDecodeError:
        return bare


def test_the_reproduction_page_covers_all_stages() -> None:
    keys = {key.partition(".")[0] for rows in CHOICES for row in rows for key in SPAN.findall(row[0])}
    assert {"policy", "chunk", "improve", "judges", "interleave", "sft", "rlmt", "evaluate", "thinking"} <= keys
    assert sum(map(len, CHOICES)) > 50
    assert all(SPAN.findall(row[0]) for rows in CHOICES for row in rows)


@pytest.mark.parametrize("rows", CHOICES, ids=lambda rows: SPAN.findall(rows[0][0])[0])
def test_the_reproduction_page_says_what_the_configs_have(rows: list[list[str]]) -> None:
    loaded = {name: config.load(name) for name in CONFIGS}
    wrong = []
    for row in rows:
        for name, cell in zip(CONFIGS, row[-len(CONFIGS) :], strict=True):
            values = [has(loaded[name], key) for key in SPAN.findall(row[0])]
            value = next((one for one in values if one is not None), None)
            if said(cell) != value:
                wrong.append(f"{row[0]}: the page says {said(cell)!r}, {name}.toml has {value!r}")
    assert not wrong, "\n".join(wrong)


def test_wrong_choices_are_caught() -> None:
    loaded = config.load("article")
    assert has(loaded, "improve.beta") == 0.1 == said("0.1") != said("0.2")
    assert has(loaded, "interleave.thoughts") == [3, 6] == said("[3, 6]")
    assert has(loaded, "judges.*.endpoint.model") == said("Qwen/Qwen3-4B-Instruct-2507")
    assert has(loaded, "judges.*.model.model") is None is said("–")
    with pytest.raises(AttributeError):
        has(loaded, "improve.betta")


@pytest.fixture(scope="module")
def write_docs() -> Any:
    spec = importlib.util.spec_from_file_location("write_docs", ROOT / "scripts" / "write_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_written_pages_are_up_to_date(write_docs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["write_docs.py", "--check"])
    assert write_docs.main() == 0, "run python scripts/write_docs.py"


@pytest.mark.parametrize(
    ("name", "text", "old"),
    [
        ("configuration.md", "| `beta` | number >= 1e-06 and <= 1000 |", "| `beta` | number |"),
        ("loops.md", "def run(self", "def walk(self"),
        ("architecture.md", " layers.", " more layers."),
    ],
)
def test_an_old_page_is_noticed_and_written(
    write_docs: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    old: str,
) -> None:
    for page in ("configuration.md", "loops.md", "architecture.md"):
        (tmp_path / page).write_text((ROOT / "docs" / page).read_text())
    present = (tmp_path / name).read_text()
    assert text in present
    (tmp_path / name).write_text(present.replace(text, old))
    monkeypatch.setattr(write_docs, "DOCS", tmp_path)
    monkeypatch.setattr("sys.argv", ["write_docs.py", "--check"])
    assert write_docs.main() == 1
    assert f"{name}: not what the code says: run python scripts/write_docs.py" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["write_docs.py"])
    assert write_docs.main() == 0
    assert (tmp_path / name).read_text() == present


def test_the_parts_of_the_package_are_few_and_in_layers(write_docs: Any) -> None:
    """Before the house was rebuilt there were 33 parts in 16 layers, of which some imported one another."""
    imports, layers = write_docs.imports(), write_docs.layers()
    assert sorted(part for layer in layers for part in layer) == sorted(imports)
    assert len(layers) < 16
    place = {part: number for number, layer in enumerate(layers) for part in layer}
    assert all(place[needed] < place[part] for part, all_needed in imports.items() for needed in all_needed)
    assert "engine" in imports["models"]
    assert "models" not in imports["engine"]


def test_parts_that_import_one_another_are_refused(write_docs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_docs, "imports", lambda: {"a": {"b"}, "b": {"a"}, "c": set()})
    with pytest.raises(ValueError, match="in a circle: a, b"):
        write_docs.layers()


def test_the_page_has_every_key_with_its_help(write_docs: Any) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    for section in {section for _, section in write_docs.sections(config.Config, "")}:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name} has no docstring"
            assert f"| `{name}` |" in text
    assert "| `prefix_tokens` | [integer > 0 and <= 1e+06, integer > 0 and <= 1e+06] | `[32, 128]` |" in text
