"""What the model of each judge did in a run, read from the run's config: who may be asked what stage 1, 2 or 3 changed.

A judge's name says nothing of that: a judge that trained no policy may be the teacher whose words stage 2 trained on.
So models are compared, judge by judge, with every model that had a part in the training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from forethought import config as settings
from forethought import metrics as m
from forethought.config import Config, JudgeConfig, MatchConfig
from forethought.config.sources import PromptedConfig
from forethought.run.store import Run

TRAINED, RANKED, REWROTE, CONTRASTED = (
    "trained stage 1",
    "ranked in stage 1",
    "rewrote for stage 1",
    "contrast of stage 1",
)
TAUGHT, REWARDED, POLICY = "teacher of stage 2", "rewarded stage 3", "is the policy"
"""What a judge or its model can have done."""
NOTHING, UNKNOWN = "trained nothing", "what it did is not known"
_BEFORE = {
    m.EVALUATE: (TRAINED, RANKED, REWROTE, CONTRASTED, POLICY),
    m.EVALUATE_SFT: (TRAINED, RANKED, REWROTE, CONTRASTED, POLICY, TAUGHT),
}
"""What bars a judge from a stage: a part in the training of what is compared there.  Elsewhere everything does."""
_MARK = " (training)"
"""Ends the name under which a training judge compares arms; see ``Context.comparing_judges``."""
_KINDS = {"gain": "likelihood-gain", "match": "llm", "similarity": "similarity"}
"""Kind of a shipped match judge by the start of its name."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a judge in a run."""

    name: str
    """Its name in the config where it has one, else the name of the figure's judge."""
    did: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    """What it has in common with a judge that trained: ``formula and copy charge with smollm2``."""
    known: bool = True

    def independent(self, stage: str) -> bool:
        """Return whether it is known that neither judge nor model had a part in what is compared in ``stage``."""
        return self.known and not self.took_part(stage)

    def took_part(self, stage: str) -> bool:
        return bool(set(self.did) & set(_BEFORE.get(stage, self.did)))

    @property
    def text(self) -> str:
        """What it did and shares, in words: ``teacher of stage 2; shares formula with smollm2, which trained``."""
        did = ", ".join(self.did) or (NOTHING if self.known else UNKNOWN)
        return did + "".join(f"; shares {one}, which trained" for one in self.shares)


def judges_of(run: Run) -> Judges:
    """Return the judges of a run, whose standing is not known where its config is not, or is one of another version."""
    kept = run.config()
    try:
        return Judges(None if kept is None else settings.build(kept, where=str(run.path / "run.json")))
    except settings.ConfigError:
        return Judges()


