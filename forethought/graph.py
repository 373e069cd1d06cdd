"""The graph of the lifecycle as data: every step, what it reads, and which stage does it.

::

    shared/chunk -> self-improved/improve -> self-improved/evaluate           (and continued/...)
    shared/chunk -> shared/interleave -> base-think/sft ----------\\
    self-improved/improve ------------\\-> self-improved-think/sft -+-> shared/evaluate-sft   (and *-raw/sft)
    shared/chunk -> shared/calibrate -\\
    base-think/sft          -----------+-> base-rlmt/rlmt ----------+-> shared/evaluate-rlmt   (and *-rl/rlmt)
    self-improved-think/sft -----------+-> self-improved-rlmt/rlmt /
    every arm ------------------------------------------------------> shared/reasoning

With ``improve.control_lineage`` the control of stage 1 goes the whole way, too: ``continued-think``, and so on.  With
``rlmt.control`` each lineage has a ``*-rl`` arm beside ``*-rlmt``: the same start, reward and steps, without thoughts.

A new stage is a file in :mod:`forethought.stages` and a row of :data:`STEPS`.
This module reads no run folder and imports no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from forethought import metrics
from forethought.config import Config
from forethought.config.base import did_you_mean
from forethought.run.store import BASE, SHARED

IMPROVED, CONTINUED = "self-improved", "continued"
THINK, RAW, RLMT, RL = "think", "raw", "rlmt", "rl"
REASONING = "reasoning"
ENDPOINT = "endpoint"
"""What the server is called that answers reasoning tasks beside the arms."""
LINEAGES = (BASE, CONTINUED, IMPROVED)
"""The starts of stage 2: without stage 1, after plain next-token training on the same chunks, and after stage 1."""


class SelectionError(ValueError):
    """A step that is asked for and that the graph of this config does not have, or that cannot run yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One stage of one arm."""

    arm: str
    """The arm, or ``shared``."""
    stage: str
    inputs: tuple[str, ...] = ()
    """Names of the steps whose results it reads: what they make differently makes this one stale."""
    gates: tuple[str, ...] = ()
    """Names of the steps that must have passed first, and whose results do not enter."""
    table: str = ""
    """The table of the config without which there is no such step."""
    when: Callable[[Config], bool] = lambda config: True
    """Whether a config that has the table has this step, too."""
    home: str = ""
    """The module of its stage; by default the one of that name in :mod:`forethought.stages`."""

    @property
    def name(self) -> str:
        """``arm/stage``, which is also its folder."""
        return f"{self.arm}/{self.stage}"

    @property
    def module(self) -> str:
        """The module whose ``STAGE`` it is."""
        return self.home or f"forethought.stages.{self.stage.replace('-', '_')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What one command is to run."""

    steps: tuple[Step, ...]
    alone: bool = False
    """Whether nothing else may be made; else what the steps need is made first."""
    force: bool = False
    """Whether they start over though nothing changed."""
    asks: bool = False
    """Whether reasoning tasks that the command line chose are answered, besides those of the run."""

    @property
    def names(self) -> frozenset[str]:
        return frozenset(step.name for step in self.steps)


def _controlled(config: Config) -> bool:
    return config.improve.control and config.improve.objective != "continued"


def _goes_on(lineage: str, config: Config) -> bool:
    """Return whether a lineage goes through stages 2 and 3."""
    return lineage != CONTINUED or (_controlled(config) and config.improve.control_lineage)


CHUNKS, ROWS, THRESHOLD = f"{SHARED}/chunk", f"{SHARED}/interleave", f"{SHARED}/calibrate"
_START = {BASE: (), CONTINUED: (f"{CONTINUED}/improve",), IMPROVED: (f"{IMPROVED}/improve",)}
_STARTS = (*_START[CONTINUED], *_START[IMPROVED])
_TUNED = {kind: tuple(f"{lineage}-{kind}/sft" for lineage in LINEAGES) for kind in (THINK, RAW)}
_REWARDED = tuple(f"{lineage}-{kind}/rlmt" for kind in (RLMT, RL) for lineage in LINEAGES)


