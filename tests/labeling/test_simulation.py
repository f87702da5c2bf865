"""Labeling that is played through: that it is what the loop does, and what is made of it."""

import re

import numpy as np
import pytest
from conftest import candidate_rows
from datasets import Dataset
from scipy.special import expit

from trl_real import LabelingSimulation, next_pairs, simulate_labeling
from trl_real.labeling.label_noise import Estimate
from trl_real.labeling.simulation import _annotate, _temperature, labeled_pool, play
from trl_real.labeling.simulation_report import SimulatedRound, SimulatedStrategy


def scored(rng, n, dim=4):
    """Candidates whose score is a linear function of the embedding."""
    rows = candidate_rows(rng, n, (3, 3), dim=dim)
    weights = rng.normal(size=dim)
    for row in rows:
        row["embeddings"] = (vectors := np.array(row["embeddings"])).tolist()
        row["scores"] = (vectors @ weights).tolist()
    return Dataset.from_list(rows)


def given_pairs(rng, n, dim=4):
    """Labeled pairs, by the same kind of score."""
    pairs = []
    for row in scored(rng, n, dim):
        order = np.argsort(row["scores"])[::-1][:2]
        chosen, rejected = (row["responses"][i] for i in order)
        vectors = [row["embeddings"][i] for i in order]
        pairs.append({"prompt": row["prompt"], "chosen": chosen, "rejected": rejected, "embeddings": vectors})
    return Dataset.from_list(pairs)


def test_the_loop_is_played_as_people_would_label(rng):
    pairs = given_pairs(rng, 60)
    pool = labeled_pool(pairs, seed=3)
    vectors = np.array(pairs["embeddings"][:])
    difference = np.subtract(*(vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).transpose(1, 0, 2))
    unlabeled, labels = pool.pairs, {}
    for step in play(pool, difference, "d_optimal", n=25, audit=0.2):
        labels |= dict.fromkeys(next_pairs(unlabeled, labels, n=25, strategy="d_optimal", seed=3)["pair_id"], "a")
        assert step.labels == len(labels)
        assert not step.stop or step.labels == 60  # never with so few labels
    assert len(labels) == 60
    assert step.gain_all == 0.0
    assert step.accuracy > 0.8


@pytest.mark.parametrize("rows", [scored, given_pairs])
def test_simulation(rows, rng):
    simulation = simulate_labeling(rows(rng, 80), ["bald"], annotators=0, seeds=3, n=20)
    assert list(simulation.strategies) == ["random", "bald"]
    random = simulation.strategies["random"]
    assert (simulation.seeds, simulation.pairs) == (3, 60)
    assert random.labels == [20, 40, 60]
    assert random.less_random == Estimate(0.0, 0.0, 0.0)
    assert random.accuracy[-1].value > 0.75
    # With all labels all strategies are the same.
    assert simulation.strategies["bald"].accuracy[-1].value == pytest.approx(random.accuracy[-1].value)
    assert "Recommended: " in str(simulation)


def test_what_was_played_is_summed_up():
    def rounds(*accuracies, stop):
        return [SimulatedRound(10 * (i + 1), accuracy, 0.1, i == stop) for i, accuracy in enumerate(accuracies)]

    simulation = LabelingSimulation.of(
        {
            "random": [rounds(0.5, 0.6, 0.7, stop=1), rounds(0.6, 0.6, 0.8, stop=None)],
            "bald": [rounds(0.6, 0.7, 0.7, stop=0), rounds(0.7, 0.7, 0.8, stop=2)],
        },
        pairs=30,
        held_out=0.25,
    )
    random, bald = simulation.strategies.values()
    assert [estimate.value for estimate in random.accuracy] == pytest.approx([0.55, 0.6, 0.75])
    assert bald.less_random.value == pytest.approx(0.2 / 3)
    assert (random.labels_at_stop.value, bald.labels_at_stop.value) == (25, 20)
    assert random.loss_at_stop.value == pytest.approx(0.05)
    # The interval of splits that share their rows.
    spread = np.std([0.1, 0.0], ddof=1) * np.sqrt(1 / 2 + 1 / 3)
    assert random.loss_at_stop.high == pytest.approx(0.05 + 12.706 * spread, rel=1e-3)


@pytest.mark.parametrize(("low", "recommended"), [(-0.001, "random"), (0.0, "random"), (0.001, "bald")])
def test_only_what_is_better_than_random_is_recommended(low, recommended):
    def strategy(less_random):
        return SimulatedStrategy([], [], less_random, *[Estimate(0, 0, 0)] * 2)

    simulation = LabelingSimulation(
        10, 2, {"random": strategy(Estimate(0, 0, 0)), "bald": strategy(Estimate(0.05, low, 0.1))}
    )
    assert simulation.recommended == recommended


def test_annotators_err_as_often_as_they_should(rng):
    rows = Dataset.from_dict({"prompt": ["p"] * 3000, "scores": rng.normal(scale=3, size=(3000, 2)).tolist()})
    noise = _temperature(rows, 0.3)
    gap, seen = (np.subtract(*np.transpose(part["scores"][:])) for part in (rows, _annotate(rows, noise, seed=0)))
    wrong = np.sign(gap) != np.sign(seen)
    assert wrong.mean() == pytest.approx(0.3, abs=0.03)
    far = np.abs(gap) > 4
    assert wrong[far].mean() == pytest.approx(expit(-np.abs(gap[far]) / noise).mean(), abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategies": ["hard"]}, "`strategy` must be one of"),
        ({"annotators": 0.5}, "`annotators` must be a number from 0 to 0.49, got 0.5."),
        ({"seeds": 1}, "`seeds` must be at least 2 for an interval, got 1."),
        ({}, "`simulate_labeling` needs at least 40 prompts with a pair, found 10."),
    ],
)
def test_wrong_options_are_named(rng, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        simulate_labeling(scored(rng, 10), **options)


def test_samples_without_labels_are_named(rng):
    with pytest.raises(ValueError, match="needs a labeled sample: `responses` and `scores`"):
        simulate_labeling(scored(rng, 10).remove_columns("scores"))
    with pytest.raises(TypeError, match=re.escape("`simulate_labeling` needs a `datasets.Dataset`, got list.")):
        simulate_labeling([])
