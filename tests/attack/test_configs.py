"""Shipped configs with one thing wrong: each is refused in one message that names it, before anything is computed."""

from __future__ import annotations

import codecs
import copy
import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import python

from attack.conftest import Attack
from forethought.cli.terminal import _is_ours
from forethought.config import Config, ConfigError, JudgeConfig, ModelConfig, build, dump, load
from forethought.pipeline.check import check
from forethought.run.store import Run
from forethought.stages.base import Context

Begin = Callable[[str], Attack]
NUMBERS = float("nan"), float("inf"), -float("inf"), -1, 10**19, 1e19, 1e300, True, "7", "seven", [], [1], {}, None
WORDS = 7, 1.5, True, [], {"a": 1}, None, "", "\x00", "\ud800", datetime.date(2026, 1, 1)
LISTS = "nope", 5, {}, ["nope"], [None], [[]], [float("nan")], [-1], [10**19], [True], None
TABLES = 5, "nope", [], [{}], True, {"nope": 1}
FREE = ("name", "hub_split", "text_column", "title_column", "tags")
LISTED = ("conditions", "tasks", "arms", "generic")
"""Lists of any length."""
ALLOWED: dict[str, tuple[object, ...]] = {
    # None is the default, or leaves the table out.
    "threshold": (-1, None),
    "training_seed": (None,),
    "new_tokens": (None,),
    "max_documents": (None,),
    "max_characters": (None,),
    "chunks_per_document": (None,),
    "rows": (None,),
    "rlmt_rows": (None,),
    "shots": (None,),
    "problems": ({}, 5, None),
    "arms": (None,),
    "title_column": (None,),
    "config_name": (None,),
    "revision": (None,),
    "prompt": (None,),
    "wandb": (None,),
    "trackio": (None,),
    "contrast": (None,),
    "rewrite": (None,),
    "endpoint": (None,),
    "schedule": ("",),
    "budget": ("",),
    "against": ("",),
    "k": ([],),
    "condition": ("",),
    "judge": ("", "x"),  # that of stage 3 is named after its model
}
"""By the last part of the key: hostile values that the docs allow there."""


