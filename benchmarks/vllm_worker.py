"""vLLM in a process of its own, driven line by line: ``python vllm_worker.py '{"model": ..., "tokens": 32, ...}'``.

It imports nothing of ours, because vLLM has other dependencies.  Each line on stdin asks for one round; the answer is
a JSON line: ``"timed"`` gives the seconds, ``"tokens"`` the sampled ids too.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def main() -> None:
    """Serve rounds until stdin closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints must not stand among the answers
    job = json.loads(sys.argv[1])
    hide(job["hidden"])
    import vllm

    llm = vllm.LLM(
        model=job["model"],
        dtype=job["dtype"],
        skip_tokenizer_init=True,
        max_model_len=job["context"],
        max_num_seqs=job["rows"],
        seed=0,
    )
    sampling = vllm.SamplingParams(
        n=job["k"],
        temperature=1.0,
        max_tokens=job["tokens"],
        min_tokens=job["tokens"],
        stop_token_ids=job["eos"],
        detokenize=False,
    )
    prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
    print(json.dumps({"version": vllm.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        llm.reset_prefix_cache()  # the policy changes between two steps, so its cache is worth nothing
        start = time.perf_counter()
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        answer = {"seconds": time.perf_counter() - start}
        if line.strip() == "tokens":
            answer["tokens"] = [[list(o.token_ids) for o in output.outputs] for output in outputs]
        print(json.dumps(answer), file=answers, flush=True)


def hide(features: list[str]) -> None:
    """Hide ``features`` of the processor from vLLM: it asks torch, which obeys no variable, and compiles for all."""
    if features:
        os.environ.pop("CXX", None)  # "false" here, so that our own kernels are not compiled; vLLM's must be
    import torch
    import torch._inductor.config as inductor

    for name in features:
        setattr(torch.cpu, f"_is_{name}_supported", lambda: False)
    if "avx512" in features:
        inductor.cpp.march = "x86-64-v3"


if __name__ == "__main__":
    main()
