"""The user's own code: it is found, or the message says what is wrong where."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.smoke_runs import CONFIG, SMALL, cli, rows, smoke
from helpers.stages import GivenContext, stage_of

from forethought import config
from forethought.algorithms.rollouts import RolloutGroup
from forethought.judges.match import Matcher, SimilarityJudge
from forethought.models.embedding import LetterEmbedder
from forethought.run.store import Run
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


OWN = '''"""An objective, a reward and a condition of a user's."""

from forethought.algorithms.objectives import dpo_batch


def half(pools, bos, cfg):
    return dpo_batch(pools[::2], bos, cfg)


def short(groups, model, task):
    return [[-float(len(suffix)) for suffix in group.suffixes] for group in groups]


def loud(thought, window):
    return thought.upper() + window.prefix[:1]
'''
KINDS = {
    "objective": ("improve.objective=", "self-improved/improve", 'improve.objective = "{}:half"', 6),
    "reward": ("rlmt.reward=", "base-rlmt/rlmt", 'rlmt.reward = "{}:short"', 10),
    "condition": ("thinking.conditions.loud=", "shared/evaluate-rlmt", 'thinking.conditions."loud" = "{}:loud"', 14),
}
"""Of what may be the user's own: the option, the step that uses it, what a message calls it, and its line in OWN."""
FUNCTIONS = dict(zip(KINDS, ("half", "short", "loud"), strict=True))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def using(place: Path, kind: str, name: str) -> Any:
    """Return the stage whose ``kind`` is that of module ``name``."""
    matcher = Matcher(judge=SimilarityJudge(LetterEmbedder()), threshold=0.1)
    loaded = config.load(CONFIG, (*SMALL, f"{KINDS[kind][0]}{name}:{FUNCTIONS[kind]}"))
    given = {"matchers": {"training": matcher}, "rlmt_windows": [], "heldout_windows": [], "judges": {}}
    return stage_of(GivenContext(loaded, place, **given), KINDS[kind][1])


def use(stage: Any, kind: str) -> None:
    """Call what is the user's own, on next to nothing."""
    if kind == "objective":
        stage.objective[0]([], (), stage.cfg)
    elif kind == "reward":
        stage.reward[0]([RolloutGroup(window=None, rollouts=())], None, None)
    else:
        stage.conditions["loud"][0]("a thought", None)


def test_a_function_that_is_not_there_is_named_with_its_config_key(kind: str, write, tmp_path: Path) -> None:
    name = write("x = 1\n")
    with pytest.raises(UserCodeError) as caught:
        using(tmp_path / "run", kind, name).depends_on()
    place = re.escape(KINDS[kind][2].format(name))
    assert re.match(rf"{place}: /.*/{name}\.py has no {FUNCTIONS[kind]}\. Its public names: x", str(caught.value))


def test_a_wrong_signature_is_said_before_anything_is_computed(kind: str, write, tmp_path: Path) -> None:
    name = write(re.sub(r"\((\w+), \w+(, \w+)?\):", r"(\1):", OWN))
    with pytest.raises(UserCodeError) as caught:
        using(tmp_path / "run", kind, name).depends_on()
    message = str(caught.value)
    assert message.startswith(f"{KINDS[kind][2].format(name)}: {tmp_path / name}.py:{KINDS[kind][3]}: ")
    assert f"but its signature is {FUNCTIONS[kind]}(" in message


def test_what_fails_inside_is_said_with_the_line(kind: str, write, tmp_path: Path) -> None:
    name = write(re.sub(r"return .*", "return 1 / 0", OWN))
    with pytest.raises(UserCodeError) as caught:
        use(using(tmp_path / "run", kind, name), kind)
    line = KINDS[kind][3] + 1
    place = f"{KINDS[kind][2].format(name)}: {tmp_path / name}.py:{line} in {FUNCTIONS[kind]}: "
    assert str(caught.value) == f"{place}ZeroDivisionError: division by zero"


def test_what_returns_something_else_is_told_what_is_expected(kind: str, write, tmp_path: Path) -> None:
    name = write(re.sub(r"return .*", "return 3", OWN))
    expected = {
        "objective": "expected a LossBatch",
        "reward": "one row per group",
        "condition": "the text of a thought",
    }
    with pytest.raises(UserCodeError, match=expected[kind]) as caught:
        use(using(tmp_path / "run", kind, name), kind)
    assert f"{tmp_path / name}.py:{KINDS[kind][3]}: it returned" in str(caught.value)


def test_what_depends_on_it_depends_on_its_source(kind: str, write, tmp_path: Path) -> None:
    name = write(OWN)
    before, again = (using(tmp_path / "run", kind, name).depends_on() for _ in range(2))
    assert before == again
    write(OWN + "\n\nmore = 1\n")
    after = using(tmp_path / "run", kind, name).depends_on()
    changed = {"objective": "objective source", "reward": "reward source", "condition": "conditions"}[kind]
    assert [key for key in before if before[key] != after[key]] == [changed]


@pytest.mark.slow
def test_a_run_trains_and_measures_with_code_of_the_user(write, tmp_path: Path) -> None:
    name, place = write(OWN), tmp_path / "run"
    own = [f"{option}{name}:{FUNCTIONS[kind]}" for kind, (option, *_) in KINDS.items()]
    few = ["improve.steps=2", "improve.control=false", "sft.control=false", "sft.steps=2", "rlmt.steps=2"]
    options = [f"--set={item}" for item in (*SMALL, *few, *own)]
    done = cli("run", CONFIG, "--run", place, "--until", "evaluate-rlmt", *options)
    assert done.exit_code == 0, done.output
    for group in rows(place, "base-rlmt/rlmt/groups.jsonl"):
        assert group["rewards"] == [-float(len(suffix)) for suffix in group["suffixes"]]
    conditions = {one.condition for one in Run.open(place).measurements() if one.metric == "probe gain"}
    assert {"loud", "own thought"} <= conditions
    write(OWN.replace("[::2]", "[1::2]"))
    changed = cli("improve", CONFIG, "--run", place, *options)
    assert changed.exit_code == 0, changed.output
    assert "self-improved/improve starts over: objective source: " in changed.stderr


def test_a_run_whose_objective_fails_ends_with_one_message(write, tmp_path: Path) -> None:
    name = write(OWN.replace("pools[::2]", "pools / 2"))
    failed = smoke("improve", tmp_path / "run", f"improve.objective={name}:half")
    assert failed.exit_code == 2
    said = " ".join(failed.stderr.split())
    assert f'error: improve.objective = "{name}:half": {tmp_path / name}.py:7 in half: TypeError: ' in said
    assert "Traceback" not in failed.output


def test_a_judge_that_is_not_there_is_refused_before_the_run_begins(write, tmp_path: Path) -> None:
    name, place = write(GOOD), tmp_path / "run"
    own = ["--set=judges.mine.kind=custom", f"--set=judges.mine.path={name}:Fresher"]
    refused = cli("run", CONFIG, "--run", place, *own)
    assert refused.exit_code == 2
    assert f"{name}.py has no Fresher" in " ".join(refused.stderr.split())
    assert not (place / "shared").exists()