def leaves(value: object, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield every key of a config, tables included, with its value."""
    if key:
        yield key, value
    if isinstance(value, dict):
        for name, one in value.items():
            yield from leaves(one, (*key, name))


def hostile(value: object) -> tuple[Any, ...]:
    if isinstance(value, bool):
        return 7, "nope", [], {}, None, float("nan")
    if isinstance(value, int | float):
        return NUMBERS
    if isinstance(value, list):
        return (*LISTS, [*value, *value], value[:-1]) if value else LISTS
    if isinstance(value, dict):
        return TABLES
    return (*WORDS, f"{value}x") if isinstance(value, str) else (float("nan"), -1, [float("inf")], {"nope": 1})


def changed(data: dict[str, Any], key: tuple[str, ...], value: object) -> dict[str, Any]:
    table = data = copy.deepcopy(data)
    for part in key[:-1]:
        table = table[part]
    table[key[-1]] = value
    return data


def outcome(data: dict[str, Any]) -> tuple[Config | None, str]:
    """Return the config if it is accepted, else the message; an error that is not ours is harm: it is raised."""
    try:
        config = build(data)
        check(config)
    except Exception as error:
        if _is_ours(error):
            return None, str(error)
        raise
    return config, ""


def bases(whole: bool) -> dict[str, dict[str, Any]]:
    """Return the shipped configs whose models and texts are here; schedules are tried on their own."""
    found = {}
    # The others read from the hub.
    for name in ("smoke", "study", "demo", "laptop", "scratch") if whole else ("smoke",):
        data = json.loads(dump(load(name)))
        if outcome(data)[0] is not None:
            found[name] = data | {"schedules": {}}
    return found


def test_every_key_with_hostile_values(attack: Begin, whole: bool) -> None:
    tried = attack("one value of a shipped config wrong")
    for name, data in bases(whole).items():
        for key, before in leaves(data):
            for value in hostile(before):
                what = f"{name}: {'.'.join(key)} = {value!r}"
                try:
                    config, message = outcome(changed(data, key, value))
                except Exception as error:
                    tried.case(f"{what}: {type(error).__name__}", False)
                    continue
                if config is None:
                    tried.case(f"{what} is refused without its key: {message}", key[-1] in message)
                else:
                    tried.case(f"{what} is accepted", may_stand(data, key, before, value, config))


def test_unknown_keys_and_names(attack: Begin, whole: bool) -> None:
    tried = attack("unknown keys and names in every table of a config")
    for name, data in bases(whole).items():
        for key, value in leaves(data):
            if len(key[-1]) > 3 and "judges" not in key[-2:-1]:  # judges are named as one likes
                typo = changed(data, (*key[:-1], key[-1][:-2] + key[-1][-1]), value)
                refuse(tried, f"{name}: {'.'.join(key)} without a letter", typo, "Did you mean")
            if isinstance(value, dict):
                for extra in ("nope", "", "[/red]", "../x", "a/b", "\x1b[31m", "x" * 100):
                    what = f"{name}: {'.'.join(key)}.{extra!r}"
                    refuse(tried, what, changed(data, (*key, extra), {"kind": "nope", "model": 1}), key[-1])
        for table in (
            ("judges",),
            ("evaluate", "judges"),
            ("thinking", "judges"),
            ("reasoning", "models"),
            ("schedules",),
        ):
            if table[0] in data and data[table[0]] is not None:
                for extra in ("", "[/red]", "../x", "a/b", "\x1b[31m", "x" * 100, "\ud800"):
                    kind = {"model": {"model": "tiny-llama"}} | ({"kind": "likelihood"} if "judges" in table else {})
                    value = {} if table == ("schedules",) else kind["model"] if "models" in table else kind
                    refuse(tried, f"{name}: {table}.{extra!r}", changed(data, (*table, extra), value), table[-1])


def refuse(tried: Attack, what: str, data: dict[str, Any], words: str) -> None:
    try:
        config, message = outcome(data)
    except Exception as error:
        tried.case(f"{what}: {type(error).__name__}", False)
    else:
        tried.case(f"{what}: {message or 'accepted'}", config is None and words in message)


def test_each_judge_is_built_from_its_own_table(tmp_path: Path) -> None:
    """Even where a config that was not checked gives two judges one name."""
    config = load("smoke")
    other = JudgeConfig(kind="likelihood", model=ModelConfig(model="tiny-llama"))
    evaluate = config.evaluate.model_copy(update={"judges": {"shorter": other}})
    context = Context(config.model_copy(update={"evaluate": evaluate}), Run(tmp_path))
    training, independent = context.comparing_judges["shorter (training)"], context.comparing_judges["shorter"]
    assert training is not independent
    assert training.name.startswith("shorter")
    assert "tiny-llama" in independent.name


def test_a_refusal_computes_nothing_and_imports_no_torch(tmp_path: Path) -> None:
    """Seconds depend on the machine; that torch, which takes most of them, is not imported does not."""
    for override in ("policy.model=tiny-lama", "improve.beta=nan", "reasoning.arms=['nope']", "corpus.path=no.jsonl"):
        asked = f"['forethought', 'run', 'smoke', '--dry-run', '--set', {override!r}]"
        shown = python(
            "-c",
            f"import sys; sys.argv = {asked}\nfrom forethought.cli.app import main\ntry: main()\n"
            "except SystemExit as end: print(end.code, 'torch' in sys.modules, 'transformers' in sys.modules)",
        )
        assert shown.split()[-3:] == ["2", "False", "False"]


def may_stand(data: dict[str, Any], key: tuple[str, ...], before: object, value: Any, config: Config) -> bool:
    """Return whether an accepted value is one that the docs allow, and whether the config comes back from its JSON."""
    if build(json.loads(dump(config))) != config:
        return False
    optional = len(key) == 1 and value is None
    same = json.loads(dump(config)) == data  # such as nothing where nothing was
    free = value == f"{before}x" and key[-1] in FREE
    free |= key[-1] == "generic" and len(value) > 0 and isinstance(value[0], str)  # sentences
    free |= key[-2:] == ("thoughts", "conditions") and value == []
    fewer = isinstance(before, list) and isinstance(value, list) and 0 < len(value) < len(before)
    return (
        optional
        or same
        or free
        or (fewer and key[-1] in LISTED)
        or any(value == one for one in ALLOWED.get(key[-1], ()))
    )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("policy.model=tiny-lama", "Did you mean tiny-llama?"),
        ('reasoning.arms=["self-improve"]', "Did you mean self-improved?"),
        ('reasoning.tasks=["procedurall"]', "Did you mean procedural?"),
        ("reasoning.problems={nope=3}", "reasoning.problems: no reasoning task is called 'nope'"),
        ('reasoning.models.base={model="tiny-llama"}', "base is the name of an arm"),
        ('reasoning.models.mine={model="tiny-lama"}', "reasoning.models.mine: tiny-lama"),
        ("improve.stesp=1", "Did you mean steps?"),
        ("improve.objective=dpp", "Did you mean dpo?"),
        ('evaluate.conditions=["greedi"]', "Did you mean greedy?"),
        ("evaluate.conditions=[]", "evaluate.conditions: Tuple should have at least 1 item"),
        ("evaluate.judges.shorter={kind='shorter'}", "judges.shorter is called shorter, too"),
        ("thinking.judges.shorter={kind='similarity'}", "judges.shorter is called shorter, too"),
        ("judges.training={kind='shorter'}", "the match judge of [rlmt.match] is called training, too"),
        ("evaluate.judges={'[/red]'={kind='shorter'}}", "a name has at most 64 letters"),
        ("improve.adam_betas=[1,1]", "improve.adam_betas.0: Input should be less than 1"),
        ("chunk={sft_share=0.4,rlmt_share=0.3,heldout_share=0.3}", "nothing is left for improve"),
        ("chunk.heldout_share=0.0", "chunk.heldout_share must not be 0"),
        ("corpus.source=bundled", "reads no path"),
        ("corpus.path=nowhere.jsonl", "nowhere.jsonl: no such file"),
        ("corpus.path=shipped:smok.jsonl", "shipped:smok.jsonl"),
        ("rlmt.match.embedder=leters", "Did you mean letters?"),
        ("interleave.teacher={kind='model',model={model='tiny-llama'},prompt='no.txt'}", "prompt = 'no.txt'"),
        ("judges.a={kind='pairwise',model={model='tiny-llama'},prompt='no.txt'}", "judges.a: prompt = 'no.txt'"),
        ("judges.a={kind='custom',path='nowhere:Judge'}", 'judges.a.path = "nowhere:Judge"'),
        ("judges.a={kind='custom',path='a:b',options={x=nan}}", "judges.a.options.x: Input should be a finite number"),
        ("rlmt.reward=nowhere:reward", 'rlmt.reward = "nowhere:reward"'),
        ("device=meta", "write auto, cpu, cuda, cuda:N or mps"),
        ("device=xla", "write auto, cpu, cuda, cuda:N or mps"),
        ("device=cuda:99", "device = 'cuda:99'"),
        ("primary={stage='evaluate-rlmt',metric='gate scor'}", "Did you mean"),
        ("primary.stage=evaluate-rlm", "Did you mean evaluate-rlmt?"),
        ("primary.condition=entropy-match", "Did you mean entropy-matched?"),
        (
            "primary={stage='evaluate',arm='self-improved',metric='win_rate',against='base',judge='short'}",
            "Did you mean shorter?",
        ),
        ("schedule=none", "no [schedules] table"),
        ("schedules.a={policy={model='tiny-lama'}}", "schedules.a: policy: tiny-lama"),
        ("schedules.a={improve={learning_rate=nan}}", "schedules.a.improve.learning_rate"),
        ("improve.steps=1\nseed=3", "holds more than one value"),
        (f"improve.steps={'9' * 5000}", "improve.steps: Input should be a valid integer"),
        (f"improve.steps={'[' * 9000}", "improve.steps: Input should be a valid integer"),
    ],
)
def test_names_and_contradictions(override: str, words: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  whichever of ours
        check(load("smoke", [override]))
    assert _is_ours(refused.value)
    assert words in str(refused.value)


def test_a_shipped_name_with_a_typing_error_in_a_schedule() -> None:
    with pytest.raises(ConfigError, match=r"no schedule 'shrot'\. Did you mean short\?"):
        load("demo", schedule="shrot")


SMOKE = (Path(__file__).parents[2] / "forethought" / "configs" / "smoke.toml").read_text(encoding="utf-8")


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(codecs.BOM_UTF8 + SMOKE.replace("\n", "\r\n").encode())
    assert load(path) == load("smoke")


def test_files_that_are_no_configs(attack: Begin, tmp_path: Path) -> None:
    tried = attack("config files in the wrong encoding, broken or of another kind")
    good = json.dumps(json.loads(dump(load("smoke"))))
    contents = {
        "utf-16.toml": SMOKE.encode("utf-16"),
        "utf-16-le.toml": SMOKE.encode("utf-16-le"),
        "utf-32.toml": SMOKE.encode("utf-32"),
        "latin.toml": "name = 'h\xf6'".encode("latin-1"),
        "nul.toml": b"\0" * 100,
        "empty.toml": b"",
        "empty.json": b"",
        "list.json": b"[1, 2]",
        "word.json": b'"smoke"',
        "null.json": b"null",
        "deep.json": b'{"name":' + b"[" * 100_000,
        "deep.toml": b"name = " + b"[" * 100_000,
        "digits.json": b'{"seed": ' + b"9" * 5000 + b"}",
        "digits.toml": b"seed = " + b"9" * 5000,
        "surrogate.json": good.replace('"smoke"', '"\\ud800"').encode(),
        "nan.json": good.replace('"beta": 0.02', '"beta": NaN').encode(),
        "list.json/run.json": b"[]",
        "word/run.json": b'{"config": "smoke"}',
        "zip.toml": b"PK\x03\x04\x14\x00\x00\x00",
        "twice.toml": b'name = "a"\nname = "b"',
        **{f"cut-{size}.toml": SMOKE.encode()[:size] for size in range(3, 400, 7)},
        **{f"cut-{size}.json": good.encode()[:size] for size in range(0, 400, 7)},
    }
    for name, content in contents.items():
        path = tmp_path / name.replace("list.json/", "list/")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        refused(tried, path)
    for path in (tmp_path, tmp_path / "no.toml", Path("a\0b"), Path("a" * 300), tmp_path / "empty.toml" / "x"):
        refused(tried, path)


def refused(tried: Attack, path: Path) -> None:
    try:
        load(path)
    except Exception as error:
        tried.case(f"{path}: {type(error).__name__}: {error}", isinstance(error, ConfigError))
    else:
        tried.case(f"{path} is accepted", False)
