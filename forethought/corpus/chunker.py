"""A document to prefixes and suffixes, exact in characters and in tokens."""

from __future__ import annotations

from collections import Counter

import numpy as np
from transformers import PreTrainedTokenizerBase

from forethought.config import ChunkConfig
from forethought.corpus.filters import split_of
from forethought.corpus.rows import CorpusError
from forethought.keys import Key
from forethought.records import Chunk, Document, content_id


def chunks(
    document: Document, tokenizer: PreTrainedTokenizerBase, config: ChunkConfig, key: Key, counts: Counter[str]
) -> list[Chunk]:
    """Cut a document into chunks that do not overlap, in the order of the text.

    The document is tokenised once and its tokens are divided into :func:`windows`; a cut inside a character that spans
    several tokens moves left.  Text, ids and what the ids decode to always agree; no BOS or EOS is added, and text that
    looks like a special token is text.

    ``counts`` gets ``too_few_tokens`` (documents too short for one chunk), ``inside_character`` (windows without an
    allowed cut) and ``inexact_tokens`` (windows whose ids do not decode to their text).  Raises a
    :class:`CorpusError` if the tokenizer is not a fast one, which knows offsets.
    """
    if not tokenizer.is_fast:
        raise CorpusError(
            f"{tokenizer.name_or_path}: chunks need a fast tokenizer, which gives the offsets of its tokens; "
            "choose a policy with a tokenizer.json"
        )
    encoding = tokenizer(
        document.text,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
        truncation=False,
        verbose=False,
    )
    ids: list[int] = encoding["input_ids"]
    # Where each place between tokens cuts the text, None inside a character: the end of the token before it, not the
    # start of the one after, because some tokenizers leave the space before a word out of the word's offsets.
    ends = [0, *(end for _, end in encoding["offset_mapping"])]
    starts = [*(start for start, _ in encoding["offset_mapping"]), len(document.text)]
    cuts = [end if end <= start else None for end, start in zip(ends, starts, strict=True)]
    places = windows(len(ids), config, key.generator(document.id))
    if not places:
        counts["too_few_tokens"] += 1
    cut_chunks: list[Chunk] = []
    for first, end in places:
        cut = _place(cuts, first, end, config)
        if cut is None:
            counts["inside_character"] += 1
            continue
        chunk = _chunk(document, ids, cuts, cut, config)
        decoded = [
            tokenizer.decode(list(part), clean_up_tokenization_spaces=False, skip_special_tokens=False)
            for part in (chunk.prefix_ids, chunk.suffix_ids)
        ]
        if decoded == [chunk.prefix, chunk.suffix]:
            cut_chunks.append(chunk)
        else:
            counts["inexact_tokens"] += 1
    return cut_chunks


def windows(tokens: int, config: ChunkConfig, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Return random windows ``(first token, end)`` of a document of ``tokens`` tokens, in order.

    A window has room for the longest prefix and a suffix.  As many as fit are used, at most ``chunks_per_document``;
    the remaining tokens become a window with a shorter prefix, or else gaps, whose placements are equally likely.
    """
    shortest, longest = (prefix + config.suffix_tokens for prefix in config.prefix_tokens)
    limit = config.chunks_per_document or tokens
    lengths = [longest] * min(tokens // longest, limit)
    rest = tokens - sum(lengths)
    if len(lengths) < limit and rest >= shortest:
        lengths.append(min(rest, longest))
        # Or the shorter window would always be the document's end.
        generator.shuffle(lengths)
    slack = tokens - sum(lengths)
    # Sorted distinct draws less their ranks: every arrangement of the gaps is equally likely.
    gaps = np.sort(generator.choice(slack + len(lengths), size=len(lengths), replace=False)) - np.arange(len(lengths))
    firsts = gaps + np.cumsum([0, *lengths])[:-1]
    return [(int(first), int(first) + length) for first, length in zip(firsts, lengths, strict=True)]


def _place(cuts: list[int | None], first: int, end: int, config: ChunkConfig) -> tuple[int, int] | None:
    """Return (first token of the prefix, first token of the suffix) with the longest prefix that the cuts allow."""
    first = next((place for place in range(first, end) if cuts[place] is not None), end)
    for suffix in range(end - config.suffix_tokens, first + config.prefix_tokens[0] - 1, -1):
        if cuts[suffix] is not None and cuts[suffix + config.suffix_tokens] is not None:
            return first, suffix
    return None


def _chunk(
    document: Document, ids: list[int], cuts: list[int | None], place: tuple[int, int], config: ChunkConfig
) -> Chunk:
    first, suffix_first = place
    end = suffix_first + config.suffix_tokens
    start, middle, stop = cuts[first], cuts[suffix_first], cuts[end]
    prefix, suffix = document.text[start:middle], document.text[middle:stop]
    return Chunk(
        id=content_id(document.id, start, prefix, suffix),
        document_id=document.id,
        split=split_of(document.split_key, config),
        start=start or 0,
        prefix=prefix,
        suffix=suffix,
        prefix_ids=tuple(ids[first:suffix_first]),
        suffix_ids=tuple(ids[suffix_first:end]),
    )
