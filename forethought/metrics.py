"""Every metric and condition of the measurement table, once: evaluations write by these names, reports read by them.

A metric *is* its name, the string that stands in ``measurements.jsonl``; a rename is a change of one line here.
What belongs to none of these is still shown, under "other figures": see :func:`known`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from forethought.records import Measurement, SpanKind

Format = Callable[[float], str]

EVALUATE, EVALUATE_SFT, EVALUATE_RLMT, REASONING = "evaluate", "evaluate-sft", "evaluate-rlmt", "reasoning"
INTERLEAVE, CALIBRATE, AUDIT, RUN = "interleave", "calibrate", "audit", "run"
"""Stages as the table names them; ``run`` is what a stage took, whichever it was."""
UP, DOWN = "up", "down"
"""Where a metric is better."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value is measured in, and how a level and a difference of two levels read."""

    unit: str
    level: Format
    change: Format


def points(value: float) -> str:
    """Return a difference of shares: ``+1.2 points``."""
    return f"{100 * value:+.1f} points"


def clock_time(seconds: float) -> str:
    """Return ``seconds`` as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


percent: Format = "{:.1%}".format
plain: Format = "{:.3f}".format
signed: Format = "{:+.3f}".format
short: Format = "{:.2f}".format

SHARE = Kind("share", percent, points)
NATS = Kind("nats per token", plain, signed)
GAIN = Kind("nats per token", signed, signed)
BITS = Kind("bits per byte", plain, signed)
SCORE = Kind("score", plain, signed)
MEAN_COUNT = Kind("mean count", short, "{:+.2f}".format)
COUNT = Kind("count", "{:,.0f}".format, "{:+,.0f}".format)
PROBABILITY = Kind("p", "{:.2g}".format, "{:+.2g}".format)
TEMPERATURE = Kind("temperature", plain, signed)
SECONDS = Kind("seconds", clock_time, "{:+,.1f} s".format)
BYTES = Kind("bytes", lambda value: f"{value / 2**30:.2f} GiB", lambda value: f"{value / 2**30:+.2f} GiB")
UNKNOWN = Kind("", "{:.3g}".format, "{:+.3g}".format)


class Metric(str):
    """The name of a metric, which knows how it is shown.

    Args:
        name: as in ``measurements.jsonl``.
        label: its title in a table.
        kind: its unit, with its formats.
        stages: the stages that measure it.
        better: :data:`UP`, :data:`DOWN`, or empty if neither is better.
        of: of a difference, the metric whose difference it is; also of the smallest one that is detectable.
        paired: whether figures *against* another arm are differences of this metric under the same name.
    """

    label: str
    kind: Kind
    stages: tuple[str, ...]
    better: str
    of: Metric | None
    paired: bool

    def __new__(
        cls,
        name: str,
        label: str,
        kind: Kind,
        stages: tuple[str, ...] = (),
        better: str = "",
        *,
        of: Metric | None = None,
        paired: bool = False,
    ) -> Metric:
        self = super().__new__(cls, name)
        self.label, self.kind, self.stages, self.better, self.of, self.paired = label, kind, stages, better, of, paired
        return self

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)  # a copy of a record holds the plain name

    @property
    def difference(self) -> Metric:
        """Its paired difference between two arms or conditions."""
        return Metric(f"{self} difference", self.label, self.kind, self.stages, self.better, of=self)

    @property
    def change(self) -> Metric:
        """Its paired change, of an NLL."""
        return Metric(f"{self} change", f"{self.label}, change", self.kind, self.stages, self.better, of=self)

    @property
    def interaction(self) -> Metric:
        """How much more an arm changed it than another arm did, each since the start of its lineage; paired."""
        return Metric(f"{self} difference of differences", self.label, self.kind, self.stages, self.better, of=self)

    @property
    def detectable(self) -> Metric:
        """The smallest difference that a comparison of this size finds four times in five; a size has no sign."""
        kind = replace(self.kind, change=lambda value: self.kind.change(value).removeprefix("+"))
        return Metric(f"{self} smallest detectable difference", "smallest detectable", kind, self.stages, of=self)

    def at(self, k: int) -> Metric:
        """Return ``<name>@k``."""
        return Metric(f"{self}@{k}", f"{self}@{k}", self.kind, self.stages, self.better, paired=self.paired)


# Held-out comparison of two arms by their continuations.
_PAIRS = (EVALUATE, EVALUATE_SFT)
WIN_RATE = Metric("win_rate", "won", SHARE, _PAIRS, UP)
TIE_RATE = Metric("tie_rate", "ties", SHARE, _PAIRS)
SIGN_TEST = Metric("sign_test_p", "sign test, p", PROBABILITY, _PAIRS)
UNSCORED_RATE = Metric("unscored_rate", "unscored", SHARE, _PAIRS, DOWN)
ENTROPY = Metric("entropy", "entropy, nats per token", MEAN_COUNT, _PAIRS)
REPETITION = Metric("repetition", "repeated 4-grams", SHARE, _PAIRS, DOWN)
DISTINCT = Metric("distinct_2", "distinct-2", SHARE, _PAIRS, UP)
CHARACTERS = Metric("characters", "characters", COUNT, _PAIRS)
MATCHING_TEMPERATURE = Metric("matching_temperature", "temperature of the side that was matched", TEMPERATURE, _PAIRS)
ENTROPY_GAP = Metric("entropy_gap", "entropy gap, nats per token", GAIN, _PAIRS)
SAMPLED, GREEDY = "sampled", "greedy"
MATCHED, MATCHED_TO_BASE = "entropy-matched", "entropy-matched to the base"
"""Of two arms: the base has the policy's entropy, or the policy the base's."""

SUFFIX_NLL = Metric("suffix_nll", "suffix NLL", NATS, (EVALUATE,), DOWN)
SUFFIX_NLL_CHANGE = Metric("suffix_nll_change", "change", NATS, (EVALUATE,), DOWN, of=SUFFIX_NLL)

# Thoughts beside the text: the data set of stage 2.
_ROWS = (INTERLEAVE,)
ROWS = Metric("rows", "rows", COUNT, _ROWS)
EXACT = Metric("exact_preservation", "text spans join to the raw chunk", SHARE, _ROWS, UP)
PLACES = Metric("places_per_row", "thoughts per row", MEAN_COUNT, _ROWS)
WORDS = Metric("words_per_thought", "words per thought", MEAN_COUNT, _ROWS)
POSITION = Metric("relative_position", "text before a thought", SHARE, _ROWS)
ACCEPTED = Metric("accepted", "offered thoughts that were kept", SHARE, _ROWS, UP)
LEAK_RATE = Metric("leak_rate", "offered thoughts that quote the coming text", SHARE, _ROWS, DOWN)
KEPT_LEAK = Metric("kept_leak", "3-grams of kept thoughts that only the coming text has", SHARE, _ROWS, DOWN)
REJECTED = Metric("rejected", "rejected, of offered", SHARE, _ROWS, DOWN)
DROPPED = Metric("dropped", "dropped, of chunks", SHARE, _ROWS, DOWN)

# What SFT on thoughts installed.
RAW_TEXT = "raw text"
"""NLL of the raw chunk, to compare with that of its text among thoughts."""
TAGGED = "thought with tags"
"""NLL of thoughts and their tags together: what it takes to think at all, at this place."""
_KINDS = {
    SpanKind.THOUGHT.value: "words of thoughts",
    SpanKind.TAG.value: "tags",
    SpanKind.TEXT.value: "text among thoughts",
    RAW_TEXT: RAW_TEXT,
    TAGGED: "words and tags together",
}
NLL = {kind: Metric(f"{kind} NLL", label, NATS, (EVALUATE_SFT,), DOWN) for kind, label in _KINDS.items()}
"""NLL by kind of token.  The words of thoughts come first.  Most of what SFT takes off words and tags together is tags,
whose form is learnt at once (from 6.2 to 0.4 nats, where words went from 2.6 to 2.3), so that figure comes last."""
PER_TOKEN, PER_ROW = "per token", "per row"
AMONG_THOUGHTS = "among thoughts against none"
OPENS = Metric("opens", "opens", SHARE, (EVALUATE_SFT,), UP)
WELL_FORMED = Metric("well-formed", "well-formed", SHARE, (EVALUATE_SFT,), UP)
CLOSES = Metric("closes", "closes", SHARE, (EVALUATE_SFT,), UP)
CLOSES_WHEN_ASKED = Metric("closes when asked", "closes when asked", SHARE, (EVALUATE_SFT,), UP)
NEXT_TEXT = Metric("next-text NLL", "NLL of the text after a place", NATS, (EVALUATE_SFT,), DOWN)

# Conditions of the probe; the first and the last name what stands before the scored text after SFT, too.
OWN, BLANK, GENERIC = "own thought", "blank thought", "generic thought"
SWAPPED, NEAR = "thought about another window", "thought about a like window"
TEACHER, SHUFFLED, NO_TAGS = "teacher's thought", "own words shuffled", "no tags"
PROBE = (OWN, BLANK, GENERIC, SWAPPED, NEAR, TEACHER, SHUFFLED, NO_TAGS)
COPIES, IGNORES = "control: copies its thought", "control: ignores its thought"
"""Arms of the probe that are scripted."""
NOTHING = "none"


def at(condition: str, level: str) -> str:
    """Return the condition of a probe figure at an entropy: :data:`AT_HIGHEST`, :data:`AT_LOWEST`, :data:`MATCHED`."""
    return f"{condition}, {level}" if level else condition


def own_against(condition: str) -> str:
    """Return the condition of a probe figure that compares the own thought with ``condition``."""
    return f"own against {condition}"


def against_nothing(condition: str) -> str:
    """Return the condition of an NLL after a thought that is compared with the NLL without one."""
    return f"{condition} against {NOTHING}"


# The threshold, the reward gate and the probe.
THRESHOLD = Metric("threshold", "threshold", SCORE, (CALIBRATE,))
BASE_PASSES = Metric("base rollouts that pass", "base rollouts", SHARE, (CALIBRATE,))
UNRELATED_PASSES = Metric("unrelated suffixes that pass", "unrelated suffixes", SHARE, (CALIBRATE,), DOWN)
MATCH_AUC = Metric("match AUC", "AUC", SHARE, (CALIBRATE,), UP)
"""By planted kind: how often a paraphrased or cut true suffix scores above what is no match."""
PLANTED_PASSES = Metric("planted suffixes that pass", "pass", SHARE, (CALIBRATE,))
_GATE = (EVALUATE_RLMT,)
GATE_REWARD = Metric("gate reward", "reward", SHARE, _GATE, UP)
GATE_SCORE = Metric("gate score", "score", SCORE, _GATE, UP)
ORACLE = Metric("oracle", "oracle", SHARE, _GATE, UP)
GATE_UNSCORED = Metric("gate unscored", "unscored", SHARE, _GATE, DOWN)
GATE_ENTROPY = Metric("gate entropy", "entropy, nats per token", MEAN_COUNT, _GATE)
GATE_TEMPERATURE = Metric("gate temperature", "temperature", TEMPERATURE, _GATE)
SECOND_THOUGHT = Metric("second thought", "opens a thought in the suffix", SHARE, _GATE, DOWN)
AT_HIGHEST, AT_LOWEST = "at the highest entropy", "at the lowest entropy"
"""Conditions of the gate and the probe besides temperature 1 (no name): suffixes are drawn at the temperature at which
they have the entropy of the most or the least random arm (in the probe: condition).  :data:`MATCHED` is the mean of
both, window by window."""
PREFIX_START, PREFIX_END = "control: repeats the prefix's start", "control: repeats the prefix's end"
"""Rows of the gate that predict nothing."""
CLOSE_RATE = Metric("close rate", "closes itself", SHARE, _GATE, UP)
THOUGHT_TOKENS = Metric("thought tokens", "tokens", MEAN_COUNT, _GATE)
PROBE_REWARD = Metric("probe reward", "reward", SHARE, _GATE, UP)
PROBE_SCORE = Metric("probe score", "score", SCORE, _GATE, UP)
PROBE_GAIN = Metric("probe gain", "gain, nats per token", GAIN, _GATE, UP)
PROBE_ENTROPY = Metric("probe entropy", "entropy, nats per token", MEAN_COUNT, _GATE)
PROBE_TEMPERATURE = Metric("probe temperature", "temperature", TEMPERATURE, _GATE)
PROBE_COPIED = Metric("probe copied", "copied", SHARE, _GATE)
PROBE_SPECIFIC = Metric("probe specific gain", "gain above thoughts about another window", NATS, _GATE, UP)
"""The gain of own thoughts less that of thoughts about another window; harm raises it, too."""

# Reasoning tasks; the condition is ``<task>/<interface>``.
_ANSWERS = (REASONING,)
MEAN = Metric("mean", "mean", SHARE, _ANSWERS, UP, paired=True)
PASS = Metric("pass", "pass", SHARE, _ANSWERS, UP, paired=True)
MAJORITY = Metric("majority", "majority", SHARE, _ANSWERS, UP, paired=True)
NO_ANSWER = Metric("no_answer_rate", "no answer", SHARE, _ANSWERS, DOWN, paired=True)
TRUNCATED = Metric("truncation_rate", "cut at the cap", SHARE, _ANSWERS, DOWN, paired=True)
EXTRACTED = Metric("extraction_rate", "in the form asked", SHARE, _ANSWERS, UP, paired=True)
GOLD_BITS = Metric("gold_bits_per_byte", "bits/byte of gold", BITS, _ANSWERS, DOWN, paired=True)
PLAIN, THOUGHT = "plain", "thought"
"""The two interfaces: the answer follows the problem, or a thought that the prompt opens."""
MACRO = "macro"
"""Stands for the average over tasks."""
STRICT = ", strict"
"""Ends the judge's name where only answers in the form of the examples count."""

