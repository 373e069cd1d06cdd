"""What a stage is, and what it may ask of the run.

A stage is one file: what it reads, what its results depend on, its loop, and its cost.  Stages never import each other:
they meet on disk, through :class:`Context`.  A stage that trains keeps its books with
:class:`~forethought.stages.session.Session`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from forethought.algorithms.windows import Window, WindowCutter, with_thoughts
from forethought.config import TRAINING, Config, JudgeConfig, ModelConfig, TrainingConfig
from forethought.costs.base import Phase, Setting
from forethought.graph import Arm, Step, arm_of
from forethought.judges import Judge
from forethought.judges.build import build, build_matcher
from forethought.judges.match import Matcher
from forethought.keys import Key
from forethought.models import load_tokenizer
from forethought.models.model import Compute, Model, ModelPool
from forethought.models.parts import Parts, load_parts
from forethought.records import Chunk, Measurement, Split, ThoughtRow, content_id
from forethought.run.files import StoreError
from forethought.run.store import BASE, SHARED, Run, StageFolder
from forethought.tags import Tags

T = TypeVar("T")

OFFERED = f"places.{Split.HELDOUT}"
"""Log of the places of held-out chunks that were offered to the teacher, in the folder of `interleave`."""

Say = Callable[[str], None]
FolderOf = Callable[[str, str, Mapping[str, Any], str], StageFolder]
"""(arm, stage, depends_on, step) -> a folder that belongs to the step and is none of the graph; see the runner."""


def required(table: T | None) -> T:
    """Return a table of the config without which the graph has no such stage."""
    assert table is not None
    return table


class StageError(ValueError):
    """A stage that cannot run as its config is; the message says why, and the way out."""


class JudgeFailedError(StageError):
    """A judge failed its audit."""


class Context:
    """What stages read: the config, what earlier steps left in the run folder, models and judges.

    Everything is loaded when it is first asked for, and once for all stages of a process.
    """

    def __init__(self, config: Config, run: Run, say: Say = print, folder: FolderOf | None = None) -> None:
        self.config = config
        self.run = run
        self.say = say
        self._folder = folder
        self._kept: dict[Any, Any] = {}
        self.pool = ModelPool(Compute.of(config), say)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """Return what ``make`` returned when it was first called for ``key`` in this process."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def remembered(self, key: Mapping[str, Any], make: Callable[[], str]) -> str:
        """Return what ``make`` returned when it was first called for ``key`` in this run, by whatever process.

        For hashes of long lists on which a stage depends: a finished run that is asked for again reads no list.
        ``key`` names everything that enters, such as identities of the stages that made the list.
        """
        name = content_id(key)
        known = self.once("remembered", self.run.hashes)
        if name not in known:
            known[name] = make()
            self.run.keep_hash(name, known[name])
        return known[name]

    def folder(self, arm: str, stage: str, depends_on: Mapping[str, Any], part_of: str) -> StageFolder:
        """Return a folder, beside a stage's own, that belongs to the step ``part_of``; what another config made in it
        is archived."""
        return required(self._folder)(arm, stage, depends_on, part_of)

    def done(self, step: str) -> StageFolder:
        """Return the folder of a finished step, ``arm/stage``."""
        folder = self.run.look(*step.split("/"))
        if folder.manifest() is None:
            raise StoreError(f"{folder.path}: {step} is not done. `forethought run CONFIG --until {step}` does it")
        return folder

    def identity(self, step: str) -> str:
        """Return the hash of what a finished step made, and from what."""
        return self.once(("identity", step), lambda: self.done(step).identity)

    def chunks(self, split: Split) -> list[Chunk]:
        """Return the chunks of a split in a keyed order, one of every document before a second of any.

        The first n of them are then a fair sample, and independent as long as there are n documents.
        """

        def load() -> list[Chunk]:
            chunks = self.done(f"{SHARED}/chunk").load(f"chunks.{split}", Chunk)
            if not chunks:
                raise StageError(
                    f"{split} has no chunks, and they are needed: sft_share + rlmt_share + heldout_share must leave "
                    "something for improve, and [chunk] heldout_share must not be 0"
                )
            return spread(chunks, Key(self.config.seed, f"{split} order"))

        return self.once(("chunks", split), load)

    def chunk_ids(self, split: Split, count: int | None = None) -> str:
        """Return a hash of the ids of the first ``count`` chunks of a split."""
        key = {"chunks": self.identity(f"{SHARED}/chunk"), "seed": self.config.seed, "split": split, "count": count}
        return self.remembered(key, lambda: content_id([chunk.id for chunk in self.chunks(split)[:count]]))

    def chunks_by_id(self, *splits: Split) -> dict[str, Chunk]:
        return {chunk.id: chunk for split in splits for chunk in self.chunks(split)}

    def rows(self, split: Split) -> list[ThoughtRow]:
        """Return the rows that interleaving made, with thoughts; of the `rlmt` split with places only."""
        return self.once(("rows", split), lambda: self.done(f"{SHARED}/interleave").load(f"rows.{split}", ThoughtRow))

    @cached_property
    def rlmt_windows(self) -> list[Window]:
        """Every window of the `rlmt` split."""
        windows = self._cutter.all(self.rows(Split.RLMT), self.chunks_by_id(Split.RLMT))
        if not windows:
            raise StageError(
                f"no {Split.RLMT} row has {self._cutter.suffix_tokens} tokens of text behind a place: "
                "lower rlmt.suffix_tokens, take longer chunks, or set rlmt.cut = 'raw'"
            )
        return windows

    @cached_property
    def heldout_windows(self) -> list[Window]:
        """One window of each held-out document that has any, at a place where training would cut one, too.

        It holds the teacher's thought where that was kept.
        """
        taught, key = self.rows(Split.HELDOUT), Key(self.config.seed, "held-out windows")
        windows = self._cutter.one_each(self.offered or taught, self.chunks_by_id(Split.HELDOUT), key)
        return with_thoughts(windows, taught)

    @cached_property
    def offered(self) -> list[ThoughtRow]:
        """The places of held-out chunks that were offered to the teacher, whatever became of its thoughts.

        None in the folder of a run whose rows were made before these were kept.
        """
        places = self.done(f"{SHARED}/interleave").load(OFFERED, ThoughtRow)
        if not places:
            self.say(
                f"{SHARED}/interleave keeps no offered places of held-out text: held-out windows are cut only where a "
                "thought of the teacher was kept, unlike windows of training. Make this step anew (--force)"
            )
        return places

    def window_ids(self, windows: str, count: int | None = None) -> str:
        """Return a hash of the ids of ``rlmt`` and ``heldout`` windows, or of the first ``count`` ``heldout`` ones."""
        rlmt = required(self.config.rlmt)
        key = {
            "windows": windows,
            "count": count,
            "rows": self.identity(f"{SHARED}/interleave"),
            "seed": self.config.seed,
            "suffix_tokens": rlmt.suffix_tokens,
            "cut": rlmt.cut,
            "heldout": "one of each document, at an offered place",  # a hash that is remembered may be of older rules
        }

        def ids() -> str:
            if windows == "heldout":
                return content_id([window.id for window in self.heldout_windows[:count]])
            return content_id([[window.id for window in of] for of in (self.rlmt_windows, self.heldout_windows)])

        return self.remembered(key, ids)

    @cached_property
    def _cutter(self) -> WindowCutter:
        rlmt = required(self.config.rlmt)
        return WindowCutter(tokenizer=self.tokenizer, suffix_tokens=rlmt.suffix_tokens, cut=rlmt.cut)

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.config.policy, self.say)

    @property
    def tags(self) -> Tags:
        interleave = self.config.interleave
        return Tags(*interleave.tags) if interleave is not None else Tags("<think>", "</think>")

    @property
    def base(self) -> Model:
        """The policy before any training, which writes raw text; shared by all stages."""
        return self.once("base", lambda: self.load(BASE))

    def arm(self, name: str, tags: Tags | None = None) -> Model:
        """Return the base or a trained arm; its weights are loaded when they are first needed, and not kept here."""
        return self.base.with_tags(tags) if name == BASE else self.load(name, tags=tags)

    def load(self, name: str, section: TrainingConfig | None = None, tags: Tags | None = None) -> Model:
        """Return a fresh model with the weights of an arm, computing in batches as a training section says."""
        step, compute = arm_of(name).step, Compute.of(self.config, section)
        if not step:
            return Model.named(self.config.policy, compute, name=name, tags=tags, progress=self.say)
        folder = self.done(step)

        def weights() -> Parts:
            return load_parts(ModelConfig(model=str(folder.check_model())), compute, self.say)

        return Model(name, self.identity(step), weights, tags)

    @cached_property
    def judges(self) -> dict[str, Judge]:
        return self._build("judges", self.config.judges)

    @cached_property
    def comparing_judges(self) -> dict[str, Judge]:
        """The judges that compare arms: those that train, marked as such, and those of `[evaluate.judges]`."""
        training = {f"{name} (training)": judge for name, judge in self.judges.items()}
        return training | self._build("evaluate.judges", self.config.evaluate.judges)

    @cached_property
    def match_judges(self) -> dict[str, Matcher]:
        """The match judges by name, without the calibrated thresholds."""
        cache = self.run.path / "verdicts.sqlite"
        sections = self.config.match_judges
        keys = {name: "rlmt.match" if name == TRAINING else f"thinking.judges.{name}" for name in sections}
        return {name: build_matcher(one, self.pool, cache, key=keys[name]) for name, one in sections.items()}

    @cached_property
    def matchers(self) -> dict[str, Matcher]:
        """The match judges by name with their calibrated thresholds; the first, ``training``, rewards stage 3."""
        rows = (self.done(f"{SHARED}/calibrate").manifest() or {})["summary"]["judges"]
        return {
            name: Matcher(judge=one.judge, threshold=float(rows[name]["threshold"]))
            for name, one in self.match_judges.items()
        }

    @cached_property
    def matcher(self) -> Matcher:
        """The match judge of stage 3 with its calibrated threshold."""
        return self.matchers[TRAINING]

    def measure(self, measurements: Iterable[Measurement]) -> None:
        self.run.measure(measurements)

    def _build(self, table: str, judges: Mapping[str, JudgeConfig]) -> dict[str, Judge]:
        cache = self.run.path / "verdicts.sqlite"
        return {name: build(one, self.pool, cache, f"{table}.{name}") for name, one in judges.items()}


