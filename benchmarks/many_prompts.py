"""Measure time and memory from many embedded prompts to a budget of pairs with Ray, Parquet to Parquet. Prints JSON.

python benchmarks/many_prompts.py --prompts 10000000

Each prompt has 4 responses with 64 dimensions in float16. The candidates are written piece by piece, 100,000 prompts per file. Ray has two
CPUs and an object store of 1 GB. The stages read what the previous one has written: all pairs are selected, `selection_report` counts
them, and Ray's own sort keeps the least similar tenth. `memory_mb` is the peak of the memory of all processes together: their
anonymous pages, and the object store, which they share.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scaling import MEMORY


RESPONSES, DIM = 4, 64
PIECE = 100_000  # prompts per file
BLOCK = 8192  # prompts per task
SHARE = 0.1
STORE = 10**9  # bytes


def write(folder: Path, n: int) -> None:
    """Prompts with distinct responses of about 60 characters, piece by piece. One prompt in 100 is all ties."""
    folder.mkdir()
    for start in range(0, n, PIECE):
        rng = np.random.default_rng(start)
        size = min(PIECE, n - start)
        numbers = np.arange(start, start + size)
        scores = rng.standard_normal((size, RESPONSES)) * (numbers % 100 > 0)[:, None]
        texts = [f"answer {i} of the machine to the question that was asked" for i in range(size * RESPONSES)]
        vectors = rng.standard_normal(size * RESPONSES * DIM, dtype=np.float32).astype(np.float16)

        def lists(values: pa.Array, length: int) -> pa.Array:
            return pa.ListArray.from_arrays(pa.array(np.arange(0, len(values) + 1, length, dtype=np.int32)), values)

        columns = {
            "id": numbers,
            "prompt": [f"question {i}" for i in numbers],
            "responses": lists(pa.array(texts), RESPONSES),
            "scores": lists(pa.array(scores.ravel()), RESPONSES),
            "embeddings": lists(lists(pa.array(vectors), DIM), RESPONSES),
        }
        pq.write_table(pa.table(columns), folder / f"{start // PIECE:05}.parquet", row_group_size=BLOCK)


class Memory(threading.Thread):
    """Watches the memory of all processes that were started by this one."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0.0

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, _memory(os.getpid()))
            time.sleep(0.5)


def _memory(root: int) -> float:
    """The anonymous pages of a process and its descendants, and the largest shared memory of one of them, in MB."""
    parents, kb = {}, {}
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
        except OSError:  # it has ended
            continue
        parents[int(path.parent.name)] = int(lines["PPid"])
        kb[int(path.parent.name)] = [int(lines[name].split()[0]) if name in lines else 0 for name in MEMORY[:2]]
    ours = [pid for pid in parents if root in _ancestors(pid, parents)]
    return (sum(kb[pid][0] for pid in ours) + max((kb[pid][1] for pid in ours), default=0)) / 1024


def _ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    found = set()
    while pid in parents and pid not in found:
        found.add(pid)
        pid = parents[pid]
    return found


def run(folder: Path, n: int) -> dict:
    import ray

    from trl_real.ray import RealSelect, selection_report

    ray.init(num_cpus=2, object_store_memory=STORE, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    memory, seconds = Memory(), {}
    memory.start()
    start = time.perf_counter()

    def stop(stage: str) -> None:
        nonlocal start
        now = time.perf_counter()
        seconds[stage], start = round(now - start, 1), now
        print(stage, seconds[stage], "s", round(memory.peak), "MB", file=sys.stderr, flush=True)

    candidates = ray.data.read_parquet(str(folder / "embedded"))
    pairs = candidates.map_batches(
        RealSelect, batch_format="pyarrow", batch_size=BLOCK, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=0.5
    )
    used = ["responses", "scores", "embeddings"]
    pairs.drop_columns(used).write_parquet(str(folder / "pairs"))
    stop("select")
    pairs = ray.data.read_parquet(str(folder / "pairs"))
    report = selection_report(candidates, pairs)
    stop("report")
    kept = int(SHARE * report.pairs)
    pairs.sort(["similarity", "id"]).limit(kept).write_parquet(str(folder / "kept"))
    stop("budget")
    found = sum(pq.read_metadata(path).num_rows for path in (folder / "kept").glob("*.parquet"))
    if (report.rows, report.pairs, found) != (n, n - -(-n // 100), kept):
        raise RuntimeError(f"{report.pairs} pairs of {report.rows} prompts, of which {found} were kept.")
    sizes = {
        name: sum(path.stat().st_size for path in (folder / name).glob("*.parquet")) for name in ("embedded", "pairs")
    }
    return {
        "seconds": seconds,
        "memory_mb": round(memory.peak),
        "bytes_per_prompt": {name: round(size / n) for name, size in sizes.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=[200_000, 10_000_000])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run(Path(args.one[0]), int(args.one[1]))))
        return
    sizes = {}
    for n in args.prompts:
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent)
            start = time.perf_counter()
            write(folder / "embedded", n)
            os.sync()
            print(n, "written", round(time.perf_counter() - start), "s", shutil.disk_usage(folder), file=sys.stderr)
            command = [sys.executable, __file__, "--one", parent, str(n)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            from machine import describe  # loads torch, which the stages are not to pay for

            sizes[n] = {**json.loads(output.splitlines()[-1]), "machine": describe()}
    result = {"responses": RESPONSES, "dim": DIM, "share": SHARE, "cpus": 2, "sizes": sizes}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