# The judges' entrance examination, by planted kind.
_JUDGES = (AUDIT,)
ACCURACY = Metric("accuracy", "accuracy", SHARE, _JUDGES, UP)
AUDIT_UNSCORED = Metric("unscored", "unscored", SHARE, _JUDGES, DOWN)
CONSISTENCY = Metric("consistency", "consistency", SHARE, _JUDGES, UP)
FIRST_POSITION = Metric("first_position", "first position", SHARE, _JUDGES)
TIES = Metric("ties", "ties", SHARE, _JUDGES)
LENGTH_BIAS = Metric("length_bias", "length bias", SHARE, _JUDGES)

# What a stage took; the condition is the stage.
STAGE_SECONDS = Metric("seconds", "time", SECONDS, (RUN,), DOWN)
PEAK_MEMORY = Metric("peak_memory_bytes", "peak memory", BYTES, (RUN,), DOWN)

METRICS: dict[tuple[str, str], Metric] = {
    (stage, metric): metric
    for metric in (*(value for value in list(vars().values()) if isinstance(value, Metric)), *NLL.values())
    for stage in metric.stages
}
"""Every metric that has no parameter, by stage and name."""

_ENTROPIES = ("", MATCHED, AT_HIGHEST, AT_LOWEST)
CONDITIONS: dict[str, tuple[str, ...]] = {
    EVALUATE: ("", SAMPLED, GREEDY, MATCHED, MATCHED_TO_BASE),
    EVALUATE_SFT: (
        *("", SAMPLED, GREEDY, MATCHED, MATCHED_TO_BASE, PER_TOKEN, PER_ROW, AMONG_THOUGHTS, NOTHING, OWN, TEACHER),
        *(against_nothing(condition) for condition in (OWN, TEACHER)),
    ),
    EVALUATE_RLMT: (
        *_ENTROPIES,
        *(at(name, level) for name in (*PROBE, *map(own_against, PROBE[1:])) for level in _ENTROPIES),
    ),
    CALIBRATE: (
        *("", "prefix_start", "prefix_end", "other_document", "same_document", "corrupted", "shuffled"),
        *("paraphrased", "cut_end", "cut_start"),
    ),
    AUDIT: ("", "other_document", "shuffled", "repeated", "corrupted", "rollout"),
}
"""Conditions of each stage; those of others are names of tasks, of stages, or reasons."""

