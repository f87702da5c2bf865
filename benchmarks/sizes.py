"""What uncommon sizes cost: very many pairs of a prompt, very long responses, more text in a batch than 2 GB. Prints JSON.

python benchmarks/sizes.py --cases pairs distance

Each case is a process of its own, on data that another one has written to disk. `memory_mb` is the peak of its anonymous memory,
imports included, as in scaling.py; `seconds` are those of the case alone.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np
from datasets import Dataset, disable_progress_bars
from scaling import StandIn, peak_memory

from trl_real import SelectionConfig, embed_responses, real_select, select_preferences


MB = 1_000_000
# What each case is, and its prompts, the responses of each, the characters of each, and the numbers of its vector, if there is one.
CASES = {
    "pairs": ("All 1,000,405 pairs of one prompt through `select_preferences`, `aepo`", 1, 1415, 20, 64),
    "distance": ("All 23,400 pairs of 30 prompts of 40 responses, with `budget_min_distance`", 30, 40, 100, 384),
    "long": ("60 MB of responses of 5 MB through `embed_responses`, the default embedder", 4, 3, 5 * MB, 0),
    "batch": (
        "2.2 GB of responses in one batch of `map(real_select)`, a stand-in for the embedder",
        1000,
        2,
        1.1 * MB,
        0,
    ),
}


def write(case: str, folder: str) -> None:
    """The candidates of a case, on disk."""
    _, prompts, responses, characters, dim = CASES[case]
    words = np.random.default_rng(0).choice(
        ["quick ", "brown ", "foxes ", "jumped ", "over "], 1 + int(characters) // 5
    )
    text = "".join(words)

    def rows():
        rng = np.random.default_rng(0)
        for i in range(prompts):
            row = {
                "prompt": f"question {i}",
                "responses": [f"{i} {j} {text}"[: int(characters)] for j in range(responses)],
                "scores": rng.standard_normal(responses).tolist(),
            }
            yield row | ({"embeddings": rng.standard_normal((responses, dim)).astype(np.float32)} if dim else {})

    Dataset.from_generator(rows, cache_dir=f"{folder}/cache", writer_batch_size=50).save_to_disk(f"{folder}/data")


def run(case: str, folder: str) -> int:
    """Take a case, and count the rows that come out."""
    dataset = Dataset.load_from_disk(f"{folder}/data")
    if case == "long":
        return len(dataset.map(embed_responses, batched=True))
    if case == "batch":
        options = {"fn_kwargs": {"embedder": StandIn()}, "remove_columns": ["responses", "scores"]}
        return len(dataset.map(real_select, batched=True, **options))
    options = {"strategy": "aepo"} if case == "pairs" else {"budget_min_distance": 0.1}
    return len(select_preferences(dataset, SelectionConfig(pairs_per_prompt=10**7, **options))[0])


def measure(case: str) -> dict:
    """Take a case in a process of its own, with an eye on its memory."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--write", case, folder], check=True)
        os.sync()
        environment = {**os.environ, "HF_DATASETS_CACHE": folder}
        command = [sys.executable, __file__, "--one", case, folder]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        anonymous, _ = peak_memory(process)
        rows, seconds = json.loads(process.communicate()[0].splitlines()[-1])
    return {"what": CASES[case][0], "rows": rows, "seconds": round(seconds, 1), "memory_mb": round(anonymous)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    disable_progress_bars()
    if args.write:
        return write(*args.write)
    if args.one:
        if args.one[0] == "long":  # the embedder loads before the clock starts
            embed_responses({"prompt": ["a"], "responses": [["b", "c"]]})
        start = time.perf_counter()
        rows = run(*args.one)
        print(json.dumps([rows, time.perf_counter() - start]))
        return None
    from machine import describe  # loads torch, which no case is to pay for

    cases = {}
    for case in args.cases:
        cases[case] = measure(case)
        print(case, cases[case], file=sys.stderr)
    print(json.dumps({"machine": describe(), "cases": cases}, indent=2))
    return None


if __name__ == "__main__":
    main()