class Judges:
    """The judges of one run.  ``config`` is the run's resolved config, or ``None`` where it is not known."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config

    def of(self, judge: str, stage: str) -> Standing:
        """Return the standing of a figure's judge: a name of the config, or ``<judge's name> >= <threshold>``."""
        name = judge.removesuffix(_MARK)
        marked = (TRAINED,) if name != judge else ()
        if self.config is None:
            return Standing(name, marked, known=bool(marked))
        if stage in (m.EVALUATE, m.EVALUATE_SFT):
            known = self.config.judges if marked else self.config.evaluate.judges
            return self._pair(name, known[name], marked) if name in known else Standing(name, marked, known=False)
        return self._match(judge)

    def _pair(self, name: str, judge: JudgeConfig, did: tuple[str, ...]) -> Standing:
        assert self.config is not None
        if did:  # that its own model ranked goes without saying
            return Standing(name, did + tuple(one for one in self._parts(judge) if one != RANKED))
        return Standing(name, tuple(self._parts(judge)), tuple(_shared(judge, self.config.judges)))

    def _match(self, judge: str) -> Standing:
        """Return the standing of a match judge, whose name says kind and model."""
        assert self.config is not None
        training, others = self._matchers()
        label = judge.partition(" >= ")[0].partition("@")[0]
        fits = {name: one for name, one in (training | others).items() if _labelled(label, one)}
        if not fits:
            return Standing(judge, known=False)
        name = min(fits)
        # Of two that read alike one may have trained: then both count as if they had.
        trained = bool(training.keys() & fits.keys()) or any(_alike(fits[name], one) for one in training.values())
        did = (REWARDED,) if trained else ()
        shares = (
            ()
            if did
            else tuple(f"kind with {rewarding}" for rewarding, one in training.items() if one.kind == fits[name].kind)
        )
        return Standing(judge.partition("@")[0], tuple(dict.fromkeys((*did, *self._parts(fits[name])))), shares)

    def _matchers(self) -> tuple[dict[str, MatchConfig], dict[str, MatchConfig]]:
        """Return the match judges that rewarded stage 3, and the others, by their tables of the config."""
        assert self.config is not None
        rlmt = self.config.rlmt
        own = {} if rlmt is None else {"rlmt.match": rlmt.match}
        # A reward that asks no judge leaves even its own config's match judge a stranger to the training.
        training = own if rlmt is not None and not rlmt.thought_only else {}
        others: Mapping[str, MatchConfig] = getattr(self.config.thinking, "judges", {})
        return training, {
            **({} if training else own),
            **{f"thinking.judges.{name}": one for name, one in others.items()},
        }

    def _parts(self, judge: PromptedConfig) -> Iterator[str]:
        """Yield what the model of a judge did in the run, whatever else it judges under this name."""
        model = identity(judge)
        if model is None or self.config is None:
            return
        config, improve = self.config, self.config.improve
        parts = (
            (RANKED, config.judges.values() if improve.ranks else ()),
            (REWROTE, [improve.rewrite] if improve.rewrites and improve.rewrite else ()),
            (TAUGHT, [config.interleave.teacher] if config.interleave and config.sft else ()),
            (REWARDED, self._matchers()[0].values()),
        )
        yield from (did for did, models in parts if any(identity(one) == model for one in models))
        contrasts = [one.contrast.model for one in config.judges.values() if one.contrast and improve.ranks]
        if model in map(_short, contrasts):
            yield CONTRASTED
        if model == _short(config.policy.model):
            yield POLICY


def identity(config: PromptedConfig) -> str | None:
    """Return the name of the model behind a judge or teacher, comparable between hub, server and package."""
    named = config.model or config.endpoint
    return None if named is None else _short(named.model)


def family(model: str) -> str:
    """Return the family of a model, the first word of its name: ``qwen`` of ``Qwen/Qwen2.5-Coder-1.5B``."""
    found = re.match(r"(?:tiny-)?([a-z]+)", _short(model))
    return found[1] if found else _short(model)


def _short(model: str) -> str:
    """Return ``owner/name`` of a hub as ``name``, which packages and servers call it; a deeper path stays whole."""
    model = model.lower().removesuffix(".gguf")
    return model.rpartition("/")[2] if model.count("/") == 1 else model


def _alike(one: MatchConfig, other: MatchConfig) -> bool:
    """Return whether two match judges are one in kind and model, whatever their thresholds and prompts."""
    same = one.kind == other.kind and identity(one) == identity(other) and one.path == other.path
    return same and (one.kind != "similarity" or one.embedder == other.embedder)


def _labelled(label: str, match: MatchConfig) -> bool:
    """Return whether the shipped name of a match judge, or any other name, can be that of ``match``."""
    kind, _, model = label.partition("-")
    if kind not in _KINDS:
        return match.kind == "custom"
    known = PurePath(match.embedder).name if kind == "similarity" else identity(match) or ""
    return match.kind == _KINDS[kind] and _short(model) in (_short(known), PurePath(known).name.lower())


def _shared(judge: JudgeConfig, training: Mapping[str, JudgeConfig]) -> Iterator[str]:
    """Yield what a judge has in common with each of those that train."""
    for name, other in training.items():
        same = []
        if (judge.kind, judge.axis, judge.path) == (other.kind, other.axis, other.path):
            same.append("formula")
            if judge.kind == "likelihood" and judge.copy_cost and other.copy_cost:
                same.append("copy charge")
        models = [one for one in (judge.model or judge.endpoint, other.model or other.endpoint) if one is not None]
        if len(models) == 2 and family(models[0].model) == family(models[1].model):
            same.append("family")
        if same:
            yield f"{' and '.join([', '.join(same[:-1]), same[-1]] if len(same) > 1 else same)} with {name}"
