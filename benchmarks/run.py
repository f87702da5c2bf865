"""Run every benchmark, write results/*.json, and update the tables in docs/speed.md and docs/ray.md and the summary in README.md.

python benchmarks/run.py --data folder/with/alpaca_eval_candidates.jsonl.gz --aepo_python .venv/aepo/bin/python

The benchmarks run one after the other, each in its own process. Do not use the machine for anything else meanwhile. `--only` runs
some of them. `--table` runs none and updates the pages from the existing results. Results of a GPU go to results/gpu/.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from documents import put


HERE = Path(__file__).parent
PAGE, RAY, README = HERE.parent / "docs" / "speed.md", HERE.parent / "docs" / "ray.md", HERE.parent / "README.md"
BILLION = 10**9
FIGURE = HERE.parent / "docs" / "figures" / "scaling.png"


def read(name: str, folder: Path) -> dict | None:
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def table() -> str:
    """The table in docs/speed.md, from the results."""
    text, gpu, encoder, static, startup, aepo, selection, rounds, training, grouping, scaling, many, sizes = (
        read(*where)
        for where in (
            ("text_to_pairs", HERE / "results"),
            ("text_to_pairs", HERE / "results" / "gpu"),
            *(
                (name, HERE / "results")
                for name in (
                    "encoder",
                    "static",
                    "startup",
                    "aepo",
                    "selection",
                    "rounds",
                    "training",
                    "grouping",
                    "scaling",
                    "many_prompts",
                    "sizes",
                )
            ),
        )
    )
    machine = text["machine"]
    lines = [
        f"{machine['processor']}, {machine['threads']} threads, PyTorch {machine['versions']['torch']}; matrix products reach "
        f"{machine['gflops']['float32']} GFLOP/s in float32 and {machine['gflops']['bfloat16']} in bfloat16.",
        "",
        f"| From text to pairs: {text['responses']} responses of AlpacaEval, up to {text['max_length']} tokens | Responses per second | "
        "Speed relative to the naive script | Same picks | Cosine regret |",
        "|---|---|---|---|---|",
    ]
    names = {
        "naive": "naive script: one float32 `encode` per prompt, one cosine per pair in Python",
        "authors": "the authors' method: full padding, one cosine per pair",
    }
    for name, rate in text["texts_a_second"].items():
        label = names.get(name) or "`" + name.replace(", ", "`, ", 1)
        regret = text["mean_cosine_regret"][name]
        lines.append(
            f"| {label} | {rate:.0f} | {text['times_naive'][name]:.1f} | {text['same_picks_as_naive'][name]:.0%} | {regret:.4f} |"
        )
    rate, times, where = "not measured", "", "a GPU"
    if gpu:
        name = "real_select, PyTorch, auto"
        rate, times, where = (
            f"{gpu['texts_a_second'][name]:.0f}",
            gpu["times_naive"][name],
            gpu["machine"]["processor"],
        )
    lines += [f"| `real_select` on {where}, relative to float32 `encode` on it | {rate} | {times} | | |", ""]
    lines += encoder_table(encoder, when(encoder, machine)) if encoder else []
    lines += ["| Other measurements | |", "|---|---|"]
    lines.append(
        f"| `real_select` from text with a static embedder, relative to the naive script (same pair for {static['same_picks']:.0%} of "
        f"{static['prompts']} prompts, cosine regret {static['mean_cosine_regret']:.3f}{when(static, machine)}) | {static['times_naive']:.0f} |"
    )
    lines += start_rows(startup, when(startup, machine)) if startup else []
    lines.append(
        f"| Speed of `real_select` with the strategy `aepo`, relative to the package `aepo` from PyPI (same pair for {aepo['same_picks']:.0%} of "
        f"{aepo['prompts']} prompts) | {aepo['times_aepo']:.0f} |"
    )
    removed = [
        selection["microseconds_a_prompt"][f"{name}, removed"] for name in ("easy", "hard", "random", "centroid")
    ]
    carried = [
        selection["microseconds_a_prompt"][f"{name}, carried along"] for name in ("easy", "hard", "random", "centroid")
    ]
    lines += [
        f"| Selecting a pair from embeddings ({selection['responses']} x {selection['dim']}), if the column `embeddings` is removed or kept | "
        f"{min(removed):.0f} to {max(removed):.0f} or {min(carried):.0f} to {max(carried):.0f} µs per prompt |",
        f"| The same with a Python loop over prompts and pairs | {selection['microseconds_a_prompt']['loop']:.0f} µs per prompt |",
        f"| Picking the next {rounds['batch']} pairs to label from {rounds['pairs']:,} embedded pairs, of which {rounds['labels']:,} are labeled: "
        f"{', '.join(f'`{name}`' for name in rounds['seconds'])} | {', '.join(f'{s:.1f}' for s in rounds['seconds'].values())} s |",
        f"| Grouping {grouping['rows']:,} pairs by prompt | {grouping['seconds']:.0f} s |",
        f"| Time of a training step, relative to `DPOTrainer` ({training['rounds']} rounds) | {training['step_ratio']:.3f} |",
        f"| Peak memory of training with `DPOTrainer` and `RealDPOTrainer` | {training['peak_memory_mb']['DPOTrainer']} and "
        f"{training['peak_memory_mb']['RealDPOTrainer']} MB |",
    ]
    growth, million = scaling["growth"], scaling["paths"]["embeddings"]["1000000"]
    flat = {path: growth[path]["memory"] for path in ("text", "column", "flow", "stream")}
    lines += [
        f"| `real_select` from embeddings on 1,000,000 prompts with {scaling['responses']} responses each | "
        f"{million['seconds']:.0f} s, {million['memory_mb']} MB |",
        "| Peak memory at 100,000 prompts, relative to 10,000: `real_select` from text, from a column, `select_preferences`, "
        f"a stream | {', '.join(f'{ratio:.2f}' for ratio in flat.values())} |",
        *(many_rows(many, machine) if many else []),
        *(f"| {case['what']} | {case['seconds']:.1f} s, {case['memory_mb']} MB |" for case in sizes["cases"].values()),
        "",
        f"![Time and memory against the number of prompts](figures/{FIGURE.name})",
    ]
    return "\n".join(lines) + "\n"


def when(result: dict, machine: dict) -> str:
    """The speed of the machine in another run, if it was much slower than in the run that the page names."""
    reached = result["machine"]["gflops"]["float32"]
    return f", while matrix products reached {reached} GFLOP/s" if reached < 0.8 * machine["gflops"]["float32"] else ""


def encoder_table(encoder: dict, when: str) -> list[str]:
    """How close the default embedder comes to the speed of matrix products."""
    lines = [
        f"| The default embedder with `embed_responses`, threads: {encoder['machine']['threads']}{when} | Tokens per text | Texts per second | Share of the speed of matrix products | "
        "Time in the forward pass, the tokenizer, elsewhere |",
        "|---|---|---|---|---|",
    ]
    for name, by_length in encoder["rows"].items():
        for length, row in by_length.items():
            seconds = row["seconds"]
            parts = [seconds[part] / seconds["all"] for part in ("forward", "tokenizer", "elsewhere")]
            lines.append(
                f"| {name}, at most {encoder['lengths'][length]} tokens | {row['tokens']:.0f} | {row['texts_a_second']:.0f} | "
                f"{row['share_of_limit']:.0%} | {', '.join(f'{part:.0%}' for part in parts)} |"
            )
    return [*lines, ""]


def start_rows(startup: dict, when: str) -> list[str]:
    """The rows on a cold start."""
    seconds = startup["seconds"]
    return [
        f"| `import trl_real`, `trl-real --help`, and an empty Python program{when} | {seconds['import trl_real']:.2f}, "
        f"{seconds['trl-real --help']:.2f} and {seconds['empty program']:.2f} s |",
        f"| `trl-real select` on {startup['rows']} short rows, with the default and a static embedder; the import of Sentence Transformers alone{when} | "
        f"{seconds['select, default']:.1f} and {seconds['select, static']:.1f} s; {seconds['import sentence_transformers']:.1f} s |",
    ]


def many_rows(many: dict, machine: dict) -> list[str]:
    """The rows on Ray, one for each number of prompts."""
    stages = {"select": "select a pair each", "report": "report", "budget": f"keep {many['share']:.0%} of the pairs"}
    return [
        f"| Ray on {many['cpus']} CPUs, Parquet to Parquet, {int(n):,} prompts with {many['responses']} x {many['dim']} embeddings: "
        f"{', '.join(stages.values())}{when(size, machine)} | {', '.join(f'{s:.0f}' for s in size['seconds'].values())} s, {size['memory_mb']:,} MB |"
        for n, size in many["sizes"].items()
    ]


def billion() -> str:
    """The table in docs/ray.md: what a billion prompts would take, from the largest run on Ray and the speed of the embedders."""
    many, encoder, static = (read(name, HERE / "results") for name in ("many_prompts", "encoder", "static"))
    n, size = max(many["sizes"].items(), key=lambda item: int(item[0]))
    texts = BILLION * many["responses"]
    usual = encoder["rows"]["OpenVINO, float32"]["usual"]
    hours = {
        f"embed with the default embedder and OpenVINO, {usual['tokens']:.0f} tokens per response": texts
        / usual["texts_a_second"]
        * encoder["machine"]["threads"]
        / 3600,
        "embed with the static embedder": texts
        / static["texts_a_second"]["static"]
        * static["machine"]["threads"]
        / 3600,
        **{
            what: size["seconds"][stage] * many["cpus"] * BILLION / int(n) / 3600
            for stage, what in (
                ("select", "select a pair each"),
                ("report", "report"),
                ("budget", f"keep {many['share']:.0%} of the pairs"),
            )
        },
    }
    per_prompt = size["bytes_per_prompt"]
    return (
        "| A billion prompts with "
        f"{many['responses']} responses each, from the measurements with {int(n):,} prompts | Hours on one CPU core |\n"
        "|---|---|\n"
        + "".join(f"| {what} | {float(f'{value:.2g}'):,.0f} |\n" for what, value in hours.items())
        + f"\nThe embedded candidates take {per_prompt['embedded'] * BILLION / 1e9:,.0f} GB of Parquet with {many['dim']} dimensions in float16, "
        f"and the pairs {per_prompt['pairs'] * BILLION / 1e9:,.0f} GB, with responses of about 60 characters.\n"
    )


def extract() -> str:
    """The summary in README.md, from the same results."""
    text, training, scaling = (read(name, HERE / "results") for name in ("text_to_pairs", "training", "scaling"))
    name, same = "real_select, PyTorch, auto", "real_select, PyTorch, float32"
    memory = training["peak_memory_mb"]
    million = scaling["paths"]["embeddings"]["1000000"]
    return (
        f"On {text['machine']['threads']} threads of an {text['machine']['processor']}, `real_select` goes from text to pairs "
        f"{text['times_naive'][name]:.1f} times as fast as a plain float32 script ({text['times_naive'][same]:.1f} times in float32) and picks the same pair "
        f"for {text['same_picks_as_naive'][name]:.0%} of the prompts. It selects from a million prompts with {scaling['responses']} embedded responses each in "
        f"{million['seconds']:.0f} s with {million['memory_mb']} MB of memory, apart from memory-mapped files. A training step takes {training['step_ratio']:.2f} times as long "
        f"as one of `DPOTrainer`, with {memory['RealDPOTrainer'] - memory['DPOTrainer']} MB more memory. [Speed](docs/speed.md#measured) has all measurements.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("TRL_REAL_DATA"), help="Folder of the AlpacaEval candidates.")
    parser.add_argument(
        "--aepo_python",
        help="Python of an environment that has `aepo`. Without it, that benchmark is skipped and its old result stays.",
    )
    names = [
        "startup",
        "text_to_pairs",
        "encoder",
        "static",
        "aepo",
        "selection",
        "rounds",
        "scaling",
        "many_prompts",
        "sizes",
        "grouping",
        "training",
    ]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--table", action="store_true", help="Only update the pages.")
    args = parser.parse_args()
    wanted = [] if args.table else args.only
    if args.data is None and {"text_to_pairs", "encoder", "static", "aepo"} & {*wanted}:
        parser.error("--data, or the environment variable TRL_REAL_DATA, must name a folder.")
    commands = {
        "startup": [],
        "text_to_pairs": ["--data", args.data],
        "encoder": ["--data", args.data],
        "static": ["--data", args.data],
        "aepo": ["--data", args.data, "--aepo_python", args.aepo_python],
        "selection": [],
        "rounds": [],
        "scaling": ["--plot", str(FIGURE)],
        "many_prompts": [],
        "sizes": [],
        "grouping": [],
        "training": [],
    }
    gpu = torch.cuda.is_available()
    folder = HERE / "results" / "gpu" if gpu else HERE / "results"
    folder.mkdir(exist_ok=True)
    for name, options in commands.items():
        if name not in wanted or None in options:
            continue
        print(f"{name} ...", flush=True)
        output = subprocess.run(
            [sys.executable, HERE / f"{name}.py", *options], stdout=subprocess.PIPE, text=True, check=True
        )
        (folder / f"{name}.json").write_text(output.stdout)
    put(PAGE, "benchmarks", table())
    put(RAY, "billion", billion())
    put(README, "speed", extract())


if __name__ == "__main__":
    main()
