"""
Candidates in, pairs out, on as many machines as Ray has: Parquet or the Hub on both ends.

    python examples/ray_select.py candidates/ --output pairs/ --budget 0.35 --row_id id
    python examples/ray_select.py "s3://bucket/candidates/*.parquet" --output s3://bucket/pairs --address auto \
        --num_actors 8 --gpus_per_actor 1
    python examples/ray_select.py hf://datasets/user/candidates/data --output pairs/ --hub_id user/pairs --threshold 0.4

The first line needs one machine and starts Ray on it; `--address auto`, on a machine of a cluster, uses all of it.
"""

import argparse
import os
import sys

import fsspec
import ray
from datasets import Dataset, load_dataset
from ray.data import ActorPoolStrategy, SaveMode
from ray.data.expressions import col

from trl_real import SelectionConfig, push_selected_dataset, to_candidates
from trl_real.ray import RealSelect


# Rows that an actor gets at once, and has to do again if it is lost.
ROWS = 1024
USED = ["responses", "scores", "embeddings", "responses_cut", "tokens_cut"]


def main() -> None:
    args = parse_args()
    config = SelectionConfig(strategy=args.strategy, embedder=args.embedder, budget=args.budget)
    ray.init(args.address)
    candidates = read(args.candidates).repartition(target_num_rows_per_block=ROWS)
    pairs = candidates.map_batches(
        RealSelect,
        fn_constructor_kwargs={"strategy": config.strategy, "embedder": config.embedder},
        batch_format="pyarrow",
        batch_size=ROWS,
        compute=ActorPoolStrategy(size=args.num_actors),
        num_cpus=args.cpus_per_actor,
        num_gpus=args.gpus_per_actor,
    )
    pairs = pairs.drop_columns([name for name in candidates.schema().names if name in USED])

    most_similar_first = config.strategy == "hard"
    if args.threshold is not None:
        similarity = col("similarity")
        pairs = pairs.filter(expr=similarity >= args.threshold if most_similar_first else similarity <= args.threshold)
    if config.budget is not None:
        pairs = pairs.materialize()  # so that they are not picked once to be counted and once more to be sorted
        # 0.29 of 100 is 28.999999999999996.
        count = config.budget if isinstance(config.budget, int) else int(config.budget * pairs.count() + 1e-6)
        # Rows come in any order, so that a column of theirs has to say which of two equally similar ones is first.
        keys = ["similarity", *([] if args.row_id is None else [args.row_id])]
        pairs = pairs.sort(keys, descending=[most_similar_first, False][: len(keys)]).limit(count)

    # Workers have working directories of their own.
    output = args.output if "://" in args.output else os.path.abspath(args.output)
    pairs.write_parquet(output, mode=SaveMode.ERROR)
    selected = Dataset.from_parquet(f"{output}/*.parquet")  # from a file in the cache, not in memory
    print(f"{len(selected):,} pairs of {candidates.count():,} prompts in {output}")
    if args.hub_id is not None:
        push_selected_dataset(selected, args.hub_id, config=config, private=args.private)


def read(source: str) -> ray.data.Dataset:
    """Parquet with `prompt` and `responses`, or a dataset of the Hub in any layout that `to_candidates` knows."""
    files, path = fsspec.url_to_fs(source)
    if found := files.glob(path):
        return ray.data.read_parquet([files.unstrip_protocol(name) for name in found])
    dataset = to_candidates(load_dataset(source, split="train"))
    # Part by part, so that it is never in the memory of this machine as a whole.
    return ray.data.from_arrow_refs([ray.put(part) for part in dataset.with_format("arrow").iter(ROWS)])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "candidates",
        help="Parquet files: a folder or a glob, here or at s3://, gs://, hf://; or the id of a dataset on the Hub.",
    )
    add(
        "--output",
        required=True,
        help="A new folder for the pairs as Parquet; on a cluster one that all machines see.",
    )
    add("--hub_id", help="Push the pairs to this dataset on the Hub as well.")
    add("--private", action="store_true", default=None, help="If that is created, make it private.")
    add("--strategy", default=SelectionConfig.strategy)
    add("--embedder", default=SelectionConfig.embedder)
    add("--budget", type=float, help="How many pairs to keep: 0.35 is a share, 500 a count.")
    add("--row_id", help="A column to choose by where pairs are equally similar, so that each run keeps the same.")
    add("--threshold", type=float, help="Keep pairs that are at most this similar; with --strategy hard at least.")
    add("--address", help="Where the cluster is: `auto` on one of its machines. Default: Ray on this machine.")
    add("--num_actors", type=int, default=1, help="Each has an embedder of its own.")
    add("--cpus_per_actor", type=float, default=1, help="Also the threads of its embedder. Leave some for reading.")
    add("--gpus_per_actor", type=float, default=0)
    args = parser.parse_args()
    if args.strategy in ("random", "max_min") and not (args.budget is args.threshold is None):
        parser.error(f"--budget and --threshold go by similarity, which --strategy {args.strategy} does not compute.")
    return args


if __name__ == "__main__":
    try:
        main()
    except (ImportError, OSError, TypeError, ValueError) as error:
        sys.exit(f"error: {error}")
