"""Layouts of given pairs: how `chosen` and `rejected` are read, with or without a prompt."""

from typing import Any

from datasets import Features, IterableDataset, List, Value

from ..core.columns import column_blocks
from ..core.messages import (
    MESSAGES,
    as_conversation,
    common_feature,
    is_list,
    is_text,
    joint_features,
    prompts_differ,
)
from ..core.transform import Transform, map_rows
from .batch import read_rows
from .grouping import DIFFERING_PROMPTS


def read_pairs(dataset: Any, layout: Any, columns: dict[str, str], grouped: bool, conversational: bool) -> Any:
    """Read pairs with an explicit prompt. If they will be grouped, read each pair as candidates with the scores 1 and 0."""
    dataset = dataset.rename_columns({column: field for field, column in columns.items() if field != column})
    features = dataset.features
    if features is not None:
        parts = [features.get("prompt", features["chosen"]), features["chosen"], features["rejected"]]
        alike = all(map(is_text, parts)) or all(map(is_list, parts))
        if "prompt" in features and alike and not (grouped or conversational or _has_nulls(dataset)):
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


def _has_nulls(dataset: Any) -> bool:
    """Whether a pair may lack its prompt or a side. A stream may always."""
    if isinstance(dataset, IterableDataset):
        return True
    columns = ("prompt", "chosen", "rejected")
    return any(block.null_count for column in columns for block in column_blocks(dataset, column))


@Transform
def write_pairs(batch: Any, grouped: bool, conversational: bool) -> Any:
    rows = read_rows(batch, "to_candidates")
    prompts, reasons, differing = rows.prompts, rows.reasons, []
    pairs = [list(pair) for pair in zip(rows.responses[::2], rows.responses[1::2], strict=True)]
    for r, (prompt, pair) in enumerate(zip(prompts, pairs, strict=True)):
        if None in pair:
            reasons[r] = "missing_response"
        elif prompt is None:
            reasons[r] = reasons[r] or "missing_prompt"
        differing.append(int(prompts_differ(prompt, pair)))
        if conversational:
            prompts[r], pairs[r] = as_conversation(prompt, pair)
    batch["prompt"] = prompts
    if grouped:
        batch["responses"], batch["scores"] = pairs, [[1.0, 0.0]] * len(pairs)
    else:
        batch["chosen"], batch["rejected"] = ([pair[side] for pair in pairs] for side in (0, 1))
    batch["skip_reason"], batch[DIFFERING_PROMPTS] = reasons, differing
    return batch
