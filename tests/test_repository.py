"""The house rules, checked: imports point one way, budgets hold, shipped configs load, start-up stays light."""

import ast
import re
import resource
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from helpers.processes import python
from helpers.repository import ROOT, tracked

import forethought
from forethought import config

MODULES = sorted((ROOT / "forethought").rglob("*.py"))
OFFLINE = sorted((ROOT / "forethought_offline").rglob("*.py"))
SOURCES = [*MODULES, *sorted((ROOT / "forethought").rglob("*.cpp"))]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
CONFIGS = sorted((ROOT / "forethought" / "configs").glob("*.toml"))

LAYERS = [
    {"config", "keys", "machine", "offline", "records", "stats", "user_code"},
    {"corpus", "metrics", "seeds", "tags", "text"},
    {"run"},
    {"engine", "graph"},
    {"models"},
    {"llm", "testing"},
    {"judges", "thoughts"},
    {"algorithms", "costs"},
    {"evals"},
    {"report", "stages"},
    {"export", "pipeline"},
    {"cli"},
    {"__main__"},
]
"""A module imports from the layers above it in this list and from its own part, never from a sibling."""

LIGHT = {
    "config",
    "records",
    "keys",
    "seeds",
    "run",
    "graph",
    "stats",
    "report",
    "text",
    "user_code",
    "cli",
    "__main__",
}
HEAVY = ("torch", "transformers", "datasets", "pandas", "scipy")

LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 400, 60, 8
COMMANDS = ("forethought/cli/app.py", "forethought/cli/commands.py")
"""Where a function may have any number of parameters: each is an option of a command."""
LONG_FILE, LONG_FUNCTION = 300, 40
LONG_FILES, LONG_FUNCTIONS = 0.15, 0.03
"""Shares of files and of functions that may be long at all: a budget alone invites everything to fill it."""

