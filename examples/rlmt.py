"""Stage 3 in one loop, RL mid-training: think after a prefix, then predict; predictions that come true are rewarded.

    python examples/rlmt.py                                  # a tiny random model, in seconds
    python examples/rlmt.py --model smollm2-135m-instruct --embedder all-minilm-l6-v2 --threshold 0.6 --rate 1e-5

Dr. GRPO (Liu et al. 2025, arXiv 2503.20783) on a 0/1 reward (Tan et al. 2026, arXiv 2601.21343, section 2).
``forethought run`` calibrates the threshold, starts from a model that learnt to think, and probes its thoughts.

Shape legend: P prefixes of a step, G rollouts of each: a thought and a suffix.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import forethought as ft

TEXTS = Path(ft.__file__).parent / "configs" / "smoke.jsonl"

PREFIX, THOUGHT, SUFFIX = 32, 12, 8  # tokens; of a thought, the most


def main(args: argparse.Namespace) -> None:
    policy = ft.Model.load(args.model)  # its tags are <think> and </think>; `tags=` chooses others
    matcher = ft.Matcher(judge=ft.SimilarityJudge(ft.load_embedder(args.embedder)), threshold=args.threshold)
    trainer = policy.trainer(steps=args.steps, learning_rate=args.rate, warmup_steps=2)
    texts = [policy.encode(json.loads(line)["text"]) for line in args.texts.read_text(encoding="utf-8").splitlines()]
    texts = [ids for ids in texts if len(ids) >= PREFIX + SUFFIX]
    for step in range(args.steps):
        numbers_P = [(step * args.prefixes + i) % len(texts) for i in range(args.prefixes)]
        prefixes_P = [texts[number][:PREFIX] for number in numbers_P]
        suffixes_P = [policy.decode(texts[number][PREFIX : PREFIX + SUFFIX]) for number in numbers_P]
        # At temperature 1, without top-p: what is drawn has the probability that the trainer computes.
        prompts_P = [ft.Prompt(id=str(n), token_ids=policy.bos + texts[n][:PREFIX]) for n in numbers_P]
        key = ft.Key(args.seed, "thoughts").at(step)
        rollouts_PG = policy.think(prompts_P, args.rollouts, thought_tokens=THOUGHT, max_tokens=SUFFIX, key=key)
        # The judge compares the suffix with the true one.  It never sees the thought: `text` is without it.
        requests = [
            ft.JudgeRequest(prefix=policy.decode(ids), candidates=tuple(r.text for r in rollouts_G), original=suffix)
            for ids, rollouts_G, suffix in zip(prefixes_P, rollouts_PG, suffixes_P, strict=True)
        ]
        rewards_PG = [[matcher.passes(score) for score in scores_G] for scores_G in matcher.scores(requests)]
        examples = []
        for ids, rollouts_G, rewards_G in zip(prefixes_P, rollouts_PG, rewards_PG, strict=True):
            advantages_G = ft.dr_grpo(rewards_G, None)  # reward less the group's mean; no reward, no advantage
            if any(advantages_G):  # else all earned the same, and there is nothing to learn
                group = policy.group(ids + policy.thoughts.open, [r.token_ids for r in rollouts_G])
                # A tag that the sampler inserted was not drawn, and is never trained.
                weights = tuple(np.array(r.drawn, np.float32) for r in rollouts_G)
                examples.append(ft.Example(group=group, weights=weights, advantages=advantages_G))
        earned = [reward for rewards_G in rewards_PG for reward in rewards_G if reward is not None]
        print(f"step {step + 1}: reward {np.mean(earned):.3f}, groups that teach {len(examples)} of {args.prefixes}")
        if examples:
            # Dr. GRPO divides by a constant, groups left out included: neither length nor luck changes the step size.
            constant = args.prefixes * args.rollouts * (THOUGHT + SUFFIX)
            trainer.step(examples, ft.policy_gradient, step=step, normaliser=constant)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-llama", help="a hub name, a folder, or a packaged name")
    parser.add_argument("--embedder", default="letters", help="compares suffixes: `letters` or a sentence embedder")
    parser.add_argument("--threshold", type=float, default=0.1, help="similarity from which a suffix matches")
    parser.add_argument("--texts", type=Path, default=TEXTS, help="a file with a `text` in every line")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--prefixes", type=int, default=4, help="P, prefixes of a step")
    parser.add_argument("--rollouts", type=int, default=8, help="G, rollouts of each prefix")
    parser.add_argument("--rate", type=float, default=6e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    main(parser.parse_args())
