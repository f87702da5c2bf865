"""Measure the time and memory of `to_candidates(group=True)` on paired rows that share prompts. Prints JSON.

python benchmarks/grouping.py --rows 1000000
"""

import argparse
import json
import resource
import tempfile
import time

import numpy as np
from datasets import Dataset, disable_progress_bars
from machine import describe

from trl_real import to_candidates


def pairs(n_rows: int, n_prompts: int) -> Dataset:
    """Pairs with prompts in any order, about 1 KB per row."""
    rng = np.random.default_rng(0)
    words = "the quick brown fox jumps over the lazy dog " * 5

    def rows():
        for prompt, chosen, rejected in rng.integers(0, n_prompts, (n_rows, 3)):
            yield {
                "prompt": f"question {prompt} {words}",
                "chosen": f"answer {chosen} {words}{words}",
                "rejected": f"answer {rejected} {words}{words}",
            }

    return Dataset.from_generator(rows, cache_dir=tempfile.mkdtemp())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--prompts", type=int, default=200_000)
    args = parser.parse_args()
    disable_progress_bars()
    dataset = pairs(args.rows, args.prompts)
    start = time.perf_counter()
    candidates = to_candidates(dataset, group=True)
    result = {
        "rows": args.rows,
        "prompts": len(candidates),
        "seconds": round(time.perf_counter() - start, 1),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "machine": describe(),
    }
    print(json.dumps(result, indent=2))
