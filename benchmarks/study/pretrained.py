"""
Measure what a selection is worth for DPO with a pretrained policy: SmolLM2-135M-Instruct, LoRA on its upper layers.

python benchmarks/study/pretrained.py candidates --data folder --minutes 90   # goes on where the last call has stopped
python benchmarks/study/pretrained.py pairs --data folder --arms random "easy, in its order" --seeds 5

Each run (data, arm, seed, settings) is one line of results/pretrained.jsonl, written as soon as it ends, and is never repeated. All arms of
a seed have the same split, the same held-out pairs and the same annotators, and start from the same model. Each has `--labels` labels, and
`all` has the labels of the whole pool. Prompts are shortened to `--prompt_length` tokens and the text to `--max_length`. Reference
log-probabilities are computed in each run, so they always have its precision.

Unless `--learning_rate` is given, a pilot on another seed chooses it, with all labels of a smaller pool: the first of `RATES` whose accuracy on
held-out pairs is significantly above one half, or the best one if there is none. Its runs go to results/pretrained_pilot.jsonl.
"""

import argparse
import contextlib
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from annotation_curve import longer_is_better
from data import annotate, load_candidates, load_pairs, split, temperature
from datasets import Dataset, disable_progress_bars
from frozen import load_with_frozen_layers
from peft import LoraConfig
from report_pretrained import RUNS, above_chance, read_runs
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from trl_real import RealDPOConfig, RealDPOTrainer, SelectionConfig, offline_lm, select_preferences


GPU = torch.cuda.is_available()
DRAWN = {"budget_strategy": "random"}
ARMS = {
    "candidates": {
        "random": {"strategy": "random", **DRAWN},
        "easy": {"strategy": "easy", **DRAWN},
        "hard": {"strategy": "hard", **DRAWN},
        "centroid": {"strategy": "centroid", **DRAWN},
        "all": {"strategy": "random"},
    },
    "pairs": {
        "random": {"strategy": "random", **DRAWN},
        "easy, in its order": {"strategy": "easy"},
        "hard, in its order": {"strategy": "hard"},
        "all": {},
    },
}
# What makes a run another run.
SETTINGS = (
    "labels", "pool", "held_out", "max_length", "prompt_length", "frozen_layers", "rank", "learning_rate", "batch_size"
)  # fmt: skip
RATES = (6e-4, 2e-3, 2e-4)
PILOT_SEED, PILOT_POOL = 100, 128


def shortened(rows: Dataset, kind: str, tokenizer: PreTrainedTokenizerBase, length: int) -> Dataset:
    """AlpacaEval's prompts that are short enough, in the format of the chat model; the ends of HH-RLHF's dialogues."""
    if kind == "pairs":

        def end(prompt: str) -> str:
            return tokenizer.decode(tokenizer(prompt)["input_ids"][-length:])

        return rows.map(lambda row: {"prompt": end(row["prompt"])}, keep_in_memory=True)

    def ask(prompt: str) -> str:
        return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"

    rows = rows.map(lambda row: {"prompt": ask(row["prompt"])}, keep_in_memory=True)
    return rows.filter(lambda row: len(tokenizer(row["prompt"])["input_ids"]) <= length, keep_in_memory=True)


