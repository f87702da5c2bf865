"""Read the rows of a batch: prompts, responses or pairs, with their texts and scores."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import IterableDataset
from datasets.formatting.formatting import LazyRow

from ..core.columns import (
    arrow_batches,
    as_arrow,
    as_text_array,
    cell,
    is_text_array,
    is_untouched,
    kind,
    lengths,
    read_column,
)
from ..core.messages import HUMAN, as_message, response_text, split_prompt
from ..core.prompts import SYSTEM, take_off_prompt, with_system
from .cells import check_alike, check_prompt, read_list, read_number, read_scores, read_text


# The columns that may hold a prompt where none is called that.
MAY_BE_PROMPT = (
    *("instruction", "question", "query", "input", "inputs", "messages", "context", "text", "problem", "task", "user"),
    *(
        "user_prompt",
        "user_message",
        "conversation",
        "conversations",
        "dialogue",
        "dialog",
        "history",
        "post",
        "article",
    ),
)
# The columns that are read.
PAIR_SCORES = ("score_chosen", "score_rejected")
COLUMNS = ("prompt", "responses", "scores", "chosen", "rejected", *PAIR_SCORES, "embeddings", "skip_reason")
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
        scores (`np.ndarray` of shape `(m,)` or `None`): NaN where missing; `None` if there is no such column.
    """

    prompts: Any
    counts: np.ndarray
    responses: Any
    texts: pa.Array
    reasons: list[str | None]
    rewritten: bool = False
    scores: np.ndarray | None = None

    @property
    def starts(self) -> np.ndarray:
        """Where the responses of each prompt begin, `(n,)`."""
        return np.cumsum(self.counts) - self.counts

    @property
    def row_of(self) -> np.ndarray:
        """The row of each response, `(m,)`."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


class Candidates(Rows):
    """Prompts with any number of responses, from which pairs are picked."""


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


def is_ready(dataset: Any) -> bool:
    """Whether every row of a dataset is as it should be; of a stream nobody knows."""
    if isinstance(dataset, IterableDataset):
        return False
    for batch in arrow_batches(dataset, [name for name in (*COLUMNS, *SYSTEM) if name in dataset.column_names]):
        rows = read_rows(batch, "to_candidates")
        given = isinstance(rows, GivenPairs) and any(value is None for value in (*rows.prompts, *rows.responses))
        if rows.rewritten or given:
            return False
    return True


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
        for r, row in enumerate(rows):
            check_alike(row, "responses", r)
        counts, responses = (
            np.array([len(row) for row in rows], dtype=np.int64),
            [item for row in rows for item in row],
        )
    candidates = Candidates(prompts, counts, responses, texts, _read_reasons(batch, len(counts)))
    candidates.scores = _read_scores(batch, counts) if "scores" in batch else None
    _take_off_prompts(candidates)
    return _as_messages(candidates, batch, ["prompt", "responses"])


def _take_off_prompts(rows: Rows) -> None:
    """Take the prompts off that all responses of a row repeat."""
    changed: dict[int, tuple[Any, list[Any]]] = {}
    starts, counts = rows.starts.tolist(), rows.counts.tolist()
    for r in _may_repeat(rows).tolist():
        responses = list(rows.responses[starts[r] : starts[r] + counts[r]])
        prompt = rows.prompts[r]
        if isinstance(rows.prompts, pa.Array):
            prompt = prompt.as_py()
        if isinstance(rows.responses, pa.Array):
            responses = [response.as_py() for response in responses]
        if found := take_off_prompt(prompt, responses):
            changed[r] = found
    if not changed:
        return
    rows.prompts, rows.responses, texts = (
        values.to_pylist() if isinstance(values, pa.Array) else list(values)
        for values in (rows.prompts, rows.responses, rows.texts)
    )
    for r, (prompt, responses) in changed.items():
        here = slice(starts[r], starts[r] + counts[r])
        rows.prompts[r], rows.responses[here] = prompt, responses
        texts[here] = ["" if response is None else response_text(response) for response in responses]
    rows.texts, rows.rewritten = as_text_array(texts), True


def _may_repeat(rows: Rows) -> np.ndarray:
    """The rows whose prompts a response may repeat: of text those whose first response begins with the same letters."""
    some = np.flatnonzero(rows.counts)
    if not (isinstance(rows.prompts, pa.Array) and isinstance(rows.responses, pa.Array)):
        return some
    heads = (
        pc.utf8_slice_codeunits(pc.utf8_ltrim_whitespace(texts), 0, 3) for texts in (rows.prompts, rows.responses)
    )
    of_prompts, of_responses = heads
    alike = pc.equal(of_prompts.take(pa.array(some)), of_responses.take(pa.array(rows.starts[some])))
    dialogue = pc.equal(of_responses.take(pa.array(rows.starts[some])), HUMAN.strip()[:3])
    return some[pc.fill_null(pc.or_kleene(alike, dialogue), True).to_numpy(zero_copy_only=False)]


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
            prompts[r], pairs[r], reason = _split(pair, batch, r)
            reasons[r] = reasons[r] or reason
        else:
            check_prompt(prompt, "prompt", r)
            found = take_off_prompt(prompt, pair)
            if found is None:
                continue
            prompts[r], pairs[r] = found
        texts[r] = ["" if response is None else response_text(response) for response in pairs[r]]
        rewritten = True
    given = GivenPairs(
        prompts,
        counts=np.full(len(pairs), 2),
        responses=[response for pair in pairs for response in pair],
        texts=as_text_array(text for row in texts for text in row),
        reasons=reasons,
        rewritten=rewritten,
        scores=_read_pair_scores(batch),
    )
    return _as_messages(given, batch, ["prompt", "chosen", "rejected"])


def _read_pair_scores(batch: Any) -> np.ndarray | None:
    """The scores of both sides of each pair, those of a pair one after the other."""
    if not all(name in batch for name in PAIR_SCORES):
        return None
    sides = [[read_number(value, name, r) for r, value in enumerate(read_column(batch, name))] for name in PAIR_SCORES]
    return np.array(sides, dtype=np.float64).T.ravel()


def _split(pair: list[Any], batch: Any, r: int) -> tuple[Any, list[Any], str | None]:
    """The prompt that both sides begin with, what is left of these, and why there is no such prompt."""
    chosen, rejected = pair
    if None in pair:
        return None, pair, None
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise TypeError(
            f"{cell('rejected', r)}: expected the same kind as `chosen`, text or messages, for the prompt to be split off, found "
            f"{kind(rejected)}."
        )
    prompt, sides = split_prompt(chosen, rejected)
    if "prompt" not in batch and (not prompt or not (isinstance(chosen, list) or chosen.startswith(HUMAN))):
        for name in MAY_BE_PROMPT:
            if name in batch and any(isinstance(value, str | list) for value in read_column(batch, name)):
                raise ValueError(no_prompt(batch, name))
    if prompt is None:
        return None, sides, "no_shared_turn"
    return (prompt, sides, None) if prompt else (None, sides, "no_shared_words")


def no_prompt(columns: Iterable[str], likely: str | None) -> str:
    """What to say where no column of given pairs is found that holds their prompts, or only one that may."""
    why = (
        "the columns `chosen` and `rejected` begin differently"
        if likely is None
        else f"the column `{likely}` may hold it"
    )
    name = likely or "task"
    return (
        f"No prompt is found: there is no column `prompt`, and {why}. Name it: `prompt_column={name!r}` of `to_candidates`, or "
        f"`--prompt_column {name}` on the command line. Found: {sorted(columns)}."
        + (" If both sides begin with their prompt, remove that column." if likely else "")
    )


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
    for column in SYSTEM if conversational else ():
        if column in batch:
            prompts = [with_system(*cells) for cells in zip(rows.prompts, read_column(batch, column), strict=True)]
            rows.rewritten = rows.rewritten or any(a is not b for a, b in zip(prompts, rows.prompts, strict=True))
            rows.prompts = prompts
    return rows


def _is_number(column: pa.Array) -> bool:
    return pa.types.is_floating(column.type) or pa.types.is_integer(column.type)


def _is_list_of(is_item: Callable[[pa.Array], bool], column: pa.Array | None) -> bool:
    if column is None or not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        return False
    return is_item(column.values)


def _check_batch(batch: Any, caller: str) -> None:
    if not isinstance(batch, Mapping):
        raise TypeError(f"{caller} takes a batch as a dict of columns or a table, got {type(batch).__name__}.")
    columns = {name: batch[name] for name in COLUMNS if name in batch and not is_untouched(batch, name)}
    if isinstance(batch, LazyRow) or any(isinstance(column, str) for column in columns.values()):
        raise ValueError(f"{caller} takes a batch, got a single row. Call `dataset.map({caller}, batched=True)`.")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The columns of a batch must have the same length, found {lengths}.")
