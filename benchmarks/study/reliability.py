"""
Measure which labels are wrong, by similarity and by strategy.

python benchmarks/study/reliability.py --data folder > results/reliability.json

On AlpacaEval, the annotators are simulated, so the probability that a label is wrong is known and can be compared with the estimate of
`label_reliability`. On HH-RLHF, the labels are from people, and only the estimate is known.
"""

import argparse
import json

import numpy as np
from annotation_curve import select
from data import ERROR, gaps, load_candidates, load_pairs, temperature
from datasets import Dataset, disable_progress_bars
from intervals import over_prompts
from scipy.special import expit

from trl_real import label_reliability, real_select
from trl_real.labeling.label_noise import Estimate
from trl_real.labeling.reliability import PAIRS_PER_PROMPT
from trl_real.selection.similarity import pair_vectors
from trl_real.strategies import STRATEGIES


# Those that do not read scores: what they pick does not depend on what annotators get wrong.
BLIND = [name for name, strategy in STRATEGIES.items() if name != "random" and not strategy.needs("scores")]


def chances(pairs: Dataset, noise: float) -> np.ndarray:
    """How likely the simulated annotators are to take the worse response of each pair for the better one, `(n,)`."""
    gap = np.abs(np.subtract(pairs["score_chosen"], pairs["score_rejected"]))
    return expit(-gap / noise)


def by_strategy(rows: Dataset, noise: float) -> dict:
    """Wrong labels where each prompt has one label, and less those of a pair that is drawn."""
    drawn = np.array([expit(-np.abs(gap) / noise).mean() for gap in gaps(rows)])  # over all pairs of the prompt
    found = {"random": {"wrong": over_prompts(drawn, np.ones_like(drawn))}}
    for strategy in BLIND:
        pairs, _ = select(rows, strategy, 0)
        wrong = chances(pairs, noise)
        found[strategy] = {
            "wrong": over_prompts(wrong, np.ones_like(wrong)),
            "less_random": over_prompts(wrong - drawn, np.ones_like(wrong)),
        }
    return found


def with_truth(rows: Dataset, noise: float, seeds: int) -> dict:
    """What is reported on the same pairs with the labels of several annotators, and how many of these are wrong."""
    pairs = rows.map(
        real_select,
        batched=True,
        fn_kwargs={"strategy": "random", "pairs_per_prompt": PAIRS_PER_PROMPT},
    )
    wrong, prompt = chances(pairs, noise), np.unique(pairs["prompt"], return_inverse=True)[1]
    vectors, texts = pair_vectors(pairs), np.array([pairs["chosen"], pairs["rejected"]], dtype=object).T
    reports = []
    for seed in range(seeds):
        flipped = np.random.default_rng(seed).random(len(pairs)) < wrong
        sides = np.column_stack([flipped, ~flipped]).astype(int)
        chosen, rejected = np.take_along_axis(texts, sides, 1).T
        labeled = {
            "chosen": chosen,
            "rejected": rejected,
            "embeddings": vectors[np.arange(len(pairs))[:, None], sides],
        }
        reports.append(label_reliability(Dataset.from_dict({"prompt": pairs["prompt"], **labeled})))
    edges = [row.low for row in reports[0].bins[1:]]
    where = np.searchsorted(edges, np.array(pairs["similarity"]) + 1e-5, side="right")
    bins = [
        {
            "low": row.low,
            "high": row.high,
            "pairs": row.pairs,
            **_held_against(_share(wrong[where == b], prompt[where == b]), [r.bins[b].flip_rate for r in reports]),
        }
        for b, row in enumerate(reports[0].bins)
    ]
    return {
        "annotators": seeds,
        "pairs": len(pairs),
        **_held_against(_share(wrong, prompt), [report.flip_rate for report in reports]),
        "bins": bins,
    }


def _held_against(truth: dict[str, float], said: list[Estimate]) -> dict:
    values = [estimate.value for estimate in said]
    return {
        "truth": truth,
        "said": {"mean": round(float(np.mean(values)), 4), "low": min(values), "high": max(values)},
        "covered": sum(estimate.low <= truth["mean"] <= estimate.high for estimate in said),
    }


def _share(wrong: np.ndarray, prompt: np.ndarray) -> dict[str, float]:
    return over_prompts(np.bincount(prompt, wrong), np.bincount(prompt))


def of_people(pairs: Dataset) -> dict:
    return label_reliability(pairs).to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument(
        "--data", help="Folder of the AlpacaEval candidates and the HH-RLHF pairs; else the package's sample."
    )
    parser.add_argument("--seeds", type=int, default=20, help="Number of simulated annotators.")
    args = parser.parse_args()
    disable_progress_bars()
    name, rows = load_candidates(args.data)
    noise = temperature(rows)
    results = {
        "error_of_random_pairs": ERROR,
        "strategies": {name: by_strategy(rows, noise)},
        "reports": {name: with_truth(rows, noise, args.seeds)},
    }
    if args.data:
        name, pairs = load_pairs(args.data)
        results["reports"][name] = of_people(pairs)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
