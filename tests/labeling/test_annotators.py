import itertools
import logging

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_real import apply_labels, label_progress, next_pairs
from trl_real.labeling.annotators import (
    CLASSES,
    PRIOR_LABELS,
    PRIOR_SHARE,
    dawid_skene,
    krippendorff_alpha,
    least_certain,
    summarize_annotators,
)
from trl_real.labeling.label_log import OTHER_SIDE, LabelRecord


def records(labels):
    """Decisions from a label of each annotator about each pair; `None` where there is none."""
    return [
        [LabelRecord(str(n), label, f"annotator {j}") for j, label in enumerate(row) if label is not None]
        for n, row in enumerate(labels)
    ]


def simulated(rng, n, skills, votes, ties=0.0):
    """Right labels, and those of annotators of whom `votes`, drawn at random, label each pair."""
    truth = rng.choice(["a", "b", "tie"], n, p=[(1 - ties) / 2, (1 - ties) / 2, ties])
    classes = CLASSES if ties else CLASSES[:2]
    labels = []
    for right in truth:
        who = rng.choice(len(skills), votes, replace=False)
        row = [None] * len(skills)
        for j in who.tolist():
            wrong = [label for label in classes if label != right]
            row[j] = str(right) if rng.random() < skills[j] else str(rng.choice(wrong))
        labels.append(row)
    return truth, records(labels)


def brute_force(found, decisions):
    """What each pair's labels say, by the probability of each assignment of right labels to all pairs."""
    classes = CLASSES if any(r.label == "tie" for row in decisions for r in row) else CLASSES[:2]
    chances = np.zeros((len(decisions), 3))
    for truth in itertools.product(range(len(classes)), repeat=len(decisions)):
        probability = 1.0
        for right, row in zip(truth, decisions, strict=True):
            for record in row:
                skill = found.right[record.annotator]
                probability *= skill if record.label == classes[right] else (1 - skill) / (len(classes) - 1)
        for n, right in enumerate(truth):
            chances[n, right] += probability
    return chances / chances.sum(1, keepdims=True)


labels_of_pairs = st.lists(
    st.lists(st.sampled_from(["a", "b", "tie", None]), min_size=3, max_size=3).filter(any), min_size=1, max_size=5
)


@settings(deadline=None, max_examples=60)
@given(labels_of_pairs)
def test_what_labels_say_is_what_all_assignments_say(labels):
    decisions = records(labels)
    found = dawid_skene(decisions)
    np.testing.assert_allclose(found.chances, brute_force(found, decisions), atol=1e-9)


def log_posterior(decisions, right):
    """Of the annotators' chances to be right, without the average that the prior is around."""
    classes = 2 + any(record.label == "tie" for row in decisions for record in row)
    total = 0.0
    for row in decisions:
        total += np.log(
            sum(
                np.prod(
                    [right[r.annotator] if r.label == c else (1 - right[r.annotator]) / (classes - 1) for r in row]
                )
                for c in CLASSES[:classes]
            )
        )
    return total


def test_no_other_chances_are_more_likely():
    """Beside the prior, whose pull on 40 labels is small, no change of one annotator is likelier."""
    decisions = simulated(np.random.default_rng(1), 40, [0.95, 0.8, 0.7], 3)[1]
    right = dawid_skene(decisions).right
    n_labels = len(decisions) * len(right)
    for name in right:
        average = (sum(right.values()) / 3 * n_labels + PRIOR_LABELS * PRIOR_SHARE) / (n_labels + PRIOR_LABELS)

        def posterior(skill, name=name, average=average):
            prior = PRIOR_LABELS * (average * np.log(skill) + (1 - average) * np.log(1 - skill))
            return prior + log_posterior(decisions, right | {name: skill})

        best = max(np.linspace(0.5, 0.99, 99), key=posterior)
        assert abs(best - right[name]) < 0.03, (name, best, right)


@settings(deadline=None, max_examples=30)
@given(labels_of_pairs, st.randoms())
def test_neither_order_nor_sides_matter(labels, random):
    found = dawid_skene(records(labels))
    turned = dawid_skene(records([[OTHER_SIDE[label] for label in row] for row in labels]))
    np.testing.assert_allclose(turned.chances[:, [1, 0, 2]], found.chances)
    shuffled = [random.sample(row, len(row)) for row in records(labels)]
    np.testing.assert_array_equal(dawid_skene(shuffled).chances, found.chances)


