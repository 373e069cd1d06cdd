"""What the report says: the answer, the article's table, costs and texts, each figure from the run's own logs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_run import EVIL, figures, plant
from rich.console import Console
from safetensors.numpy import save_file
from typer.testing import CliRunner

from forethought import graph, metrics
from forethought.cli.app import app
from forethought.records import Measurement
from forethought.report import answer, article, compare, facts, page, status, summary, tables, texts
from forethought.report.diagram import boxes
from forethought.report.values import Figures
from forethought.run.store import Run
from forethought.text import printable

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a planted run."""
    return page.write_page(plant(tmp_path_factory.mktemp("planted") / "run"))


def measured(stage: str, arm: str, metric: str, value: float, **more: Any) -> Measurement:
    known = {"n": 48, "unit": "share", "subject": "hash", "low": value - 0.05, "high": value + 0.05}
    return Measurement(stage=stage, arm=arm, metric=metric, value=value, **(known | more))


def test_what_was_not_run_has_no_answer(tmp_path: Path) -> None:
    assert [one.verdict for one in answer.answer(Figures([]))] == ["not run"] * 4
    assert all(not row.values(Figures([]), {}) for row in article.ROWS)
    content = page.write_page(Run.create_or_open(tmp_path / "empty")).read_text()
    assert content.count('<span class="none">not run</span>') == len(article.ROWS)
    assert "Stage 3 was not run." in content
    assert "No reasoning task was run." in content


class _Reader(HTMLParser):
    """Collects figures with their raw values, and the words of the answer and of all tables."""

    def __init__(self) -> None:
        super().__init__()
        self.figures: list[tuple[str, ...]] = []
        self.words: list[str] = []
        self.depth: dict[str, int] = {}
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if "data-value" in given:
            self.figures.append(tuple(str(given[f"data-{name}"]) for name in ("value", "low", "high", "n")))
        if tag not in ("meta", "br", "input", "path", "rect", "use"):
            self.open.append(f"{tag}.{given.get('class') or given.get('id') or ''}")

    def handle_endtag(self, tag: str) -> None:
        if any(one.startswith(f"{tag}.") for one in self.open):
            while not self.open.pop().startswith(f"{tag}."):
                pass

    def handle_data(self, data: str) -> None:
        inside = set(self.open)
        in_answer = "ol.answer" in inside and "h3." not in inside
        in_table = "figure.table" in inside and "td." in {one[:3] for one in inside} and "figcaption." not in inside
        if in_answer or in_table or "td.ours" in inside:
            self.words.append(data)


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        if {"value", "low", "high", "n"} <= value.keys():
            return [tuple(str(value[name]) for name in ("value", "low", "high", "n")), *flat(list(value.values()))]
        return [one for item in value.values() for one in flat(item)]
    if isinstance(value, list):
        return [one for item in value for one in flat(item)]
    return [value]


def readings(value: float) -> set[str]:
    """Return every way in which the page may write a number."""
    forms = (metrics.percent, metrics.plain, metrics.short, metrics.signed, metrics.points, "{:.3g}".format)
    written = {form(value) for form in forms} | {f"{value:,.0f}", f"{value:.2g}", metrics.clock_time(abs(value))}
    written.add(f"{value / 2**30:.2f}")
    return {re.sub(r"[-+%]| points", "", text) for text in written}


def test_every_number_of_the_answer_and_the_tables_is_in_the_summary(planted: Path) -> None:
    content = planted.read_text()
    summary = flat(json.loads(planted.with_name("summary.json").read_text()))
    reader = _Reader()
    reader.feed(content)
    assert len(reader.figures) > 30
    assert {one for one in reader.figures if one not in summary} == set()
    known = set().union(*(readings(one) for one in summary if isinstance(one, int | float)))
    text = " ".join(reader.words)
    names = (
        printable(EVIL),
        printable(EVIL.replace("/", "")),
        "gsm8k",
        "mean@4",
        "pass@4",
        "pass@2",
        "temperature 1",
        "stage 1",
        "\u2212",
        "+",
    )
    for name in names:
        text = text.replace(name, " ")
    numbers = re.findall(r"(?<![\w.@])\d[\d,.:]*\d|(?<![\w.@])\d(?![\w.])", text)
    assert len(numbers) > 150
    assert {number for number in numbers if number not in known} == set()


def test_the_number_test_can_fail() -> None:
    assert "62.5" in readings(0.625)
    assert "0.625" in readings(0.625)
    assert "62.6" not in readings(0.625)


