"""Measure how long a cold start takes: `import trl_real`, `trl-real --help` and `trl-real select` on 100 short rows. Prints JSON.

python benchmarks/startup.py

Each command is a new process, and all commands take turns. The results are the best of the rounds. `select` reads the rows, embeds them and
writes all its files, with an empty cache of `datasets`. For comparison, there are an empty program and the import of Sentence Transformers
alone, which the default embedder needs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from trl_real import load_sample


ROWS = 100


def commands(folder: Path) -> dict[str, list[str]]:
    """What is measured, by name."""
    select = ["-m", "trl_real.cli", "select", "--data_files", str(folder / "rows.jsonl"), "--output_dir"]
    return {
        "empty program": ["-c", "pass"],
        "import trl_real": ["-c", "import trl_real"],
        "trl-real --help": ["-m", "trl_real.cli", "--help"],
        "import sentence_transformers": ["-c", "import sentence_transformers"],
        "select, default": [*select, str(folder / "default")],
        "select, static": [*select, str(folder / "static"), "--embedder", "static:all-MiniLM-L6-v2"],
    }


def run(command: list[str], cache: str) -> float:
    """The seconds that a command takes."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *command],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HF_DATASETS_CACHE": cache},
    )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        sample = load_sample().to_list()
        rows = [
            {**sample[i % len(sample)], "prompt": f"{sample[i % len(sample)]['prompt']} ({i})"} for i in range(ROWS)
        ]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for number in range(args.rounds + 1):
            for name, command in commands(folder).items():
                with tempfile.TemporaryDirectory() as cache:
                    spent = run(command, cache)
                if number:  # the first round reads the files from disk, and distills the static embedder if need be
                    seconds.setdefault(name, []).append(spent)
    from machine import describe

    best = {name: round(min(spent), 2) for name, spent in seconds.items()}
    print(json.dumps({"rows": ROWS, "rounds": args.rounds, "machine": describe(), "seconds": best}, indent=2))


if __name__ == "__main__":
    main()
