"""
From candidates to pairs on a Ray cluster, with Parquet files or the Hub for input and output.

    python examples/ray_select.py candidates/ --output pairs/ --budget 0.35 --row_id id
    python examples/ray_select.py "s3://bucket/candidates/*.parquet" --output s3://bucket/pairs --address auto \
        --num_actors 8 --gpus_per_actor 1
    python examples/ray_select.py hf://datasets/user/candidates/data --output pairs/ --hub_id user/pairs --threshold 0.4

The first command starts Ray on this machine only. On a machine of a cluster, `--address auto` uses the whole cluster.
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


# How many rows an actor gets at once, and how many are computed again if the actor is lost.
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
        pairs = pairs.materialize()  # otherwise the pairs are picked twice: once to count them, and once to sort them
        # 0.29 of 100 is 28.999999999999996.
        count = config.budget if isinstance(config.budget, int) else int(config.budget * pairs.count() + 1e-6)
        # Rows come in any order, so a column has to define which of two equally similar pairs is first.
        keys = ["similarity", *([] if args.row_id is None else [args.row_id])]
        pairs = pairs.sort(keys, descending=[most_similar_first, False][: len(keys)]).limit(count)

    # Workers have their own working directories.
    output = args.output if "://" in args.output else os.path.abspath(args.output)
    pairs.write_parquet(output, mode=SaveMode.ERROR)
    selected = Dataset.from_parquet(f"{output}/*.parquet")  # from a file in the cache, not in memory
    print(f"{len(selected):,} pairs of {candidates.count():,} prompts in {output}")
    if args.hub_id is not None:
        push_selected_dataset(selected, args.hub_id, config=config, private=args.private)


def read(source: str) -> ray.data.Dataset:
    """Read Parquet with `prompt` and `responses`, or a dataset on the Hub in any layout that `to_candidates` knows."""
    files, path = fsspec.url_to_fs(source)
    if found := files.glob(path):
        return ray.data.read_parquet([files.unstrip_protocol(name) for name in found])
    dataset = to_candidates(load_dataset(source, split="train"))
    # Part by part, so that the whole dataset is never in the memory of this machine.
    return ray.data.from_arrow_refs([ray.put(part) for part in dataset.with_format("arrow").iter(ROWS)])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "candidates",
        help="Parquet files (a folder or a glob, local or at s3://, gs:// or hf://), or the id of a dataset on the Hub.",
    )
    add(
        "--output",
        required=True,
        help="New folder for the pairs as Parquet. On a cluster, all machines must be able to write to it.",
    )
    add("--hub_id", help="Push the pairs to this dataset on the Hub as well.")
    add("--private", action="store_true", default=None, help="Make this dataset private if it is created.")
    add("--strategy", default=SelectionConfig.strategy)
    add("--embedder", default=SelectionConfig.embedder)
    add("--budget", type=float, help="Pairs to keep: 0.35 is a share, 500 is a count.")
    add("--row_id", help="Column that decides between equally similar pairs, so that each run keeps the same ones.")
    add(
        "--threshold",
        type=float,
        help="Keep pairs that are at most this similar. With --strategy hard, keep pairs that are at least this similar.",
    )
    add("--address", help="Address of the cluster: `auto` on one of its machines. Default: Ray on this machine.")
    add("--num_actors", type=int, default=1, help="Number of actors. Each has its own embedder.")
    add(
        "--cpus_per_actor",
        type=float,
        default=1,
        help="CPUs and embedder threads per actor. Leave some CPUs for reading.",
    )
    add("--gpus_per_actor", type=float, default=0)
    args = parser.parse_args()
    if args.strategy in ("random", "max_min", "chain") and not (args.budget is args.threshold is None):
        parser.error(f"--budget and --threshold need similarities, which --strategy {args.strategy} does not compute.")
    return args


if __name__ == "__main__":
    try:
        main()
    except (ImportError, OSError, TypeError, ValueError) as error:
        sys.exit(f"error: {error}")