@pytest.mark.parametrize(("votes", "fewer"), [(3, 0.2), (5, 0.4)])
def test_fewer_errors_than_by_majority(votes, fewer):
    by_majority, by_model = 0.0, 0.0
    for seed in range(8):
        truth, decisions = simulated(np.random.default_rng(seed), 604, np.linspace(0.95, 0.6, 5), votes)
        chances = dawid_skene(decisions).chances
        by_model += (np.array(CLASSES)[chances.argmax(1)] != truth).mean()
        shares = np.array([[sum(r.label == c for r in row) for c in CLASSES] for row in decisions])
        by_majority += (np.array(CLASSES)[shares.argmax(1)] != truth).mean()
    assert by_model < (1 - fewer) * by_majority


def test_the_error_of_each_annotator_is_found():
    skills = [0.95, 0.85, 0.7]
    _truth, decisions = simulated(np.random.default_rng(3), 2000, skills, 3, ties=0.1)
    summaries = {who.name: who for who in summarize_annotators(decisions)}
    for j, skill in enumerate(skills):
        assert abs(summaries[f"annotator {j}"].error - (1 - skill)) < 0.03
    alone = summarize_annotators([row[:1] for row in decisions])
    assert [who.error for who in alone] == [None]


@pytest.mark.parametrize("votes", [1, 2, 3])
def test_annotators_with_few_labels_decide_as_a_majority_does(votes, rng):
    n = 40
    pairs = Dataset.from_dict(
        {
            "pair_id": [str(i) for i in range(n)],
            "prompt": ["Why?"] * n,
            "response_a": [f"a {i}" for i in range(n)],
            "response_b": [f"b {i}" for i in range(n)],
        }
    )
    labels = [
        {"pair_id": str(i), "label": str(rng.choice(CLASSES)), "annotator": f"{i} {j}"}
        for i in range(n)
        for j in range(votes)
    ]
    majority, model = (apply_labels(pairs, labels, aggregate=how) for how in ("majority", "dawid_skene"))
    assert model["chosen"][:] == majority["chosen"][:]
    assert all(0.5 < confidence <= 1 for confidence in model["label_confidence"])
    assert "label_confidence" not in majority.column_names


def test_the_one_who_is_right_more_often_decides(caplog):
    """Two agree on thirty pairs, where a third tosses a coin; on the last pair the third stands against one of them."""
    n = 31
    pairs = Dataset.from_dict(
        {
            "pair_id": [str(i) for i in range(n)],
            "prompt": ["Why?"] * n,
            "response_a": [f"a {i}" for i in range(n)],
            "response_b": [f"b {i}" for i in range(n)],
        }
    )
    toss = np.random.default_rng(0).choice(["a", "b"], n)
    labels = [
        {"pair_id": str(i), "label": label, "annotator": who}
        for i in range(n - 1)
        for who, label in (("ann", "a"), ("ben", "a"), ("cat", str(toss[i])))
    ]
    labels += [{"pair_id": "30", "label": label, "annotator": who} for who, label in (("ann", "b"), ("cat", "a"))]
    with caplog.at_level(logging.WARNING):
        assert len(apply_labels(pairs, labels)) == 30
    assert "of 1 no side is preferred" in caplog.text or "tied_labels" in caplog.text
    decided = apply_labels(pairs, labels, aggregate="dawid_skene")
    assert decided[30]["chosen"] == "b 30"
    assert decided[30]["label_agreement"] == 0.5
    assert 0.5 < decided[30]["label_confidence"] < decided[0]["label_confidence"]
    with pytest.raises(ValueError, match=r"`aggregate` must be one of \['majority', 'dawid_skene'\], got 'mean'"):
        apply_labels(pairs, labels, aggregate="mean")


@pytest.mark.parametrize("ties", [0.0, 0.2])
def test_nothing_shows_which_of_two_is_right_more_often(ties):
    """Whoever labels more of the pairs: both are right equally often, and a disagreement is no preference."""
    decisions = simulated(np.random.default_rng(4), 60, [0.9, 0.6], 2, ties)[1]
    decisions[40:] = [[record for record in row if record.annotator == "annotator 0"] for row in decisions[40:]]
    found = dawid_skene(decisions)
    assert len(set(found.right.values())) == 1
    differ = [len({record.label for record in row}) > 1 for row in decisions]
    assert any(differ)
    assert found.chances[differ].max() <= 0.5
    assert (found.chances[np.logical_not(differ)].max(1) > 0.5).all()


