"""
Measure what several annotators per pair are worth: how to combine their labels, which pairs to ask about again, and whether labels that are
probably wrong can be found.

python benchmarks/study/annotators.py --data folder --seeds 20 > results/annotators.json

Annotators are simulated. Each is right with their own probability (`SKILLS`), whichever pair it is. The pairs are one random pair per prompt
of AlpacaEval, and the pairs of HH-RLHF.
"""

import argparse
import json
from collections import defaultdict
from typing import Any

import numpy as np
from data import HELD_OUT, load_candidates, load_pairs, split
from datasets import Dataset, disable_progress_bars
from intervals import over_draws, over_seeds

from trl_real import SelectionConfig, next_pairs, real_select, suspect_labels
from trl_real.labeling.annotators import CLASSES, dawid_skene
from trl_real.labeling.label_log import LabelRecord
from trl_real.labeling.preference_model import fit
from trl_real.selection.preferences import pick_stage, with_pairs
from trl_real.selection.select import pair_id
from trl_real.selection.similarity import pair_differences


SKILLS = {"Ann": 0.95, "Bob": 0.8625, "Cat": 0.775, "Dan": 0.6875, "Eve": 0.6}
ROUND = 20  # labels of a round of second opinions
NEIGHBORS = 20  # of KNN-Shapley
FIRST = 0.1  # the share of pairs that are looked at again
PLANTED = (0.1, 0.2)
SECOND = (0.0, 0.2, 0.5)  # shares of second opinions


