import itertools
import math

import numpy as np
from conftest import candidate_rows
from datasets import Dataset
from test_select import mixed_rows

from trl_real import real_select
from trl_real.config import SelectionConfig
from trl_real.selection.measures import measure_pairs
from trl_real.selection.preferences import measure_rows


def oracle(rows, gap):
    """The measures of all pairs by definition, one at a time."""
    measures = {"similarity": [], "score_gap": [], "length_difference": [], "response_length": []}
    for row in rows:
        merged = {}
        for text, score, vector in zip(row["responses"], row["scores"], row["embeddings"], strict=True):
            if text and text.strip() and score is not None and not math.isnan(score):
                merged.setdefault(text.strip(), []).append((text, score, np.asarray(vector, np.float64)))
        texts = [
            (min(text for text, _, _ in group), np.mean([score for _, score, _ in group]), group[0][2])
            for group in merged.values()
        ]
        pairs = [pair for pair in itertools.combinations(texts, 2) if abs(pair[0][1] - pair[1][1]) > gap]
        if pairs:
            measures["response_length"] += [len(text) for text, _, _ in texts]
        for a, b in pairs:
            chosen, rejected = (a, b) if a[1] > b[1] else (b, a)
            measures["similarity"].append(a[2] @ b[2] / np.linalg.norm(a[2]) / np.linalg.norm(b[2]))
            measures["score_gap"].append(chosen[1] - rejected[1])
            measures["length_difference"].append(len(chosen[0]) - len(rejected[0]))
    return measures


def numbers(counts):
    return np.repeat(*counts.distinct())


def test_all_pairs_are_measured(rng):
    rows = mixed_rows(rng)
    measures = measure_rows(Dataset.from_list(rows), SelectionConfig(min_score_gap=1.0))
    found, policies = measures.values, measures.policies
    expected = oracle(rows, 1.0)
    assert measures.rows == len(rows)
    assert measures.responses == sum(len(row["responses"]) for row in rows)
    assert policies["empty_responses"] > 0 < policies["tied_pairs"]
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(numbers(found[name]), np.sort(values), atol=1e-5)


def test_without_scores_nothing_is_said_about_chosen_and_rejected(rng):
    rows = Dataset.from_list(candidate_rows(rng, 9, (3, 3), scores=False, dim=4))
    found = measure_rows(rows, SelectionConfig()).values
    assert set(found) == {"similarity", "response_length"}
    assert len(numbers(found["similarity"])) == len(numbers(found["response_length"])) == 27


def test_pairs_are_measured_as_they_are(rng):
    data = Dataset.from_list(candidate_rows(rng, 20, dim=4))
    pairs = data.map(real_select, batched=True)
    found = measure_pairs(pairs).values
    for name, values in {
        "similarity": pairs["similarity"][:],
        "score_gap": [row["score_chosen"] - row["score_rejected"] for row in pairs],
        "length_difference": [len(row["chosen"]) - len(row["rejected"]) for row in pairs],
    }.items():
        np.testing.assert_allclose(numbers(found[name]), np.sort(values))
    lengths = sorted(len(row[s]) for row in pairs for s in ("chosen", "rejected"))
    assert numbers(found["response_length"]).tolist() == lengths
    unlabeled = data.remove_columns("scores").map(real_select, batched=True)
    assert set(measure_pairs(unlabeled).values) == {"similarity", "response_length"}


def test_rows_that_were_given_up_before_are_not_measured(rng):
    rows = candidate_rows(rng, 3, (3, 3), dim=4)
    data = Dataset.from_list(rows).add_column("skip_reason", [None, "tied_labels", None])
    expected = measure_rows(Dataset.from_list([rows[0], rows[2]]), SelectionConfig()).values
    found = measure_rows(data, SelectionConfig()).values
    np.testing.assert_array_equal(numbers(found["similarity"]), numbers(expected["similarity"]))
