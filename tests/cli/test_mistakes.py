"""Whatever a user gets wrong on the command line ends in one line that names it, with an exit code and without a traceback."""

import errno
import gzip
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import candidate_rows
from datasets import Dataset

from trl_real.cli import main


SELECT = "select --data_files candidates.jsonl"
DPO = "dpo --model_name_or_path MODEL --data_files candidates.jsonl --output_dir out --use_cpu --bf16 false --report_to none --disable_tqdm true"
GENERATE = "generate --model MODEL --data_files prompts.jsonl"
SCORE = "score --model REWARD --data_files unscored.jsonl"

# A call, its exit code, and what the line says.
MISTAKES = [
    # What to run
    ("selct", 2, "invalid choice: 'selct' (choose from"),
    ("", 2, "the following arguments are required: command"),
    # Files and datasets, which all commands read alike
    ("select", 1, "Give either `--dataset_name` or `--data_files`."),
    (
        "select --dataset_name folder --data_files candidates.jsonl",
        1,
        "Give either `--dataset_name` or `--data_files`.",
    ),
    ("select --data_files nope.jsonl", 1, "there is no file nope.jsonl."),
    ("select --data_files folder", 1, "there is no file folder."),
    ("select --data_files empty.jsonl", 1, "empty.jsonl is empty."),
    ("select --data_files broken.jsonl", 1, "broken.jsonl, line 2: expected JSON, found '{\"a\"'"),
    ("select --data_files broken.jsonl.gz", 1, "broken.jsonl.gz, line 2: expected JSON"),
    ("select --data_files cut.jsonl.gz", 1, "cut.jsonl.gz cannot be decompressed"),
    ("select --data_files nuls.jsonl", 1, "nuls.jsonl"),
    ("select --data_files blank.jsonl", 1, "blank.jsonl"),
    ("select --data_files nuls.csv", 1, "nuls.csv"),
    ("select --data_files nuls.parquet", 1, "nuls.parquet"),
    ("select --data_files nuls.arrow", 1, "nuls.arrow"),
    ("select --data_files bad.jsonl.zip", 1, "bad.jsonl.zip"),
    ("select --data_files numbers.json", 1, "The columns fit no known layout"),
    ("select --data_files words.txt", 1, "expected files that end in one of"),
    ("select --data_files candidates.jsonl words.csv", 1, "expected files that end in one of"),
    ("select --data_files words.csv", 1, "`prompt`"),
    ("select --dataset_name no/such", 1, "'no/such' doesn't exist on the Hub or cannot be accessed"),
    ("select --dataset_name a/b/c", 1, "a/b/c"),
    ("select --dataset_name nothing", 1, "nothing"),
    ("select --dataset_name folder --dataset_train_split x", 1, "There is no split 'x'. Found: ['train']"),
    ("select --dataset_name folder --dataset_config x", 1, "x"),
    # Columns
    (f"{SELECT} --layout x", 1, "`layout` must be one of ['hh', 'preference'"),
    (f"{SELECT} --layout hh", 1, "hh"),
    (f"{SELECT} --scores_column x", 1, "`scores_column='x'` is not a column. Found: ['prompt'"),
    (f"{SELECT} --prompt_column responses", 1, "responses"),
    ("select --data_files texts.jsonl", 1, "scores"),
    # Options
    (f"{SELECT} --strategy eazy", 2, "`strategy` must be one of"),
    (f"{SELECT} --strategy divpo --strategy_kwargs {{", 2, "strategy_kwargs"),
    (f'{SELECT} --strategy_kwargs {{"lambda_":1}}', 2, "may hold nothing, got ['lambda_']"),
    ("select --data_files unscored.jsonl --strategy max_min", 1, "The strategy 'max_min' needs the column `scores`"),
    ("select --data_files unscored.jsonl --budget 0.5 --budget_strategy max_min", 1, "needs scores"),
    (f"{SELECT} --budget x", 2, "argument --budget: invalid number value: 'x'"),
    (f"{SELECT} --budget 1.0", 2, "`budget=1.0` could mean one pair or all of them"),
    (f"{SELECT} --budget -1", 2, "budget"),
    (f"{SELECT} --budget nan", 2, "budget"),
    (f"{SELECT} --budget_cost words --budget 5", 1, "`budget_cost` must be one of"),
    (f"{SELECT} --budget_min_distance 3", 2, "budget_min_distance"),
    (f"{SELECT} --pairs_per_prompt 0", 2, "pairs_per_prompt"),
    (f"{SELECT} --min_score_gap nan", 2, "min_score_gap"),
    (f"{SELECT} --min_score_gap 1e9 --strategy random", 1, "None of the 20 rows has a valid pair"),
    (f"{SELECT} --selection_seed 1.5", 2, "argument --selection_seed/--selection-seed: invalid int value: '1.5'"),
    (f"{SELECT} --selection_seed -1", 2, "selection_seed"),
    (f"{SELECT} --on_skip x", 2, "invalid choice: 'x' (choose from 'drop'"),
    (f"{SELECT} --embedder /nope", 1, "/nope"),
    (f"{SELECT} --embedder folder", 1, "folder"),
    (f"{SELECT} --embedder ENCODER --embedder_max_length 100000", 1, "is more than the 64 positions"),
    (f"{SELECT} --embedder_batch_size 0", 2, "embedder_batch_size"),
    (f"{SELECT} --embedder_dtype int8", 2, "embedder_dtype"),
    (f"{SELECT} --budgett 3", 2, "there is no option --budgett: did you mean --budget?"),
    (f"{SELECT} --stratgey=hard", 2, "no option --stratgey: did you mean --strategy?"),
    (f"{SELECT} --zzz 3", 2, "there is no option --zzz (see"),
    (f"{SELECT} stray", 1, "stray"),
    (f"{SELECT} --output_dir words.csv", 1, "words.csv is a file, not a folder"),
    ("select --data_files taken/pairs.jsonl --output_dir taken", 1, "is an input of this run"),
    (f"{SELECT} --output_dir taken", 1, "was not written by a run of trl_real"),
    (f"{SELECT} --push_to_hub --hub_dataset_id a/b/c", 1, "a/b/c"),
    # Recipes
    ("select --config", 2, "--config needs the path of a YAML recipe"),
    ("select --config nope.yaml", 2, "No such file or directory: 'nope.yaml'"),
    ("select --config broken.yaml", 2, "mapping values are not allowed here"),
    ("select --config list.yaml", 2, "list.yaml"),
    ("select --config unknown.yaml", 2, "bugdet"),
    ("select --config nuls.csv", 2, "nuls.csv"),
    ("select --config .", 2, "Is a directory"),
    # Training
    ("dpo --use_cpu --bf16 false", 1, "`--model_name_or_path` is required"),
    (f"{DPO} --model_name_or_path /nope", 1, "/nope"),
    (f"{DPO} --model_name_or_path folder", 1, "folder"),
    (f"{DPO} --model_name_or_path PICKLED", 1, "eights"),
    (f"{DPO} --model_name_or_path TEMPLATE --data_files messages.jsonl", 1, "__class__"),
    (f"{DPO} --loss_type nope", 1, "nope"),
    (f"{DPO} --per_device_train_batch_size 0", 1, "per_device_train_batch_size"),
    (f"{DPO} --per_device_train_batch_size -3", 1, "per_device_train_batch_size"),
    (f"{DPO} --optim nope", 2, "nope"),
    (f"{DPO} --optim adamw_bnb_8bit", 1, "bitsandbytes"),
    (f"{DPO} --deepspeed nope.json", 2, "deepspeed"),
    (f"{DPO} --learning_rate x", 2, "argument --learning_rate/--learning-rate: invalid float value: 'x'"),
    (f"{DPO} --lr_scheduler_type nope", 2, "nope"),
    (f"{DPO} --max_length 1", 1, "max_length"),
    (f"{DPO} --report_to nope", 1, "nope"),
    (f"{DPO} --eval_data_files candidates.jsonl", 1, "`--eval_data_files` needs `--eval_strategy`"),
    (f"{DPO} --eval_strategy steps", 1, "`--eval_data_files` are for evaluation"),
    (f"{DPO} --resume_from_checkpoint true", 1, "there is no checkpoint in out."),
    (f"{DPO} --resume_from_checkpoint x", 1, "there is no checkpoint in x."),
    (f"{DPO} --load_in_4bit", 1, "bitsandbytes"),
    (
        "dpo --model_name_or_path MODEL --data_files unscored.jsonl --output_dir out --use_cpu --bf16 false",
        1,
        "no scores",
    ),
    # Sampling
    ("generate --data_files candidates.jsonl", 1, "`--model` is required"),
    ("generate --model MODEL", 1, "Give either `--dataset_name` or `--data_files`."),
    (f"{GENERATE} --n 0", 1, "`n`"),
    (f"{GENERATE} --temperature -1", 1, "temperature"),
    (f"{GENERATE} --top_p 2", 1, "top_p"),
    (f"{GENERATE} --max_new_tokens 0", 1, "max_new_tokens"),
    (f"{GENERATE} --batch_size 0", 1, "batch_size"),
    (f"{GENERATE} --dtype int8", 1, "dtype"),
    (f"{GENERATE} --backend nope", 2, "invalid choice: 'nope'"),
    (f"{GENERATE} --backend vllm", 1, "vllm"),
    (f"{GENERATE} --prompt_column x", 1, "there is no such column. Found: ['prompt'"),
    (f"{GENERATE} --model /nope", 1, "/nope"),
    (f"{GENERATE} --base_url ftp://x", 1, "base_url"),
    # Scoring
    ("score --data_files candidates.jsonl", 1, "`--model` is required"),
    (f"{SCORE} --batch_size 0", 1, "batch_size"),
    (f"{SCORE} --dtype int8", 1, "dtype"),
    (f"{SCORE} --concurrency x", 2, "argument --concurrency: invalid int value: 'x'"),
    ("score --model REWARD --data_files words.csv", 1, "`prompt`"),
    ("score --model /nope --data_files unscored.jsonl", 1, "/nope"),
    ("score --model REWARD --data_files candidates.jsonl", 1, "has a column `scores` already"),
    ("generate --model MODEL --data_files candidates.jsonl", 1, "has a column `responses` already"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_lm, tiny_encoder, tiny_reward_model):
    """A folder with files of all kinds, and the names in the table that stand for paths."""
    import numpy as np
    import torch

    folder = tmp_path_factory.mktemp("mistakes")
    rows = candidate_rows(np.random.default_rng(0), 20)
    for name in ("candidates.jsonl", "folder/candidates.jsonl", "taken/pairs.jsonl"):
        (folder / name).parent.mkdir(exist_ok=True)
        Dataset.from_list(rows).to_json(folder / name)
    Dataset.from_list(rows).remove_columns("scores").to_json(folder / "unscored.jsonl")
    Dataset.from_list(rows).select_columns("prompt").to_json(folder / "prompts.jsonl")
    texts = {
        "empty.jsonl": "",
        "blank.jsonl": "\n \n",
        "broken.jsonl": '{"a": 1}\n{"a"',
        "numbers.json": "[1, 2]",
        "words.csv": "a,b\n1,2\n",
        "words.txt": "words",
        "texts.jsonl": json.dumps({"prompt": "a", "responses": ["b", "c"], "scores": ["x", "y"]}),
        "broken.yaml": "a: b: c",
        "list.yaml": "- a\n- b\n",
        "unknown.yaml": "bugdet: 3\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    for ending in ("jsonl", "csv", "parquet", "arrow"):
        (folder / f"nuls.{ending}").write_bytes(bytes(1000))
    packed = gzip.compress((folder / "broken.jsonl").read_bytes())
    (folder / "broken.jsonl.gz").write_bytes(packed)
    (folder / "cut.jsonl.gz").write_bytes(packed[:-9])
    (folder / "bad.jsonl.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    (folder / "nothing").mkdir()
    pickled = folder / "pickled"
    pickled.mkdir()
    for path in Path(tiny_lm).iterdir():
        if path.suffix == ".json":
            (pickled / path.name).write_bytes(path.read_bytes())
    torch.save({"weight": Path("code")}, pickled / "pytorch_model.bin")
    template = folder / "template"
    shutil.copytree(tiny_lm, template)
    (template / "chat_template.jinja").write_text("{{ messages.__class__.__mro__[1].__subclasses__() }}")
    turns = [{"role": "user", "content": "a"}]
    sides = {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    Dataset.from_list([{"prompt": turns, **sides}] * 4).to_json(folder / "messages.jsonl")
    names = {
        "MODEL": tiny_lm,
        "ENCODER": tiny_encoder,
        "REWARD": tiny_reward_model,
        "PICKLED": str(pickled),
        "TEMPLATE": str(template),
    }
    return folder, names


def run(call, capfd):
    """The exit code of a call, and the lines of its errors."""
    try:
        code = main(call)
    except SystemExit as error:
        code = error.code
    lines = capfd.readouterr().err.splitlines()
    return code, [line for line in lines if re.search(r"error|Error|Traceback", line)]


@pytest.mark.parametrize(("call", "code", "message"), MISTAKES, ids=[call for call, _, _ in MISTAKES])
def test_a_mistake_is_named_in_one_line(call, code, message, files, capfd, monkeypatch):
    folder, names = files
    monkeypatch.chdir(folder)
    found, errors = run([names.get(word, word) for word in call.split()], capfd)
    assert found == code
    assert len(errors) == 1, errors
    assert errors[0].startswith("trl-real")
    assert message in errors[0]
    assert len(errors[0]) < 1500
    assert os.listdir(folder / "taken") in (
        ["pairs.jsonl"],
        ["pairs.jsonl", "_trl_real.lock"],
        ["_trl_real.lock", "pairs.jsonl"],
    )


def test_a_path_with_brackets_is_a_path(files, capfd, monkeypatch, tmp_path):
    folder, _ = files
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a[1]*").mkdir()
    shutil.copy(folder / "candidates.jsonl", tmp_path / "a[1]*" / "b{2}?.jsonl")
    call = ["select", "--data_files", "a[1]*/b{2}?.jsonl", "--strategy", "random"]
    assert run(call, capfd) == (0, [])


def test_a_defect_shows_where_it_is(files, monkeypatch):
    def broken(*args, **kwargs):
        raise KeyError("ours")

    folder, _ = files
    monkeypatch.chdir(folder)
    monkeypatch.setattr("trl_real.cli.select.convert", broken)
    with pytest.raises(KeyError, match="ours"):
        main(SELECT.split())


def test_a_full_disk_at_a_checkpoint_is_said_in_one_line(files, capfd, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder, names = files
    monkeypatch.chdir(folder)
    monkeypatch.setattr("trl_real.training.real_dpo_trainer.RealDPOTrainer._save_checkpoint", full)
    call = [names.get(word, word) for word in f"{DPO} --save_steps 1 --max_steps 2".split()]
    code, errors = run(call, capfd)
    assert code == 1
    assert [line for line in errors if line.startswith("trl-real: error: [Errno 28] No space left")] == errors


def test_the_table_covers_every_command():
    assert len(MISTAKES) >= 60
    assert {call.partition(" ")[0] for call, _, _ in MISTAKES} >= {"select", "dpo", "generate", "score"}
