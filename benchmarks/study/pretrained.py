"""
Measure what a selection is worth for DPO with a pretrained policy: SmolLM2-135M-Instruct, LoRA on its upper layers.

python benchmarks/study/pretrained.py candidates --data folder --minutes 90   # goes on where the last call has stopped
python benchmarks/study/pretrained.py pairs --data folder --arms random easy --seeds 5

Each run (data, arm, seed, settings) is one line of results/pretrained.jsonl, written as soon as it ends, and is never repeated. All arms of
a seed have the same split, the same held-out pairs and the same annotators, and start from the same model. Each has `--labels` labels, and
`all` has the labels of the whole pool. Prompts are shortened to `--prompt_length` tokens and the text to `--max_length`.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch
import transformers
from data import annotate, load_candidates, load_pairs, split, temperature
from datasets import Dataset, disable_progress_bars
from frozen import load_with_frozen_layers
from peft import LoraConfig
from report_pretrained import RUNS, read_runs
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from trl_real import RealDPOConfig, RealDPOTrainer, offline_lm


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


def settings_of(args: argparse.Namespace) -> dict:
    return {"model": args.model_name, **{name: getattr(args, name) for name in SETTINGS}}


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

    def __init__(self, args: argparse.Namespace):
        self.args, self.kind = args, args.kind
        self.tokenizer = AutoTokenizer.from_pretrained(args.model)
        name, rows = load_pairs(args.data) if self.kind == "pairs" else load_candidates(args.data)
        self.name, self.noise = name, None if self.kind == "pairs" else temperature(rows)
        self.rows = rows
        self.model = load_with_frozen_layers(args.model, args.frozen_layers, self.tokenizer.pad_token_id)

    def data(self, seed: int) -> tuple[Dataset, Dataset]:
        """The pool of a seed, with the labels of its annotators, and the held-out rows."""
        train, held_out = split(self.rows, seed)
        parts = []
        for part, n in ((train, self.args.pool), (held_out, self.args.held_out)):
            part = shortened(part, self.kind, self.tokenizer, self.args.prompt_length).shuffle(
                seed=seed, keep_in_memory=True
            )
            parts.append(part.select(range(min(n, len(part)))))
        pool, held_out = parts
        return pool if self.noise is None else annotate(pool, "by gap", self.noise, seed), held_out

    def run(self, arm: str, seed: int) -> dict:
        """Train one policy on the labels of one arm, and evaluate it."""
        start = time.perf_counter()
        pool, held_out = self.data(seed)
        budget = {} if arm == "all" else {"budget": self.args.labels}
        gpu = torch.cuda.is_available()
        with tempfile.TemporaryDirectory() as folder:
            config = RealDPOConfig(
                folder,
                **ARMS[self.kind][arm],
                **budget,
                seed=seed,
                selection_seed=seed,
                eval_selection_strategy="random",
                beta=0.1,
                learning_rate=self.args.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=0.1,
                num_train_epochs=1,
                max_length=self.args.max_length,
                precompute_ref_log_probs=True,
                per_device_train_batch_size=self.args.batch_size,
                per_device_eval_batch_size=1,  # TRL means over batches, whose last one may be smaller
                bf16=gpu,
                use_cpu=not gpu,
                gradient_checkpointing=False,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            )
            lora = LoraConfig(
                r=self.args.rank,
                lora_alpha=2 * self.args.rank,
                target_modules="all-linear",
                exclude_modules=".*lower.*",
                task_type="CAUSAL_LM",
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
            "settings": settings_of(self.args),
            "labels": len(trainer.selected_dataset),
            "trained_on": len(trainer.train_dataset),
            "judged_on": len(trainer.eval_dataset),
            "accuracy": round(metrics["eval_rewards/accuracies"], 4),
            "margin": round(metrics["eval_rewards/margins"], 4),
            "loss": round(metrics["eval_loss"], 4),
            "minutes": round((time.perf_counter() - start) / 60, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("kind", choices=list(ARMS), help="AlpacaEval's candidates, or the pairs of HH-RLHF.")
    parser.add_argument("--data", help="Folder of both datasets; else the package's sample, for `candidates`.")
    parser.add_argument("--model", help="Chat model with the chat format of SmolLM2. Default: `offline_lm()`.")
    parser.add_argument("--arms", nargs="+", help="Only these arms, in this order.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="Start no run that is expected to end after so many minutes.")
    parser.add_argument("--results", type=Path, default=RUNS)
    parser.add_argument("--labels", type=int, default=96)
    parser.add_argument("--pool", type=int, default=256, help="Prompts, or given pairs, to choose from.")
    parser.add_argument("--held_out", type=int, default=100)
    parser.add_argument("--max_length", type=int, default=96)
    parser.add_argument("--prompt_length", type=int, default=40)
    parser.add_argument("--frozen_layers", type=int, default=20, help="Of 30.")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--learning_rate", type=float, default=6e-4)
    parser.add_argument("--batch_size", type=int, default=2)
    args = parser.parse_args()
    if args.kind == "pairs" and args.data is None:
        parser.error("`pairs` needs --data.")
    begun = time.perf_counter()
    disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    args.model = args.model or offline_lm()
    args.model_name = Path(args.model).name
    done = [(run["kind"], run["arm"], run["seed"], run["settings"]) for run in read_runs(args.results)]
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    arms = args.arms or list(ARMS[args.kind])
    todo = [(arm, seed) for arm in arms for seed in seeds if (args.kind, arm, seed, settings_of(args)) not in done]
    study, longest = None, 0.0
    for arm, seed in todo:
        if args.minutes is not None and (time.perf_counter() - begun) / 60 + longest > args.minutes:
            break
        with contextlib.redirect_stdout(sys.stderr):  # on which trainers print
            study = study or Study(args)
            # On a CPU, TRL projects every token to the vocabulary; this leaves out those of the prompt, as on a GPU.
            with patch("trl.trainer.utils._use_triton", lambda device: True):
                found = study.run(arm, seed)
        longest = max(longest, found["minutes"])
        with args.results.open("a") as file:
            file.write(json.dumps(found) + "\n")
        print(json.dumps(found), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
