"""Which figures stand in which table and plot: one row for each kind of table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from forethought import metrics as m
from forethought.graph import RLMT, arm_of
from forethought.metrics import Metric
from forethought.records import Measurement


@dataclass(frozen=True, slots=True)
class Column:
    """Which figures stand in a column; ``condition`` and ``strict`` narrow the metric down."""

    metric: Metric
    condition: str | None = None
    title: str = ""
    strict: bool = False

    def holds(self, figure: Measurement) -> bool:
        """Return whether a figure belongs here; of ``pass@k`` all k do."""
        same = self.metric in (figure.metric, m.split_k(figure.metric)[0])
        return same and self.condition in (None, figure.condition) and figure.judge.endswith(m.STRICT) == self.strict

    def head(self, figure: Measurement) -> str:
        """Return its title over ``figure``."""
        return self.title or m.of(figure).label + m.STRICT * self.strict


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of table.  ``split`` and ``rows`` are names of :data:`FIELDS`, by spaces."""

    section: str
    stage: str
    title: str
    """May hold names of ``split`` in braces."""
    rows: str
    columns: Sequence[Column | Metric]
    split: str = ""
    """A table for each value of these."""
    across: str = ""
    """What the columns are, if not ``columns``, which then are in the rows."""
    compared: bool | None = False
    """Whether figures against another arm are meant; ``None`` means both."""
    count: str = ""
    """Title of a column of denominators; ``cell`` puts them in the cells."""
    units: str = ""
    """What differences are paired by: then cells say what they show."""
    left_out: tuple[str, ...] = ()
    """Ends of conditions that stand in ``summary.json`` alone."""
    note: Callable[[Sequence[Measurement]], str] = lambda smallest: ""
    """What stands below, from the smallest differences that are detectable, if there are ``units``."""
    plot: Sequence[int] = ()
    """Columns of which there is an interval plot, too."""
    plot_by: str = ""
    """A plot for each value of this."""
    reference: float | None = None
    """What levels are compared with in a plot; differences are with zero."""

    def column_of(self, figure: Measurement) -> tuple[int, Column] | None:
        """Return number and column of a figure, or ``None`` if it does not stand here."""
        if figure.stage != self.stage or self.compared not in (None, bool(figure.against)):
            return None
        if figure.condition.endswith(self.left_out):
            return None
        columns = (Column(column) if isinstance(column, Metric) else column for column in self.columns)
        return next(((i, column) for i, column in enumerate(columns) if column.holds(figure)), None)


def _after(figure: Measurement) -> str:
    interface = m.interface_of(figure)
    return figure.arm if interface == m.PLAIN else f"{figure.arm}\n  after a {interface}"


def _compared(figure: Measurement) -> str:
    other = "its own plain answers" if figure.arm == figure.against else figure.against
    return f"{_after(figure)}\n  against {other}"


def _of_task(task: str) -> str:
    return ", average over tasks" if task == m.MACRO else f": {task}"


def _arm(figure: Measurement) -> str:
    """Return the arm, and of the control of RL what its name does not say."""
    arm = arm_of(figure.arm)
    return f"{figure.arm}\n  RL without thoughts" if arm.stage == RLMT and not arm.thinks else figure.arm


FIELDS: dict[str, tuple[str, Callable[[Measurement], str]]] = {
    "arm": ("arm", _arm),
    "against": ("against", lambda figure: figure.against),
    "pair": ("arm", lambda figure: f"{_arm(figure)}\n  against {figure.against}"),
    "at": ("entropy", lambda figure: figure.condition or "T = 1"),
    "both": ("arms", lambda figure: " and ".join(sorted((figure.arm, figure.against)))),
    "condition": ("condition", lambda figure: figure.condition),
    "judge": ("judge", lambda figure: figure.judge),
    "metric": ("figure", lambda figure: m.of(figure).label),
    "task": ("task", m.task_of),
    "of_task": ("task", lambda figure: _of_task(m.task_of(figure))),
    "answers": ("arm", _after),
    "compared": ("arm", _compared),
}
"""What names a row or a table: title, and the text for a figure."""


