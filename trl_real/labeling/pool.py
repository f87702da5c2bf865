"""The pairs of a labeling project in a fixed random order, with the decisions about them."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset

from ..config import EmbedderOptions
from ..embedding.embed import embed
from ..selection.budget import prompt_numbers
from ..selection.similarity import pair_differences
from .label_log import OTHER_SIDE, LabelRecord, first_names, is_turned
from .labels import check_pairs
from .sources import read_labels
from .tasks import TASK


@dataclass
class Pool:
    """
    Each distinct pair once, in an order that depends only on `seed` and the ids of the pairs. The first m pairs are therefore
    always a random sample, regardless of which pairs were labeled.

    Attributes:
        pairs ([`~datasets.Dataset`]): The dataset of the pairs.
        rows (`np.ndarray` of shape `(n,)`): The row of each pair in the dataset.
        records (`list[list[LabelRecord]]`): The decisions about each pair, in terms of the sides of its row.
        options ([`EmbedderOptions`]): How to embed the responses.
    """

    pairs: Dataset
    rows: np.ndarray
    records: list[list[LabelRecord]]
    options: EmbedderOptions

    @classmethod
    def of(cls, pairs: Any, labels: Any, seed: int, options: EmbedderOptions) -> "Pool":
        """Create a pool from unlabeled pairs and labels in any supported format."""
        check_pairs(pairs)
        records = [] if labels is None else read_labels(labels, [pairs])
        pairs = pairs.with_format(None)
        ids = pairs["pair_id"][:]
        first: dict[str, int] = {}
        for row, pair in enumerate(ids):
            if pair is not None:
                first.setdefault(pair, row)
        place = {pair: n for n, pair in enumerate(sorted(first, key=lambda pair: _drawn(pair, seed)))}
        found: list[list[LabelRecord]] = [[] for _ in place]
        unknown = []
        for record in records:
            pair = ids[record.pair] if isinstance(record.pair, int) else record.pair
            if pair in place:
                found[place[pair]].append(record)
            elif pair is not None:
                unknown.append(pair)
        if unknown:
            raise ValueError(f"`labels` has {len(unknown)} `pair_id`s that no pair has: {first_names(unknown)}.")
        pool = cls(pairs, np.array([first[pair] for pair in place], dtype=np.int64), found, options)
        pool._turn()
        return pool

    def _turn(self) -> None:
        """Express each decision in terms of the sides of its row."""
        decided = self.decided
        sides = self.pairs.select_columns(list(TASK[2:])).select(self.rows[decided])
        for n, row in zip(decided.tolist(), sides, strict=True):
            self.records[n] = [
                record._replace(label=OTHER_SIDE[record.label], shown_first=OTHER_SIDE[record.shown_first])
                if is_turned(record, row["response_a"], row["response_b"])
                else record
                for record in self.records[n]
            ]

    @property
    def decided(self) -> np.ndarray:
        """The pairs with at least one decision, including skipped pairs."""
        return np.flatnonzero([bool(records) for records in self.records])

    @cached_property
    def difference(self) -> np.ndarray:
        """The embedding of `response_a` minus that of `response_b`, both unit vectors, `(n, dim)` float32."""
        if "embeddings" in self.pairs.column_names:
            return pair_differences(self.pairs)[self.rows]
        sides = self.pairs.select_columns(list(TASK[2:])).select(self.rows)
        sides = sides.rename_columns({"response_a": "chosen", "response_b": "rejected"})
        sides = sides.add_column("prompt", [""] * len(sides))
        return pair_differences(embed(sides, self.options)[0])

    def is_open(self, labels_per_pair: int = 1) -> np.ndarray:
        """Which pairs have decisions of fewer than `labels_per_pair` annotators, `(n,)`."""
        return np.array([len(records) < labels_per_pair for records in self.records], dtype=bool)

    def votes(self, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For the pairs `of`, the share of labels for `response_a`, and the number of labels, both without ties, `(n,)`."""
        labels = [[record.label for record in self.records[n]] for n in of.tolist()]
        for_a = np.array([found.count("a") for found in labels], dtype=np.float64)
        count = for_a + [found.count("b") for found in labels]
        return np.divide(for_a, count, out=np.full(len(count), 0.5), where=count > 0), count

    @cached_property
    def prompts(self) -> np.ndarray:
        """The prompt of each pair as a number, `(n,)`."""
        return prompt_numbers(self.pairs)[self.rows]


def _drawn(pair: str, seed: int) -> tuple[bytes, str]:
    """The sort key of a pair: a hash of its id and the seed."""
    return hashlib.blake2b(f"{seed} {pair}".encode("utf-8", "surrogatepass"), digest_size=8).digest(), pair
