"""What there was to select from and what was picked, in the same measures."""

from collections import Counter, defaultdict

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset
from datasets.formatting import PythonFormatter
from datasets.formatting.formatting import LazyBatch
from datasets.utils import tqdm

from ..candidates.batch import COLUMNS, read_candidates
from ..candidates.eligibility import eligible_responses
from ..core.columns import as_text_array
from ..core.messages import response_text
from .similarity import group_prompts, read_vectors
from .value_counts import Tally


BATCH = 1000
# The numbers of each measure, one a pair, of the response lengths one a response.
Measures = dict[str, Tally]


def survey_candidates(dataset: Dataset, min_score_gap: float) -> tuple[Measures, int, Counter[str]]:
    """
    Measure all pairs that could be labelled.

    Args:
        dataset ([`~datasets.Dataset`]): Columns `prompt` and `responses`, perhaps `scores` and `embeddings`.
        min_score_gap (`float`): Only responses whose scores differ by more than this form a pair.

    Returns:
        `tuple[dict[str, Tally], int, Counter[str]]`: `similarity` (cosine), `score_gap` and `length_difference`
        (chosen less rejected, in characters) of the pairs and the `response_length` of what forms them, each where it is
        known; how many responses there are; and what the policies do with them.
    """
    measures, n_responses, policies = defaultdict[str, Tally](Tally), 0, Counter[str]()
    columns = [name for name in COLUMNS if name in dataset.column_names and name not in ("chosen", "rejected")]
    tables = dataset.select_columns(columns).with_format("arrow").iter(BATCH)
    for table in tqdm(tables, total=-(-len(dataset) // BATCH), desc="Surveying all pairs", unit="batches"):
        batch = LazyBatch(table, PythonFormatter(features=dataset.features))
        candidates = read_candidates(batch, "select_preferences")
        eligible = eligible_responses(candidates, min_score_gap)
        vectors = read_vectors(batch, candidates, eligible) if "embeddings" in batch else None
        n_responses += len(candidates.texts)
        policies.update(eligible.policies)
        lengths = pc.utf8_length(candidates.texts).to_numpy().astype(np.int64)
        for group in group_prompts(eligible, vectors, min_score_gap):
            i, j = np.triu_indices(group.positions.shape[1], 1)
            policies["tied_pairs"] += int((~group.may_pair).sum())
            length = lengths[group.positions]  # (n, k)
            measures["response_length"].add(length.ravel())
            measures["similarity"].add(group.similarity[:, i, j][group.may_pair])
            if group.scores is not None:
                gap = (group.scores[:, i] - group.scores[:, j])[group.may_pair]
                measures["score_gap"].add(np.abs(gap))
                measures["length_difference"].add((length[:, i] - length[:, j])[group.may_pair] * np.sign(gap))
    return dict(measures), n_responses, policies


def survey_pairs(pairs: Dataset) -> Measures:
    """The measures of [`survey_candidates`] for pairs as [`real_select`] makes them."""
    measures = defaultdict[str, Tally](Tally)
    sides = ["chosen", "rejected"] if "chosen" in pairs.column_names else ["response_a", "response_b"]
    scores = [name for name in ("score_chosen", "score_rejected") if name in pairs.column_names]
    for batch in pairs.select_columns([*sides, *scores, "similarity"]).with_format(None).iter(BATCH):
        texts = (as_text_array(map(response_text, batch[side])) for side in sides)
        first, second = (pc.utf8_length(side).to_numpy() for side in texts)
        measures["response_length"].add(np.append(first, second))
        measures["similarity"].add(np.array(batch["similarity"], dtype=np.float64))  # NaN for null
        if len(scores) == 2:
            chosen, rejected = (np.array(batch[name], dtype=np.float64) for name in scores)
            measures["score_gap"].add(chosen - rejected)
        if sides == ["chosen", "rejected"]:
            measures["length_difference"].add(first - second)
    return dict(measures)
