"""Scores of any size go through selection, report, figure and card, without a raw warning."""

import math

import numpy as np
import pytest
from datasets import Dataset

from trl_real import SelectionConfig, create_dataset_card, select_preferences
from trl_real.strategies import STRATEGIES


INF = math.inf
SCORES = {
    "all gaps alike and large": [[0.0, 1e9]] * 4,
    "gaps of 1e300": [[0.0, 1e300]] * 4,
    "a gap beyond all numbers": [[-1.7e308, 1.7e308, 1.7e308]] * 4,
    "the least number": [[0.0, 5e-324, 1.0]] * 4,
    "gaps that float32 takes for equal": [[1e15, 1e15 + 0.125], [1e15, 1e15 + 0.25]] * 2,
    "gaps at the end of float32": [[0.0, 3.4e38], [0.0, 3.5e38]] * 2,
    "two equal infinities": [[INF, INF, 1.0], [0.0, 1.0, 2.0]] * 2,
    "two equal negative infinities": [[-INF, -INF, 0.0]] * 4,
    "nothing but infinity": [[INF, INF], [1.0, 2.0]] * 2,
    "both infinities": [[INF, -INF]] * 4,
    "everything together": [[0.0, 1e9], [0.0, 1e-9], [0.0, INF], [-INF, INF]],
}


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_numbers_of_any_size(scores, rng, tmp_path):
    scores = [*scores, [0.0, 1.0]]  # of infinite scores alone, `divpo` knows no middle
    candidates = Dataset.from_dict(
        {
            "prompt": [f"question {r}" for r in range(len(scores))],
            "responses": [[f"answer {r} {i}" for i in range(len(row))] for r, row in enumerate(scores)],
            "scores": scores,
            "embeddings": [rng.standard_normal((len(row), 4)).astype(np.float32) for row in scores],
        }
    )
    for strategy in STRATEGIES:
        config = SelectionConfig(strategy=strategy, pairs_per_prompt=3, budget=3, budget_strategy="max_min")
        pairs, report = select_preferences(candidates, config)
        assert 1 <= len(pairs) == report.pairs
        assert (np.array(pairs["score_chosen"][:]) > np.array(pairs["score_rejected"][:])).all()
    report.plot(tmp_path / "selection.png")
    report.save(tmp_path / "report.json")
    assert f"{len(scores)} " in str(report)
    assert create_dataset_card(pairs, report, config).text
