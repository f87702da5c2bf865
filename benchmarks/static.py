"""Compare the static embedder with the naive script, from text to pairs on the same rows. Prints JSON.

python benchmarks/static.py --data folder/with/alpaca_eval_candidates.jsonl.gz

As in text_to_pairs.py, both take turns and read up to 256 tokens. `same_picks` counts the prompts for which both pick the same pair, and
`mean_cosine_regret` says how much more similar the picks of the static embedder are, in the eyes of the encoder.
"""

import argparse
import json
import statistics
import time

import numpy as np
from machine import describe
from text_to_pairs import candidates, load, naive, parse

from trl_real import real_select
from trl_real.config import DEFAULT_EMBEDDER
from trl_real.embedding.embedder import free_embedder


def static(dataset) -> list[set[str]]:
    options = {"embedder": f"static:{DEFAULT_EMBEDDER}"}
    return [{row["chosen"], row["rejected"]} for row in dataset.map(real_select, batched=True, fn_kwargs=options)]


def main() -> None:
    args = parse(argparse.ArgumentParser(description=__doc__.splitlines()[0]), prompts=60, rounds=3)
    dataset = candidates(args.data, args.prompts)
    n_responses = sum(map(len, dataset["responses"]))
    model = load("float32", openvino=False)
    static(dataset)  # distills the embedder, and loads it
    seconds: dict[str, list[float]] = {"naive": [], "static": []}
    picks = {}
    for _ in range(args.rounds):
        for name, run in (("naive", lambda: naive(dataset, model)), ("static", lambda: static(dataset))):
            start = time.perf_counter()
            picks[name] = run()
            seconds[name].append(time.perf_counter() - start)
    free_embedder()
    texts = sorted({text for pairs in picks.values() for pair in pairs for text in pair})
    vectors = dict(zip(texts, model.encode(texts, normalize_embeddings=True), strict=True))
    cosines = {
        name: [float(np.prod([vectors[text] for text in pair], axis=0).sum()) for pair in pairs]
        for name, pairs in picks.items()
    }
    result = {
        "prompts": len(dataset),
        "responses": n_responses,
        "rounds": args.rounds,
        "machine": describe(),
        "texts_a_second": {name: round(n_responses / statistics.median(spent), 1) for name, spent in seconds.items()},
        "times_naive": round(
            statistics.median(a / b for a, b in zip(seconds["naive"], seconds["static"], strict=True)), 1
        ),
        "same_picks": round(float(np.mean([a == b for a, b in zip(picks["naive"], picks["static"], strict=True)])), 3),
        "mean_cosine_regret": round(float(np.mean(cosines["static"]) - np.mean(cosines["naive"])), 4),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
