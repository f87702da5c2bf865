"""
Compare embedders: the default one with the hidden states of the policy, as in the paper, each of the response alone and after its prompt.

python benchmarks/study/embedders.py pairs --data folder > results/embedders_pairs.json
python benchmarks/study/embedders.py pairs --data folder --embedders sentence-transformers/all-mpnet-base-v2   # and with others

A policy embeds about ten times slower than the default, so a random part of the prompts and the first tokens of their texts are embedded,
the same for all. `datasets` caches each embedder's vectors, so a call that was stopped goes on where it was.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
from annotation_curve import curve, from_candidates, from_pairs, select
from data import SHARE, load_candidates, load_pairs, temperature
from datasets import Dataset, disable_progress_bars
from intervals import over_prompts
from reliability import chances, of_people

from trl_real import embed_responses, offline_lm, real_select
from trl_real.config import SelectionConfig


SHOWN = ("random", "easy", "hard", "centroid", "aepo")
DEFAULT = "MiniLM, response"
PROMPTS = 120
CHARACTERS_PER_TOKEN = 3  # or more


def with_vectors(rows: Dataset, embedder: str, max_length: int, prompt_length: int) -> Dataset:
    """The rows with other embeddings: of the responses, or of the last characters of the prompt and the response."""
    sides = ["responses"] if "responses" in rows.column_names else ["chosen", "rejected"]

    def after_prompt(row: dict) -> dict:
        start = row["prompt"][-prompt_length:] + "\n" if prompt_length else ""
        joined = {
            side: [start + text for text in row[side]] if side == "responses" else start + row[side] for side in sides
        }
        return {"prompt": row["prompt"], **joined}

    columns = [name for name in rows.column_names if name != "embeddings"]
    texts = rows.select_columns(["prompt", *sides]).map(after_prompt)
    options = {"embedder": embedder, "embedder_max_length": max_length, "embedder_dtype": "float32"}
    vectors = texts.map(embed_responses, batched=True, batch_size=64, fn_kwargs=options)
    return rows.select_columns(columns).add_column("embeddings", vectors["embeddings"][:])


def on_candidates(rows: dict[str, Dataset], noise: float, seeds: int) -> dict:
    """Wrong labels by strategy, less those with the default embedder, and the linear model; by embedder."""
    wrong = {
        name: {strategy: chances(select(part, strategy, 0)[0], noise) for strategy in SHOWN}
        for name, part in rows.items()
    }

    def mean(values: np.ndarray) -> dict:
        return over_prompts(values, np.ones_like(values))

    return {
        name: {
            "wrong": {strategy: mean(found) for strategy, found in by_strategy.items()},
            "wrong_less_default": {
                strategy: mean(found - wrong[DEFAULT][strategy]) for strategy, found in by_strategy.items()
            },
            **shown(curve(lambda seed, part=rows[name]: from_candidates(part, "by gap", noise, seed), seeds)),
        }
        for name, by_strategy in wrong.items()
    }


def on_pairs(rows: dict[str, Dataset], seeds: int) -> dict:
    found = {}
    for name, part in rows.items():
        pairs = part.map(real_select, batched=True, keep_in_memory=True)
        report = of_people(pairs)
        found[name] = {
            "agreement": report["agreement"],
            "bins": [row["agreement"] for row in report["bins"]],
            **shown(curve(lambda seed, pairs=pairs: from_pairs(pairs, seed), seeds)),
        }
    return found


def shown(found: dict) -> dict:
    """The accuracy of a linear model of the embeddings, with a share of the labels and with all of them."""
    parts = [str(SHARE), "1.0"]
    return {
        key: {name: {part: row[part] for part in parts if part in row} for name, row in found[key].items()}
        for key in ("accuracy", "less_random")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument(
        "kind", choices=["candidates", "pairs"], help="AlpacaEval's candidates, or the pairs of HH-RLHF."
    )
    parser.add_argument("--data", help="Folder of both datasets; else the package's sample, for `candidates`.")
    parser.add_argument("--model", help="A causal language model. Default: `offline_lm()`.")
    parser.add_argument("--embedders", nargs="+", default=[], help="Other Sentence Transformers to compare.")
    parser.add_argument("--rows", type=int, help=f"How many prompts or pairs. Default: {PROMPTS} prompts, all pairs.")
    parser.add_argument("--max_length", type=int, default=48, help="Tokens of a response to embed.")
    parser.add_argument("--prompt_length", type=int, default=120, help="Characters of the prompt to embed with it.")
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    disable_progress_bars()
    if args.kind == "pairs" and args.data is None:
        parser.error("`pairs` needs --data.")
    model = args.model or offline_lm()
    embedders = {
        "MiniLM": SelectionConfig.embedder,
        **{Path(path).name: path for path in args.embedders},
        Path(model).name.rsplit("-", 1)[0]: model,
    }
    name, rows = load_pairs(args.data) if args.kind == "pairs" else load_candidates(args.data)
    n = args.rows or (PROMPTS if args.kind == "candidates" else len(rows))
    part = rows.shuffle(seed=0).select(range(min(n, len(rows))))
    embedded: dict[str, Dataset] = {}
    seconds: dict[str, float] = {}
    for what, length in (("response", 0), ("prompt and response", args.prompt_length)):
        for embedder, path in embedders.items():
            start = time.perf_counter()
            limit = args.max_length + length // CHARACTERS_PER_TOKEN
            embedded[f"{embedder}, {what}"] = with_vectors(part, path, limit, length)
            seconds[f"{embedder}, {what}"] = round(time.perf_counter() - start, 1)
    results = {
        "data": name,
        "rows": len(part),
        "settings": {key: getattr(args, key) for key in ("max_length", "prompt_length", "seeds")},
        "embedders": on_pairs(embedded, args.seeds)
        if args.kind == "pairs"
        else on_candidates(embedded, temperature(rows), args.seeds),
        "seconds": seconds,
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
