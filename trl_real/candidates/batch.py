"""Read the rows of a batch: prompts, responses or pairs, with their texts and scores."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from datasets.formatting.formatting import LazyRow

from ..core.columns import as_arrow, as_text_array, cell, is_text_array, is_untouched, kind, lengths, read_column
from ..core.messages import as_message, is_messages, response_text, split_prompt


# The columns that are read.
COLUMNS = ("prompt", "responses", "scores", "chosen", "rejected", "embeddings", "skip_reason")
RowsType = TypeVar("RowsType", bound="Rows")


@dataclass
class Rows:
    """
    The rows of a batch of n prompts with m responses in total.

    Attributes:
        prompts (`list` or `pa.Array` of length n): Text, messages or null.
        counts (`np.ndarray` of shape `(n,)`): How many responses each prompt has.
        responses (`list` or `pa.Array` of length m): Text, messages or null.
        texts (`pa.Array` of length m): The responses as text, `""` for null.
        reasons (`list` of length n): Why a row was given up on reading or, from a column `skip_reason`, before; mostly
            `None`.
        rewritten (`bool`): Whether prompts or responses are no longer as they came in: an implicit prompt was split off,
            or text became messages.
    """

    prompts: Any
    counts: np.ndarray
    responses: Any
    texts: pa.Array
    reasons: list[str | None]
    rewritten: bool = False

    @property
    def starts(self) -> np.ndarray:
        """Where the responses of each prompt begin, `(n,)`."""
        return np.cumsum(self.counts) - self.counts

    @property
    def row_of(self) -> np.ndarray:
        """The row of each response, `(m,)`."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


@dataclass
class Candidates(Rows):
    """
    Prompts with any number of responses, from which pairs are picked.

    Attributes:
        scores (`np.ndarray` of shape `(m,)` or `None`): NaN where missing; `None` if there is no such column.
    """

    scores: np.ndarray | None = None


@dataclass
class GivenPairs(Rows):
    """Prompts with the two sides of a pair, which came as `chosen` and `rejected`: in `responses` chosen, then rejected."""


def read_rows(batch: Any, caller: str) -> Candidates | GivenPairs:
    """
    Read the rows of a batch that `datasets.map` hands over, or raise an error that names the column. `chosen` and
    `rejected` win over `responses` where a row has both.

    Args:
        batch (`Mapping`): Columns, as lists or in an Arrow table.
        caller (`str`): Who asks, for messages.
    """
    _check_batch(batch, caller)
    if "chosen" in batch and "rejected" in batch:
        return _read_given_pairs(batch)
    if "responses" in batch and "prompt" in batch:
        return _read_candidates(batch)
    raise ValueError(
        f"{caller} expects the columns `prompt` and `responses` (and `scores`, if there are any), or `chosen` and "
        f"`rejected` (and `prompt`). Found: {sorted(batch)}. `to_candidates(dataset)` makes them from the layouts it "
        "knows."
    )


def _read_candidates(batch: Any) -> Candidates:
    prompts, lists = as_arrow(batch, "prompt"), as_arrow(batch, "responses")
    if is_text_array(prompts) and _is_list_of(is_text_array, lists):  # without a Python object for each
        counts, responses = lengths(lists), lists.flatten()
        texts = responses.fill_null("")
    else:
        prompts = read_column(batch, "prompt")
        for r, prompt in enumerate(prompts):
            check_prompt(prompt, "prompt", r)
        rows = [read_list(row, "responses", r) or [] for r, row in enumerate(read_column(batch, "responses"))]
        texts = as_text_array(read_text(response, "responses", r) for r, row in enumerate(rows) for response in row)
        counts, responses = (
            np.array([len(row) for row in rows], dtype=np.int64),
            [item for row in rows for item in row],
        )
    candidates = Candidates(prompts, counts, responses, texts, _read_reasons(batch, len(counts)))
    candidates.scores = _read_scores(batch, counts) if "scores" in batch else None
    return _as_messages(candidates, batch, ["prompt", "responses"])


def _read_scores(batch: Any, counts: np.ndarray) -> np.ndarray:
    lists = as_arrow(batch, "scores")
    if _is_list_of(_is_number, lists) and np.array_equal(lengths(lists), counts):
        return lists.flatten().cast(pa.float64(), safe=False).fill_null(math.nan).to_numpy()
    rows = zip(read_column(batch, "scores"), counts.tolist(), strict=True)
    scores = [read_scores(row, count, "scores", r) for r, (row, count) in enumerate(rows)]
    return np.array([score for row in scores for score in row], dtype=np.float64)