EXCEPTIONS = {"forethought/engine/backends/amx.cpp": "compiled on the user's machine as one file, without headers"}
"""Files (``path``) and functions (``path:name``) over a budget, with the reason."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def part_of(path: Path) -> str:
    """Return the part of the house that a file belongs to: ``engine`` for ``forethought/engine/sampler.py``."""
    return path.relative_to(ROOT / "forethought").parts[0].removesuffix(".py")


def layer_of(part: str) -> int:
    found = [number for number, layer in enumerate(LAYERS) if part in layer]
    assert len(found) == 1, f"forethought/{part} needs one layer in LAYERS"
    return found[0]


def imports_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (part, dotted name) of every import of the house, lazy ones too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: write imports in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("forethought.") and name != "forethought.__version__":
                yield name.split(".")[1], name


def wrong_imports(path: Path) -> list[str]:
    own = part_of(path)
    wrong = []
    for part, name in imports_of(path):
        shared = name.split(".")[2:3] in ([path.stem], ["base"], ["session"])
        sideways = own == "stages" and path.stem != "__init__" and not shared
        if part == own and not sideways:
            continue
        if part == own or layer_of(part) >= layer_of(own):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", [path for path in MODULES if part_of(path) != "__init__"], ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    assert wrong_imports(path) == []


def test_layers_name_what_is_there() -> None:
    assert set().union(*LAYERS) == {part_of(path) for path in MODULES} - {"__init__"}


def test_production_imports_no_stand_ins_and_the_second_package_only_models_and_rows() -> None:
    importers = [path for path in MODULES if "testing" in {part for part, _ in imports_of(path)}]
    assert importers == []
    assert {part for path in OFFLINE for part, _ in imports_of(path)} == {"models", "corpus", "offline"}


def test_the_package_itself_exposes_only_what_is_below_the_command_line() -> None:
    homes = {home.partition(":")[0].partition(".")[0] for home in forethought._HOMES.values()}
    assert homes <= set().union(*LAYERS) - {"cli", "__main__"}


def functions_of(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (``path:name``, lines, parameters) of every function of a Python file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            yield f"{name_of(path)}:{node.name}", (node.end_lineno or 0) - node.lineno + 1, len(parameters)


def lines_of(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def over_budget(paths: Sequence[Path]) -> dict[str, str]:
    found = {name_of(path): f"{lines_of(path)} lines" for path in paths if lines_of(path) > LONGEST_FILE}
    for path in paths:
        for name, lines, parameters in functions_of(path) if path.suffix == ".py" else ():
            too_wide = parameters > MOST_PARAMETERS and name_of(path) not in COMMANDS
            if lines > LONGEST_FUNCTION or too_wide:
                found[name] = f"{lines} lines, {parameters} parameters"
    return found


def test_budgets() -> None:
    """Every exception is still one."""
    found = over_budget([*SOURCES, *OFFLINE, *BENCHMARKS])
    assert {name: size for name, size in found.items() if name not in EXCEPTIONS} == {}
    assert found.keys() >= EXCEPTIONS.keys()


def test_few_files_and_functions_are_long() -> None:
    long_files = [name_of(path) for path in MODULES if lines_of(path) > LONG_FILE]
    functions = [function for path in MODULES for function in functions_of(path)]
    long_functions = [name for name, lines, _ in functions if lines > LONG_FUNCTION]
    assert len(long_files) <= LONG_FILES * len(MODULES), long_files
    assert len(long_functions) <= LONG_FUNCTIONS * len(functions), long_functions


def test_wrong_imports_and_what_is_over_a_budget_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "forethought" / "stages" / "sft.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from forethought.stages.improve import x\nfrom forethought.stages import rlmt, base\n"
        "import forethought.records\nfrom forethought import cli, run\nfrom forethought.report.page import y\n"
        "def lazy():\n    from forethought.pipeline import z\n"
        "def wide(self, a, b, c, *, d, e, f, g, h): pass\n"
        "def tall():\n" + "    pass\n" * 60 + "\n" * 400
    )
    assert wrong_imports(path) == [
        "forethought.stages.improve.x",
        "forethought.stages.rlmt",
        "forethought.cli",
        "forethought.report.page.y",
        "forethought.pipeline.z",
    ]
    assert over_budget([path]) == {
        "forethought/stages/sft.py": "469 lines",
        "forethought/stages/sft.py:wide": "1 lines, 9 parameters",
        "forethought/stages/sft.py:tall": "61 lines, 0 parameters",
    }


TESTS = sorted((ROOT / "tests").glob("test_*.py"))


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_no_test_module_imports_another(path: Path) -> None:
    """What they share is in tests/helpers/: a test that changes breaks no other."""
    nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    assert named & {other.stem for other in TESTS} == set()


def test_configs_are_shipped() -> None:
    assert {"smoke", "demo", "laptop", "article", "paper", "scratch"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_shipped_configs_load(path: Path) -> None:
    loaded = config.load(path)
    assert loaded.name == path.stem
    assert config.build(loaded.model_dump(mode="json")) == loaded


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_light_modules_import_nothing_heavy() -> None:
    modules = [dotted(path) for path in MODULES if part_of(path) in LIGHT]
    assert len(modules) > 10
    code = f"import importlib, sys\nfor module in {modules}:\n    importlib.import_module(module)\n"
    code += f"    heavy = [name for name in {HEAVY} if name in sys.modules]\n    assert not heavy, (module, heavy)"
    python("-c", code)


def test_help_answers_at_once_and_without_torch() -> None:
    code = "import sys\nfrom forethought.cli.app import main\nsys.argv = ['forethought', '--help']\n"
    code += f"try:\n    main()\nfinally:\n    print('heavy:', [name for name in {HEAVY} if name in sys.modules])"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = python("-c", code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor, not of the clock: other work shares the machine.
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert "Usage" in shown
    assert "heavy: []" in shown
    assert seconds < 1


PRIVATE = re.compile(
    rb"/(?:home|Users|root|work)/[\w.-]+/?|C:\\Users\\|(?:hf|ghp|sk)[_-][A-Za-z0-9]{24,}|\b(?:10\.\d+|192\.168|172\.16)\.\d+\.\d+\b"
)


def test_no_path_host_or_token_of_a_machine_is_tracked() -> None:
    files = tracked()
    assert len(files) > 20
    found = {name_of(path): match.group() for path in files if (match := PRIVATE.search(path.read_bytes()))}
    assert found == {}


def test_the_private_pattern_finds_what_it_should() -> None:
    bad = ["/ho" + "me/ann/x", "/Us" + "ers/ann", "10." + "0.0.7", "hf" + "_" + "a" * 30]
    good = ["/tmp/x", "https://example.org/homepage", "torch==2.13.0", "1.10.0.7rc"]
    assert [bool(PRIVATE.search(text.encode())) for text in bad] == [True] * 4
    assert [bool(PRIVATE.search(text.encode())) for text in good] == [False] * 4
