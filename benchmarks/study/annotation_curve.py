"""
Measure what a label is worth: the held-out accuracy of a preference model against the number of labels that were bought.

python benchmarks/study/annotation_curve.py --data folder --seeds 20 > results/annotation_curve.json

A linear model of the embeddings, trained on the labels that a strategy buys, predicts the better response of held-out pairs. On
AlpacaEval, a strategy picks one pair per prompt. The budget then either keeps randomly sampled prompts, the same for all strategies, or
the pairs that the strategy ranks first. On HH-RLHF, the pairs are given. Each seed has its own split, random sample and annotators.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from data import ERROR, HELD_OUT, SHARE, annotate, load_candidates, load_pairs, split, temperature
from datasets import Dataset, disable_progress_bars
from intervals import over_seeds
from sklearn.linear_model import BayesianRidge

from trl_real import real_select, select_budget
from trl_real.selection.similarity import pair_vectors
from trl_real.strategies import STRATEGIES


SHARES = (0.1, 0.2, SHARE, 0.5, None)  # None: all
CLEAR_CHANCE = 0.01  # of two responses that are both below it, AlpacaEval's judge does not say which is better
GIVEN_PAIRS = ("easy", "hard", "random")  # what acts on pairs that are given
HELD_OUT_PAIRS = 5  # per prompt


@dataclass
class Offer:
    """
    The pairs that a strategy offers for a label.

    Attributes:
        name (`str`): What the tables call it.
        order (`str`): The strategy in whose order a budget takes them; `"random"` draws them.
        pairs ([`~datasets.Dataset`]): The labeled pairs, with a column `row`.
        difference (`np.ndarray` of shape `(n, dim)`): The embedding of `chosen` less that of `rejected`.
        held_out (`np.ndarray` of shape `(n_held_out, dim)`): The same of pairs that are right.
        longer_is_better (`float`): In which share of these pairs `chosen` is the longer response.
    """

    name: str
    order: str
    pairs: Dataset
    difference: np.ndarray
    held_out: np.ndarray
    longer_is_better: float


def differences(pairs: Dataset) -> np.ndarray:
    vectors = pair_vectors(pairs)
    return vectors[:, 0] - vectors[:, 1]


def accuracy(train: np.ndarray, held_out: np.ndarray) -> float:
    """Of a linear preference model, on pairs whose difference should be on the positive side."""
    model = BayesianRidge(fit_intercept=False).fit(train, np.ones(len(train)))
    predicted = model.predict(held_out)
    return float((predicted > 0).mean() + (predicted == 0).mean() / 2)


def longer_is_better(pairs: Dataset) -> float:
    """What a judge gets right who only looks at the length."""
    longer = np.array([len(pair["chosen"]) - len(pair["rejected"]) for pair in pairs])
    return float((longer > 0).mean() + (longer == 0).mean() / 2)


def select(rows: Dataset, strategy: str, seed: int, pairs_per_prompt: int = 1) -> tuple[Dataset, np.ndarray]:
    options = {"strategy": strategy, "selection_seed": seed, "pairs_per_prompt": pairs_per_prompt}
    pairs = rows.map(real_select, batched=True, fn_kwargs=options, keep_in_memory=True)
    return numbered(pairs), differences(pairs)


def numbered(pairs: Dataset) -> Dataset:
    """Without what only the embeddings are read from."""
    pairs = pairs.remove_columns(
        [name for name in ("responses", "scores", "embeddings") if name in pairs.column_names]
    )
    return pairs.add_column("row", list(range(len(pairs))))


def from_candidates(rows: Dataset, annotator: str, noise: float, seed: int) -> Iterator[Offer]:
    train, held_out = split(rows, seed)
    gold_pairs, gold = select(held_out, "random", seed, HELD_OUT_PAIRS)
    longer = longer_is_better(gold_pairs)
    train = annotate(train, annotator, noise, seed)
    for strategy in STRATEGIES:
        pairs, difference = select(train, strategy, seed)
        yield Offer(strategy, "random", pairs, difference, gold, longer)
        if strategy != "random":
            yield Offer(f"{strategy}, in its order", strategy, pairs, difference, gold, longer)


def from_pairs(rows: Dataset, seed: int) -> Iterator[Offer]:
    train, held_out = split(rows, seed)
    pairs, difference, gold = numbered(train), differences(train), differences(held_out)
    longer = longer_is_better(held_out)
    for strategy in GIVEN_PAIRS:
        name = strategy if strategy == "random" else f"{strategy}, in its order"
        yield Offer(name, strategy, pairs, difference, gold, longer)


def curve(offers: Callable[[int], Iterator[Offer]], seeds: int) -> dict:
    """Accuracies by strategy and share, and less those of `random`, over the seeds."""
    found, counts, longer = defaultdict(list), {}, [0.0] * seeds
    for seed in range(seeds):
        for offer in offers(seed):
            longer[seed] = offer.longer_is_better
            for share in SHARES:
                bought = (
                    offer.pairs
                    if share is None
                    else select_budget(offer.pairs, share, strategy=offer.order, seed=seed)
                )
                key = offer.name, 1.0 if share is None else share
                found[key].append(accuracy(offer.difference[bought["row"]], offer.held_out))
                counts[key[1]] = len(bought)
    return {
        "longer_is_better": over_seeds(longer, HELD_OUT),
        "labels": {str(share): count for share, count in counts.items()},
        "accuracy": _table(found),
        "less_random": _table(_less(found, lambda key: ("random", key[1]))),
        "less_drawn": _table(_less(found, lambda key: (key[0].split(", ")[0], key[1]))),
        "less_random_with_all_labels": _table(_less(found, lambda key: ("random", 1.0))),
    }


def _less(found: dict, baseline: Callable) -> dict:
    """What has a baseline other than itself, less that."""
    return {
        key: list(np.subtract(values, found[baseline(key)]))
        for key, values in found.items()
        if baseline(key) in found and baseline(key) != key
    }


def _table(found: dict) -> dict:
    table = defaultdict(dict)
    for (strategy, share), values in found.items():
        table[strategy][str(share)] = over_seeds(values, HELD_OUT)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument(
        "--data", help="Folder of the AlpacaEval candidates and the HH-RLHF pairs; else the package's sample."
    )
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    disable_progress_bars()
    name, rows = load_candidates(args.data)
    noise = temperature(rows)
    results = {
        "seeds": args.seeds,
        "held_out": HELD_OUT,
        "error_of_random_pairs": ERROR,
        "noise": round(noise, 4),
        "curves": {},
    }
    for annotator in ("by gap", "exact"):
        results["curves"][f"{name}, {annotator}"] = curve(
            lambda seed, annotator=annotator: from_candidates(rows, annotator, noise, seed), args.seeds
        )
    if args.data:
        _, clear = load_candidates(args.data, CLEAR_CHANCE)
        noise = temperature(clear)
        results["curves"][f"{name}, clear"] = curve(
            lambda seed: from_candidates(clear, "by gap", noise, seed), args.seeds
        )
        name, pairs = load_pairs(args.data)
        pairs = pairs.map(real_select, batched=True)
        results["curves"][f"{name}, people"] = curve(lambda seed: from_pairs(pairs, seed), args.seeds)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
