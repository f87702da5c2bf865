"""Read layouts with two responses and a vote as given pairs: `read_votes`."""

import logging
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Features, List, Value

from ..core.columns import cell, column_names, first_values, is_number, kind, read_column
from ..core.messages import common_feature, is_list, is_text
from ..core.transform import Transform, map_rows
from .options import ReadOptions
from .pairs import read_pairs


logger = logging.getLogger(__name__)

# Endings of the names of two columns that belong together, the left one first.
SUFFIXES = tuple(
    (sep + left, sep + right)
    for sep in ("_", "")
    for left, right in (("a", "b"), ("A", "B"), ("0", "1"), ("1", "2"), ("left", "right"))
)
STEMS = (
    "response",
    "completion",
    "answer",
    "generation",
    "output",
    "conversation",
    "summary",
    "reply",
    "candidate",
    "text",
)
VOTE = ("vote", "winner", "preference", "preferred", "choice", "label", "better", "better_response_id")
# Votes as words. Votes such as `model_a` are recognized by the endings of the columns.
WORDS = {"left": "left", "first": "left", "right": "right", "second": "right"}
TIES = {"tie", "ties", "tied", "draw", "equal", "same", "both", "neither", "bothbad", "both bad", "both good"}
NAMED = re.compile(r"(?:model|assistant|option|system|" + "|".join(STEMS) + r")?[\s_-]*(\w+)")
# Fields with the text of the prompt, if it is a dict.
PROMPT_FIELDS = ("full_text", "post", "article", "text", "content", "prompt", "question")
LOOKS_LIKE_A_VOTE = re.compile(r"better|safer|prefer|winner|vote|choice|chosen_id|label")


def names_in_twos(*fields: tuple[str, tuple[str, ...]]) -> Iterator[dict[str, tuple[str, ...]]]:
    """The column names of fields that exist once per side, for each pair of endings."""
    for endings in SUFFIXES:
        yield {
            field.format(side=side): tuple(stem + ending for stem in stems)
            for field, stems in fields
            for side, ending in zip(("left", "right"), endings, strict=True)
        }


def read_votes(dataset: Any, layout: Any, columns: dict[str, str], options: ReadOptions) -> Any:
    """Read given pairs. The side that got the vote is `chosen`, and a tie has a `skip_reason`."""
    _check_meanings(options.votes)
    _warn_of_other_votes(dataset, columns)
    features = dataset.features
    # A dict with the prompt also has other fields, which are kept.
    whole = "prompt" in columns and not any(isinstance(v, Mapping) for v in first_values(dataset, columns["prompt"]))
    used = [column for field, column in columns.items() if field != "prompt" or (whole and column != "prompt")]
    if features is not None:
        out = {name: feature for name, feature in features.items() if name not in used}
        if "prompt" in columns:
            prompt = features[columns["prompt"]]
            out["prompt"] = prompt if is_text(prompt) or is_list(prompt) else Value("string")
        sides = [features[columns[side]] for side in ("left", "right") if side in columns]
        side = common_feature(sides) if sides else _text_of_items(features[columns["responses"]])
        out |= {"chosen": side, "rejected": side, "skip_reason": Value("string")}
        if "left_score" in columns:
            out |= {"score_chosen": Value("float64"), "score_rejected": Value("float64")}
        features = Features(out)
    pairs = map_rows(
        dataset,
        write_votes,
        features,
        desc="Reading votes",
        fn_kwargs={"columns": columns, "scale": layout.scale, "meanings": options.votes},
        remove_columns=[column for column in used if column not in ("chosen", "rejected")],
    )
    fields = {name: name for name in ("chosen", "rejected", *(["prompt"] if "prompt" in columns else []))}
    return read_pairs(pairs, layout, fields, options)


def _text_of_items(feature: Any) -> Any:
    item = getattr(feature, "feature", None)
    return Value("string") if not isinstance(item, list | List) else item


@Transform
def write_votes(batch: Any, columns: dict[str, str], scale: bool, meanings: Mapping[Any, str] | None) -> Any:
    """Write the sides of the pairs of a batch by the votes on them."""
    cells = {field: read_column(batch, column) for field, column in columns.items()}
    two = [_two(row, columns["responses"], r) for r, row in enumerate(cells.get("responses", ()))]
    left, right = cells.get("left") or [a for a, _ in two], cells.get("right") or [b for _, b in two]
    endings = _endings(columns["left"], columns["right"]) if "left" in columns else ("0", "1")
    if "vote" in cells:
        reader = _Votes(columns["vote"], endings, scale, meanings)
        votes = [reader.read(value, r) for r, value in enumerate(cells["vote"])]
    else:
        scores = list(zip(cells["left_score"], cells["right_score"], strict=True))
        votes = [_higher(pair, columns, r) for r, pair in enumerate(scores)]
        batch["score_chosen"] = [
            pair[vote == "right"] if vote else None for pair, vote in zip(scores, votes, strict=True)
        ]
        batch["score_rejected"] = [
            pair[vote != "right"] if vote else None for pair, vote in zip(scores, votes, strict=True)
        ]
    decided = [vote if vote in ("left", "right") else None for vote in votes]
    sides = [
        (a, b) if vote == "left" else (b, a) if vote == "right" else (None, None)
        for a, b, vote in zip(left, right, decided, strict=True)
    ]
    if "prompt" in cells:
        batch["prompt"] = [_prompt(prompt) for prompt in cells["prompt"]]
    batch["chosen"], batch["rejected"] = [a for a, _ in sides], [b for _, b in sides]
    earlier = read_column(batch, "skip_reason") if "skip_reason" in batch else [None] * len(votes)
    reasons = {None: "missing_label", "tie": "tied_labels"}
    batch["skip_reason"] = [old or reasons.get(vote) for old, vote in zip(earlier, votes, strict=True)]
    return batch


