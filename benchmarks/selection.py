"""Compare the time to select a pair with a loop over prompts and pairs, as in the authors' code. Prints JSON.

python benchmarks/selection.py --prompts 20000

Each round measures the loop, every strategy with `dataset.map` (if the column `embeddings` is removed, and if it is kept), and a
map that does nothing, one after the other on the same machine. The results are medians over the rounds.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, disable_caching, disable_progress_bars
from machine import describe

from trl_real import real_select


LOOP_PROMPTS = 300
USED = ["responses", "scores", "embeddings"]


def candidates(n: int, k: int, dim: int, folder: str) -> Dataset:
    """Prompts with k distinct responses of about 150 characters, scores and embeddings, read from disk."""
    rng = np.random.default_rng(0)
    words = np.array(
        ["quick", "brown", "fox", "jumps", "over", "lazy", "dog", "then", "sleeps", "under", "green", "trees"]
    )
    vectors = pa.array(rng.standard_normal(n * k * dim, dtype=np.float32))
    rows = pa.ListArray.from_arrays(pa.array(np.arange(0, n * k * dim + 1, dim, dtype=np.int32)), vectors)
    table = {
        "prompt": [f"question {i}" for i in range(n)],
        "responses": [[f"{' '.join(rng.choice(words, 28))} {i} {j}" for j in range(k)] for i in range(n)],
        "scores": rng.standard_normal((n, k)).tolist(),
        "embeddings": pa.ListArray.from_arrays(pa.array(np.arange(0, n * k + 1, k, dtype=np.int32)), rows),
    }
    Dataset(pa.table(table)).save_to_disk(folder)
    return Dataset.load_from_disk(folder)


def loop(embeddings: torch.Tensor) -> None:
    """The least similar pair of each prompt, one pair at a time."""
    for prompt in embeddings:
        cosines = {
            (i, j): torch.nn.functional.cosine_similarity(prompt[i], prompt[j], dim=0).item()
            for i, j in itertools.combinations(range(len(prompt)), 2)
        }
        min(cosines, key=cosines.get)


def select(dataset: Dataset, strategy: str, remove: bool) -> Dataset:
    options = {"fn_kwargs": {"strategy": strategy}, "remove_columns": USED if remove else None}
    return dataset.map(real_select, batched=True, **options)


def nothing(dataset: Dataset, remove: bool) -> Dataset:
    return dataset.map(
        lambda batch: {"similarity": np.zeros(len(batch["prompt"]), dtype=np.float32)},
        batched=True,
        remove_columns=USED if remove else None,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=20_000)
    parser.add_argument("--responses", type=int, default=8)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--strategies", nargs="+", default=["easy", "hard", "random", "centroid", "aepo", "max_min"])
    args = parser.parse_args()
    disable_progress_bars()
    disable_caching()
    with tempfile.TemporaryDirectory() as folder:
        dataset = candidates(args.prompts, args.responses, args.dim, folder)
        vectors = np.array(dataset[:LOOP_PROMPTS]["embeddings"], dtype=np.float32)
        runs = {"loop": (lambda: loop(torch.from_numpy(vectors)), LOOP_PROMPTS)}
        for remove, kind in ((True, "removed"), (False, "carried along")):
            runs[f"empty map, {kind}"] = (lambda remove=remove: nothing(dataset, remove), args.prompts)
            for name in args.strategies:
                runs[f"{name}, {kind}"] = (
                    lambda name=name, remove=remove: select(dataset, name, remove),
                    args.prompts,
                )
        seconds = {name: [] for name in runs}
        for number in range(args.rounds + 1):
            for name, (run, n) in runs.items():
                start = time.perf_counter()
                written = run()
                if number:  # the first round warms up
                    seconds[name].append((time.perf_counter() - start) / n)
                for file in written.cache_files if written is not None else ():
                    Path(file["filename"]).unlink()  # 250 MB, which the next run would wait for to reach the disk
    result = {
        "prompts": args.prompts,
        "responses": args.responses,
        "dim": args.dim,
        "rounds": args.rounds,
        "machine": describe(),
        "microseconds_a_prompt": {name: round(1e6 * statistics.median(s), 1) for name, s in seconds.items()},
        "loop_over_it": {
            name: round(statistics.median(a / b for a, b in zip(seconds["loop"], s, strict=True)), 1)
            for name, s in seconds.items()
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
