"""What the answer claims, of whom, and against what: judges by what they did, levels, differences, one endpoint."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from forethought import config, graph
from forethought.config import Config
from forethought.records import Measurement
from forethought.report import compare, multiplicity, page, primary
from forethought.report.answer import answer
from forethought.report.independence import Judges, family
from forethought.report.values import Figures
from forethought.run.store import Run

LIKELIHOOD = 'evaluate.judges.{}={{kind="likelihood", model={{model="tiny-{}"}}}}'
OTHERS = (LIKELIHOOD.format("qwen", "qwen3"), LIKELIHOOD.format("gemma", "gemma3"))
SIMILARITY = "similarity-letters@7ea010d9 >= 0.183"


def made(*overrides: str, primary: bool = False) -> Config:
    more = ('primary={arm="self-improved-rlmt", against="continued-rlmt"}',) if primary else ()
    return config.load("smoke", ["improve.control_lineage=true", "rlmt.control=true", *OTHERS, *more, *overrides])


def measured(stage: str, arm: str, metric: str, value: float, **more: Any) -> Measurement:
    known = {"n": 192, "unit": "share", "subject": "hash", "low": value - 0.05, "high": value + 0.05}
    return Measurement(stage=stage, arm=arm, metric=metric, value=value, **(known | more))


def win(judge: str, value: float, condition: str = "entropy-matched", **more: Any) -> Measurement:
    names = {"against": "base", "condition": condition, "judge": judge}
    return measured("evaluate", "self-improved", "win_rate", value, **names, **more)


def interaction(value: float, against: str = "continued-rlmt", **more: Any) -> Measurement:
    names = {"against": against, "condition": "entropy-matched", "judge": SIMILARITY}
    metric = "gate score difference of differences"
    return measured("evaluate-rlmt", "self-improved-rlmt", metric, value, **(names | more))


def first(figures: list[Measurement], config: Config | None = None) -> tuple[str, str]:
    said = answer(Figures(figures, Judges(config or made())))[0]
    return said.verdict, said.text


def last(figures: list[Measurement], config: Config | None = None) -> tuple[str, str]:
    said = answer(Figures(figures, Judges(config or made('rlmt.reward="information-gain"', "rlmt.control=false"))))[3]
    return said.verdict, said.text


@pytest.mark.parametrize(
    ("qwen", "gemma", "verdict", "worst"),
    [
        (0.7, 0.6, "yes", "60.0% [55.0, 65.0] of held-out prefixes by gemma"),
        (0.7, 0.53, "not shown", "53.0% [48.0, 58.0] of held-out prefixes by gemma"),
        (0.4, 0.7, "no", "40.0% [35.0, 45.0] of held-out prefixes by qwen"),
    ],
)
def test_the_worst_judge_speaks_whichever_comes_first(qwen: float, gemma: float, verdict: str, worst: str) -> None:
    figures = [win("qwen", qwen), win("gemma", gemma), win("shorter (training)", 0.99), win("qwen", 0.9, "sampled")]
    said = {first(list(order)) for order in itertools.permutations(figures)}
    judges = made().evaluate.judges
    for order in itertools.permutations(judges.items()):
        swapped = made().model_copy(update={"evaluate": made().evaluate.model_copy(update={"judges": dict(order)})})
        said |= {first(figures, swapped)}
    verdicts, texts = zip(*said, strict=True)
    assert set(verdicts) == {verdict}
    assert all(worst in text and "the least favourable of 2 judges that had no part in this" in text for text in texts)


def test_the_least_favourable_has_the_lowest_end_and_not_the_lowest_value() -> None:
    wide = dataclasses.replace(win("gemma", 0.7), low=0.45, high=0.9)
    verdict, said = first([win("qwen", 0.6), wide])
    assert verdict == "not shown"
    assert "70.0% [45.0, 90.0] of held-out prefixes by gemma" in said
    assert "of the others, 60.0% [55.0, 65.0] by qwen" in said


def test_only_a_win_at_equal_entropy_is_claimed() -> None:
    verdict, said = first([win("qwen", 0.9, "sampled"), win("qwen", 0.9, "greedy")])
    assert verdict == "not shown"
    assert "No win was measured at equal entropy" in said
    assert "when both sample at temperature 1 90.0%" in said
    verdict, said = first([win("qwen", 0.7), win("qwen", 0.52, "entropy-matched to the base")])
    assert verdict == "in part"  # the base cooled, and the policy heated: both must hold
    assert "(entropy-matched to the base)" in said
    assert first([win("qwen", 0.7, low=None, high=None)])[0] == "not shown"
    assert first([win("qwen", 0.7, n=6)])[0] == "not shown"


def test_a_judge_that_trained_is_an_interested_party() -> None:
    verdict, said = first([win("shorter (training)", 0.9)])
    assert verdict == "in part"
    assert "by shorter (trained stage 1), for want of a judge that trained nothing" in said
    unknown = answer(Figures([win("someone", 0.9), win("shorter (training)", 0.8)]))[0]
    assert unknown.verdict == "in part"
    assert "someone (what it did is not known)" in unknown.text


def test_what_a_judge_did_is_read_from_the_models_of_the_run() -> None:
    laptop = Judges(config.load("laptop"))
    qwen, plain = (laptop.of(name, "evaluate") for name in ("qwen", "qwen-plain"))
    assert qwen.text == "teacher of stage 2; shares formula and copy charge with smollm2, which trained"
    assert plain.text == "teacher of stage 2; shares formula with smollm2, which trained"
    assert laptop.of("smollm2 (training)", "evaluate").text == "trained stage 1"
    # The words that both arms were trained on after stage 1 are the teacher's own.
    assert [qwen.independent(stage) for stage in ("evaluate", "evaluate-sft")] == [True, False]
    assert not laptop.of("beyond-prefix-all-minilm-l6-v2@7ea010d9 >= 0.380", "evaluate-rlmt").independent(
        "evaluate-rlmt"
    )
    laptop = Judges(config.load("laptop", ["rlmt.reward='specific-gain'", "rlmt.control=false"]))
    gate = laptop.of("beyond-prefix-all-minilm-l6-v2@7ea010d9 >= 0.380", "evaluate-rlmt")
    assert gate.independent("evaluate-rlmt")  # specific-gain asks no match judge
    assert gate.text == "trained nothing"


@pytest.mark.parametrize(
    ("override", "did"),
    [
        ('judges.shorter={kind="likelihood", model={model="Qwen/tiny-qwen3"}}', "ranked in stage 1"),
        ('policy.model="tiny-qwen3"', "is the policy"),
        ('interleave.teacher={model={model="tiny-qwen3"}}', "teacher of stage 2"),
        ('improve.rewrite={endpoint={base_url="http://here/v1", model="Owner/Tiny-Qwen3"}}', "rewrote for stage 1"),
        ('rlmt.match={kind="likelihood-gain", model={model="tiny-qwen3"}}', "rewarded stage 3"),
    ],
)
def test_one_model_in_two_places_is_one_model(override: str, did: str) -> None:
    standing = Judges(made(override)).of("qwen", "evaluate")
    assert did in standing.did
    assert standing.independent("evaluate") == (did in ("teacher of stage 2", "rewarded stage 3"))


def test_a_contrast_model_took_part_and_families_are_named() -> None:
    contrast = (
        'judges.big={kind="likelihood", normalise="byte", model={model="a/Qwen3-1.7B"}, contrast={model="tiny-qwen3"}}'
    )
    standing = Judges(made(contrast)).of("qwen", "evaluate")
    assert standing.did == ("contrast of stage 1",)
    assert standing.shares == ("formula, copy charge and family with big",)
    names = {"Qwen/Qwen2.5-Coder-1.5B": "qwen", "tiny-qwen3": "qwen", "meta-llama/Llama-3.2-1B": "llama"}
    assert {name: family(name) for name in names} == names


@pytest.mark.parametrize(
    ("overrides", "judge", "did"),
    [
        ((), SIMILARITY, ("rewarded stage 3",)),
        (('rlmt.reward="gain-over-blank"', "rlmt.control=false"), SIMILARITY, ("rewarded stage 3",)),
        (('rlmt.reward="my_rewards:fresh"',), SIMILARITY, ("rewarded stage 3",)),
        (('rlmt.reward="information-gain"', "rlmt.control=false"), SIMILARITY, ()),
        (
            ('rlmt.match={kind="likelihood-gain", model={model="tiny-qwen3"}}',),
            "gain-tiny-qwen3@123 >= 0.1",
            ("rewarded stage 3", "rewarded stage 3"),
        ),
        (('rlmt.match={kind="custom", path="my:Fresh"}',), "fresh@123 >= 0.5", ("rewarded stage 3",)),
    ],
)
def test_a_match_judge_trained_where_its_matches_were_rewarded(
    overrides: tuple[str, ...], judge: str, did: tuple[str, ...]
) -> None:
    standing = Judges(made(*overrides)).of(judge, "evaluate-rlmt")
    assert standing.did == tuple(dict.fromkeys(did))
    assert standing.independent("evaluate-rlmt") == (not did)
    assert not Judges(made()).of("similarity-other@1 >= 0.5", "evaluate-rlmt").known


@pytest.mark.parametrize(
    ("value", "against", "more", "verdict", "says"),
    [
        (0.2, "continued-rlmt", {}, "yes", "above zero"),
        (-0.2, "continued-rlmt", {}, "no", "below zero"),
        (0.01, "continued-rlmt", {}, "not shown", "inside the noise of 192 windows"),
        (0.2, "continued-rlmt", {"n": 6}, "not shown", "6 windows are too few to tell"),
        (0.2, "continued-rlmt", {"low": None, "high": None}, "not shown", ""),
        (0.2, "base-rlmt", {}, "in part", "extra training on the same text could explain it"),
        (0.2, "continued-rlmt", {"condition": ""}, "not run", "improve.control_lineage = true"),
    ],
)
def test_receptive_is_a_difference_of_differences(
    value: float, against: str, more: dict[str, Any], verdict: str, says: str
) -> None:
    said = last([interaction(value, against, **more)])
    assert said[0] == verdict
    assert says in said[1]
    assert "would resolve" not in said[1]


def test_levels_say_nothing_of_receptivity() -> None:
    place = {"against": "base-rlmt", "judge": SIMILARITY}
    level = measured("evaluate-rlmt", "self-improved-rlmt", "gate score difference", 0.3, **place)
    for condition in ("", "entropy-matched"):
        verdict, said = last([dataclasses.replace(level, condition=condition)])
        assert verdict == "not run"
        assert "30" not in said


def test_the_control_lineage_is_asked_before_the_base_and_the_rewarding_judge_is_an_interested_party() -> None:
    both = [interaction(0.3, "base-rlmt"), interaction(0.01)]
    assert last(both)[0] == last(both[::-1])[0] == "not shown"
    verdict, said = last([interaction(0.2)], made())
    assert verdict == "in part"
    assert "(rewarded stage 3), for want of a judge that trained nothing" in said


def test_the_primary_endpoint_comes_first_and_the_rest_is_exploratory(tmp_path: Path) -> None:
    run = Run.create_or_open(tmp_path / "run")
    asked = made('rlmt.reward="information-gain"', "rlmt.control=false", primary=True)
    run.save_config(asked.model_dump(mode="json"))
    assert asked.primary is not None
    run.keep_primary(asked.primary.model_dump(mode="json"))
    run.measure([interaction(0.2), win("qwen", 0.7)])
    content = page.write_page(run).read_text()
    named, at = "Primary endpoint, written down before the run", content.index('id="primary"')
    assert at < content.index('id="answer"')
    assert named in content[at:]
    assert "Everything but the primary endpoint is exploratory." in content
    kept = json.loads((run.path / "summary.json").read_text())["primary"]
    assert (kept["verdict"], kept["late"]) == ("yes", False)
    assert "+0.200 [+0.150, +0.250]" in kept["sentence"]
    # Named again once its stage has figures, it is no longer what the run was made for.
    run.keep_primary(asked.primary.model_copy(update={"against": "base-rlmt"}).model_dump(mode="json"))
    assert "written down only after its stage had been measured" in page.write_page(run).read_text()


def test_without_a_primary_endpoint_all_is_exploratory(tmp_path: Path) -> None:
    content = page.write_page(Run.create_or_open(tmp_path / "run")).read_text()
    assert (
        "This run has no primary endpoint ([primary] in its config), so every figure of it is exploratory." in content
    )
    assert 'id="primary"' not in content


@pytest.mark.parametrize(
    ("overrides", "figures", "verdict"),
    [
        ({}, [], "not run"),
        ({}, [interaction(-0.2)], "no"),
        ({}, [interaction(0.01)], "not shown"),
        ({}, [interaction(0.2, n=6)], "not shown"),
        ({"metric": "gate score", "against": ""}, [interaction(0.2)], "not run"),
        ({"judge": "similarity-letters@7ea010d9"}, [interaction(0.2)], "yes"),
        ({"judge": "another"}, [interaction(0.2)], "not run"),
    ],
)
def test_verdicts_of_the_primary_endpoint(overrides: dict[str, str], figures: list[Measurement], verdict: str) -> None:
    own = made('rlmt.reward="information-gain"', "rlmt.control=false", primary=True)
    assert own.primary is not None
    own = own.model_copy(update={"primary": own.primary.model_copy(update=overrides)})
    said = primary.primary(Figures(figures, Judges(own)))
    assert said is not None
    assert said.verdict == verdict


def test_an_endpoint_that_can_never_be_measured_is_refused() -> None:
    graph.check_primary(made(primary=True))
    graph.check_primary(made())
    without_control = made("improve.control_lineage=false", primary=True)
    with pytest.raises(graph.SelectionError, match=r"primary\.against = 'continued-rlmt': no arm .* There are base, "):
        graph.check_primary(without_control)
    with pytest.raises(graph.SelectionError, match=r"primary\.arm = 'nobody': no arm of this config"):
        graph.check_primary(made('primary.arm="nobody"', 'primary.against=""'))
    no_rl = made(primary=True).model_copy(update={"rlmt": None})
    with pytest.raises(graph.SelectionError, match=r"primary\.stage = 'evaluate-rlmt': this config has no such step"):
        graph.check_primary(no_rl)


def test_the_run_refuses_it_before_anything_is_made(tmp_path: Path) -> None:
    pipeline = pytest.importorskip("forethought.pipeline.runner")
    run = Run.create_or_open(tmp_path / "run")
    asked = made("improve.control_lineage=false", primary=True)
    with pytest.raises(graph.SelectionError, match=r"primary\.against"):
        pipeline.Lifecycle(asked, run, say=lambda _: None).everything()
    assert not (run.path / "run.json").exists()


def test_benjamini_hochberg_by_hand() -> None:
    # 10 values, rate 5%: thresholds are .005, .010, .015, ...; .0149 is the third, and takes the .012 above .010 along.
    p_values = [0.9, 0.001, 0.012, 0.0149, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert [p for p, one in zip(p_values, multiplicity.surviving(p_values), strict=True) if one] == [
        0.001,
        0.012,
        0.0149,
    ]
    assert multiplicity.surviving([0.04, 0.9]) == [False, False]
    assert multiplicity.surviving([]) == []


def test_differences_are_counted_by_stage_and_metric() -> None:
    assert multiplicity.p_value(measured("evaluate", "a", "x", 0.05)) == pytest.approx(0.05)
    assert multiplicity.p_value(measured("evaluate", "a", "x", 0.1, low=0.1, high=0.1)) is None
    some = [
        measured("evaluate-rlmt", "base-rlmt", "gate score difference", value, against=f"arm {value}")
        for value in (0.2, 0.051, 0.0, 0.01)
    ]
    level = measured("evaluate-rlmt", "base-rlmt", "gate score", 0.4)
    counted = measured("evaluate-rlmt", "base-rlmt", "gate score windows needed", 40.0)
    [scores, wins] = multiplicity.families([*some, level, counted, interaction(0.3), win("qwen", 0.5)])
    assert (scores.metric, scores.differences, scores.excluding, scores.by_chance) == ("gate score", 5, 3, 0.25)
    assert len(scores.surviving) == 2  # .051 would need p <= .03
    assert (wins.metric, wins.excluding) == ("win_rate", 0)
    [row, _] = multiplicity.table([scores, wins]).rows
    assert list(row) == ["evaluate-rlmt", "gate score", "5", "3", "0.25", "2"]


def test_rewards_above_two_thresholds_do_not_compare(tmp_path: Path) -> None:
    runs = []
    for name, threshold, value in (("left", "0.610", 0.1), ("right", "0.640", 0.9)):
        run = Run.create_or_open(tmp_path / name)
        judge = f"similarity-letters@7ea010d9 >= {threshold}"
        run.measure([measured("evaluate-rlmt", "base", metric, value, judge=judge) for metric in
                     ("gate reward", "gate score", "oracle@4", "probe reward")])  # fmt: skip
        runs.append(run)
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(compare.render(*runs))
    lines = console.export_text().splitlines()
    rows = {
        metric: next(line for line in lines if metric in line) for metric in ("gate reward", "gate score", "oracle")
    }
    assert "not comparable: thresholds differ" in rows["gate reward"]
    assert "not comparable: thresholds differ" in rows["oracle"]
    assert rows["gate score"].rstrip().endswith("≠")
    assert any("1 of 1 shared figures with intervals do not overlap" in line for line in lines)