_DERIVED = re.compile(r"^(.+?)(?: (difference of differences|smallest detectable difference|difference|change))$")
_AT = re.compile(r"^(\w+)@(\d+)$")


def find(stage: str, name: str) -> Metric | None:
    """Return the metric that a stage writes under ``name``, or ``None`` if there is none."""
    if (stage, name) in METRICS:
        return METRICS[stage, name]
    if (derived := _DERIVED.match(name)) and (of := find(stage, derived[1])) is not None:
        kinds = {"difference": of.difference, "change": of.change, "difference of differences": of.interaction}
        return kinds.get(derived[2], of.detectable)
    if (at := _AT.match(name)) and (family := find(stage, at[1])) is not None:
        return family.at(int(at[2]))
    return None


def split_k(name: str) -> tuple[str, int]:
    """Return ``pass`` and 8 of ``pass@8``; other names have a k of 0."""
    at = _AT.match(name)
    return (at[1], int(at[2])) if at else (name, 0)


def task_of(figure: Measurement) -> str:
    """Return the task of a reasoning figure, whose condition is ``<task>/<interface>``."""
    return figure.condition.rpartition("/")[0]


def interface_of(figure: Measurement) -> str:
    return figure.condition.rpartition("/")[2]


def of(figure: Measurement) -> Metric:
    """Return the metric of a figure; one that nobody registered is its name with three digits."""
    return find(figure.stage, figure.metric) or Metric(figure.metric, figure.metric, UNKNOWN, (figure.stage,))


def form(figure: Measurement) -> Format:
    """Return how a figure's value reads: as a level or as a difference."""
    metric = of(figure)
    is_change = metric.of is not None or (metric.paired and bool(figure.against))
    return metric.kind.change if is_change else metric.kind.level


def known(figure: Measurement, arms: Iterable[str]) -> bool:
    """Return whether stage, metric, condition and arm of a figure are registered; ``arms`` are those of the graph."""
    conditions = CONDITIONS.get(figure.stage)
    return (
        find(figure.stage, figure.metric) is not None
        and (conditions is None or figure.condition in conditions)
        # Arms of these are splits, judges, folders, and any model that was asked.
        and (
            figure.stage in (INTERLEAVE, AUDIT, RUN, REASONING)
            or figure.arm in (*arms, COPIES, IGNORES, PREFIX_START, PREFIX_END)
        )
    )
