"""
Measure which labels are wrong if a static embedder picks the pairs.

python benchmarks/study/static_tier.py --data folder > results/static_tier.json

As in reliability.py, the annotators are simulated, so the probability that a label is wrong is known.
"""

import argparse
import json

from data import load_candidates, temperature
from datasets import disable_progress_bars
from reliability import by_strategy

from trl_real.config import DEFAULT_EMBEDDER


EMBEDDER = f"static:{DEFAULT_EMBEDDER}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--data", help="Folder of the AlpacaEval candidates; else the package's sample.")
    args = parser.parse_args()
    disable_progress_bars()
    name, rows = load_candidates(args.data, embedder=EMBEDDER)
    print(json.dumps({"embedder": EMBEDDER, "strategies": {name: by_strategy(rows, temperature(rows))}}, indent=2))


if __name__ == "__main__":
    main()
