"""Compare AEPO's own package with `real_select` and its strategy `aepo`, from text to pairs on the same rows. Prints JSON.

python benchmarks/aepo.py --data folder/with/alpaca_eval_candidates.jsonl.gz --aepo_python other-venv/bin/python

`aepo` (https://pypi.org/project/aepo/) needs Transformers below 5 and NumPy below 2, so it runs in its own environment
(`make .venv/aepo/ready`). Both embed with all-MiniLM-L6-v2 up to 256 tokens, with the same number of threads.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import pandas as pd
from machine import describe
from text_to_pairs import candidates, load, pairs_of, parse

from trl_real import real_select
from trl_real.config import DEFAULT_EMBEDDER
from trl_real.embedding.identity import find_model


# What runs in the environment of `aepo`: its step 2, with the model from a folder.
DRIVER = """
import sys, time, warnings
warnings.simplefilter("ignore")
from aepo.mbr import mbr_engine, utility_func
model, folder, n, k = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for name in ("AutoModel", "AutoTokenizer"):
    cls, options = getattr(utility_func, name), {"model_max_length": 256} if name == "AutoTokenizer" else {}
    setattr(utility_func, name, type(name, (), {"from_pretrained": lambda _, cls=cls, o=options: cls.from_pretrained(model, **o)}))
start = time.perf_counter()
picks = mbr_engine.run_mbr(folder + "/samples", folder + "/matrix", folder + "/dmbr", n, k, "sentbert", False, 2, 1.0)
print(time.perf_counter() - start, *picks[["id_0", "id_1"]].to_numpy().ravel())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--aepo_python", required=True, help="Python of an environment that has `aepo`.")
    args = parse(parser, prompts=6, rounds=2)
    dataset = candidates(args.data, args.prompts)
    n_responses = sum(map(len, dataset["responses"]))
    load("auto", openvino=True)
    seconds = {"aepo": [], "real_select": []}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "samples").mkdir()
            for i, responses in enumerate(dataset["responses"]):
                pd.DataFrame({"text": responses}).to_csv(f"{folder}/samples/{i:06d}.csv", index=False)
            options = [find_model(DEFAULT_EMBEDDER).path, folder, str(len(dataset)), str(len(dataset[0]["responses"]))]
            output = subprocess.run([args.aepo_python, "-c", DRIVER, *options], stdout=subprocess.PIPE, check=True)
        spent, *numbers = output.stdout.split()
        seconds["aepo"].append(float(spent))
        start = time.perf_counter()
        pairs = dataset.map(real_select, batched=True, fn_kwargs={"strategy": "aepo"})
        seconds["real_select"].append(time.perf_counter() - start)
    ours = [{row["chosen"], row["rejected"]} for row in pairs]
    theirs = pairs_of(dataset, list(zip(map(int, numbers[::2]), map(int, numbers[1::2]), strict=True)))
    result = {
        "prompts": len(dataset),
        "responses": n_responses,
        "rounds": args.rounds,
        "machine": describe(),
        "texts_a_second": {name: round(n_responses / statistics.median(s), 1) for name, s in seconds.items()},
        "times_aepo": round(
            statistics.median(a / b for a, b in zip(seconds["aepo"], seconds["real_select"], strict=True)), 1
        ),
        "same_picks": sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
