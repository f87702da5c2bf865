"""From the columns of a batch to candidates: which responses a prompt has, as text, and which of them may be labelled."""

import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import pyarrow as pa
from datasets.formatting.formatting import LazyRow, PythonFormatter


# The columns that are read.
COLUMNS = ("prompt", "responses", "scores", "chosen", "rejected", "embeddings")

# Why a prompt has no pair, in the order in which the reasons are looked for.
SKIP_REASONS = {
    "missing_prompt": "the prompt is null",
    "missing_response": "`chosen` or `rejected` is null",
    "too_few_responses": "fewer than two responses are not empty",
    "duplicate_responses": "fewer than two responses differ",
    "missing_scores": "fewer than two distinct responses have a score",
    "tied_scores": "no two scores differ by more than `min_score_gap`",
    "no_pair_for_strategy": "the strategy can use none of the pairs that may be labelled",
}


@dataclass
class Candidates:
    """
    The candidates of a batch of prompts.

    Attributes:
        prompts (`list`): One a row: text, messages or `None`.
        responses (`list[list]`): The responses of each row, text or messages; for given pairs `[chosen, rejected]`.
        texts (`list[list[str]]`): The responses as text, `""` for null.
        scores (`list[list[float]]` or `None`): One a response, NaN where missing; `None` if there is no such column.
        given_pairs (`bool`): Whether the rows came as `chosen` and `rejected`.
        rewritten (`bool`): Whether prompts or given sides are no longer as they came in: an implicit prompt was split
            off, or text became messages.
    """

    prompts: list[Any]
    responses: list[list[Any]]
    texts: list[list[str]]
    scores: list[list[float]] | None
    given_pairs: bool
    rewritten: bool

    @property
    def sides(self) -> tuple[str, str]:
        """The names of the two sides of a pair."""
        return side_names(self.given_pairs or self.scores is not None)


@dataclass
class Eligible:
    """
    The responses of one prompt that may form a pair.

    Attributes:
        positions (`list[int]`): Their positions in the row, in code-point order of their texts.
        scores (`list[float]`): Their scores; empty if there are none.
        reason (`str` or `None`): Why no pair can be built from them, a key of `SKIP_REASONS`.
    """

    positions: list[int]
    scores: list[float]
    reason: str | None


def side_names(labelled: bool) -> tuple[str, str]:
    """The columns of the two sides of a pair."""
    return ("chosen", "rejected") if labelled else ("response_a", "response_b")


def check_columns(columns: Any, where: str) -> bool:
    """
    Raise unless `columns` hold a layout that can be selected from.

    Args:
        columns (`Collection[str]`): Column names.
        where (`str`): Who asks, for the message.

    Returns:
        `bool`: Whether they hold given pairs (`chosen` and `rejected`) rather than `responses`.
    """
    if "chosen" in columns and "rejected" in columns:
        return True
    if "responses" in columns and "prompt" in columns:
        return False
    raise ValueError(
        f"{where} expects the columns `prompt` and `responses` (and `scores`, if there are any), or `chosen` and "
        f"`rejected` (and `prompt`). Found: {sorted(columns)}. Rename yours, for example with "
        "`dataset.rename_columns({'question': 'prompt', 'completions': 'responses'})`."
    )


def read_candidates(batch: Any, where: str) -> Candidates:
    """Read the candidates of a batch that `datasets.map` hands over, or raise an error that names the column."""
    _check_batch(batch, where)
    candidates = _read_given_pairs(batch) if check_columns(batch, where) else _read_responses(batch)
    if _has_messages(batch, candidates):
        _make_messages(candidates)
    return candidates


def _read_responses(batch: Any) -> Candidates:
    prompts = read_column(batch, "prompt")
    for r, prompt in enumerate(prompts):
        _check_prompt(prompt, r)
    responses = [_read_list(row, "responses", r) or [] for r, row in enumerate(read_column(batch, "responses"))]
    texts = [[_text(response, "responses", r) for response in row] for r, row in enumerate(responses)]
    scores = None
    if "scores" in batch:
        scores = [_read_scores(row, len(responses[r]), r) for r, row in enumerate(read_column(batch, "scores"))]
    return Candidates(prompts, responses, texts, scores, given_pairs=False, rewritten=False)


