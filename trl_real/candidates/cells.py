"""Read one cell of a column: a prompt, a response, a list of responses, or scores."""

import math
from typing import Any

from ..core.columns import cell, is_number, kind
from ..core.messages import is_messages, response_text


def read_list(value: Any, column: str, r: int) -> list[Any] | None:
    """A cell that holds one item per response, or null."""
    if not (value is None or isinstance(value, list)):
        raise TypeError(f"{cell(column, r)}: expected a list with one item per response, found {kind(value)}.")
    return value


def read_scores(value: Any, n_responses: int, column: str, r: int) -> list[float]:
    """The scores of a row as floats, NaN for a missing one."""
    scores = read_list(value, column, r)
    if scores is None:
        return [math.nan] * n_responses
    if len(scores) != n_responses:
        raise ValueError(
            f"{cell(column, r)}: found {len(scores)} scores for {n_responses} responses. Pass one score per response, "
            "with None for missing scores."
        )
    return [read_number(score, column, r, "List(Value('float64'))") for score in scores]


def read_number(value: Any, column: str, r: int, feature: str = "Value('float64')") -> float:
    """A score as a float, NaN for a missing one; `feature` is the feature to cast its column to."""
    if value is None:
        return math.nan
    if not is_number(value):
        raise TypeError(
            f"{cell(column, r)}: expected numbers or None, found {kind(value)}. If it represents a number, cast the column: "
            f"`dataset.cast_column({column!r}, {feature})`."
        )
    return float(value)


def read_text(response: Any, column: str, r: int) -> str:
    """The text of a response, `""` for null."""
    if response is None:
        return ""
    if isinstance(response, str) or is_messages(response):
        return _check_text(response_text(response), column, r)
    raise TypeError(
        f"{cell(column, r)}: expected a response as str or as a list of messages [{{'role': ..., 'content': ...}}], "
        f"found {kind(response)}."
    )


def check_alike(responses: list[Any], column: str, r: int) -> None:
    """Raise if some responses of a row are text and others messages."""
    kinds = {isinstance(response, str): response for response in responses if response is not None}
    if len(kinds) > 1:
        raise TypeError(
            f"{cell(column, r)}: expected text or messages, not both, found {kind(kinds[False])}. Convert text to messages: "
            "`[{'role': 'assistant', 'content': text}]`."
        )


def check_prompt(prompt: Any, column: str, r: int) -> None:
    """Raise unless a prompt is text, messages or null."""
    if not (prompt is None or isinstance(prompt, str) or is_messages(prompt)):
        raise TypeError(f"{cell(column, r)}: expected str or a list of messages, found {kind(prompt)}.")
    _check_text(response_text(prompt or ""), column, r)


def _check_text(text: str, column: str, r: int) -> str:
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:  # half of a character, which Arrow and tokenizers reject
        raise ValueError(
            f"{cell(column, r)}: found a lone surrogate, {error.object[error.start : error.end]!r}, at position "
            f"{error.start}. Correct the text, for example with `text.encode('utf-8', 'replace').decode()`."
        ) from None
    return text
