"""How labeling goes: the counts against a count by hand, when it stops, and that only pairs and decisions matter."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from test_rounds import turn, unlabeled

from trl_real import LabelProgress, label_progress, next_pairs
from trl_real.labeling.label_noise import Estimate
from trl_real.labeling.progress_report import LEAST_GAIN, MIN_LABELS


OTHER = {"a": "b", "b": "a"}


def labels_of(pairs, rng, scale=6.0):
    """Labels that follow a linear model of the embeddings."""
    vectors = np.array(pairs["embeddings"][:])
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    weights = rng.normal(size=vectors.shape[2])
    chances = expit(scale * (vectors[:, 0] - vectors[:, 1]) @ weights / np.linalg.norm(weights))
    return {
        pair: "ab"[int(drawn)] for pair, drawn in zip(pairs["pair_id"], rng.random(len(pairs)) > chances, strict=True)
    }


@pytest.fixture
def pairs(rng):
    return unlabeled(rng, 400, dim=5)


@pytest.fixture
def labels(pairs, rng):
    return labels_of(pairs, rng)


def first(labels, pairs, n):
    """The labels of the pairs that come first in the random order."""
    return {pair: labels[pair] for pair in next_pairs(pairs, n=n)["pair_id"]}


def test_labeling_stops_where_little_is_left(pairs, labels):
    stops, gains = {}, []
    for n in (MIN_LABELS - 1, MIN_LABELS, 200, 399, 400):
        progress = label_progress(pairs, first(labels, pairs, n))
        stops[n] = progress.stop
        gains.append(progress.gain_all)
        assert progress.drawn == progress.labels == progress.decided == n
    assert (stops[MIN_LABELS - 1], stops[399], stops[400]) == (None, True, True)
    assert gains[0] is None
    assert gains[1] > gains[2] > gains[3] > gains[4] == 0.0
    assert all(stops[n] == (gain < LEAST_GAIN) for n, gain in zip(stops, gains, strict=True) if gain is not None)
    assert (
        "the labels of the 1 remaining pairs are expected"
        in label_progress(pairs, first(labels, pairs, 399)).reasons[0].lower()
    )


def test_labels_that_cannot_be_foreseen_say_nothing(pairs, rng):
    labels = {pair: "ab"[rng.integers(2)] for pair in pairs["pair_id"]}
    progress = label_progress(pairs, first(labels, pairs, 150))
    assert progress.stop is None
    assert "does not predict the labels significantly better than chance" in progress.reasons[0]


def test_the_curve_ends_with_all_labels(pairs, labels):
    progress = label_progress(pairs, first(labels, pairs, 390), n=20)
    assert [point.labels for point in progress.curve][-1] == 390
    assert len(progress.curve) == 8
    assert progress.curve[-1].agreement == progress.agreement
    assert 0 <= progress.gain_next <= progress.gain_all
    assert progress.curve[-1].log_likelihood.value > -math.log(2)
    for point in progress.curve:
        assert point.agreement.low <= point.agreement.value <= point.agreement.high


@given(
    order=st.permutations(range(130)),
    turned=st.sets(st.integers(0, 129)),
    strategy=st.sampled_from(["random", "bald"]),
)
@settings(max_examples=6)
def test_neither_order_nor_sides_matter(order, turned, strategy):
    rng = np.random.default_rng(0)
    pairs = unlabeled(rng, 130, dim=5)
    labels = first(labels_of(pairs, rng), pairs, 110)
    records = [{"pair_id": pair, "label": label, "shown_first": "a"} for pair, label in labels.items()]
    expected = label_progress(pairs, records, strategy=strategy).to_dict()
    there = [
        {"pair_id": record["pair_id"], "label": OTHER[record["label"]], "shown_first": "b"}
        if int(record["pair_id"], 16) in turned
        else record
        for record in records
    ]
    shuffled = turn(pairs, turned).shuffle(order)
    found = label_progress(shuffled, there[::-1], strategy=strategy).to_dict()
    assert found == close_to(expected)


def close_to(value):
    """The same up to the last digits."""
    if isinstance(value, dict):
        return {name: close_to(item) for name, item in value.items()}
    if isinstance(value, list):
        return [close_to(item) for item in value]
    return pytest.approx(value, rel=1e-6, abs=1e-9) if isinstance(value, float) else value


def test_only_pairs_that_were_drawn_are_judged_by(pairs, labels):
    order = next_pairs(pairs, n=400)["pair_id"][:]
    picked = {pair: labels[pair] for pair in [*order[:120], *order[200:300]]}
    progress = label_progress(pairs, picked, strategy="d_optimal")
    assert (progress.drawn, progress.labels) == (120, 220)
    assert progress.curve[-1].labels == 120
    assert label_progress(pairs, picked).drawn == 220


def test_what_annotators_do_is_counted(rng):
    pairs = unlabeled(rng, 4)  # of the second and third pair response_b is the longer one
    records = [
        {"pair_id": "0", "label": "a", "annotator": "anna", "seconds": 4, "shown_first": "a"},
        {"pair_id": "0", "label": "a", "annotator": "ben", "seconds": 6, "shown_first": "b"},
        {"pair_id": "0", "label": "b", "annotator": "carl", "seconds": 11, "shown_first": "b"},
        {"pair_id": "1", "label": "b", "annotator": "anna"},
        {"pair_id": "2", "label": "tie", "annotator": "anna"},
        {"pair_id": "2", "label": None, "annotator": "ben"},
    ]
    progress = label_progress(pairs, records)
    assert (progress.pairs, progress.decided, progress.labels, progress.ties, progress.skipped) == (4, 3, 4, 1, 1)
    assert (progress.annotators, progress.seconds, progress.drawn) == (3, 6.0, 2)
    assert progress.annotators_agree.value == pytest.approx(1 / 3)
    assert progress.first_shown_wins.value == pytest.approx(2 / 3)
    # "answer 0" against "another 0 ": b is the longer one, as it is in each pair.
    assert progress.longer_wins.value == pytest.approx(2 / 4)


def test_progress_is_saved_printed_and_drawn(pairs, labels, tmp_path):
    progress = label_progress(pairs, first(labels, pairs, 150))
    progress.save(tmp_path / "progress.json")
    assert LabelProgress.load(tmp_path / "progress.json") == progress
    assert json.loads((tmp_path / "progress.json").read_text())["labels"] == 150
    text = str(progress)
    for part in ("150 of 400, by 1 annotators", "model agrees", "remaining labels add", "stop"):
        assert part in text
    progress.plot(tmp_path / "progress.png")
    assert (tmp_path / "progress.png").stat().st_size > 10_000
    assert label_progress(pairs, {}).plot().axes


def test_nothing_and_everything(pairs):
    nothing = label_progress(pairs, {})
    assert (nothing.stop, nothing.agreement, nothing.curve) == (None, None, [])
    assert label_progress(pairs, dict.fromkeys(pairs["pair_id"], "tie")).stop is True


def test_the_rule_is_what_it_says():
    progress = LabelProgress(500, 200, 200, 0, 0, 1, 200, agreement=Estimate(0.6, 0.55, 0.65), gain_all=LEAST_GAIN)
    assert progress.stop is False
    progress.gain_all = LEAST_GAIN - 1e-6
    assert progress.stop is True
    progress.agreement = Estimate(0.55, 0.49, 0.6)
    assert progress.stop is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "`n` must be a whole number of at least 1, got 0."),
        ({"strategy": "hard"}, "`strategy` must be one of"),
        ({"labels": {"zz": "a"}}, "`labels` has 1 `pair_id`s that no pair has: 'zz'."),
    ],
)
def test_wrong_options_are_named(rng, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        label_progress(unlabeled(rng, 5), **{"labels": {}, **options})