def _nll(change: bool) -> list[Column]:
    """Return the columns of NLL by kind of token."""
    metrics = {kind: metric.change if change else metric for kind, metric in m.NLL.items()}
    columns = []
    for kind, metric in metrics.items():
        columns.append(Column(metric, m.PER_TOKEN, kind))
        if kind == m.TAGGED:
            columns.append(Column(metric, m.PER_ROW, f"{kind}, {m.PER_ROW}"))
    return columns


def _resolves(smallest: Sequence[Measurement]) -> str:
    """Return what comparisons of tasks can show: the widest one of each task decides."""
    widest: dict[str, Measurement] = {}
    for figure in smallest:
        task, of = m.task_of(figure), m.of(figure).of
        if of is not None and m.split_k(of)[0] == m.MEAN and task != m.MACRO:
            widest[task] = max(widest.get(task, figure), figure, key=lambda one: one.value)
    parts = ", ".join(f"{task} {m.form(figure)(figure.value)}" for task, figure in widest.items())
    return parts and (
        "Smallest true difference in the mean that every comparison of this size shows four times in five: "
        f"{parts}. Half of it takes four times as many problems."
    )


def _comparisons(section: str, stage: str) -> list[Family]:
    return [
        Family(section, stage, "{arm} against {against}, held-out: prefixes won, ties half, with 95% intervals",
               "condition judge", [m.WIN_RATE, m.TIE_RATE, m.SIGN_TEST, m.UNSCORED_RATE], "arm against", compared=True,
               count="cell", plot=[0], reference=0.5),
        Family(section, stage, "What both wrote: {both}, means per text with 95% intervals", "condition arm",
               [m.ENTROPY, m.REPETITION, m.DISTINCT, m.CHARACTERS], "both", compared=True, count="texts"),
        Family(section, stage, "Entropy matching: the base's temperature, and what is left", "pair condition",
               [m.MATCHING_TEMPERATURE, m.ENTROPY_GAP], compared=True, count="texts"),
    ]  # fmt: skip