class _Votes:
    """The meaning of the values in a column of votes."""

    def __init__(self, column: str, endings: tuple[str, str], scale: bool, meanings: Mapping[Any, str] | None):
        self.column = column
        self.endings = [ending.lower() for ending in endings]
        self.scale = scale
        self.meanings = None if meanings is None else {_form(value): side for value, side in meanings.items()}

    def read(self, value: Any, r: int) -> str | None:
        """`"left"`, `"right"` or `"tie"`; `None` if nobody has voted."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        found = self._by_name(value) if self.meanings is not None else self._by_form(value)
        if found is None:
            raise ValueError(
                f"{cell(self.column, r)}: found {kind(value)}, which does not tell which response is better. Pass the meaning of "
                f"each value: `votes={{{_form(value)!r}: 'left', ...: 'right', ...: 'tie'}}` to `to_candidates`, or the same as JSON to "
                "`--votes` on the command line."
            )
        return found

    def _by_name(self, value: Any) -> str | None:
        assert self.meanings is not None
        return self.meanings.get(_form(value))

    def _by_form(self, value: Any) -> str | None:
        if isinstance(value, bool):  # it may stand for either side
            return None
        if self.scale and is_number(value):
            return "tie" if value == 0 else "left" if value < 0 else "right"
        text = _form(value).strip("[]() .")
        word = re.sub(r"[\W_]+", " ", text).strip()
        if word in TIES or word.startswith("tie "):
            return "tie"
        if word in WORDS:
            return WORDS[word]
        match = NAMED.fullmatch(text)
        if match is not None and match[1] in self.endings:
            return ("left", "right")[self.endings.index(match[1])]
        return None


def _form(value: Any) -> str:
    """A vote in the form in which it is compared. JSON keys are text, and 1.0 equals 1."""
    if is_number(value) and not isinstance(value, bool) and float(value).is_integer():
        value = int(value)
    return str(value).strip().lower()


def _endings(left: str, right: str) -> tuple[str, str]:
    """The parts in which two column names differ."""
    shared = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), 0)
    return left[shared:].strip("_"), right[shared:].strip("_")


def _higher(scores: tuple[Any, Any], columns: dict[str, str], r: int) -> str | None:
    for column, score in zip((columns["left_score"], columns["right_score"]), scores, strict=True):
        if score is not None and not is_number(score):
            raise TypeError(f"{cell(column, r)}: expected a number or None, found {kind(score)}.")
    a, b = scores
    if a is None or b is None or math.isnan(a) or math.isnan(b):
        return None
    return "tie" if a == b else "left" if a > b else "right"


def _two(row: Any, column: str, r: int) -> tuple[Any, Any]:
    """The two responses of a list, which may be dicts with a text."""
    if not isinstance(row, list) or len(row) != 2:
        raise ValueError(f"{cell(column, r)}: expected a list of two responses, found {kind(row)}.")
    a, b = (item.get("text", item.get("response")) if isinstance(item, Mapping) else item for item in row)
    return a, b


def _prompt(prompt: Any) -> Any:
    """A prompt, or its text if it is a dict."""
    if not isinstance(prompt, Mapping):
        return prompt
    return next((prompt[field] for field in PROMPT_FIELDS if prompt.get(field)), None)


def _check_meanings(votes: Mapping[Any, str] | None) -> None:
    sides = ("left", "right", "tie")
    if votes is not None and not (
        isinstance(votes, Mapping) and votes and all(side in sides for side in votes.values())
    ):
        raise ValueError(f"`votes` must map each value to one of {list(sides)}, got {votes!r}.")


def _warn_of_other_votes(dataset: Any, columns: dict[str, str]) -> None:
    """Warn about columns that look like other votes, such as which response is safer."""
    if "vote" not in columns:
        return
    others = [
        name for name in column_names(dataset) or [] if name not in columns.values() and LOOKS_LIKE_A_VOTE.search(name)
    ]
    others = [name for name in others if any(isinstance(v, str) or is_number(v) for v in first_values(dataset, name))]
    if others:
        logger.warning(
            "The vote is read from the column `%s`, but %s may also be votes. To use another column, pass `vote_column=%r` to "
            "`to_candidates`, or `--vote_column %s` on the command line.",
            columns["vote"],
            others,
            others[0],
            others[0],
        )
