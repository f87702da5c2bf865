"""The tokens of texts: how many there are, and the beginning of a long text that holds all of those that are embedded."""

from typing import Any

import numpy as np


# A text of more characters is tokenized in part, and the number of its tokens is estimated from that part.
LONG = 1 << 16
# So many tokens beyond the limit, those of the last words, may be others where a text goes on.
MARGIN = 256


def read_tokens(model: Any, texts: list[str]) -> tuple[list[str], np.ndarray | None]:
    """
    Tokenize texts, long ones only as far as they are embedded.

    Args:
        model: An embedder, perhaps with a `tokenizer` and the limit `max_seq_length`.
        texts (`list[str]`): What is embedded.

    Returns:
        `tuple[list[str], np.ndarray | None]`: The texts, of long ones the beginning, which has the same tokens up to the limit;
        and how many tokens each text has, `(n_texts,)`, those of long ones estimated, or `None` without a tokenizer and a limit.
    """
    tokenizer, limit = getattr(model, "tokenizer", None), getattr(model, "max_seq_length", None)
    if not callable(tokenizer) or limit is None:
        return texts, None
    parts, _, counts = read_ids(tokenizer, limit, texts)
    from_left = getattr(tokenizer, "truncation_side", "right") == "left"  # which embeds the end of a text
    return texts if from_left else parts, counts


def read_ids(tokenizer: Any, limit: int, texts: list[str]) -> tuple[list[str], list[list[int]], np.ndarray]:
    """
    Tokenize texts, long ones only as far as their first `limit` tokens need.

    Returns:
        `tuple[list[str], list[list[int]], np.ndarray]`: The part of each text that was tokenized; its tokens; and how many tokens
        the whole text has, `(n_texts,)`, those of long ones estimated.
    """
    size = LONG
    parts = [text[:size] for text in texts]
    ids = _ids(tokenizer, parts)
    while short := [
        i
        for i, text in enumerate(texts)
        if len(text) > size and len(parts[i]) == size and len(ids[i]) < limit + MARGIN
    ]:
        size *= 4
        for i in short:
            parts[i] = texts[i][:size]
        for i, found in zip(short, _ids(tokenizer, [parts[i] for i in short]), strict=True):
            ids[i] = found
    counts = [
        len(found) * len(text) // len(part) if part else len(found)
        for found, text, part in zip(ids, texts, parts, strict=True)
    ]
    return parts, ids, np.array(counts, dtype=np.int64)


def beginnings(model: Any, texts: list[str]) -> list[str]:
    """The texts of [`read_tokens`], without the tokens of short ones."""
    return read_tokens(model, texts)[0] if any(len(text) > LONG for text in texts) else texts


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return list(tokenizer(texts, truncation=False, return_attention_mask=False, verbose=False)["input_ids"])
