"""Measure how close the default embedder comes to the speed of matrix products, for short, usual and long texts. Prints JSON.

python benchmarks/encoder.py --data folder/with/alpaca_eval_candidates.jsonl.gz

The texts are the first 20 words of responses of AlpacaEval, whole responses, and two responses in one, cut at 32, 256 and 512 tokens.
`embed_responses` maps them, with a model that is already loaded. The operations of a text are those of the matrix products of its own tokens, so padding, the
tokenizer and everything else count as lost time. They are compared with the products that `machine.py` measures in the precision of the
embedder, before and after each run. `seconds` says where the time goes: in the tokenizer, in the forward pass, and elsewhere.
"""

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from datasets import Dataset
from machine import describe, gflops
from text_to_pairs import candidates, load, parse

from trl_real import embed_responses
from trl_real.config import DEFAULT_EMBEDDER
from trl_real.embedding.identity import resolved_dtype
from trl_real.embedding.tokens import read_tokens


LENGTHS = {"short": 32, "usual": 256, "long": 512}


def texts_of(dataset: Dataset, length: int) -> list[str]:
    """Distinct texts of about `length` tokens."""
    responses = list(dict.fromkeys(text for row in dataset["responses"] for text in row))
    if length == LENGTHS["short"]:
        return list(dict.fromkeys(" ".join(text.split()[:20]) for text in responses))
    if length == LENGTHS["long"]:
        return ["\n\n".join(pair) for pair in zip(responses[::2], responses[1::2], strict=False)]
    return responses


def operations(config: Any, tokens: np.ndarray) -> float:
    """The floating point operations of all matrix products of an encoder, for texts of so many tokens each, `(n,)`."""
    dim, inner = config.hidden_size, config.intermediate_size
    per_token = 2 * (4 * dim**2 + 2 * dim * inner)  # of the weights: queries, keys, values, output, and two of the MLP
    attention = 4 * dim  # per pair of tokens
    return float(config.num_hidden_layers * (per_token * tokens + attention * tokens**2).sum())


@contextmanager
def clocked(seconds: dict[str, float], name: str, owner: Any, attribute: str) -> Iterator[None]:
    """Add the time that is spent in a method to `seconds[name]`."""
    method: Callable = getattr(owner, attribute)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

    with mock.patch.object(owner, attribute, timed):
        yield


def measure(dataset: Dataset, length: int, dtype: str, openvino: bool, rounds: int) -> dict[str, Any]:
    """The medians over the rounds."""
    model = load(dtype, openvino, length)
    texts = texts_of(dataset, length)
    rows = Dataset.from_dict({"prompt": ["Go on."] * len(texts), "responses": [[text, "Yes."] for text in texts]})
    options = {"embedder": DEFAULT_EMBEDDER, "embedder_max_length": length, "embedder_dtype": dtype}
    counts = np.minimum(read_tokens(model, [*texts, "Yes."])[1], length)
    work = operations(model[0].auto_model.config, counts) / 1e9
    shares, rates, spent = [], [], []
    for number in range(rounds + 1):
        seconds: dict[str, float] = {}
        before = gflops(getattr(torch, dtype))
        with (
            clocked(seconds, "tokenizer", type(model.tokenizer), "__call__"),
            clocked(seconds, "forward", model, "forward"),
        ):
            start = time.perf_counter()
            rows.map(embed_responses, batched=True, batch_size=len(rows), fn_kwargs=options)
            seconds["all"] = time.perf_counter() - start
        limit = statistics.mean([before, gflops(getattr(torch, dtype))])
        if number:  # the first one warms up
            shares.append(work / seconds["all"] / limit)
            rates.append(len(counts) / seconds["all"])
            spent.append(seconds)
    middle = {name: statistics.median(s.get(name, 0.0) for s in spent) for name in ("all", "forward", "tokenizer")}
    middle["elsewhere"] = middle["all"] - middle["forward"] - middle["tokenizer"]
    return {
        "tokens": round(float(counts.mean()), 1),
        "texts_a_second": round(statistics.median(rates), 1),
        "share_of_limit": round(statistics.median(shares), 3),
        "seconds": {name: round(value, 3) for name, value in middle.items()},
    }


def main() -> None:
    args = parse(argparse.ArgumentParser(description=__doc__.splitlines()[0]), prompts=30, rounds=3)
    dataset = candidates(args.data, args.prompts)
    backends = {"PyTorch": False}
    if not torch.cuda.is_available() and importlib.util.find_spec("openvino") is not None:
        backends["OpenVINO"] = True
    precisions = dict.fromkeys(["float32", resolved_dtype("auto")])
    rows = {
        f"{backend}, {dtype}": {
            name: measure(dataset, length, dtype, openvino, args.rounds) for name, length in LENGTHS.items()
        }
        for backend, openvino in backends.items()
        for dtype in precisions
    }
    print(json.dumps({"lengths": LENGTHS, "rounds": args.rounds, "machine": describe(), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