def _read_given_pairs(batch: Any) -> Candidates:
    pairs = [list(pair) for pair in zip(read_column(batch, "chosen"), read_column(batch, "rejected"), strict=True)]
    texts = [[_text(pair[0], "chosen", r), _text(pair[1], "rejected", r)] for r, pair in enumerate(pairs)]
    if "prompt" in batch:
        prompts = read_column(batch, "prompt")
    else:
        prompts = []
        for r, pair in enumerate(pairs):
            prompt, pairs[r] = split_prompt(*pair)
            prompts.append(prompt)
            texts[r] = ["" if response is None else response_text(response) for response in pairs[r]]
    for r, prompt in enumerate(prompts):
        _check_prompt(prompt, r)
    return Candidates(prompts, pairs, texts, scores=None, given_pairs=True, rewritten="prompt" not in batch)


def _has_messages(batch: Any, candidates: Candidates) -> bool:
    """Whether prompts or responses are messages, by the types of the columns where these are known."""
    if hasattr(batch, "pa_table"):
        schema = batch.pa_table.schema
        names = ["prompt", *candidates.sides] if candidates.given_pairs else ["prompt", "responses"]
        types = {name: schema.field(name).type for name in names if name in schema.names}
        if "responses" in types:
            types["responses"] = getattr(types["responses"], "value_type", types["responses"])
        return any(pa.types.is_nested(t) or isinstance(t, pa.BaseExtensionType) for t in types.values())
    rows = zip(candidates.prompts, candidates.responses, strict=True)
    return any(isinstance(value, list) for prompt, responses in rows for value in (prompt, *responses))


def _make_messages(candidates: Candidates) -> None:
    """Turn the prompts and responses that are text into messages."""
    if any(isinstance(prompt, str) for prompt in candidates.prompts):
        candidates.prompts = [_as_message(prompt, "user") for prompt in candidates.prompts]
        candidates.rewritten = True
    if any(isinstance(response, str) for row in candidates.responses for response in row):
        candidates.responses = [
            [_as_message(response, "assistant") for response in row] for row in candidates.responses
        ]
        candidates.rewritten = True


def _as_message(value: Any, role: str) -> Any:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def split_prompt(chosen: Any, rejected: Any) -> tuple[Any, list[Any]]:
    """
    Split a pair with an implicit prompt into the prompt, which both sides begin with, and the two responses.

    A response keeps at least its last message or character, even where it is all that the other one begins with; text
    is split before white space.
    """
    if chosen is None or rejected is None:
        return None, [chosen, rejected]
    shared = 0
    for a, b in zip(chosen[:-1], rejected[:-1], strict=False):
        if a != b:
            break
        shared += 1
    if isinstance(chosen, str):
        while shared > 0 and not (chosen[shared].isspace() and rejected[shared].isspace()):
            shared -= 1
    return chosen[:shared], [chosen[shared:], rejected[shared:]]


def read_column(batch: Any, name: str) -> list[Any]:
    """
    A column of the batch as Python objects, whatever format the dataset has.

    A batch of `Dataset.map` decodes a column on access, and writes back what was accessed from Python objects. Decoded
    from its Arrow table instead, the column stays untouched and goes to the output as it is.
    """
    if is_untouched(batch, name):
        formatter = PythonFormatter(features=batch.formatter.features)
        return formatter.format_column(batch.pa_table.select([name]))
    return list(batch[name])


def is_untouched(batch: Any, name: str) -> bool:
    """Whether the column is in the Arrow table of a batch of `Dataset.map` and nobody has read it yet."""
    return name in getattr(batch, "keys_to_format", ())


def response_text(messages: Any) -> str:
    """The text of a response: itself, or the contents and tool calls of its messages, one a line."""
    if isinstance(messages, str):
        return messages
    lines = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):  # parts, of which only text can be embedded
            content = "".join(part.get("text") or "" for part in content)
        lines.append(content or "")
        if message.get("tool_calls"):
            lines.append(as_json(message["tool_calls"]))
    return "\n".join(line for line in lines if line)


def as_json(value: Any) -> str:
    """Text or messages as one line of JSON, without the nulls that Arrow gives to messages with fewer keys."""

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items() if item is not None}
        return [clean(item) for item in value] if isinstance(value, list) else value

    return json.dumps(clean(value), sort_keys=True, default=str)


