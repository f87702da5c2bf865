"""Measure the time of a round: picking the next pairs to label from many. Prints JSON.

python benchmarks/rounds.py --pairs 100000

Each strategy of `next_pairs` picks a batch from pairs whose embeddings are on disk, some of them already labeled. The results are
medians over the rounds and include the time to read the embeddings and the labels.
"""

import argparse
import json
import statistics
import tempfile
import time

import numpy as np
import pyarrow as pa
from datasets import Dataset, disable_progress_bars
from machine import describe

from trl_real import next_pairs


def unlabeled(n: int, dim: int, folder: str) -> Dataset:
    """Unlabeled pairs with an embedding for each side, read from disk."""
    rng = np.random.default_rng(0)
    numbers = pa.array(rng.standard_normal(2 * n * dim, dtype=np.float32))
    vectors = pa.ListArray.from_arrays(pa.array(np.arange(0, 2 * n * dim + 1, dim, dtype=np.int32)), numbers)
    table = {
        "pair_id": [f"{i:032x}" for i in range(n)],
        "prompt": [f"question {i}" for i in range(n)],
        "response_a": [f"answer {i}" for i in range(n)],
        "response_b": [f"another answer {i}" for i in range(n)],
        "embeddings": pa.ListArray.from_arrays(pa.array(np.arange(0, 2 * n + 1, 2, dtype=np.int32)), vectors),
    }
    Dataset(pa.table(table)).save_to_disk(folder)
    return Dataset.load_from_disk(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    disable_progress_bars()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        pairs = unlabeled(args.pairs, args.dim, folder)
        labels = {pair: "ab"[i % 2] for i, pair in enumerate(next_pairs(pairs, n=args.labels)["pair_id"])}
        for number in range(args.rounds + 1):
            for strategy in ("random", "easy", "d_optimal", "bald"):
                start = time.perf_counter()
                next_pairs(pairs, labels, n=args.batch, strategy=strategy)
                if number:  # the first round warms up
                    seconds.setdefault(strategy, []).append(time.perf_counter() - start)
    result = {
        **{name: getattr(args, name) for name in ("pairs", "dim", "labels", "batch", "rounds")},
        "machine": describe(),
        "seconds": {strategy: round(statistics.median(spent), 2) for strategy, spent in seconds.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
