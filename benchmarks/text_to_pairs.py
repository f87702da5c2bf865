"""Compare `real_select`, from text to pairs, with a naive script and with a script like the authors' code. Prints JSON.

python benchmarks/text_to_pairs.py --data folder/with/alpaca_eval_candidates.jsonl.gz --prompts 60

All of them embed with the default embedder up to the same number of tokens and pick the least similar pair. Each round measures all of
them, one after the other on the same machine, with models that are already loaded. Ratios are computed within a round, and the results
are medians over the rounds. If there is a GPU, everything except OpenVINO runs on it.
"""

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from datasets import Dataset, disable_caching, disable_progress_bars
from machine import describe

from trl_real import real_select
from trl_real.config import DEFAULT_EMBEDDER, EmbedderOptions
from trl_real.embedding.embedder import free_embedder, load_embedder


FILE = "alpaca_eval_candidates.jsonl.gz"


def naive(dataset: Dataset, model) -> list[set[str]]:
    """float32 `encode` in a map, and the cosine of each pair in Python."""

    def pick(row):
        vectors = model.encode(row["responses"], show_progress_bar=False)
        cosines = {
            (i, j): float(np.dot(vectors[i], vectors[j]) / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j]))
            for i, j in itertools.combinations(range(len(vectors)), 2)
        }
        return {"pair": list(min(cosines, key=cosines.get))}

    return pairs_of(dataset, dataset.map(pick)["pair"])


def authors(dataset: Dataset, model) -> list[set[str]]:
    """Every text padded to the limit, one prompt at a time, and torch's cosine of one pair at a time."""
    tokenizer, encoder = model.tokenizer, model[0].auto_model
    pairs = []
    for row in dataset:
        options = {"padding": "max_length", "truncation": True, "max_length": model.max_seq_length}
        tokens = tokenizer(row["responses"], return_tensors="pt", **options)
        tokens = tokens.to(encoder.device)
        with torch.no_grad():
            hidden = encoder(**tokens).last_hidden_state  # (k, limit, dim)
        mask = tokens["attention_mask"].unsqueeze(-1)
        vectors = (hidden * mask).sum(1) / mask.sum(1)
        cosines = {
            (i, j): torch.nn.functional.cosine_similarity(vectors[i], vectors[j], dim=0).item()
            for i, j in itertools.combinations(range(len(vectors)), 2)
        }
        pairs.append(min(cosines, key=cosines.get))
    return pairs_of(dataset, pairs)


def pairs_of(dataset: Dataset, numbers: list) -> list[set[str]]:
    return [{row["responses"][i] for i in pair} for row, pair in zip(dataset, numbers, strict=True)]


def ours(dataset: Dataset, dtype: str) -> list[set[str]]:
    selected = dataset.map(real_select, batched=True, fn_kwargs={"embedder_dtype": dtype})
    return [{row["chosen"], row["rejected"]} for row in selected]


def load(dtype: str, openvino: bool, max_length: int | None = None):
    """The default embedder, for `ours` to find."""
    free_embedder()
    find_spec = importlib.util.find_spec
    with mock.patch(
        "importlib.util.find_spec", lambda name: find_spec(name) if name != "openvino" or openvino else None
    ):
        return load_embedder(EmbedderOptions(DEFAULT_EMBEDDER, max_length, dtype=dtype))


def candidates(folder: str, prompts: int) -> Dataset:
    """Rows whose responses are all different and not tied: the others only `real_select` would leave out."""
    dataset = Dataset.from_json(str(Path(folder) / FILE)).select(range(prompts))
    dataset = dataset.map(lambda row: {"scores": [float(i) for i in range(len(row["responses"]))]})
    return dataset.filter(lambda row: len({text.strip() for text in row["responses"]}) == len(row["responses"]))


def parse(parser: argparse.ArgumentParser, **defaults: int) -> argparse.Namespace:
    """The arguments of a benchmark on the file; and `datasets` quiet, and computing everything anew."""
    parser.add_argument("--data", default=os.environ.get("TRL_REAL_DATA"), help=f"Folder that holds {FILE}.")
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    if args.data is None:
        parser.error(f"--data, or the environment variable TRL_REAL_DATA, must name the folder that holds {FILE}.")
    disable_progress_bars()
    disable_caching()
    return args


def main() -> None:
    args = parse(argparse.ArgumentParser(description=__doc__.splitlines()[0]), prompts=60, rounds=3)
    dataset = candidates(args.data, args.prompts)
    model = load("float32", openvino=False)
    texts = list(itertools.chain.from_iterable(dataset["responses"]))
    vectors = dict(zip(texts, model.encode(texts, normalize_embeddings=True), strict=True))
    runs = {"naive": lambda: naive(dataset, model), "authors": lambda: authors(dataset, model)}
    setup = {}
    backends = {"PyTorch": False}
    if not torch.cuda.is_available() and importlib.util.find_spec("openvino") is not None:
        backends["OpenVINO"] = True
    for (backend, openvino), dtype in itertools.product(backends.items(), ("float32", "auto")):
        runs[f"real_select, {backend}, {dtype}"] = lambda dtype=dtype: ours(dataset, dtype)
        setup[f"real_select, {backend}, {dtype}"] = dtype, openvino
    seconds, picks = {name: [] for name in runs}, {}
    for _ in range(args.rounds):
        for name, run in runs.items():
            if name in setup:
                load(*setup[name])
            start = time.perf_counter()
            picks[name] = run()
            seconds[name].append(time.perf_counter() - start)

    def cosine(pair: set[str]) -> float:
        a, b = (vectors[text] for text in pair)
        return float(a @ b)

    def regret(pairs: list[set[str]]) -> float:
        return float(np.mean([cosine(pair) - cosine(best) for pair, best in zip(pairs, picks["naive"], strict=True)]))

    result = {
        "prompts": len(dataset),
        "responses": len(texts),
        "max_length": model.max_seq_length,
        "rounds": args.rounds,
        "machine": describe(),
        "texts_a_second": {name: round(len(texts) / statistics.median(s), 1) for name, s in seconds.items()},
        "times_naive": {
            name: round(statistics.median(a / b for a, b in zip(seconds["naive"], s, strict=True)), 2)
            for name, s in seconds.items()
        },
        "same_picks_as_naive": {
            name: round(np.mean([a == b for a, b in zip(pairs, picks["naive"], strict=True)]), 3)
            for name, pairs in picks.items()
        },
        "mean_cosine_regret": {name: round(regret(pairs), 5) for name, pairs in picks.items()},
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