def _read_given_pairs(batch: Any) -> GivenPairs:
    pairs = [list(pair) for pair in zip(read_column(batch, "chosen"), read_column(batch, "rejected"), strict=True)]
    texts = [[read_text(pair[0], "chosen", r), read_text(pair[1], "rejected", r)] for r, pair in enumerate(pairs)]
    prompts = read_column(batch, "prompt") if "prompt" in batch else [None] * len(pairs)
    reasons = _read_reasons(batch, len(pairs))
    rewritten = "prompt" not in batch
    for r, (prompt, pair) in enumerate(zip(prompts, pairs, strict=True)):
        if "prompt" not in batch or _repeats_prompt(prompt, pair):
            if None not in pair and isinstance(pair[0], str) != isinstance(pair[1], str):
                raise TypeError(
                    f"{cell('rejected', r)}: expected the same kind as `chosen`, text or messages, for the prompt to be "
                    f"split off, found {kind(pair[1])}."
                )
            prompts[r], pairs[r] = split_prompt(*pair)
            texts[r] = ["" if response is None else response_text(response) for response in pairs[r]]
            if prompts[r] is None and None not in pair:
                reasons[r] = reasons[r] or "no_shared_turn"
            rewritten = True
        else:
            check_prompt(prompt, "prompt", r)
    given = GivenPairs(
        prompts,
        counts=np.full(len(pairs), 2),
        responses=[response for pair in pairs for response in pair],
        texts=as_text_array(text for row in texts for text in row),
        reasons=reasons,
        rewritten=rewritten,
    )
    return _as_messages(given, batch, ["prompt", "chosen", "rejected"])


def _repeats_prompt(prompt: Any, pair: list[Any]) -> bool:
    """Whether both sides are whole conversations beside a prompt that is text, as in UltraFeedback binarized."""
    return isinstance(prompt, str) and all(
        isinstance(side, list) and len(side) > 1 and side[0].get("role") in ("system", "user") for side in pair
    )


def _read_reasons(batch: Any, n: int) -> list[str | None]:
    """Why the rows were given up by an earlier stage."""
    if "skip_reason" not in batch:
        return [None] * n
    return [reason if isinstance(reason, str) else None for reason in read_column(batch, "skip_reason")]


def _as_messages(rows: RowsType, batch: Any, columns: list[str]) -> RowsType:
    """The rows, their texts as messages if prompts or responses are messages, which the types of the columns tell if known."""
    if hasattr(batch, "pa_table"):
        schema = batch.pa_table.schema
        types = {name: schema.field(name).type for name in columns if name in schema.names}
        if "responses" in types:
            types["responses"] = getattr(types["responses"], "value_type", types["responses"])
        conversational = any(pa.types.is_nested(t) or isinstance(t, pa.BaseExtensionType) for t in types.values())
    else:
        conversational = any(isinstance(value, list) for value in itertools.chain(rows.prompts, rows.responses))
    if conversational and any(isinstance(prompt, str) for prompt in rows.prompts):
        rows.prompts = [as_message(prompt, "user") for prompt in rows.prompts]
        rows.rewritten = True
    if conversational and any(isinstance(response, str) for response in rows.responses):
        rows.responses = [as_message(response, "assistant") for response in rows.responses]
        rows.rewritten = True
    return rows


def _is_number(column: pa.Array) -> bool:
    return pa.types.is_floating(column.type) or pa.types.is_integer(column.type)


def _is_list_of(is_item: Callable[[pa.Array], bool], column: pa.Array | None) -> bool:
    if column is None or not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return False
    return is_item(column.values)


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
    for score in scores:
        if score is not None and (isinstance(score, bool) or not isinstance(score, Real)):
            raise TypeError(f"{cell(column, r)}: expected numbers or None, found {kind(score)}.")
    return [math.nan if score is None else float(score) for score in scores]


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


def _check_batch(batch: Any, caller: str) -> None:
    if not isinstance(batch, Mapping):
        raise TypeError(f"{caller} takes a batch as a dict of columns or a table, got {type(batch).__name__}.")
    columns = {name: batch[name] for name in COLUMNS if name in batch and not is_untouched(batch, name)}
    if isinstance(batch, LazyRow) or any(isinstance(column, str) for column in columns.values()):
        raise ValueError(f"{caller} takes a batch, got a single row. Call `dataset.map({caller}, batched=True)`.")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The columns of a batch must have the same length, found {lengths}.")


def check_prompt(prompt: Any, column: str, r: int) -> None:
    """Raise unless a prompt is text, messages or null."""
    if not (prompt is None or isinstance(prompt, str) or is_messages(prompt)):
        raise TypeError(f"{cell(column, r)}: expected str or a list of messages, found {kind(prompt)}.")
    _check_text(response_text(prompt or ""), column, r)


def _check_text(text: str, column: str, r: int) -> str:
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:  # half of a character, which neither Arrow nor a tokenizer takes
        raise ValueError(
            f"{cell(column, r)}: found a lone surrogate, {error.object[error.start : error.end]!r}, at position "
            f"{error.start}. Correct the text, for example with `text.encode('utf-8', 'replace').decode()`."
        ) from None
    return text