def _sft(lineage: str, kind: str) -> Step:
    def when(config: Config) -> bool:
        return _goes_on(lineage, config) and (kind == THINK or (config.sft is not None and config.sft.control))

    inputs = (CHUNKS, ROWS, *_START[lineage])
    return Step(arm=f"{lineage}-{kind}", stage="sft", inputs=inputs, table="sft", when=when)


def _rlmt(lineage: str, kind: str) -> Step:
    def when(config: Config) -> bool:
        return _goes_on(lineage, config) and (kind == RLMT or (config.rlmt is not None and config.rlmt.control))

    inputs = (CHUNKS, ROWS, THRESHOLD, f"{lineage}-{THINK}/sft")
    return Step(arm=f"{lineage}-{kind}", stage="rlmt", inputs=inputs, table="rlmt", when=when)


STEPS: tuple[Step, ...] = (
    Step(arm=SHARED, stage="chunk"),
    Step(
        arm=SHARED,
        stage="audit",
        inputs=(CHUNKS,),
        when=lambda config: config.improve.ranks and config.audit.enabled,
    ),
    Step(arm=IMPROVED, stage="improve", inputs=(CHUNKS,), gates=(f"{SHARED}/audit",)),
    Step(arm=CONTINUED, stage="improve", inputs=(CHUNKS,), when=_controlled),
    Step(arm=IMPROVED, stage="evaluate", inputs=(CHUNKS, f"{IMPROVED}/improve")),
    Step(arm=CONTINUED, stage="evaluate", inputs=(CHUNKS, f"{CONTINUED}/improve"), when=_controlled),
    Step(arm=SHARED, stage="interleave", inputs=(CHUNKS,), table="interleave"),
    *(_sft(lineage, kind) for lineage in LINEAGES for kind in (THINK, RAW)),
    Step(
        arm=SHARED,
        stage="evaluate-sft",
        inputs=(CHUNKS, ROWS, *_STARTS, *_TUNED[THINK], *_TUNED[RAW]),
        table="sft",
    ),
    Step(arm=SHARED, stage="calibrate", inputs=(CHUNKS,), table="rlmt"),
    *(_rlmt(lineage, kind) for kind in (RLMT, RL) for lineage in LINEAGES),
    Step(
        arm=SHARED,
        stage="evaluate-rlmt",
        inputs=(CHUNKS, ROWS, THRESHOLD, *_STARTS, *_TUNED[THINK], *_REWARDED),
        table="rlmt",
    ),
    Step(
        arm=SHARED,
        stage=REASONING,
        inputs=(*_START[IMPROVED], *_START[CONTINUED], *_TUNED[THINK], *_TUNED[RAW], *_REWARDED),
        table="reasoning",
    ),
)
"""Every step there is, in the order in which they run; each stands after its inputs and gates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A model of the run: the base, or what a stage trains."""

    name: str
    stage: str = ""
    """The stage that trains it; empty for the base."""
    start: str = ""
    """The arm whose weights it is trained from; empty for the base."""
    thinks: bool = False
    """Whether it was trained to think."""
    past: tuple[str, ...] = ()
    """What it is compared with in its own lineage: what it was trained from, and its control."""
    peer: tuple[str, ...] = ()
    """What it is compared with in the other lineages."""
    control: bool = False
    """Whether it is there for comparison only."""
    lineage: str = ""
    """What it comes from: the base, stage 1, or the control of stage 1."""
    label: str = ""
    """How it was made, in a few words."""

    @property
    def step(self) -> str:
        """Name of the step that trains it; empty for the base."""
        return f"{self.name}/{self.stage}" if self.stage else ""


