"""Continue a text with this model: python generate.py "The whale is a" [--tokens 40] [--temperature 0.8] [--seed 1].

This file stands alone beside the weights and needs torch and transformers.  A model that was trained to think writes a
thought between its tags first, then the continuation; interface.json beside this file says which tags and how long.
There is no chat template: the model goes on with the text as it stands.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent


def write(model: Any, ids: list[int], most: int, temperature: float, **options: Any) -> list[int]:
    """Return up to ``most`` new ids, drawn from the model's own distribution at ``temperature`` (0: the likeliest)."""
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    row = torch.tensor([ids])
    with torch.inference_mode():
        written = model.generate(
            row, attention_mask=torch.ones_like(row), max_new_tokens=most, pad_token_id=0, **sampling, **options
        )
    return list(written[0, len(ids) :].tolist())


def main() -> None:
    interface = json.loads((HERE / "interface.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description="Continue a text.")
    parser.add_argument("text")
    parser.add_argument("--tokens", type=int, default=interface["suffix_tokens"], help="length of the continuation")
    parser.add_argument("--temperature", type=float, default=1.0, help="0 takes the likeliest token")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.manual_seed(asked.seed)
    tokenizer = AutoTokenizer.from_pretrained(HERE)
    model = AutoModelForCausalLM.from_pretrained(HERE).eval()
    # Nothing ends a piece of raw text but its length: end-of-text and turn markers are not drawn.
    options = {"suppress_tokens": interface["never"], "eos_token_id": None} if interface["never"] else {}
    ids = interface["bos"] + tokenizer(asked.text, add_special_tokens=False).input_ids
    if interface["thinks"]:
        ids += interface["open"]
        thought = write(
            model,
            ids,
            interface["thought_tokens"],
            asked.temperature,
            stop_strings=[interface["tags"][1]],
            tokenizer=tokenizer,
            **options,
        )
        words, closed, _ = tokenizer.decode(thought).partition(interface["tags"][1])
        ids += thought if closed else thought + interface["close"]
        print(f"[thought] {words.strip()}")
    suffix = write(model, ids, asked.tokens, asked.temperature, **options)
    print(f"[text] {asked.text}{tokenizer.decode(suffix)}")


if __name__ == "__main__":
    main()