_AFTER = (m.OWN, m.TEACHER)
_LEVELS = (m.AT_HIGHEST, m.AT_LOWEST)
_PROBE = (m.PROBE_REWARD, m.PROBE_SCORE, m.PROBE_GAIN)
FAMILIES: tuple[Family, ...] = (
    *_comparisons("improve", m.EVALUATE),
    Family("improve", m.EVALUATE, "Suffix NLL on held-out text, nats per token, with 95% intervals", "arm",
           [m.SUFFIX_NLL, m.SUFFIX_NLL_CHANGE], compared=None, count="suffixes", plot=[1]),
    *_comparisons("sft", m.EVALUATE_SFT),
    Family("sft", m.INTERLEAVE, "Thoughts beside the text, with 95% intervals; no two splits share a document",
           "metric condition", [m.ROWS, m.EXACT, m.PLACES, m.WORDS, m.POSITION, m.ACCEPTED, m.LEAK_RATE, m.KEPT_LEAK,
                                m.REJECTED, m.DROPPED], across="arm", count="cell"),
    Family("sft", m.EVALUATE_SFT, "NLL on held-out rows by kind of token, nats per token, with 95% intervals", "arm",
           _nll(change=False), count="rows"),
    Family("sft", m.EVALUATE_SFT, "What changed, paired by row, nats per token, with 95% intervals", "pair",
           _nll(change=True), compared=True, plot=[0]),
    Family("sft", m.EVALUATE_SFT, "Free continuations of held-out prefixes: what becomes of the tags, with 95% "
           "intervals", "arm", [m.OPENS, m.WELL_FORMED, m.CLOSES, m.CLOSES_WHEN_ASKED], count="cell"),
    Family("sft", m.EVALUATE_SFT, "NLL of the text after a place, given a thought there or none, nats per token, with "
           "95% intervals", "arm",
           [*(Column(m.NEXT_TEXT, one, one) for one in (m.NOTHING, *_AFTER)),
            *(Column(m.NEXT_TEXT.change, m.against_nothing(one), f"{one} less {m.NOTHING}") for one in _AFTER)],
           plot=[3, 4]),
    Family("rlmt", m.CALIBRATE, "Match judge: what reaches its threshold on held-out text, with 95% intervals",
           "judge", [m.THRESHOLD, m.BASE_PASSES, m.UNRELATED_PASSES], count="cell"),
    Family("rlmt", m.EVALUATE_RLMT, "Reward gate: all arms on the same held-out windows, by {judge}, with 95% "
           "intervals", "arm at", [m.GATE_REWARD, m.ORACLE, m.GATE_SCORE, m.GATE_ENTROPY, m.GATE_TEMPERATURE,
                                   m.SECOND_THOUGHT, m.CLOSE_RATE, m.THOUGHT_TOKENS, m.GATE_UNSCORED], "judge",
           count="windows", plot=[0], plot_by="at"),
    Family("rlmt", m.EVALUATE_RLMT, "Reward gate: differences, paired by window, by {judge}, with 95% intervals",
           "pair at", [m.GATE_REWARD.difference, m.GATE_SCORE.difference], "judge", compared=True, units="windows",
           plot=[0, 1], plot_by="at"),
    Family("rlmt", m.EVALUATE_RLMT, "Difference of differences: what an arm gained since its lineage began, less what "
           "another lineage gained, paired by window, by {judge}, with 95% intervals", "pair at",
           [m.GATE_REWARD.interaction, m.GATE_SCORE.interaction], "judge", compared=True, units="windows", plot=[1],
           plot_by="at"),
    Family("rlmt", m.EVALUATE_RLMT, "Thought-use probe: what stands between prefix and suffix, with 95% intervals",
           "arm condition", [*_PROBE, m.PROBE_ENTROPY, m.PROBE_COPIED], left_out=_LEVELS),
    Family("rlmt", m.EVALUATE_RLMT, "Thought-use probe: own thoughts against each condition, paired by window, with "
           "95% intervals", "arm condition", [one.difference for one in _PROBE], units="windows", left_out=_LEVELS,
           plot=[1], plot_by="arm"),
    Family("rlmt", m.EVALUATE_RLMT, "Thought-use probe: own thoughts above those about another window", "arm",
           [Column(m.PROBE_GAIN.difference, m.own_against(m.SWAPPED))], units="windows", plot=[0]),
    Family("rlmt", m.EVALUATE_RLMT, "Thought-use probe: what training changed, nats per token, paired by window, with "
           "95% intervals", "pair", [Column(m.PROBE_GAIN.difference, m.OWN, "gain of own thoughts"),
                                     m.PROBE_SPECIFIC.difference], compared=True, units="windows"),
    Family("reasoning", m.REASONING, "Reasoning{of_task}; 95% intervals over problems", "answers",
           [m.MEAN, Column(m.MEAN, strict=True), m.PASS, m.MAJORITY, m.GOLD_BITS], "of_task", count="n", plot=[0]),
    Family("reasoning", m.REASONING, "Reasoning: how answers ended, with 95% intervals over problems", "answers task",
           [m.NO_ANSWER, m.TRUNCATED, m.EXTRACTED], count="n"),
    Family("reasoning", m.REASONING, "Reasoning: differences, paired by problem, with 95% intervals", "compared task",
           [m.MEAN, m.GOLD_BITS], compared=True, units="problems", note=_resolves),
    Family("judges", m.AUDIT, "Audit of the judges, shares with 95% intervals", "judge metric condition",
           [m.ACCURACY, m.AUDIT_UNSCORED, m.CONSISTENCY, m.FIRST_POSITION, m.TIES, m.LENGTH_BIAS], across="stage",
           count="cell", plot=[0], plot_by="judge", reference=0.5),
    Family("run", m.RUN, "By stage: time since it was last started, and peak memory of the process so far",
           "condition arm", [m.STAGE_SECONDS, m.PEAK_MEMORY]),
)  # fmt: skip
