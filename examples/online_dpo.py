"""Stage 1 in one loop, Online DPO: continue a text K times, rank with the author's words, learn best against worst.

    python examples/online_dpo.py                            # a tiny random model, in seconds
    python examples/online_dpo.py --model gemma-3-270m --judge smollm2-135m-instruct --rate 1e-5

Without ``--judge`` the shorter text is the better one; with it, the one that the judge's model finds likelier.
``forethought run`` does the same with splits, audits, checkpoints, controls and a held-out evaluation.

Shape legend: P prefixes of a step, K rollouts of each.
"""

import argparse
import functools
import json
from collections import Counter
from pathlib import Path

import forethought as ft

TEXTS = Path(ft.__file__).parent / "configs" / "smoke.jsonl"


def main(args: argparse.Namespace) -> None:
    policy, reference = ft.Model.load(args.model), ft.Model.load(args.model)  # the reference stays as it is
    judge = ft.LikelihoodJudge(ft.Model.load(args.judge)) if args.judge else ft.ShorterJudge()
    trainer = policy.trainer(steps=args.steps, learning_rate=args.rate, warmup_steps=2)
    texts = [json.loads(line)["text"] for line in args.texts.read_text(encoding="utf-8").splitlines()]
    sizes = ft.ChunkConfig(prefix_tokens=(16, 32), suffix_tokens=12)
    documents = [ft.Document(id=str(n), text=text, source="", split_key="") for n, text in enumerate(texts)]
    chunks = [c for d in documents for c in ft.cut_chunks(d, policy.tokenizer, sizes, ft.Key(0, "chunks"), Counter())]
    for step in range(args.steps):
        chunks_P = [chunks[(step * args.prefixes + i) % len(chunks)] for i in range(args.prefixes)]
        # K continuations by the present policy, as long as the author's: none wins or loses by its number of tokens.
        prompts_P = [ft.Prompt(id=chunk.id, token_ids=policy.bos + chunk.prefix_ids) for chunk in chunks_P]
        key = ft.Key(args.seed, "rollouts").at(step)
        rollouts_PK = policy.sample(prompts_P, args.rollouts, max_tokens=sizes.suffix_tokens, key=key)
        # The author's own suffix stands among them.  Judges see texts in a random order, never who wrote them.
        pools_P = []
        for chunk, rollouts_K in zip(chunks_P, rollouts_PK, strict=True):
            written = [ft.candidate(chunk, ft.Origin.ROLLOUT, r.text, r.token_ids, k) for k, r in enumerate(rollouts_K)]
            original = ft.candidate(chunk, ft.Origin.CORPUS, chunk.suffix, chunk.suffix_ids)
            pools_P.append(ft.make_pool(chunk, [original, *written], ft.Key(args.seed, "order").at(step)))
        ranked_P = ft.rank_pools(pools_P, [judge], ties=ft.Key(args.seed, "ties").at(step))
        # Best against worst; a pool in which all scores are equal makes no pair.
        pairs = [(pool.chunk.prefix_ids, pool.preferred) for pool in ranked_P if pool.preferred is not None]
        groups = [policy.group(prefix, [pair.chosen.token_ids, pair.rejected.token_ids]) for prefix, pair in pairs]
        # The sampled ids themselves are trained on; DPO compares with what the reference says of the same ids.
        references = reference.logprobs(groups, as_trained=True)
        examples = [
            ft.Example(group=g, reference=tuple(logprobs)) for g, logprobs in zip(groups, references, strict=True)
        ]
        if examples:
            metrics = trainer.step(examples, functools.partial(ft.dpo, beta=0.1), step=step, normaliser=len(examples))
            own = sum(pair.chosen.origin is ft.Origin.ROLLOUT for _, pair in pairs) / len(pairs)
            print(
                f"step {step + 1}: loss {metrics['loss']:.4f}, margin {metrics['margin']:+.3f} nats, rollouts {own:.0%}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-llama", help="the policy: a hub name, a folder, or a packaged name")
    parser.add_argument("--judge", help="the judge's model [default: none, shorter is better]")
    parser.add_argument("--texts", type=Path, default=TEXTS, help="a file with a `text` in every line")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prefixes", type=int, default=4, help="P, prefixes of a step")
    parser.add_argument("--rollouts", type=int, default=4, help="K, continuations of each prefix")
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    main(parser.parse_args())