def test_alpha_is_what_its_definition_says():
    """One less the share of differing label pairs within units, over that share among all labels (nominal data)."""
    decisions = simulated(np.random.default_rng(5), 60, [0.9, 0.8, 0.7], 2, ties=0.2)[1]
    observed, values = 0.0, []
    for row in decisions:
        labels = [record.label for record in row]
        values += labels
        differ = sum(x != y for x, y in itertools.permutations(labels, 2))
        observed += differ / (len(labels) - 1)
    expected = sum(x != y for x, y in itertools.permutations(values, 2)) / (len(values) - 1)
    alpha = krippendorff_alpha(decisions)
    assert alpha.value == pytest.approx(1 - observed / expected)
    assert alpha.low < alpha.value < alpha.high
    assert krippendorff_alpha([row[:1] for row in decisions]) is None


def test_second_opinions_are_on_the_least_certain_pairs():
    n = 12
    pairs = Dataset.from_dict(
        {
            "pair_id": [str(i) for i in range(n)],
            "prompt": ["Why?"] * n,
            "response_a": [f"a {i}" for i in range(n)],
            "response_b": [f"b {i}" for i in range(n)],
        }
    )
    labels = [{"pair_id": str(i), "label": "a", "annotator": "ann"} for i in range(6)]
    labels += [{"pair_id": str(i), "label": "b" if i == 2 else "a", "annotator": "ben"} for i in range(4)]
    labels += [{"pair_id": "3", "label": "a", "annotator": "cat"}]
    plain = next_pairs(pairs, labels, n=4)
    assert set(plain["reason"]) == {"audit"}
    assert not {*plain["pair_id"]} & set("012345")
    mixed = next_pairs(pairs, labels, n=4, second_opinions=0.5)
    again = [row["pair_id"] for row in mixed if row["reason"] == "second_opinion"]
    assert again[0] == "2"
    assert again[1] in "45"
    assert len(mixed) == 4
    reverse = next_pairs(pairs.select(range(n)[::-1]), labels[::-1], n=4, second_opinions=0.5)
    assert reverse["pair_id"][:] == mixed["pair_id"][:]
    # Not where all annotators have decided, and as many as there are once no other pairs are left.
    labels += [{"pair_id": str(i), "label": "b", "annotator": "ann"} for i in range(6, n)]
    rest = next_pairs(pairs, labels, n=50, second_opinions=0.1)
    assert set(rest["reason"]) == {"second_opinion"}
    assert len(rest) == n - 1
    assert "3" not in rest["pair_id"][:]
    assert len(next_pairs(pairs, labels, n=50)) == 0
    with pytest.raises(ValueError, match="`second_opinions`"):
        next_pairs(pairs, labels, second_opinions=1.5)


def test_two_votes_and_then_the_least_certain_pair_saves_labels():
    """For the errors of a majority of three."""
    saved = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        truth, everyone = simulated(rng, 300, np.linspace(0.95, 0.6, 5), 5)
        for row in everyone:
            rng.shuffle(row)

        def errors(decisions, truth=truth):
            return (np.array(CLASSES)[dawid_skene(decisions).chances.argmax(1)] != truth).mean()

        three = np.array([[sum(r.label == c for r in row[:3]) for c in CLASSES] for row in everyone])
        target = (np.array(CLASSES)[three.argmax(1)] != truth).mean()
        taken = np.full(len(truth), 2)
        while errors(now := [row[:n] for row, n in zip(everyone, taken, strict=True)]) > target:
            taken[least_certain(now)[:10]] += 1
        saved.append(1 - taken.sum() / (3 * len(truth)))
    assert np.mean(saved) > 0.2, saved


def test_the_report_knows_each_annotator(rng):
    _, decisions = simulated(rng, 30, [0.95, 0.6], 2)
    pairs = Dataset.from_dict(
        {
            "pair_id": [str(i) for i in range(30)],
            "prompt": ["Why?"] * 30,
            "response_a": [f"a {i}" for i in range(30)],
            "response_b": [f"b {i}" for i in range(30)],
        }
    )
    labels = [
        {"pair_id": r.pair, "label": r.label, "annotator": r.annotator, "shown_first": "a"}
        for row in decisions
        for r in row
    ]
    progress = label_progress(pairs, labels)
    assert [who.name for who in progress.by_annotator] == ["annotator 0", "annotator 1"]
    assert progress.krippendorff_alpha.low <= progress.krippendorff_alpha.value
    assert type(progress).from_dict(progress.to_dict()) == progress
    assert "annotator 1" in str(progress)
    assert "Krippendorff's alpha" in str(progress)
