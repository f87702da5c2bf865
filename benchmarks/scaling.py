"""Measure how time and memory grow with the number of prompts, from text and from embeddings. Prints JSON.

python benchmarks/scaling.py --plot scaling.png

Each measurement runs in its own process, on data that another process has written to disk. Instead of encoding a response, a
stand-in hashes it. `text` maps `real_select` over text, `column` maps `embed_responses` and then `real_select`, `flow` is
`select_preferences` with a budget, `stream` reads Parquet, in files of 1,000 prompts, row by row through `real_select`, and `embeddings` maps `real_select` over a
column of float16 embeddings.

`memory_mb` is the peak of the anonymous memory, including imports, which the process cannot give back. `mapped_mb` is the rest of the
peak of all its pages (`VmHWM`). `datasets` maps its files into memory, so each page that was read counts until the kernel needs the
space.
"""

import argparse
import hashlib
import importlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, disable_progress_bars, load_dataset

from trl_real import SelectionConfig, embed_responses, real_select, select_preferences


RESPONSES, DIM = 8, 384
CHUNK = 1000  # prompts that are written at once
MEMORY = ("RssAnon", "RssShmem", "VmHWM")
PATHS = ("text", "column", "flow", "stream", "embeddings")


class StandIn:
    """An encoder that costs almost nothing: the vector of a text is its hash."""

    def encode(self, texts: list[str]) -> np.ndarray:
        numbers = b"".join(hashlib.shake_128(text.encode()).digest(DIM) for text in texts)
        return np.frombuffer(numbers, np.int8).reshape(-1, DIM).astype(np.float32)


def tables(n: int, embedded: bool) -> Iterator[pa.Table]:
    """Prompts with distinct responses of about 150 characters, perhaps with embeddings. One prompt in 100 is all ties."""
    rng = np.random.default_rng(0)
    words = ["quick", "brown", "fox", "jumps", "over", "lazy", "dog", "then", "sleeps", "under", "green", "trees"]
    sentences = [" ".join(rng.choice(words, 30)) for _ in range(1000)]

    def lists(values: pa.Array, size: int) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, size, dtype=np.int32)), values)

    for start in range(0, n, CHUNK):
        size = min(CHUNK, n - start)
        numbers = range(start * RESPONSES, (start + size) * RESPONSES)
        scores = rng.standard_normal((size, RESPONSES))
        columns = {
            "prompt": pa.array([f"question {i}" for i in range(start, start + size)]),
            "responses": lists(pa.array([f"{sentences[i * 7919 % 1000]} {i}" for i in numbers]), RESPONSES),
            "scores": lists(pa.array((scores * (np.arange(size) % 100 > 0)[:, None]).ravel()), RESPONSES),
        }
        if embedded:
            vectors = rng.standard_normal(size * RESPONSES * DIM, dtype=np.float32).astype(np.float16)
            columns["embeddings"] = lists(lists(pa.array(vectors), DIM), RESPONSES)
        yield pa.table(columns)


def write(path: str, n: int, folder: str) -> None:
    """The data of a path on disk: one file to map into memory, or many files to stream."""
    rows = tables(n, embedded=path == "embeddings")
    if path == "stream":
        for number, table in enumerate(rows):
            pq.write_table(table, f"{folder}/{number:05}.parquet")
        return
    first = next(rows)
    with pa.ipc.new_stream(f"{folder}/data.arrow", first.schema) as writer:
        for table in itertools.chain([first], rows):
            writer.write_table(table)


def run(path: str, folder: str) -> int:
    """Take a path, and count the pairs."""
    stand_in = {"embedder": StandIn()}
    if path == "stream":
        stream = load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train", streaming=True)
        return sum(1 for _ in stream.map(real_select, batched=True, fn_kwargs=stand_in))
    dataset = Dataset.from_file(f"{folder}/data.arrow")
    if path == "flow":
        pairs, report = select_preferences(dataset, SelectionConfig(budget=0.5, **stand_in))
        return len(pairs) + report.dropped["over_budget"]
    if path == "column":
        dataset = dataset.map(embed_responses, batched=True, fn_kwargs=stand_in)
    used = [
        name
        for name in ("responses", "scores", "embeddings", "responses_cut", "tokens_cut")
        if name in dataset.column_names
    ]
    return len(dataset.map(real_select, batched=True, fn_kwargs=stand_in, remove_columns=used))