def test_planted_markup_is_escaped_and_data_cannot_end_its_element(planted: Path) -> None:
    content = planted.read_text()
    assert "<script>window.ran" not in content
    images = re.findall(r"<img[^>]*>", content.partition('id="data">')[0])
    assert len(images) > 30
    assert all(
        re.match(r'<img class="plot (light|dark)" src="data:image/svg\+xml;base64,[\w+/=]+" alt="', one)
        for one in images
    )
    assert "\u2028" not in content.partition('id="data">')[2]
    data = content.partition('id="data">')[2].partition("</script>")[0]
    items = json.loads(data)["items"]
    assert {item["kind"] for item in items} == {"candidates", "thoughts", "rollouts", "probe", "comparisons"}
    shown = printable(EVIL)
    assert any(piece[1].endswith(shown) for item in items for block in item["blocks"] for piece in block["pieces"])


def test_best_and_worst_are_kept_and_the_share_is_said() -> None:
    scores_ = [float(number % 97) for number in range(500)] + [None]
    kept = texts.thin(scores_, 30)
    assert len(kept) == 30
    assert kept == sorted(kept)
    chosen = [scores_[i] for i in kept]
    assert max(one for one in chosen if one is not None) == 96
    assert min(one for one in chosen if one is not None) == 0
    assert texts.thin([1.0, 2.0], 30) == [0, 1]


def test_a_large_run_makes_no_large_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "BUDGET", 60_000)
    found = texts.collect(plant(tmp_path / "run", pools=400))
    share = next(one for one in found["shares"] if one["kind"] == "candidates")
    assert share["of"] == 400
    assert 1 <= share["shown"] < texts.MOST
    assert sum(item["kind"] == "candidates" for item in found["items"]) == share["shown"]
    assert sum(len(json.dumps(item)) for item in found["items"]) < 150_000


def test_costs_are_counted_in_the_logs_and_estimated_from_the_weights(tmp_path: Path) -> None:
    run = plant(tmp_path / "run")
    assert facts.cost(run)["elsewhere"] == {}
    folder = run.stage("self-improved", "improve").checkpoints / "final"
    folder.mkdir(parents=True)
    save_file({"a": np.zeros((10, 20)), "b": np.zeros(7)}, folder / "model.safetensors")
    counted = facts.cost(run)
    phases = counted["phases"]["self-improved"]
    assert phases["sample"] == {"seconds": 118.0, "tokens": 5900.0}  # 59 steps of 2 seconds at 50 tokens a second
    assert phases["judge"]["verdicts"] == 18  # two in each of nine pools
    assert counted["phases"]["base-rlmt"] == {"judge": {"seconds": 0.0, "verdicts": 2}}
    rate = 2 * 207 * 5900 / 118
    assert counted["elsewhere"]["weights"] == 207
    assert counted["elsewhere"]["operations_per_second_here"] == pytest.approx(rate)
    assert counted["elsewhere"]["seconds"]["one H100 (80 GB)"] == pytest.approx(118 * rate / (0.2 * 989e12))


def written(found: Any) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(found)
    return console.export_text()


def test_reasoning_figures_make_a_table_for_each_task() -> None:
    found = tables.build(figures())["reasoning"]
    text = "".join(written(table.rich()) for table in found)
    assert found[0].title.startswith("Reasoning: gsm8k")
    assert "smallest detectable" not in text
    for said in ("average over tasks", "pass@4", "no answer", "paired by problem", "mean@4, strict", "Smallest true"):
        assert said in text
    assert "pass@2" not in text  # the largest k says most
    assert tables.build([]) == {}


UNKNOWN = {
    "stage": "dream",
    "arm": "self-improved-dream",
    "metric": "lucidity",
    "condition": "at night",
}


@pytest.mark.parametrize("names", [{field: name} for field, name in UNKNOWN.items()], ids=list(UNKNOWN))
def test_what_the_registry_does_not_know_is_shown_everywhere(names: dict[str, str], tmp_path: Path) -> None:
    [new] = names.values()
    known = {
        "stage": "evaluate-rlmt",
        "arm": "base",
        "metric": "probe gain smallest detectable difference",
        "condition": "own thought",
    }
    figure = measured(value=739.1, **(known | names))
    run = plant(tmp_path / "run")
    run.measure([figure])
    content = page.write_page(run).read_text()
    for text in (
        content.partition('id="other"')[2].partition("</section>")[0],
        written(summary.render(run.measurements(), {})).partition("Other figures")[2],
        written(status.render(run)).partition("Other figures")[2],
        written(compare.render(run, Run.create_or_open(tmp_path / "empty"))).partition("Other figures")[2],
        "\n".join(tables.build([figure])["other"][0].markdown()),  # what the model card is made of
    ):
        assert new in text
        assert "739" in text