def eligible_responses(candidates: Candidates, min_score_gap: float) -> list[Eligible]:
    """Which responses of each prompt may form a pair; given pairs are taken as they are unless something is null."""
    eligible = []
    for r, (prompt, texts) in enumerate(zip(candidates.prompts, candidates.texts, strict=True)):
        if candidates.given_pairs:
            null = any(response is None for response in candidates.responses[r])
            reason = "missing_response" if null else "missing_prompt" if prompt is None else None
            eligible.append(Eligible([0, 1], [], reason))
            continue
        row_scores = None if candidates.scores is None else candidates.scores[r]
        positions, scores = _distinct(texts, row_scores)
        reason = None
        if prompt is None:
            reason = "missing_prompt"
        elif len(positions) < 2:
            reason = _why_too_few(texts)
        elif scores and not max(scores) - min(scores) > min_score_gap:
            reason = "tied_scores"
        eligible.append(Eligible(positions, scores, reason))
    return eligible


def _distinct(texts: list[str], scores: list[float] | None) -> tuple[list[int], list[float]]:
    """
    Positions of the distinct, non-empty responses, in code-point order of their texts, and their scores.

    Responses that are equal after Unicode NFC and `strip()` merge into the first of them, with the mean of their
    scores. Where there are scores, a response without one is left out.
    """
    groups: dict[str, list[int]] = {}
    for position in sorted(range(len(texts)), key=texts.__getitem__):
        key = unicodedata.normalize("NFC", texts[position].strip())
        if key:
            groups.setdefault(key, []).append(position)
    if scores is None:
        return [group[0] for group in groups.values()], []
    positions, means = [], []
    for group in groups.values():
        known = sorted(scores[position] for position in group if not math.isnan(scores[position]))
        if known:
            positions.append(group[0])
            means.append(sum(known) / len(known))
    return positions, means


def _why_too_few(texts: list[str]) -> str:
    if sum(bool(text.strip()) for text in texts) < 2:
        return "too_few_responses"
    return "missing_scores" if len(_distinct(texts, None)[0]) >= 2 else "duplicate_responses"


def _read_list(value: Any, column: str, r: int) -> list[Any] | None:
    if hasattr(value, "tolist"):  # NumPy and torch formats
        value = value.tolist()
    if not (value is None or isinstance(value, list)):
        raise TypeError(f"{_cell(column, r)}: expected a list, one item a response, found {_kind(value)}.")
    return value


def _read_scores(value: Any, n_responses: int, r: int) -> list[float]:
    """The scores of a row as floats, NaN for a missing one."""
    scores = _read_list(value, "scores", r)
    if scores is None:
        return [math.nan] * n_responses
    if len(scores) != n_responses:
        raise ValueError(
            f"{_cell('scores', r)}: found {len(scores)} scores for {n_responses} responses. Give one score a response, "
            "None where it is missing."
        )
    for score in scores:
        if score is not None and (isinstance(score, bool) or not isinstance(score, Real)):
            raise TypeError(f"{_cell('scores', r)}: expected numbers or None, found {_kind(score)}.")
    return [math.nan if score is None else float(score) for score in scores]


def _text(response: Any, column: str, r: int) -> str:
    if response is None:
        return ""
    if isinstance(response, str) or _is_messages(response):
        return response_text(response)
    raise TypeError(
        f"{_cell(column, r)}: expected a response as str or as a list of messages [{{'role': ..., 'content': ...}}], "
        f"found {_kind(response)}."
    )


def _check_batch(batch: Any, where: str) -> None:
    if not isinstance(batch, Mapping):
        raise TypeError(
            f"{where} takes a batch as a dict of columns, got {type(batch).__name__}. If the dataset has a format of "
            "tables, map over `dataset.with_format(None)`."
        )
    columns = {name: batch[name] for name in COLUMNS if name in batch and not is_untouched(batch, name)}
    if isinstance(batch, LazyRow) or any(isinstance(column, str) for column in columns.values()):
        raise ValueError(f"{where} takes a batch, got a single row. Call `dataset.map({where}, batched=True)`.")
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"The columns of a batch must have the same length, found {lengths}.")


def _check_prompt(prompt: Any, r: int) -> None:
    if not (prompt is None or isinstance(prompt, str) or _is_messages(prompt)):
        raise TypeError(f"{_cell('prompt', r)}: expected str or a list of messages, found {_kind(prompt)}.")


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(message, Mapping) and "role" in message and _is_content(message.get("content")) for message in value
    )


def _is_content(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(part, Mapping) and isinstance(part.get("text"), str | None) for part in value)
    return isinstance(value, str | None)


def _cell(column: str, r: int) -> str:
    return f"Column `{column}`, row {r} of the batch"


def _kind(value: Any) -> str:
    return f"{type(value).__name__} ({value!r:.60})"