class Answers:
    """
    What each annotator would say about each pair, and in which order they are asked.

    Attributes:
        right (`np.ndarray` of shape `(n,)`): Whether `b` is right.
        said (`np.ndarray` of shape `(n, n_annotators)`): Whether each annotator says `b`.
        order (`np.ndarray` of shape `(n, n_annotators)`): The annotators of each pair, in random order.
    """

    def __init__(self, n: int, rng: np.random.Generator):
        self.right = rng.random(n) < 0.5
        correct = rng.random((n, len(SKILLS))) < list(SKILLS.values())
        self.said = np.where(correct, self.right[:, None], ~self.right[:, None])
        self.order = rng.random(self.said.shape).argsort(1)

    def label(self, pair: int, k: int) -> dict[str, str]:
        """The label of the `k`-th annotator who is asked about a pair."""
        who = self.order[pair, k]
        return {"annotator": list(SKILLS)[who], "label": "ab"[int(self.said[pair, who])]}

    def records(self, counts: np.ndarray) -> list[list[LabelRecord]]:
        """The first labels of each pair, as many as `counts` says."""
        return [
            [LabelRecord(pair=n, **self.label(n, k)) for k in range(count)] for n, count in enumerate(counts.tolist())
        ]

    def wrong(self, for_b: np.ndarray) -> float:
        """The share of wrong pairs if `b` is chosen where `for_b` is above 0; half of the ties are wrong."""
        for_b = np.where(np.abs(for_b) < 1e-9, 0.0, for_b)
        return float(np.where(for_b == 0, 0.5, (for_b > 0) != self.right).mean())

    def majority(self, k: int) -> tuple[float, float]:
        """The share of wrong majorities of `k` labels, and the labels per pair if each is asked until its majority is decided."""
        said = np.take_along_axis(self.said, self.order, 1)[:, :k]
        for_b = said.cumsum(1)
        decided = (np.maximum(for_b, np.arange(1, k + 1) - for_b) > k // 2).argmax(1) + 1
        return self.wrong(for_b[:, -1] - k / 2), float(decided.mean())

    def combined(self, counts: np.ndarray) -> float:
        """The share of wrong pairs after Dawid-Skene."""
        chances = dawid_skene(self.records(counts)).chances
        return self.wrong(chances[:, CLASSES.index("b")] - chances[:, CLASSES.index("a")])


def combine(n: int, seeds: int) -> dict[str, Any]:
    """The share of wrong labels, for one to five labels per pair."""
    found: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(seeds):
        answers = Answers(n, np.random.default_rng(seed))
        for k in range(1, len(SKILLS) + 1):
            found[k]["majority"].append(answers.majority(k)[0])
            found[k]["dawid_skene"].append(answers.combined(np.full(n, k)))
    return {
        str(k): {how: over_draws(values) for how, values in of_k.items()} | _saved(**of_k) for k, of_k in found.items()
    }


def _saved(majority: list[float], dawid_skene: list[float]) -> dict[str, Any]:
    return {
        "fewer_errors": over_draws(
            [1 - ours / theirs if theirs else 0.0 for ours, theirs in zip(dawid_skene, majority, strict=True)]
        )
    }


def adapt(pairs: Dataset, seeds: int) -> dict[str, Any]:
    """
    The labels per pair until the labels are as good as a majority of 3 or 5: two per pair, then further ones where `next_pairs`
    asks for them. Beside it, the majority that stops as soon as it is decided.
    """
    number = {pair: n for n, pair in enumerate(pairs["pair_id"])}
    found: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(seeds):
        answers, counts = Answers(len(pairs), np.random.default_rng(seed)), np.full(len(pairs), 2)
        wrong, decided = zip(*map(answers.majority, (3, 5)), strict=True)
        labels = [{"pair_id": pair, **answers.label(n, k)} for pair, n in number.items() for k in range(2)]
        curve = [(2.0, answers.combined(counts))]
        while curve[-1][1] > min(wrong) and counts.sum() < 5 * len(pairs):
            for pair in next_pairs(pairs, labels, n=ROUND, labels_per_pair=2, second_opinions=1.0)["pair_id"]:
                labels.append({"pair_id": pair, **answers.label(number[pair], counts[number[pair]])})
                counts[number[pair]] += 1
            curve.append((float(counts.mean()), answers.combined(counts)))
        for k, target, stopped in zip((3, 5), wrong, decided, strict=True):
            needed = next((spent for spent, error in curve if error <= target), 5.0)
            found[k]["fewer_labels"].append(1 - needed / k)
            found[k]["fewer_labels_decided"].append(1 - stopped / k)
            found[k]["majority"].append(target)
    return {str(k): {name: over_draws(values) for name, values in of_k.items()} for k, of_k in found.items()}


def second_or_new(rows: Dataset, seeds: int) -> dict[str, Any]:
    """
    The held-out accuracy of a linear model after half as many labels as there are pairs, if a share of each round goes to second
    opinions. The other labels go to new pairs.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for seed in range(seeds):
        train, held_out = (labeled_pairs(part, seed) for part in split(rows, seed))
        pairs = train.rename_columns({"chosen": "response_a", "rejected": "response_b"}).map(
            lambda row: {"pair_id": pair_id(row["prompt"], row["response_a"], row["response_b"])}
        )
        number = {pair: n for n, pair in enumerate(pairs["pair_id"])}
        difference, unseen = (pair_differences(part).astype(np.float64) for part in (train, held_out))
        for share in SECOND:
            answers = Answers(len(pairs), np.random.default_rng(seed))
            said_right = answers.said == answers.right[:, None]
            answers.right[:], answers.said = False, ~said_right  # here, `a` is right
            labels: list[dict[str, str]] = []
            counts = np.zeros(len(pairs), dtype=int)
            while len(labels) < len(pairs) // 2:
                n = min(ROUND, len(pairs) // 2 - len(labels))
                for pair in next_pairs(pairs, labels, n=n, seed=seed, second_opinions=share)["pair_id"]:
                    labels.append({"pair_id": pair, **answers.label(number[pair], counts[number[pair]])})
                    counts[number[pair]] += 1
            asked = np.flatnonzero(counts)
            chances = dawid_skene([answers.records(counts)[n] for n in asked]).chances
            model = fit(difference[asked], chances[:, CLASSES.index("a")], np.ones(len(asked)))
            found[str(share)].append(float((model.logits(unseen) > 0).mean()))
    new = found[str(SECOND[0])]
    return {
        share: {
            "accuracy": over_seeds(values, HELD_OUT),
            "less_new": over_seeds([a - b for a, b in zip(values, new, strict=True)], HELD_OUT),
        }
        for share, values in found.items()
    }


def labeled_pairs(rows: Dataset, seed: int) -> Dataset:
    """One random pair per prompt, or the given pairs, with the labels of the data and the embeddings of both sides."""
    if "chosen" in rows.column_names:
        return rows
    config = SelectionConfig(strategy="random", selection_seed=seed)
    return with_pairs(pick_stage(rows, config, keep_embeddings=True)[0])


def suspects(rows: Dataset, seeds: int) -> dict[str, Any]:
    """How many times the base rate the planted errors are among the most suspicious `FIRST` of the pairs."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for share in PLANTED:
        for seed in range(seeds):
            pairs = labeled_pairs(rows, seed)
            planted = np.random.default_rng(seed).random(len(pairs)) < share
            pairs = pairs.add_column("planted", planted.tolist()).map(_plant)
            valued = np.argsort(knn_shapley(pair_differences(pairs).astype(np.float64)), kind="stable")
            for how, ranked in (("suspect_labels", suspect_labels(pairs)), ("knn_shapley", pairs.select(valued))):
                first = ranked["planted"][: round(FIRST * len(ranked))]
                found[str(share)][how].append(float(np.mean(first) / planted.mean()))
    return {share: {how: over_draws(values) for how, values in of_share.items()} for share, of_share in found.items()}


def _plant(row: dict[str, Any]) -> dict[str, Any]:
    if not row["planted"]:
        return {}
    return {"chosen": row["rejected"], "rejected": row["chosen"], "embeddings": row["embeddings"][::-1]}


def knn_shapley(difference: np.ndarray) -> np.ndarray:
    """
    The KNN-Shapley value of each labeled pair for the labels of all other pairs, `(n,)` (Jia et al., "Efficient Task-Specific Data
    Valuation for Nearest Neighbor Algorithms", 2019, theorem 1).

    A pair is in the data twice: its difference with the label 1, and the negative difference with the label 0.

    Args:
        difference (`np.ndarray` of shape `(n, dim)`): Embedding of chosen minus that of rejected.
    """
    n = len(difference)
    products = difference @ difference.T
    norms = np.diag(products)
    values = np.zeros(n)
    for target in range(n):
        others = np.delete(np.arange(n), target)
        distance = norms[others] + np.outer([-2.0, 2.0], products[target, others])  # (2, n - 1)
        nearest = distance.ravel().argsort(kind="stable")
        agrees = (nearest < n - 1).astype(np.float64)  # the label of the target is 1
        rank = np.arange(1, len(nearest))
        steps = (agrees[:-1] - agrees[1:]) / NEIGHBORS * np.minimum(NEIGHBORS, rank) / rank
        value = agrees[-1] / len(nearest) * min(NEIGHBORS, len(nearest)) / NEIGHBORS + np.append(
            steps[::-1].cumsum()[::-1], 0.0
        )
        of_copy = np.empty(len(nearest))
        of_copy[nearest] = value
        values[others] += of_copy.reshape(2, -1).sum(0)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument(
        "--data", help="Folder of the AlpacaEval candidates and the HH-RLHF pairs; else the package's sample."
    )
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    disable_progress_bars()
    name, rows = load_candidates(args.data)
    train, _ = split(rows, 0)
    unlabeled = train.remove_columns("scores").map(
        real_select, batched=True, fn_kwargs={"strategy": "random"}, remove_columns=["responses"]
    )
    with_labels = [(name, rows)] + ([load_pairs(args.data)] if args.data else [])
    results = {
        "data": name,
        "pairs": len(unlabeled),
        "seeds": args.seeds,
        "skills": SKILLS,
        "round": ROUND,
        "first": FIRST,
        "combine": combine(len(unlabeled), args.seeds),
        "adapt": adapt(unlabeled, args.seeds),
        "second_or_new": second_or_new(rows, args.seeds),
        "suspects": {name: suspects(rows, args.seeds) for name, rows in with_labels},
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