def _arm(lineage: str, kind: str, stage: str, start: str, label: str, *, past: tuple[str, ...] = ()) -> Arm:
    before = LINEAGES[: LINEAGES.index(lineage)]
    return Arm(
        name=f"{lineage}-{kind}",
        stage=stage,
        start=start,
        thinks=kind in (THINK, RLMT),
        past=(start, *past),
        peer=() if kind == RAW else tuple(f"{other}-{kind}" for other in before),
        control=kind in (RAW, RL),
        lineage=lineage,
        label=label,
    )


ARMS: tuple[Arm, ...] = (
    Arm(name=BASE, lineage=BASE, label="the start"),
    Arm(
        name=CONTINUED,
        stage="improve",
        start=BASE,
        past=(BASE,),
        control=True,
        lineage=CONTINUED,
        label="control: next tokens",
    ),
    Arm(
        name=IMPROVED,
        stage="improve",
        start=BASE,
        past=(BASE,),
        peer=(CONTINUED,),
        lineage=IMPROVED,
        label="stage 1: online DPO",
    ),
    *(_arm(lineage, RAW, "sft", lineage, "control: SFT on raw text") for lineage in LINEAGES),
    *(
        _arm(lineage, THINK, "sft", lineage, "stage 2: SFT on thoughts", past=(f"{lineage}-{RAW}",))
        for lineage in LINEAGES
    ),
    # Compared with where the lineage began, too: what all later stages together changed.
    *(
        _arm(lineage, RL, "rlmt", f"{lineage}-{THINK}", "control: RL without thoughts", past=(lineage,))
        for lineage in LINEAGES
    ),
    *(
        _arm(lineage, RLMT, "rlmt", f"{lineage}-{THINK}", "stage 3: RL mid-training", past=(lineage, f"{lineage}-{RL}"))
        for lineage in LINEAGES
    ),
)
"""Every arm there is, each after those that it is compared with."""


def arm_of(name: str) -> Arm:
    """Return the arm ``name``; of one that is not in the graph only the name is known."""
    return next((arm for arm in ARMS if arm.name == name), Arm(name=name))


def arms(config: Config) -> list[Arm]:
    """Return the arms of ``config``, in order."""
    made = {step.name for step in graph(config)}
    return among([arm for arm in ARMS if not arm.stage or arm.step in made])


def going_on(config: Config) -> list[Arm]:
    """Return the arms of the lineages that go through stages 2 and 3, each with what it is compared with among them."""
    return among([arm for arm in arms(config) if _goes_on(arm.lineage, config)])


def among(taking: Sequence[Arm]) -> list[Arm]:
    """Return the arms ``taking`` part, each compared with those alone that take part, too."""
    names = {arm.name for arm in taking}
    return [
        dataclasses.replace(
            arm,
            past=tuple(name for name in arm.past if name in names),
            peer=tuple(name for name in arm.peer if name in names),
        )
        for arm in taking
    ]


def graph(config: Config) -> list[Step]:
    """Return the steps of ``config``, in order; benchmarks read only the arms that the config names."""
    present = [
        step for step in STEPS if (not step.table or getattr(config, step.table) is not None) and step.when(config)
    ]
    return [_narrowed(step, config) for step in present]


def check_primary(config: Config) -> None:
    """Refuse a primary endpoint that this config can never measure.

    Raises:
        SelectionError: if there is no such figure, stage or arm in the graph; with those that there are.
    """
    asked = config.primary
    if asked is None:
        return
    steps, names = list(dict.fromkeys(step.stage for step in graph(config))), [arm.name for arm in arms(config)]
    _one_of("primary.stage", asked.stage, steps, "this config has no such step")
    if metrics.find(asked.stage, asked.metric) is None:
        known = [name for stage, name in metrics.METRICS if stage == asked.stage]
        _one_of("primary.metric", asked.metric, known, f"no figure of {asked.stage}")
    hint = "; the control goes on to stages 2 and 3 with improve.control_lineage = true, and RL has a control "
    hint += "without thoughts with rlmt.control = true"
    _one_of("primary.arm", asked.arm, names, "no arm of this config", hint)
    _one_of("primary.against", asked.against, ["", *names], "no arm of this config", hint)
    conditions = metrics.CONDITIONS.get(asked.stage)
    if conditions is not None and not any(own in asked.condition for own in config.thinking.conditions):
        _one_of("primary.condition", asked.condition, conditions, f"no condition of {asked.stage}")
    if asked.stage in (metrics.EVALUATE, metrics.EVALUATE_SFT):
        training = (*config.judges, *(f"{name} (training)" for name in config.judges))
        _one_of("primary.judge", asked.judge, ["", *training, *config.evaluate.judges], "no judge of this config")


