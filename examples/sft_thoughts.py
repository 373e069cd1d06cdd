"""Stage 2 in one loop: next-token loss on text into which a teacher put thoughts, of which no byte was changed.

    python examples/sft_thoughts.py                          # a tiny random model and a rule as teacher, in seconds
    python examples/sft_thoughts.py --model smollm2-135m-instruct --rate 1e-5 --thoughts mine.jsonl

A line of ``--thoughts`` is ``{"before": "It burned down.", "thought": "A new one, then?", "after": " It was ..."}``.
``forethought run`` asks a language model for thoughts, checks them, and trains a control on the same text without any.

Shape legend: B rows of a step.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import forethought as ft

TEXTS = Path(ft.__file__).parent / "configs" / "smoke.jsonl"

Row = tuple[str, str, str]
"""Text before the thought, the thought, text after it."""


def stub_teacher(text: str) -> Row:
    """Put a thought behind the first sentence.  A real teacher may read all of it and must not give it away."""
    before, _, after = text.partition(". ")
    return before + ".", f" So much for {before.split()[0]}. What else?", " " + after


def thought_nll(model: ft.Model, rows: Sequence[Row]) -> float:
    """Return the mean NLL of thoughts and closing tags after what stands before them, nats per token."""
    opening, closing = model.thoughts.open, model.thoughts.close
    groups = [
        model.group(model.encode(before) + opening, [model.encode(thought) + closing]) for before, thought, _ in rows
    ]
    logprobs = [branch for [branch] in model.logprobs(groups)]
    return -float(sum(branch.sum() for branch in logprobs)) / sum(map(len, logprobs))


def main(args: argparse.Namespace) -> None:
    policy = ft.Model.load(args.model)  # its tags are <think> and </think>; `tags=` chooses others
    # Every id of a text is predicted here, so none is taken out of the vocabulary as in sampling.
    trainer = policy.trainer(as_drawn=False, steps=args.steps, learning_rate=args.rate, warmup_steps=2)
    lines = [json.loads(line) for line in (args.thoughts or args.texts).read_text(encoding="utf-8").splitlines()]
    given = args.thoughts is not None
    rows = [(o["before"], o["thought"], o["after"]) if given else stub_teacher(o["text"]) for o in lines]
    heldout, train = rows[: len(rows) // 5], rows[len(rows) // 5 :]  # documents are split, never parts of one
    print(f"before: thoughts {thought_nll(policy, heldout):.3f} nats per token")
    for step in range(args.steps):
        rows_B = [train[(step * args.rows + i) % len(train)] for i in range(args.rows)]
        # Tags and thought go between ids of the text, which are the same with a thought and without.
        ids_B = [
            policy.bos + policy.encode(before) + policy.thoughts.between_tags(thought) + policy.encode(after)
            for before, thought, after in rows_B
        ]
        # A row is a branch of its first token, which nothing predicts; rows are packed and do not see one another.
        groups = [policy.group(ids[len(policy.bos) : 1], [ids[1:]]) for ids in ids_B]
        tokens = sum(len(ids) - 1 for ids in ids_B)
        # The mean over all tokens of the step: text, tags and thoughts alike.
        metrics = trainer.step(
            [ft.Example(group=group) for group in groups], ft.nll, step=step, normaliser=float(tokens)
        )
        print(f"step {step + 1}: loss {metrics['loss']:.4f} nats per token")
    print(f"after: thoughts {thought_nll(policy, heldout):.3f} nats per token")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-llama", help="a hub name, a folder, or a packaged name")
    parser.add_argument("--texts", type=Path, default=TEXTS, help="a file with a `text` in every line")
    parser.add_argument("--thoughts", type=Path, help="a file of texts with thoughts, instead of the rule as teacher")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rows", type=int, default=4, help="B, rows of a step")
    parser.add_argument("--rate", type=float, default=6e-3, help="peak learning rate")
    main(parser.parse_args())
