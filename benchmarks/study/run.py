"""Run the study, write results/*.json, and update the tables and figures in docs/study.md, docs/reliability.md and README.md.

python benchmarks/study/run.py --data folder/with/alpaca_eval_candidates.jsonl.gz/and/hh_rlhf_harmless.jsonl.gz

Without `--data`, it runs on the sample of the package and prints where the results are. That shows how it works, and says nothing
about the strategies. `--report` only updates the documents, from the existing results. The stages `embedders` and `pretrained` use a
pretrained model (`make offline-lm`) and take hours on a CPU, so they run only if named: `--only pretrained --minutes 90` adds runs to
results/pretrained.jsonl for so long, and the next call goes on.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1]))
from documents import put
from figures import plot_curves, plot_reliability, plot_summary
from machine import describe
from report import tables
from report_annotators import annotators
from report_answer import answer, summary
from report_pretrained import PILOT, RUNS, pretrained, read_runs
from report_static import static_table

from trl_real.labeling.label_noise import Estimate
from trl_real.labeling.reliability import ReliabilityBin, ReliabilityReport


HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
STAGES = ("reliability", "static_tier", "annotation_curve", "rounds", "annotators", "dpo")
LONG = ("embedders", "pretrained")
LARGER = "sentence-transformers/all-mpnet-base-v2"
ROUNDS = ("candidates", "five", "pairs")
RESULTS = (
    "annotation_curve",
    "reliability",
    "static_tier",
    *(f"rounds_{kind}" for kind in ROUNDS),
    "annotators",
    "dpo_candidates",
    "dpo_pairs",
    "run",
)


def read() -> dict:
    """The results, by name."""
    found = {name: json.loads((HERE / "results" / f"{name}.json").read_text()) for name in RESULTS}
    for path in sorted((HERE / "results").glob("embedders_*.json")):
        found[path.stem] = json.loads(path.read_text())
    return {**found, "pretrained": read_runs(RUNS), "pretrained_pilot": read_runs(PILOT)}


def printed(results: dict) -> str:
    """What `label_reliability` prints for HH-RLHF, as a block of code, in the words of this version."""

    def estimated(found: dict) -> dict:
        return {
            name: Estimate(**value) if isinstance(value, dict) and "low" in value else value
            for name, value in found.items()
        }

    found = estimated(results["reliability"]["reports"]["HH-RLHF"])
    report = ReliabilityReport(**found | {"bins": [ReliabilityBin(**estimated(row)) for row in found["bins"]]})
    return "".join(f"    {line}\n" for line in str(report).splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", default=os.environ.get("TRL_REAL_DATA"), help="Folder of both files; else the package's sample."
    )
    parser.add_argument("--seeds", type=int, default=20, help="DPO has half as many.")
    parser.add_argument("--only", nargs="+", choices=STAGES + LONG, help="Run only these, and keep the other results.")
    parser.add_argument(
        "--minutes", type=float, default=90, help="Of `pretrained`: start no run that would end later."
    )
    parser.add_argument("--report", action="store_true", help="Only update the documents.")
    args = parser.parse_args()
    if args.seeds < 4:
        parser.error("--seeds must be at least 4: an interval needs two of DPO, which has half as many.")
    if args.data is None and {*LONG} & {*(args.only or ())}:
        parser.error(f"{' and '.join(LONG)} need --data.")
    folder = HERE / "results" if args.data else HERE / "results" / "sample"
    data = ["--data", args.data] if args.data else []
    curve, dpo = ["--seeds", str(args.seeds)], ["--seeds", str(args.seeds // 2)]
    stages = {  # the scripts of a stage run side by side
        "reliability": {"reliability": ["reliability.py", *data, *curve]},  # embeds for all
        "static_tier": {"static_tier": ["static_tier.py", *data]},
        "annotation_curve": {"annotation_curve": ["annotation_curve.py", *data, *curve]},
        "rounds": {
            f"rounds_{kind}": ["rounds.py", kind, *data, *curve] for kind in (ROUNDS if data else ("candidates",))
        },
        "annotators": {"annotators": ["annotators.py", *data, *curve]},
        "dpo": {
            f"dpo_{kind}": ["dpo.py", kind, *data, *dpo]
            for kind in (("candidates", "pairs") if data else ("candidates",))
        },
    }
    for stage in LONG if args.data else ():
        options = ["--minutes", str(args.minutes)] if stage == "pretrained" else ["--embedders", LARGER]
        stages[stage] = {f"{stage}_{kind}": [f"{stage}.py", kind, *data, *options] for kind in ("candidates", "pairs")}
    if not args.report:
        folder.mkdir(parents=True, exist_ok=True)
        spent = folder / "run.json"
        minutes = json.loads(spent.read_text())["minutes"] if spent.exists() else {}
        for stage in args.only or STAGES:
            print(stage, "...", flush=True)
            start = time.perf_counter()
            run(stages[stage], folder)
            minutes[stage] = round((time.perf_counter() - start) / 60, 1)
        spent.write_text(json.dumps({"machine": describe(), "minutes": minutes}, indent=2) + "\n")
        print(f"results in {folder}")
    if args.report or args.data:
        results = read()
        plot_curves(results["annotation_curve"]["curves"], DOCS / "figures" / "annotation_curve.png")
        plot_reliability(results["reliability"]["reports"], DOCS / "figures" / "reliability.png")
        plot_summary(results, DOCS / "figures" / "results.png")
        put(DOCS / "study.md", "study", tables(results))
        put(DOCS / "study.md", "annotators", annotators(results))
        put(DOCS / "study.md", "pretrained", pretrained(results))
        put(DOCS / "embedder.md", "static", static_table(results))
        put(DOCS / "does-real-work.md", "answer", answer(results))
        put(DOCS / "reliability.md", "reliability", printed(results))
        put(HERE.parents[1] / "README.md", "study", summary(results))


def run(stage: dict[str, list[str]], folder: Path) -> None:
    """Run the scripts of a stage with one thread each. With more, they slow each other down, and small matrices gain nothing."""
    running = {
        name: subprocess.Popen(
            [sys.executable, HERE / command[0], *command[1:]],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for name, command in stage.items()
    }
    for name, process in running.items():
        output, _ = process.communicate()
        if process.returncode:
            for other in running.values():
                other.terminate()
            raise SystemExit(f"{name} ended with {process.returncode}.")
        if output:  # `pretrained` writes each run itself
            (folder / f"{name}.json").write_text(output)


if __name__ == "__main__":
    main()
