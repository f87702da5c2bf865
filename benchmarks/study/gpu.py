"""
The DPO study and the GPU rows of docs/speed.md on one GPU, within ten minutes and without a network.

python benchmarks/study/gpu.py --data folder --minutes 10     # or: make benchmarks-gpu DATA=folder

No weights have to be carried to the GPU: the model has the size of Qwen2.5-0.5B and random weights. As in dpo.py, each seed fine-tunes it on
the responses before DPO. Texts are longer than on a CPU. It writes results/gpu/dpo_candidates.json and dpo_pairs.json, and the speed of
`real_select` to benchmarks/results/gpu/. Without `--data`, it runs `dpo.py candidates` on the package's sample, which only shows that it works.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

from trl_real import load_sample


sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from quickstart import build_tiny_model


HERE = Path(__file__).parent
SPEED_MINUTES = 2.0  # that text_to_pairs.py is left


def build_model(folder: Path, hidden_size: int, layers: int) -> Path:
    """A Llama with random weights and a tokenizer that is trained on the sample."""
    build_tiny_model(load_sample(), folder)
    config = LlamaConfig.from_pretrained(folder)
    heads = max(hidden_size // 64, 1)
    config.update(
        {
            "hidden_size": hidden_size,
            "intermediate_size": 5 * hidden_size,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": hidden_size // heads,
        }
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("TRL_REAL_DATA"), help="Folder of both datasets.")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "gpu")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seeds", type=int, default=20, help="At most.")
    parser.add_argument("--hidden_size", type=int, default=896)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--max_length", type=int, default=256)
    parser.add_argument("--sft_steps", type=int, default=200)
    parser.add_argument("--sft_learning_rate", type=float, default=5e-4)
    parser.add_argument("--learning_rate", type=float, default=2e-5)
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    data = ["--data", args.data] if args.data else []
    kinds = ["candidates", "pairs"] if data else ["candidates"]
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(Path(folder), args.hidden_size, args.layers)
        for i, kind in enumerate(kinds):
            left = args.minutes - (time.perf_counter() - begun) / 60 - (SPEED_MINUTES if data else 0)
            options = {
                "model": model,
                "minutes": left / (len(kinds) - i),
                **{
                    name: getattr(args, name)
                    for name in ("seeds", "max_length", "sft_steps", "sft_learning_rate", "learning_rate")
                },
            }
            flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
            output = subprocess.run(
                [sys.executable, HERE / "dpo.py", kind, *data, *flags], stdout=subprocess.PIPE, text=True, check=True
            )
            (args.results / f"dpo_{kind}.json").write_text(output.stdout)
    if data:
        subprocess.run([sys.executable, HERE.parent / "run.py", "--only", "text_to_pairs", *data], check=True)
    print(f"{(time.perf_counter() - begun) / 60:.1f} minutes; results in {args.results}")


if __name__ == "__main__":
    main()
