"""Layouts of given pairs: how `chosen` and `rejected` are read, with or without a prompt."""

import logging
from collections.abc import Mapping
from typing import Any

from datasets import Features, List, Value

from ..core.columns import cell, column_names, first_values, kind, read_column
from ..core.messages import (
    HUMAN,
    MESSAGES,
    are_alike,
    as_conversation,
    common_feature,
    joint_features,
    prompts_differ,
    split_prompt,
)
from ..core.prompts import SYSTEM, with_system
from ..core.transform import Transform, map_rows
from .batch import MAY_BE_PROMPT, is_ready, no_prompt, read_rows
from .grouping import DIFFERING_PROMPTS
from .options import ReadOptions


logger = logging.getLogger(__name__)


def read_pairs(dataset: Any, layout: Any, columns: dict[str, str], options: ReadOptions) -> Any:
    """Read pairs with an explicit prompt. If they will be grouped, read each pair as candidates with the scores 1 and 0."""
    grouped, conversational = options.grouped, options.conversational
    dataset = dataset.rename_columns({column: field for field, column in columns.items() if field != column})
    features = dataset.features
    if "prompt" not in columns:
        _check_split(dataset)
    if features is not None:
        parts = [features.get("prompt", features["chosen"]), features["chosen"], features["rejected"]]
        if "prompt" in features and are_alike(parts) and not (grouped or conversational) and is_ready(dataset):
            return dataset  # as it should be
        prompt, sides = joint_features(parts[0], parts[1:])
        if conversational:
            prompt, *sides = (common_feature([MESSAGES, feature]) for feature in (prompt, *sides))
        read = {"prompt": prompt, "chosen": sides[0], "rejected": sides[1]}
        if grouped:
            read = {"prompt": prompt, "responses": List(common_feature(sides)), "scores": List(Value("float64"))}
        others = {name: feature for name, feature in features.items() if name not in ("prompt", "chosen", "rejected")}
        features = Features(read | others | {"skip_reason": Value("string"), DIFFERING_PROMPTS: Value("int64")})
    return map_rows(
        dataset,
        write_pairs,
        features,
        desc="Reading pairs",
        fn_kwargs={"grouped": grouped, "conversational": conversational},
        remove_columns=["chosen", "rejected"] if grouped else None,
    )


def read_inputs(dataset: Any, layout: Any, columns: dict[str, str], options: ReadOptions) -> Any:
    """Pairs whose prompt is what a chat API gets: `messages`, and perhaps `tools`, which become a column."""
    features = dataset.features
    has_tools = "tools" not in (column_names(dataset) or [])
    if features is not None:
        source = features[columns["prompt"]]
        fields = source if isinstance(source, dict) else {}
        has_tools = has_tools and "tools" in fields
        others = {name: feature for name, feature in features.items() if name not in columns.values()}
        read = {"prompt": fields.get("messages", source), **({"tools": fields["tools"]} if has_tools else {})}
        features = Features(read | {side: features[columns[side]] for side in ("chosen", "rejected")} | others)
    pairs = map_rows(
        dataset,
        write_inputs,
        features,
        desc="Reading inputs",
        fn_kwargs={"columns": columns, "has_tools": has_tools},
        remove_columns=[column for field, column in columns.items() if field != column],
    )
    return read_pairs(pairs, layout, {field: field for field in columns}, options)


@Transform
def write_inputs(batch: Any, columns: dict[str, str], has_tools: bool) -> Any:
    inputs = read_column(batch, columns["prompt"])
    for r, value in enumerate(inputs):
        if not (value is None or (isinstance(value, Mapping) and isinstance(value.get("messages"), list))):
            raise TypeError(
                f"{cell(columns['prompt'], r)}: expected {{'messages': [...]}} or None, found {kind(value)}."
            )
    for side in ("chosen", "rejected"):
        batch[side] = read_column(batch, columns[side])
    batch["prompt"] = [None if value is None else value["messages"] for value in inputs]
    if has_tools:
        batch["tools"] = [None if value is None else value.get("tools") for value in inputs]
    return batch


def _check_split(dataset: Any) -> None:
    """Raise if none of the first pairs begin alike, so that no prompt can be split off them; name what else may hold it."""
    columns = column_names(dataset) or []
    first = {name: first_values(dataset, name) for name in columns if name in ("chosen", "rejected", *MAY_BE_PROMPT)}
    pairs = [
        pair
        for pair in zip(first["chosen"], first["rejected"], strict=True)
        if all(isinstance(side, str) for side in pair) or all(isinstance(side, list) for side in pair)
    ]
    prompt = next(filter(None, (split_prompt(*pair)[0] for pair in pairs)), None)
    if pairs and prompt is None:
        likely = [
            name for name in MAY_BE_PROMPT if any(isinstance(value, str | list) for value in first.get(name, ()))
        ]
        raise ValueError(no_prompt(columns, likely[0] if likely else None))
    others = [
        name for name in columns if name not in first and any(isinstance(v, str) for v in first_values(dataset, name))
    ]
    if others and isinstance(prompt, str) and not prompt.startswith(HUMAN):
        logger.warning(
            "There is no column `prompt`: it is read as what both sides begin with, such as %r. If one of the columns %s holds "
            "it, pass `prompt_column=%r` to `to_candidates`, or `--prompt_column %s` on the command line.",
            prompt[:60],
            others,
            others[0],
            others[0],
        )


@Transform
def write_pairs(batch: Any, grouped: bool, conversational: bool) -> Any:
    rows = read_rows(batch, "to_candidates")
    prompts, reasons, differing = rows.prompts, rows.reasons, []
    pairs = [list(pair) for pair in zip(rows.responses[::2], rows.responses[1::2], strict=True)]
    for r, (prompt, pair) in enumerate(zip(prompts, pairs, strict=True)):
        if None in pair:
            reasons[r] = reasons[r] or "missing_response"
        elif prompt is None:
            reasons[r] = reasons[r] or "missing_prompt"
        differing.append(int(prompts_differ(prompt, pair)))
        if conversational:
            prompts[r], pairs[r] = as_conversation(prompt, pair)
            for column in SYSTEM & batch.keys():
                prompts[r] = with_system(prompts[r], batch[column][r])
    batch["prompt"] = prompts
    if grouped:
        batch["responses"], batch["scores"] = pairs, [[1.0, 0.0]] * len(pairs)
    else:
        batch["chosen"], batch["rejected"] = ([pair[side] for pair in pairs] for side in (0, 1))
    batch["skip_reason"], batch[DIFFERING_PROMPTS] = reasons, differing
    return batch