def _one_of(key: str, value: str, known: Sequence[str], fault: str, hint: str = "") -> None:
    if value not in known:
        there = ", ".join(one for one in known if one)
        guess = did_you_mean(value, known)
        raise SelectionError(f"{key} = {value!r}: {fault}.{guess} There are {there}{hint}")


def check_arms(config: Config) -> None:
    """Refuse arms of `[reasoning]` that this config does not make, and models with the name of an arm.

    Raises:
        SelectionError: with the arms that there are.
    """
    asked, names = config.reasoning, [arm.name for arm in arms(config)]
    if asked is None:
        return
    for arm in asked.arms or ():
        if arm not in names:
            guess = did_you_mean(arm, names)
            raise SelectionError(f"reasoning.arms: this run has no {arm}.{guess} It has {', '.join(names)}")
    for name in asked.models:
        if name in (*names, ENDPOINT):
            raise SelectionError(f"reasoning.models.{name}: {name} is the name of an arm; choose another")


def _narrowed(step: Step, config: Config) -> Step:
    """Return a step with those inputs alone that its evaluation takes in."""
    if step.stage in (metrics.EVALUATE_SFT, metrics.EVALUATE_RLMT) and not _goes_on(CONTINUED, config):
        return dataclasses.replace(step, inputs=tuple(name for name in step.inputs if name not in _START[CONTINUED]))
    chosen = config.reasoning.arms if step.stage == REASONING and config.reasoning is not None else None
    if chosen is None:
        return step
    return dataclasses.replace(step, inputs=tuple(arm_of(name).step for name in chosen if arm_of(name).step))


def needs(steps: Sequence[Step], among: Sequence[Step]) -> list[Step]:
    """Return the steps ``among`` which some of ``steps`` read, directly or not; without ``steps`` themselves."""
    wanted = {name for step in steps for name in (*step.inputs, *step.gates)}
    for step in reversed(among):
        if step.name in wanted:
            wanted |= {*step.inputs, *step.gates}
    return [step for step in among if step.name in wanted and step not in steps]


def after(name: str) -> list[Step]:
    """Return all steps that read what ``name`` made, directly or not, in order."""
    stale, late = {name}, []
    for step in STEPS:
        if stale & set(step.inputs):
            stale.add(step.name)
            late.append(step)
    return late


def select(steps: Sequence[Step], names: Collection[str]) -> list[Step]:
    """Return the steps that ``names`` (``stage`` or ``arm/stage``) mean, in the order of the graph.

    Raises:
        SelectionError: if a name means none of them, with the choices.
    """
    for name in names:
        if not any(name in (step.stage, step.name) for step in steps):
            missing = {step.table for step in STEPS if name in (step.stage, step.name) and step.table}
            why = "".join(f": there is no [{table}] table" for table in sorted(missing))
            raise SelectionError(
                f"{name}: no such step in this config{why}."
                f"{did_you_mean(name, [one for step in steps for one in (step.stage, step.name)])} "
                f"Stages: {', '.join(dict.fromkeys(step.stage for step in steps))}. "
                f"Steps: {', '.join(step.name for step in steps)}"
            )
    return [step for step in steps if step.stage in names or step.name in names]


def until(steps: Sequence[Step], name: str) -> list[Step]:
    """Return the steps up to the last one that ``name`` means; see :func:`select`."""
    last = select(steps, [name])[-1]
    return list(steps[: list(steps).index(last) + 1])
