"""
Measure what a selection is worth for DPO: a small causal language model is fine-tuned on the responses, aligned on the pairs of each
strategy, and evaluated on held-out pairs with gold labels.

python benchmarks/study/dpo.py candidates --data folder --seeds 10 > results/dpo_candidates.json
python benchmarks/study/dpo.py pairs --data folder --model Qwen/Qwen2.5-0.5B --sft_learning_rate 2e-5 --learning_rate 5e-6  # with a GPU

Each strategy has 35% of the labels, and `all` has all labels of `random`. Each model is trained for one epoch over its labels, starting
from the same model. "In its order" means the pairs that the strategy ranks first. The other pairs are from randomly sampled prompts.
Without `--model`, a small Llama model is trained from scratch. The annotators of AlpacaEval are simulated, and those of HH-RLHF are people.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
import transformers
from data import ERROR, HELD_OUT, SHARE, annotate, load_candidates, load_pairs, split, temperature
from datasets import Dataset, disable_progress_bars
from intervals import over_seeds
from trl import SFTConfig, SFTTrainer

from trl_real import RealDPOConfig, RealDPOTrainer


sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from quickstart import build_tiny_model


CONTEXT = 150  # characters of a dialogue before the response
DRAWN = {"budget": SHARE, "budget_strategy": "random"}
ARMS = {
    "candidates": {
        "random": {"strategy": "random", **DRAWN},
        "easy": {"strategy": "easy", **DRAWN},
        "easy, in its order": {"strategy": "easy", "budget": SHARE},
        "hard": {"strategy": "hard", **DRAWN},
        "centroid": {"strategy": "centroid", **DRAWN},
        "all": {"strategy": "random"},
    },
    "pairs": {
        "random": {"strategy": "random", **DRAWN},
        "easy, in its order": {"strategy": "easy", "budget": SHARE},
        "hard, in its order": {"strategy": "hard", "budget": SHARE},
        "all": {},  # which leaves given pairs as they are
    },
}


def training(args: argparse.Namespace) -> dict:
    """What fine-tuning and DPO have in common."""
    gpu = torch.cuda.is_available()
    return {
        "per_device_train_batch_size": args.batch_size,
        "per_device_eval_batch_size": 1,  # TRL means over batches, whose last one may be smaller
        "max_length": args.max_length,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "bf16": gpu,
        "use_cpu": not gpu,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def fine_tune(model: str, rows: Dataset, args: argparse.Namespace, seed: int, folder: Path) -> str:
    """The model that all strategies start from."""
    config = SFTConfig(
        str(folder), learning_rate=args.sft_learning_rate, seed=seed, max_steps=args.sft_steps, **training(args)
    )
    trainer = SFTTrainer(model, args=config, train_dataset=rows)
    trainer.train()
    trainer.save_model(str(folder))
    return str(folder)


def align(
    model: str, rows: Dataset, held_out: Dataset, args: argparse.Namespace, seed: int, folder: Path, **selection
) -> dict:
    """Margin and accuracy on held-out pairs, and what was labeled for them."""
    config = RealDPOConfig(
        str(folder),
        learning_rate=args.learning_rate,
        seed=seed,
        selection_seed=seed,
        beta=0.1,
        truncation_mode="keep_end" if args.kind == "pairs" else "keep_start",
        **selection,
        num_train_epochs=1,
        **training(args),
    )
    trainer = RealDPOTrainer(model, args=config, train_dataset=rows, eval_dataset=held_out)
    trainer.train()
    metrics = trainer.evaluate()
    return {
        "labels": len(trainer.selected_dataset),
        "trained_on": len(trainer.train_dataset),
        "judged_on": len(trainer.eval_dataset),
        "margin": metrics["eval_rewards/margins"],
        "accuracy": metrics["eval_rewards/accuracies"],
    }


def texts_of_candidates(rows: Dataset) -> Dataset:
    """Two responses per prompt, regardless of their quality."""
    pairs = [
        (row["prompt"], response)
        for row in rows.select_columns(["prompt", "responses"])
        for response in row["responses"][:2]
    ]
    return Dataset.from_dict({"prompt": [prompt for prompt, _ in pairs], "completion": [text for _, text in pairs]})


def texts_of_pairs(rows: Dataset) -> Dataset:
    """Both sides, which says nothing about their labels, with the end of the dialogue."""
    pairs = rows.select_columns(["prompt", "chosen", "rejected"])
    return Dataset.from_dict(
        {"text": [row["prompt"][-CONTEXT:] + row[side] for row in pairs for side in ("chosen", "rejected")]}
    )


def compare(rows: Dataset, args: argparse.Namespace, noise: float | None) -> dict:
    """All strategies on the same splits; `noise` is that of the annotators of candidates, `None` for given pairs."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    begun, longest = time.perf_counter(), 0.0
    for seed in range(args.seeds):
        start = time.perf_counter()
        if args.minutes is not None and seed > 1 and start - begun + longest > 60 * args.minutes:
            args.seeds = seed
            break
        train, held_out = split(rows, seed)
        texts = texts_of_candidates(train) if noise is not None else texts_of_pairs(train)
        labeled = train if noise is None else annotate(train, "by gap", noise, seed)
        with tempfile.TemporaryDirectory() as folder:
            model = args.model
            if model is None:
                model = str(
                    build_tiny_model(
                        Dataset.from_dict({"responses": texts[texts.column_names[-1]]}), Path(folder) / "untrained"
                    )
                )
            model = fine_tune(model, texts, args, seed, Path(folder) / "fine_tuned")
            for arm, selection in ARMS[args.kind].items():
                aligned = align(model, labeled, held_out, args, seed, Path(folder) / arm, **selection)
                for name, value in aligned.items():
                    found[arm][name].append(value)
                print(
                    f"seed {seed}, {arm}: {found[arm]['accuracy'][-1]:.3f}, {found[arm]['margin'][-1]:.3f}",
                    file=sys.stderr,
                    flush=True,
                )
        longest = max(longest, time.perf_counter() - start)
    return {
        arm: {
            **{name: round(sum(values[name]) / args.seeds, 1) for name in ("labels", "trained_on", "judged_on")},
            **{name: over_seeds(values[name], HELD_OUT) for name in ("accuracy", "margin")},
            **{
                f"{name}_less_random": over_seeds(
                    [a - b for a, b in zip(values[name], found["random"][name], strict=True)], HELD_OUT
                )
                for name in ("accuracy", "margin")
            },
        }
        for arm, values in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument(
        "kind", choices=["candidates", "pairs"], help="AlpacaEval's candidates, or the pairs of HH-RLHF."
    )
    parser.add_argument(
        "--data", help="Folder of the AlpacaEval candidates and the HH-RLHF pairs; else the package's sample."
    )
    parser.add_argument(
        "--model", help="Id or path of a causal language model; without it a small one is trained from scratch."
    )
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--minutes", type=float, help="After two seeds, start none that would end later than this.")
    parser.add_argument("--sft_steps", type=int, default=60)
    parser.add_argument("--sft_learning_rate", type=float, default=2e-3)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--max_length", type=int, default=96)
    args = parser.parse_args()
    disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if args.kind == "pairs" and args.data is None:
        parser.error("`pairs` needs --data.")
    name, rows = load_candidates(args.data) if args.kind == "candidates" else load_pairs(args.data)
    noise = temperature(rows) if args.kind == "candidates" else None
    with contextlib.redirect_stdout(sys.stderr):  # on which trainers print
        arms = compare(rows, args, noise)
    results = {
        "data": name,
        "share": SHARE,
        "error_of_random_pairs": ERROR if noise else None,
        "arms": arms,
    }
    print(json.dumps({"settings": {**vars(args), "data": None}, **results}, indent=2))


if __name__ == "__main__":
    main()