class Study:
    """The data, and the model that all runs start from: its frozen layers remember the texts of earlier runs."""

    def __init__(self, kind: str, data: str | None, model: str, frozen_layers: int):
        self.kind = kind
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.name, self.rows = load_pairs(data) if kind == "pairs" else load_candidates(data)
        self.noise = None if kind == "pairs" else temperature(self.rows)
        self.model = load_with_frozen_layers(model, frozen_layers, self.tokenizer.pad_token_id)

    def data(self, seed: int, settings: dict[str, Any]) -> tuple[Dataset, Dataset]:
        """The pool of a seed, with the labels of its annotators, and one random pair of each held-out prompt."""

        def draw(rows: Dataset, n: int) -> Dataset:
            rows = shortened(rows, self.kind, self.tokenizer, settings["prompt_length"])
            return rows.shuffle(seed=seed, keep_in_memory=True).select(range(min(n, len(rows))))

        train, held_out = split(self.rows, seed)
        pool = draw(train, settings["pool"])
        labeled = pool if self.noise is None else annotate(pool, "by gap", self.noise, seed)
        gold = SelectionConfig(strategy="random", selection_seed=seed)
        return labeled, select_preferences(draw(held_out, settings["held_out"]), gold)[0]

    def run(self, arm: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
        """Train one policy on the labels of one arm, and evaluate it."""
        start = time.perf_counter()
        pool, held_out = self.data(seed, settings)
        budget = {} if arm == "all" else {"budget": settings["labels"]}
        lora = LoraConfig(
            r=settings["rank"],
            lora_alpha=2 * settings["rank"],
            target_modules="all-linear",
            exclude_modules=".*lower.*",  # which is frozen
            task_type="CAUSAL_LM",
        )
        with tempfile.TemporaryDirectory() as folder:
            config = RealDPOConfig(
                folder,
                **ARMS[self.kind][arm],
                **budget,
                seed=seed,
                selection_seed=seed,
                beta=0.1,
                learning_rate=settings["learning_rate"],
                lr_scheduler_type="cosine",
                warmup_steps=0.1,
                num_train_epochs=1,
                max_length=settings["max_length"],
                precompute_ref_log_probs=True,
                per_device_train_batch_size=settings["batch_size"],
                per_device_eval_batch_size=1,  # TRL means over batches, whose last one may be smaller
                bf16=GPU,
                use_cpu=not GPU,
                gradient_checkpointing=False,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            )
            trainer = RealDPOTrainer(
                self.model,
                args=config,
                train_dataset=pool,
                eval_dataset=held_out,
                processing_class=self.tokenizer,
                peft_config=lora,
            )
            trainer.train()
            metrics = trainer.evaluate()
            self.model = trainer.model.unload()
        return {
            "kind": self.kind,
            "data": self.name,
            "arm": arm,
            "seed": seed,
            "settings": settings,
            "labels": len(trainer.selected_dataset),
            "trained_on": len(trainer.train_dataset),
            "judged_on": len(trainer.eval_dataset),
            "longer_is_better": round(longer_is_better(held_out), 4),
            "accuracy": round(metrics["eval_rewards/accuracies"], 4),
            "margin": round(metrics["eval_rewards/margins"], 4),
            "loss": round(metrics["eval_loss"], 4),
            "minutes": round((time.perf_counter() - start) / 60, 1),
        }


class Runs:
    """Finished runs, and new ones as long as there is time for them."""

    def __init__(self, study: Callable[[], Study], kind: str, minutes: float | None):
        self.study, self.kind, self.minutes = functools.cache(study), kind, minutes
        self.begun, self.longest = time.perf_counter(), 0.0

    def get(self, path: Path, arm: str, seed: int, settings: dict[str, Any]) -> dict[str, Any] | None:
        """A run, which is only done if it is not in the file; `None` without time for it."""
        key = (self.kind, arm, seed, settings)
        for run in read_runs(path):
            if (run["kind"], run["arm"], run["seed"], run["settings"]) == key:
                return run
        if self.minutes is not None and (time.perf_counter() - self.begun) / 60 + self.longest > self.minutes:
            return None
        # On a CPU, TRL projects every token to the vocabulary; this leaves out those of the prompt, as on a GPU.
        with contextlib.redirect_stdout(sys.stderr), patch("trl.trainer.utils._use_triton", lambda device: True):
            run = self.study().run(arm, seed, settings)
        self.longest = max(self.longest, run["minutes"])
        with path.open("a") as file:
            file.write(json.dumps(run) + "\n")
        print(json.dumps(run), file=sys.stderr, flush=True)
        return run

    def choose_rate(self, path: Path, settings: dict[str, Any]) -> float | None:
        """The learning rate, by the pilot; `None` if it is not finished."""
        accuracies = {}
        for rate in RATES:
            run = self.get(path, "all", PILOT_SEED, {**settings, "pool": PILOT_POOL, "learning_rate": rate})
            if run is None:
                return None
            if run["accuracy"] > above_chance(run["judged_on"]):
                return rate
            accuracies[rate] = run["accuracy"]
        return max(accuracies, key=accuracies.__getitem__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("kind", choices=list(ARMS), help="AlpacaEval's candidates, or the pairs of HH-RLHF.")
    parser.add_argument("--data", help="Folder of both datasets; else the package's sample, for `candidates`.")
    parser.add_argument("--model", help="Chat model with the chat format of SmolLM2. Default: `offline_lm()`.")
    parser.add_argument("--arms", nargs="+", help="Only these arms.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--minutes", type=float, help="Start no run that is expected to end after so many minutes.")
    parser.add_argument("--results", type=Path, default=RUNS)
    parser.add_argument("--labels", type=int, default=96)
    parser.add_argument("--pool", type=int, default=256, help="Prompts, or given pairs, to choose from.")
    parser.add_argument("--held_out", type=int, default=80)
    parser.add_argument("--max_length", type=int, default=256 if GPU else 96)
    parser.add_argument("--prompt_length", type=int, default=40)
    parser.add_argument("--frozen_layers", type=int, default=20, help="Of 30.")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, help="Default: the choice of the pilot.")
    parser.add_argument("--batch_size", type=int, default=2)
    args = parser.parse_args()
    if args.kind == "pairs" and args.data is None:
        parser.error("`pairs` needs --data.")
    disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = args.model or offline_lm()
    precision = "bfloat16" if GPU else "float32"
    settings = {"model": Path(model).name, "precision": precision, **{name: getattr(args, name) for name in SETTINGS}}
    runs = Runs(lambda: Study(args.kind, args.data, model, args.frozen_layers), args.kind, args.minutes)
    if args.learning_rate is None:
        settings["learning_rate"] = runs.choose_rate(args.results.with_stem(f"{args.results.stem}_pilot"), settings)
        if settings["learning_rate"] is None:
            return
    for seed in range(args.seeds):
        for arm in args.arms or ARMS[args.kind]:
            if runs.get(args.results, arm, seed, settings) is None:
                return


if __name__ == "__main__":
    main()