def test_figures_of_registered_names_are_not_among_the_others() -> None:
    for name in ("gate reward smallest detectable difference", "gate reward windows needed"):  # the second in old runs
        assert "other" not in tables.build([measured("evaluate-rlmt", "base-think", name, 90.0)])


def test_a_step_that_the_report_has_never_heard_of_is_drawn_and_its_curves_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = "self-improved/improve"
    arm = graph.Arm(
        name="dreamer", stage="dream", start="self-improved", past=("self-improved",), lineage="self-improved"
    )
    step = graph.Step(arm="dreamer", stage="dream", inputs=(start,))
    monkeypatch.setattr(graph, "ARMS", (*graph.ARMS, arm))
    monkeypatch.setattr(graph, "STEPS", (*graph.STEPS, step))
    run = plant(tmp_path / "run")
    folder = run.stage("dreamer", "dream")
    folder.write_config({})
    folder.append("metrics", [{"step": number, "dream/depth": 0.5 * number} for number in range(4)])
    states = status.states(run)
    drawn = {box.name: box for box in boxes(Figures(figures()), states)}
    assert drawn["dreamer/dream"].reads == {start}
    assert drawn["dreamer/dream"].trained == {start}
    assert drawn["dreamer/dream"].column == drawn[start].column + 1
    content = page.write_page(run).read_text()
    assert f"dreamer/dream reads {start}" in content.partition('id="lineages"')[2].partition("</section>")[0]
    assert "dream/depth" in content.partition('id="other"')[2].partition("</section>")[0]
    assert json.loads((run.path / "summary.json").read_text())["curves"]["dreamer"]["dream/depth"]["steps"] == 4


def test_what_follows_from_others_is_left_out_and_boxes_stand_right_of_what_they_read() -> None:
    states = {step.name: "done" for step in graph.STEPS}
    drawn = {box.name: box for box in boxes(Figures([]), states)}
    assert drawn.keys() == {"base", *states}
    for box in drawn.values():
        assert all(drawn[name].column < box.column for name in box.reads)
    assert len({(box.row, box.column) for box in drawn.values()}) == len(drawn)  # none covers another
    rows = {lane: {box.row for box in drawn.values() if box.lane == lane} for lane in ("base", "self-improved")}
    assert max(rows["base"]) < min(rows["self-improved"])
    assert drawn["shared/interleave"].direct == {"shared/chunk"}
    assert "shared/chunk" not in drawn["base-rlmt/rlmt"].direct
    tuned = drawn["base-think/sft"]
    assert drawn["base-rlmt/rlmt"].arrows == [tuned]
    assert "goes on from base-think" not in drawn["base-rlmt/rlmt"].notes
    assert "goes on from base" in drawn["self-improved/improve"].notes  # from another row


def test_the_command_writes_the_page_without_torch_and_says_where(tmp_path: Path) -> None:
    plant(tmp_path / "run")
    code = (
        "import sys\nfrom forethought.cli.app import main\n"
        f"sys.argv = ['forethought', 'report', {str(tmp_path / 'run')!r}]\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == f"{tmp_path / 'run' / 'report.html'}\nFalse\n"
    assert (tmp_path / "run" / "report.html").stat().st_size > 50_000
    missing = CliRunner().invoke(app, ["report", str(tmp_path / "none")])
    assert missing.exit_code == 2
    assert "no such run folder" in missing.stderr


def test_the_summary_holds_config_versions_durations_and_cost(planted: Path) -> None:
    summary = json.loads(planted.with_name("summary.json").read_text())
    assert summary["config"]["self-improved/improve"]["judges"]
    assert {"forethought", "python", "torch"} <= summary["versions"].keys()
    assert summary["durations"]["shared/chunk"]["seconds"] >= 0
    assert "evaluate-rlmt" not in " ".join(summary["durations"])  # not finished
    assert summary["cost"]["phases"]["self-improved"]["sample"]["seconds"] == 118.0


def test_templates_are_package_data() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["forethought"]
    packed = {path for pattern in patterns for path in (ROOT / "forethought").glob(pattern)}
    assert set((ROOT / "forethought" / "report" / "templates").iterdir()) <= packed
