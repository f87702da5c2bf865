"""
Which labels can be trusted, by similarity.

python benchmarks/study/reliability.py --data folder > results/reliability.json

On AlpacaEval the annotators are simulated, so that it is known which of their labels are wrong, and what `label_reliability` says
about them without knowing can be held against it. On HH-RLHF it is asked about the labels of people.
"""

import argparse
import json

import numpy as np
from annotation_curve import select
from data import ERROR, annotate, load_candidates, load_pairs, temperature
from datasets import Dataset, disable_progress_bars

from trl_real import LabelError, label_reliability
from trl_real.reliability import PAIRS_PER_PROMPT, ReliabilityReport


def with_truth(rows: Dataset, noise: float) -> dict:
    """The report on simulated labels, and which of them are wrong."""
    labelled = annotate(rows, "by gap", noise, seed=0)
    report = label_reliability(labelled)
    pairs, _ = select(labelled, "random", 0, PAIRS_PER_PROMPT)  # the same as in the report
    gold = {
        row["prompt"]: dict(zip(row["responses"], row["scores"], strict=True))
        for row in rows.remove_columns("embeddings")
    }
    gaps = np.array([gold[pair["prompt"]][pair["chosen"]] - gold[pair["prompt"]][pair["rejected"]] for pair in pairs])
    similarity = np.array(pairs["similarity"])
    edges = [row.low for row in report.bins[1:]]
    where = np.searchsorted(edges, similarity + 1e-5, side="right")
    found = {**report.to_dict(), "text": str(report), "truth": truth(gaps)}
    for b, row in enumerate(found["bins"]):
        row["truth"] = truth(gaps[where == b])
    return found


def truth(gaps: np.ndarray) -> dict:
    right = ["a" if gap > 0 else "b" if gap < 0 else "tie" for gap in gaps]
    return LabelError().compute(labels=["a"] * len(gaps), gold_labels=right)


def of_people(pairs: Dataset) -> dict:
    report: ReliabilityReport = label_reliability(pairs)
    return {**report.to_dict(), "text": str(report)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument(
        "--data", help="Folder of the AlpacaEval candidates and the HH-RLHF pairs; else the package's sample."
    )
    args = parser.parse_args()
    disable_progress_bars()
    name, rows = load_candidates(args.data)
    results = {"error_of_random_pairs": ERROR, "reports": {name: with_truth(rows, temperature(rows))}}
    if args.data:
        name, pairs = load_pairs(args.data)
        results["reports"][name] = of_people(pairs)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
