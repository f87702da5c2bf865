"""Measures of all eligible pairs and of the picked pairs."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from ..candidates.batch import Rows
from ..candidates.eligibility import Eligible
from ..core.columns import arrow_batches, as_arrow, as_numbers, as_text_array, is_text_array, read_column
from ..core.messages import response_text
from .similarity import Group
from .value_counts import ValueCounts


@dataclass
class Measures:
    """
    Measures of many pairs, in little memory.

    Attributes:
        rows (`int`): The number of rows.
        responses (`int`): The number of responses in these rows.
        policies (`Counter[str]`): How often each policy, a key of `POLICIES`, was applied to a response.
        values (`dict[str, ValueCounts]`): `similarity` (cosine), `score_gap` and `length_difference` (chosen minus rejected,
            in characters) of the pairs, and the `response_length` of their responses. Unknown measures are missing.
    """

    rows: int = 0
    responses: int = 0
    policies: Counter[str] = field(default_factory=Counter)
    values: defaultdict[str, ValueCounts] = field(default_factory=lambda: defaultdict(ValueCounts))

    def update(self, other: "Measures") -> None:
        """Add the measures of other rows."""
        self.rows += other.rows
        self.responses += other.responses
        self.policies.update(other.policies)
        for name, values in other.values.items():
            self.values[name].update(values)

    def add_rows(self, rows: Rows, eligible: Eligible) -> None:
        """Count the rows of a batch, and the policies that were applied to their responses."""
        self.rows += len(rows.counts)
        self.responses += len(rows.texts)
        self.policies.update(eligible.policies)

    def add_group(self, group: Group, lengths: np.ndarray) -> None:
        """Measure all eligible pairs of some prompts. `lengths` holds the length of each response of the batch, `(m,)`."""
        i, j = np.triu_indices(group.positions.shape[1], 1)
        self.policies["tied_pairs"] += int((~group.may_pair).sum())
        length = lengths[group.positions]  # (n, k)
        self.values["response_length"].add(length.ravel())
        self.values["similarity"].add(group.similarity[:, i, j][group.may_pair])
        if group.scores is not None:
            with np.errstate(invalid="ignore", over="ignore"):  # infinity minus infinity is a tie, which may not pair
                gap = (group.scores[:, i] - group.scores[:, j])[group.may_pair]
            self.values["score_gap"].add(np.abs(gap))
            self.values["length_difference"].add((length[:, i] - length[:, j])[group.may_pair] * np.sign(gap))

    def add_pairs(self, similarity: np.ndarray, lengths: np.ndarray, scores: np.ndarray | None, labeled: bool) -> None:
        """Measure n pairs. `similarity` is `(n,)`; `lengths` and `scores` are `(n, 2)`, with the chosen side of labeled pairs first."""
        self.values["response_length"].add(lengths.ravel())
        self.values["similarity"].add(similarity)
        if scores is not None:
            with np.errstate(over="ignore"):
                self.values["score_gap"].add(scores[:, 0] - scores[:, 1])
        if labeled:
            self.values["length_difference"].add(lengths[:, 0] - lengths[:, 1])


def measure_pairs(pairs: Dataset) -> Measures:
    """Measure pairs in the format of [`real_select`]."""
    measures = Measures()
    labeled = "chosen" in pairs.column_names
    sides = ["chosen", "rejected"] if labeled else ["response_a", "response_b"]
    scores = [name for name in ("score_chosen", "score_rejected") if name in pairs.column_names]
    scores = scores if len(scores) == 2 else []
    for batch in arrow_batches(pairs, [*sides, *scores, "similarity"]):
        similarity, *of_sides = (as_numbers(as_arrow(batch, name)) for name in ("similarity", *scores))
        lengths = np.column_stack([_text_lengths(batch, side) for side in sides])
        measures.add_pairs(similarity, lengths, np.column_stack(of_sides) if of_sides else None, labeled)
    return measures


def _text_lengths(batch: Any, side: str) -> np.ndarray:
    """The number of characters of each response in a column, `(n,)` int64."""
    texts = as_arrow(batch, side)
    if not is_text_array(texts):
        texts = as_text_array("" if r is None else response_text(r) for r in read_column(batch, side))
    return pc.utf8_length(texts).fill_null(0).to_numpy().astype(np.int64)
