"""Compare a training step of `RealDPOTrainer` with one of `DPOTrainer`, on the same pairs. Prints JSON.

python benchmarks/training.py

Both take turns, so that other load on the machine affects both. The ratio is the median over the rounds. Each trainer has its own
process, whose peak memory is measured.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from datasets import Dataset, disable_progress_bars
from machine import describe
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback, set_seed
from trl import DPOConfig, DPOTrainer

from trl_real import RealDPOConfig, RealDPOTrainer, SelectionConfig, load_sample, select_preferences


class StepTimes(TrainerCallback):
    def __init__(self):
        self.seconds = []

    def on_step_begin(self, args, state, control, **kwargs):
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.perf_counter() - self.start)


def build(folder: str) -> None:
    """A Llama of 14 million random weights, a tokenizer of bytes, and the pairs that `DPOTrainer` gets."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = {token: i for i, token in enumerate(["<pad>", "<eos>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(alphabet), hidden_size=384, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=6
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    pairs, _ = select_preferences(load_sample(), SelectionConfig(strategy="easy"))
    pairs.save_to_disk(f"{folder}/pairs")


def run(kind: str, folder: str, steps: int) -> tuple[float, float]:
    """The median time of a step in seconds, without the first one, and the loss."""
    options = {
        "output_dir": tempfile.mkdtemp(dir=folder),
        "max_steps": steps + 1,
        "per_device_train_batch_size": 1,
        "max_length": 1024,  # cuts none of the pairs, of which `RealDPOTrainer` would leave out those that are cut to the same
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
    }
    times = StepTimes()
    if kind == "RealDPOTrainer":
        args = RealDPOConfig(**options, strategy="easy")
        trainer = RealDPOTrainer(folder, args=args, train_dataset=load_sample(), callbacks=[times])
    else:
        pairs = Dataset.load_from_disk(f"{folder}/pairs")
        trainer = DPOTrainer(folder, args=DPOConfig(**options), train_dataset=pairs, callbacks=[times])
    loss = trainer.train().training_loss
    return statistics.median(times.seconds[1:]), loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    disable_progress_bars()
    if args.one:
        run(*args.one, args.steps)
        # Not `resource`, whose maximum takes in that of the process that started this one.
        status = Path("/proc/self/status").read_text()
        print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
        return
    kinds = ("DPOTrainer", "RealDPOTrainer")
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        build(folder)
        for number in range(args.rounds):
            order = kinds if number % 2 else kinds[::-1]
            with contextlib.redirect_stdout(sys.stderr):  # where trainers print their metrics
                found = {kind: run(kind, folder, args.steps) for kind in order}
            (seconds, loss), (seconds_of_ours, same) = (found[kind] for kind in kinds)
            if loss != same:
                raise RuntimeError(f"They trained on other batches: the losses are {loss} and {same}.")
            ratios.append(seconds_of_ours / seconds)
        peak = {}
        for kind in kinds:
            command = [sys.executable, __file__, "--one", kind, folder, "--steps", str(args.steps)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            peak[kind] = round(json.loads(output.splitlines()[-1]))
    result = {
        "rounds": args.rounds,
        "steps": args.steps,
        "step_ratio": round(statistics.median(ratios), 3),
        "step_ratios": [round(ratio, 3) for ratio in ratios],
        "peak_memory_mb": peak,
        "machine": describe(),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
