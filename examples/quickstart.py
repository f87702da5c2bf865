"""
From candidates to an aligned model: select the pairs that are worth a label, train on them, and compare before and after.

    python examples/quickstart.py

runs on the sample of the package and takes about a minute on two CPU cores. It downloads nothing, because it builds a tiny
model itself. The same script works on your own data and model, and takes every flag of `RealDPOConfig`:

    python examples/quickstart.py --data candidates.jsonl.gz --model Qwen/Qwen2.5-0.5B-Instruct \
        --strategy centroid --budget 0.5 --learning_rate 1e-6 --output_dir outputs/qwen
"""

import json
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import TrlParser

from trl_real import RealDPOConfig, RealDPOTrainer, load_sample, real_select, select_preferences


# For the tiny model. With `--model`, the defaults of TRL apply.
TINY_DEFAULTS = {
    "learning_rate": 1e-3,
    "num_train_epochs": 6,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 1,  # so that every pair has the same weight in averages over batches
    "max_length": 384,
    "bf16": False,
    "save_strategy": "no",
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@dataclass
class ScriptArguments:
    data: str | None = field(
        default=None,
        metadata={"help": "JSON Lines file with `prompt`, `responses` and `scores`. Default: the package's sample."},
    )
    model: str | None = field(
        default=None,
        metadata={"help": "Model to align, as a Hub id or a path. Default: a tiny model that is built here."},
    )
    held_out: float = field(default=0.2, metadata={"help": "Share of the prompts that is held out for evaluation."})


def main() -> None:
    parser = TrlParser((ScriptArguments, RealDPOConfig))
    tiny = not any(flag.split("=")[0] == "--model" for flag in sys.argv)
    parser.set_defaults(
        output_dir="outputs/quickstart",
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        **(TINY_DEFAULTS if tiny else {}),
    )
    script, config = parser.parse_args_and_config()
    out = Path(config.output_dir)
    out.mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    dataset = load_sample() if script.data is None else Dataset.from_json(script.data)
    if missing := {"prompt", "responses", "scores"} - set(dataset.column_names):
        raise ValueError(f"{script.data} has no columns {sorted(missing)}. Found: {dataset.column_names}.")
    model = script.model or str(build_tiny_model(dataset, out / "tiny_model"))
    if isinstance(dataset[0]["prompt"], str) and AutoTokenizer.from_pretrained(model).chat_template is not None:
        # A chat model needs messages. Text responses are turned into messages automatically.
        dataset = dataset.map(lambda row: {"prompt": [{"role": "user", "content": row["prompt"]}]}, desc="To messages")
    parts = dataset.train_test_split(script.held_out, seed=config.selection_seed)
    train, held_out = parts["train"], parts["test"]

    title("1. Select")
    pairs, report = select_preferences(train, config)
    print(report)
    if report.embedder:  # some strategies embed nothing, so there is nothing to compare
        show_pairs(train, pairs, config)
    report.plot(out / "similarity.png")
    pairs.to_json(out / "selected.jsonl", force_ascii=False)

    title("2. Train")
    # The trainer takes the candidates and selects the pairs itself. The embeddings from above are in the `datasets` cache.
    trainer = RealDPOTrainer(model, args=config, train_dataset=train, eval_dataset=held_out)
    before = evaluate(trainer)
    trainer.train()
    after = evaluate(trainer)
    trainer.save_model()
    trainer.create_model_card(model_name=out.name)

    title("3. Compare")
    print("margin:   how much more the model prefers the chosen response than it did before training")
    print("accuracy: the share of pairs with a margin above zero: none before training, half by chance after it")
    print(f"\n{'':32}{'before':>10}{'after':>10}")
    for name in before:
        for metric in before[name]:
            print(f"{name:<22}{metric:<10}{before[name][metric]:>10.3f}{after[name][metric]:>10.3f}")
    if tiny:
        print(
            "\nThe tiny model started from random weights. This shows that everything works, not what alignment can do."
        )
    print(f"\nIn {out}: the model and its card (README.md), selected.jsonl, selection_report.json and similarity.png.")


def show_pairs(train: Dataset, pairs: Dataset, config: RealDPOConfig, n: int = 3) -> None:
    """Show a few picked pairs, and for each one the opposite pair of its prompt, which was not picked."""
    picked = pairs.select(range(min(n, len(pairs))))
    prompts = list(picked["prompt"])
    opposite = "easy" if config.strategy == "hard" else "hard"
    options = {
        name: getattr(config, name) for name in ("embedder", "embedder_max_length", "embedder_dtype", "min_score_gap")
    }
    passed_over = train.filter(lambda row: row["prompt"] in prompts, desc="Finding the shown prompts").map(
        real_select, batched=True, fn_kwargs={"strategy": opposite, **options}, desc="Selecting the opposite pairs"
    )
    for row in picked:
        other = next(other for other in passed_over if other["prompt"] == row["prompt"])
        print(f"\n{line('prompt', row['prompt'])}")
        for label, pair in ((f"picked by {config.strategy}", row), (f"passed over, picked by {opposite}", other)):
            print(f"  {label}: similarity {pair['similarity']:.2f}")
            print(line(f"    chosen, score {pair['score_chosen']:g}", pair["chosen"]))
            print(line(f"    rejected, score {pair['score_rejected']:g}", pair["rejected"]))


def line(label: str, text: str | list[dict[str, str]]) -> str:
    last = text if isinstance(text, str) else text[-1]["content"]
    return f"{label}: {textwrap.shorten(last, 100)}"


def evaluate(trainer: RealDPOTrainer) -> dict[str, dict[str, float]]:
    sets = {"picked pairs": trainer.selected_dataset, "held-out random pairs": None}
    results = {}
    for name, dataset in sets.items():
        metrics = trainer.evaluate(dataset)
        results[name] = {
            "margin": metrics["eval_rewards/margins"],
            "accuracy": metrics["eval_rewards/accuracies"],
        }
    return results


def build_tiny_model(dataset: Dataset, path: Path) -> Path:
    """Build a small Llama with random weights and a tokenizer trained on the responses."""
    texts = (json.dumps(row, ensure_ascii=False) for row in dataset["responses"])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=4096, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = CHAT_TEMPLATE
    transformers.set_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            pad_token_id=fast.pad_token_id,
            eos_token_id=fast.eos_token_id,
            bos_token_id=None,
        )
    )
    model.save_pretrained(path)
    fast.save_pretrained(path)
    return path


def title(text: str) -> None:
    print(f"\n=== {text} ===\n", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (OSError, TypeError, ValueError) as error:
        sys.exit(f"error: {error}")