class Stage(ABC):
    """One stage of one arm.  A new one is a file in this folder and a row of :data:`forethought.graph.STEPS`."""

    name: ClassVar[str]

    def __init__(self, context: Context, step: Step) -> None:
        self.context = context
        self.step = step
        self.config = context.config

    @property
    def arm(self) -> Arm:
        return arm_of(self.step.arm)

    @abstractmethod
    def depends_on(self) -> dict[str, Any]:
        """Return what the results depend on: with other values, a finished stage starts over.

        It is asked for each time a run goes on, so it reads no long file; see :meth:`Context.remembered`.
        """

    @abstractmethod
    def run(self, folder: StageFolder) -> None:
        """Do what is missing in ``folder`` and finish it (:meth:`StageFolder.finish`)."""

    def validate(self) -> None:  # noqa: B027  most stages have nothing to validate
        """Refuse what the config alone shows to be impossible, before any stage of the run begins."""

    def prepare(self) -> None:  # noqa: B027  most stages keep one folder
        """Make the folders that this stage keeps besides its own; see :meth:`Context.folder`."""

    def check(self) -> None:  # noqa: B027  most stages have nothing to check
        """Refuse what earlier steps show to be wrong, before this stage begins."""

    def report(self, folder: StageFolder) -> list[str]:
        """Return what to say of a stage that has just been done, a line each."""
        return []

    @classmethod
    def cost(cls, at: Setting, step: Step) -> list[Phase]:
        """Return what the step computes, for the plan; nothing by default."""
        return []


def spread(chunks: Sequence[Chunk], key: Key) -> list[Chunk]:
    """Return ``chunks`` in a keyed order that takes one of every document before a second of any."""
    by_document: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        by_document.setdefault(chunk.document_id, []).append(chunk)
    rows = []
    for document, chunks_of_it in by_document.items():
        # Keyed by the document: an added one moves none of the others.
        place = float(key.uniforms(document, 0, 1)[0])
        order = key.generator(document, 1).permutation(len(chunks_of_it))
        rows += [(rank, place, chunks_of_it[index]) for rank, index in enumerate(order)]
    # By rank first: a document's second chunk comes after the first one of every other.
    return [chunk for _, _, chunk in sorted(rows, key=lambda row: row[:2])]