def measure(path: str, n: int) -> dict[str, float]:
    """Run a path in its own process and watch its memory."""
    with tempfile.TemporaryDirectory() as folder:  # with all that `map` writes
        write(path, n, folder)
        os.sync()  # so that the path does not wait for it
        command = [sys.executable, __file__, "--one", path, folder]
        environment = {**os.environ, "HF_DATASETS_CACHE": folder}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        anonymous, everything = peak_memory(process)
        n_pairs, seconds = json.loads(process.communicate()[0].splitlines()[-1])
    if n_pairs != n - n // 100:
        raise RuntimeError(f"{path}: {n_pairs} pairs of {n} prompts.")
    return {
        "seconds": round(seconds, 2),
        "microseconds_a_prompt": round(1e6 * seconds / n, 1),
        "memory_mb": round(anonymous),
        "mapped_mb": round(everything - anonymous),
    }


def peak_memory(process: subprocess.Popen) -> tuple[float, float]:
    """The peaks of the anonymous memory and of all pages of a process, in MB, once it has ended."""
    anonymous = everything = 0.0
    while process.poll() is None:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        kb = {name: int(rest.split()[0]) for name, rest in (line.split(":", 1) for line in lines) if name in MEMORY}
        if len(kb) == len(MEMORY):  # not of a process that has just ended
            anonymous = max(anonymous, (kb["RssAnon"] + kb["RssShmem"]) / 1024)
            everything = max(everything, kb["VmHWM"] / 1024)
        time.sleep(0.005)
    return anonymous, everything


def plot(paths: dict, file: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, key, label in zip(
        figure.subplots(1, 2), ("seconds", "memory_mb"), ("seconds", "peak memory, MB"), strict=True
    ):
        for (path, sizes), marker in zip(paths.items(), "osD^v", strict=False):
            numbers = [size[key] for size in sizes.values()]
            axes.loglog([int(n) for n in sizes], numbers, marker=marker, markersize=5, label=path)
        if key == "memory_mb":
            axes.set_ylim(100, 10_000)
        axes.set_xlabel(f"prompts with {RESPONSES} responses")
        axes.set_ylabel(label)
        axes.grid(True, alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), frameon=False, loc="outside upper center", ncols=len(paths))
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument(
        "--more_prompts", type=int, nargs="*", default=[300_000, 1_000_000], help="More sizes for `embeddings` only."
    )
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=PATHS)
    parser.add_argument("--plot", help="File for the figure.")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        disable_progress_bars()
        if args.one[0] == "stream":
            importlib.import_module("torch")  # which a stream loads, in a second that is none of its rows'
        start = time.perf_counter()
        n_pairs = run(*args.one)
        print(json.dumps([n_pairs, time.perf_counter() - start]))
        return
    from machine import describe  # loads torch, which a path is not to pay for

    paths: dict = {path: {} for path in args.paths}
    for path in args.paths:
        for n in args.prompts + (args.more_prompts if path == "embeddings" else []):
            paths[path][n] = measure(path, n)
            print(path, n, paths[path][n], file=sys.stderr)
    growth = {}
    for path, sizes in paths.items():
        if len(sizes) < 2:
            continue
        n, (first, *_, last) = list(sizes), sizes.values()
        exponent = np.polyfit(np.log(n), np.log([size["seconds"] for size in sizes.values()]), 1)[0]
        growth[path] = {
            "prompts": round(n[-1] / n[0], 1),
            "memory": round(last["memory_mb"] / first["memory_mb"], 2),
            "time_exponent": round(float(exponent), 2),  # 1 is linear
        }
    result = {"responses": RESPONSES, "dim": DIM, "machine": describe(), "paths": paths, "growth": growth}
    print(json.dumps(result, indent=2))
    if args.plot:
        plot(paths, args.plot)


if __name__ == "__main__":
    main()
