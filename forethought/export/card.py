"""The model card of an exported arm: what it is, how it was made, what was measured, all from the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from forethought import __version__
from forethought.config import Config
from forethought.export.arms import TRAINS, Trained
from forethought.graph import STEPS, Step, needs
from forethought.models import TINY_PARAMETERS, packages
from forethought.report.cells import interval
from forethought.store import BASE, SHARED, Run

METRICS: Mapping[str, tuple[str, ...]] = {
    "evaluate": ("win_rate", "suffix_nll", "suffix_nll_change"),
    "evaluate-sft": ("text NLL change", "thought NLL", "opens", "well-formed", "closes", "win_rate"),
    "evaluate-rlmt": ("gate reward", "gate reward difference", "close rate", "probe reward", "probe reward difference"),
}
"""What a card shows of a stage's figures; of other evaluations it shows all."""

SETTINGS = (
    *("objective", "reward", "advantage", "steps", "prefixes_per_step", "rows_per_step", "windows_per_step"),
    *("rollouts", "thought_tokens", "suffix_tokens", "learning_rate", "beta", "kl_weight", "seed"),
)
"""What a card shows of a stage's settings."""


def card(run: Run, config: Config, arm: Trained, interface: Mapping[str, Any]) -> str:
    """Return README.md of an exported arm, as the Hugging Face hub reads it."""
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "license: other",
        "tags:",
        "- forethought",
        "- continued-pretraining",
        "---",
        f"# {config.name}: {arm.name}",
        "",
        *_what(config, arm),
        "## Use",
        "",
        *_use(arm, interface),
        "## How it was made",
        "",
        *_stages(run, config, arm),
        "## What was measured",
        "",
        *_figures(run, arm),
        "## To make it again",
        "",
        *_again(arm),
        "## Licence",
        "",
        *_licence(config),
    ]
    return "\n".join(lines) + "\n"


def _what(config: Config, arm: Trained) -> Iterator[str]:
    if arm.name == BASE:
        yield f"`{config.policy.model}` as it was before any training of this run."
    else:
        yield f"A base language model that went on from `{config.policy.model}` on ordinary text. It continues text; it"
        yield "follows no instructions and has no chat template."
    yield ""


def _use(arm: Trained, interface: Mapping[str, Any]) -> Iterator[str]:
    yield from ("```bash", 'python generate.py "The whale is a"', "```", "")
    if arm.thinks:
        open_, close = interface["tags"]
        yield f"After `{open_}` it writes a thought of up to {interface['thought_tokens']} tokens, closes it with"
        yield f"`{close}`, and goes on with the text. `generate.py` opens the thought, closes it if the model does not,"
        yield "and prints both; the thought is no part of the text. `interface.json` holds tags and lengths."
    else:
        yield "It goes on with the text; it was not trained to think first."
    yield ""


def _stages(run: Run, config: Config, arm: Trained) -> Iterator[str]:
    summary = (run.look(SHARED, "chunk").manifest() or {}).get("summary", {})
    yield f"Text: {config.corpus.source}" + (f", `{config.corpus.path}`" if config.corpus.path else "") + "."
    for split, counts in summary.get("splits", {}).items():
        yield f"- {split}: {counts['chunks']} chunks of {counts['documents']} documents"
    yield from ("", "No two of these splits share a document.", "")
    for number, step in enumerate(lineage(arm), start=1):
        folder = run.look(step.arm, step.stage)
        made = folder.read_json("config") or {}
        values = {**made, **made.get(step.stage, {})}
        shown = ", ".join(f"{key} {values[key]}" for key in SETTINGS if values.get(key) is not None)
        identity = folder.identity if folder.done else "not done"
        yield f"{number}. **{step.stage}** ({step.arm}): {shown}. Identity `{identity}`."
    yield ""


def lineage(arm: Trained) -> list[Step]:
    """Return the training steps that led to an arm, the last one included."""
    own = [step for step in STEPS if arm.folder and (step.arm, step.stage) == (arm.name, arm.folder.stage)]
    return [step for step in (*needs(own, STEPS), *own) if step.stage in TRAINS]


def _figures(run: Run, arm: Trained) -> Iterator[str]:
    shown = [
        one
        for one in run.measurements()
        if one.arm == arm.name
        and one.stage.startswith("evaluate")
        and one.metric in METRICS.get(one.stage, (one.metric,))
    ]
    if not shown:
        yield from ("Nothing was measured on this arm.", "")
        return
    yield "On documents that no training saw, with 95% intervals; n is the denominator."
    yield from ("", "| figure | against | condition | judge | value | n | unit |", "|---|---|---|---|---|---|---|")
    for one in shown:
        value = interval(one.value, one.low, one.high, lambda number: f"{number:.3g}")
        cells = (one.metric, one.against, one.condition, one.judge, value, one.n, one.unit)
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _again(arm: Trained) -> Iterator[str]:
    target = f" --until {arm.name}/{arm.folder.stage}" if arm.folder else " --dry-run"
    yield f"`forethought.json` is the config of the run, resolved. With forethought {__version__}:"
    yield from ("", "```bash", f"forethought run forethought.json{target}", "```", "")
    yield "Paths of text in it are relative to where the run was started. On the CPU the weights come out bit for bit."
    yield ""


def _licence(config: Config) -> Iterator[str]:
    known = {name: model.licence for name, model in packages().items()} | dict.fromkeys(TINY_PARAMETERS, "none needed")
    licence = known.get(config.policy.model)
    named = f"`{config.policy.model}`: {licence}." if licence else f"see the licence of `{config.policy.model}`."
    yield f"The weights are derived from the base model and keep its licence: {named}"
    yield "The text that they were trained on has a licence of its own."
