"""The user's own code: it is found, or the message says what is wrong where."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from forethought.user_code import UserCodeError, call, load

GOOD = '''"""A module of a user's."""

LIMIT = 3


class Fresh:
    def __init__(self, n=2):
        self.n = n

    def rank(self, requests):
        return helper(requests)


def helper(requests):
    return len(requests) / 0


def reward(groups):
    return [1.0 for _ in groups]
'''


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Writes a module of its own name into the current directory and returns the name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the directory is put there, and taken away again
    name = re.sub(r"\W", "_", f"user_{request.node.name}")

    def write_module(text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write_module


def test_a_class_and_a_function_of_the_current_directory_are_found(write, tmp_path: Path) -> None:
    name = write(GOOD)
    fresh, reward = load(f"{name}:Fresh", "judges.mine.path"), load(f"{name}:reward", "rlmt.reward")
    assert fresh.object(n=5).n == 5
    assert reward.object([1, 2]) == [1.0, 1.0]
    assert (fresh.file, fresh.line) == (str(tmp_path / f"{name}.py"), 6)
    assert fresh.source_hash == reward.source_hash


def test_a_changed_file_has_another_hash_and_its_new_code_runs(write) -> None:
    name = write(GOOD)
    before = load(f"{name}:reward", "rlmt.reward")
    assert load(f"{name}:reward", "rlmt.reward") == before
    write(GOOD.replace("1.0", "0.5"))
    after = load(f"{name}:reward", "rlmt.reward")
    assert after.source_hash != before.source_hash
    assert after.object([1]) == [0.5]


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("{}", GOOD, r'judges\.mine\.path = "\w+": expected "module:name"'),
        ("{}:Fresh.rank", GOOD, 'expected "module:name"'),
        ("no_such_module_here:Fresh", GOOD, "there is no module no_such_module_here in /.* or among the installed"),
        ("{}:Frish", GOOD, r"\.py has no Frish. Its public names: Fresh, LIMIT, helper, reward"),
        ("{}:LIMIT", GOOD, r"LIMIT in /.*\.py is 3, not a class or a function"),
        ("{}:Fresh", "import no_such_thing\n", r"\.py:1 in <module>: importing \w+ failed: ModuleNotFoundError"),
        ("{}:Fresh", "\n\nx = 1 / 0\n", r"\.py:3 in <module>: importing \w+ failed: ZeroDivisionError"),
        ("{}:Fresh", "def f(:\n", r"\.py:1: SyntaxError"),
        ("sys:exit", GOOD, "module sys has no Python source file"),
    ],
)
def test_what_cannot_be_loaded_is_one_message(write, path: str, text: str, message: str) -> None:
    name = write(text)
    with pytest.raises(UserCodeError, match=message):
        load(path.format(name), "judges.mine.path")


def test_a_wrong_signature_says_what_was_expected_and_found(write) -> None:
    name = write(GOOD)
    fresh, reward = load(f"{name}:Fresh", "judges.mine.path"), load(f"{name}:reward", "rlmt.reward")
    fresh.takes()
    fresh.takes(n=3)
    reward.takes("groups")
    with pytest.raises(UserCodeError, match=r"Fresh is called as Fresh\(m=3\), but its signature is Fresh\(n=2\)"):
        fresh.takes(m=3)
    with pytest.raises(
        UserCodeError, match=r"\.py:18: reward is called as reward\(groups, step\), .* reward\(groups\)"
    ):
        reward.takes("groups", "step")


def test_a_failure_names_the_line_in_the_file_of_the_user(write) -> None:
    name = write(GOOD)
    fresh = load(f"{name}:Fresh", "judges.mine.path")
    judge = call(fresh, fresh.object, n=1)
    with pytest.raises(UserCodeError, match=rf"judges\.mine.*/{name}\.py:15 in helper: ZeroDivisionError: division"):
        call(fresh, judge.rank, [1])
    assert call(fresh, sum, [1, 2]) == 3


def test_a_failure_elsewhere_comes_through_as_it_is(write) -> None:
    user = load(f"{write(GOOD)}:Fresh", "judges.mine.path")
    with pytest.raises(KeyError):
        call(user, {}.__getitem__, "missing")
