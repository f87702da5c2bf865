"""`trl-real generate` and `trl-real score`: the same as the functions, in a folder, through kills."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest
from conftest import sentence
from datasets import Dataset

from trl_real import generate_responses, score_responses
from trl_real.cli import main
from trl_real.cli.generate import GenerateArguments
from trl_real.cli.score import ScoreArguments


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, rng):
    monkeypatch.chdir(tmp_path)
    Dataset.from_list([{"prompt": sentence(rng), "id": i} for i in range(8)]).to_json("prompts.jsonl")
    return tmp_path


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.mark.parametrize(
    ("arguments", "function"), [(GenerateArguments, generate_responses), (ScoreArguments, score_responses)]
)
def test_defaults_are_those_of_the_function(arguments, function):
    parameters = signature(function).parameters
    shared = [field for field in fields(arguments) if field.name in parameters and field.name != "model"]
    assert {field.name: field.default for field in shared} == {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in ("prompts", "candidates", "model", "resume_from")
    }


def test_generate_writes_what_the_function_gives(tiny_lm, capsys):
    flags = ["--n", "3", "--max_new_tokens", "8", "--temperature", "0.8", "--seed", "5", "--output_dir", "out"]
    assert main(["generate", "--model_name_or_path", tiny_lm, "--data_files", "prompts.jsonl", *flags]) == 0
    prompts = Dataset.from_json("prompts.jsonl")
    options = {"n": 3, "max_new_tokens": 8, "temperature": 0.8, "seed": 5, "resume_from": "log.jsonl"}
    assert read("out/candidates.jsonl") == generate_responses(prompts, tiny_lm, **options).to_list()
    printed = capsys.readouterr().out
    assert "24 responses to 8 prompts." in printed
    assert "Written to out: candidates.jsonl." in printed


def test_a_recipe_and_a_column_of_another_name(chat):
    Dataset.from_json("prompts.jsonl").rename_column("prompt", "question").to_json("questions.jsonl")
    Path("recipe.yaml").write_text(
        f"model: [a, b]\nbase_url: {chat.url}\ndata_files: questions.jsonl\nprompt_column: question\nn: 1\n"
    )
    assert main(["generate", "--config", "recipe.yaml", "--temperature", "0.5"]) == 0
    rows = read("sampled/candidates.jsonl")
    assert [row["generators"] for row in rows] == [["a", "b"]] * 8
    assert {body["temperature"] for _, body, _ in chat.requests} == {0.5}


def test_score_writes_what_the_function_gives(tiny_reward_model, capsys):
    candidates = [
        {"prompt": row["prompt"], "responses": ["the cat sat", "fresh fish"]} for row in read("prompts.jsonl")
    ]
    Dataset.from_list(candidates).to_json("candidates.jsonl")
    flags = ["--data_files", "candidates.jsonl", "--output_dir", "out", "--dtype", "float32"]
    assert main(["score", "--model_name_or_path", tiny_reward_model, *flags]) == 0
    scored = score_responses(
        Dataset.from_list(candidates), tiny_reward_model, dtype="float32", resume_from="log.jsonl"
    )
    assert [row["scores"] for row in read("out/candidates.jsonl")] == [pytest.approx(row) for row in scored["scores"]]
    assert "16 of 16 responses to 8 prompts have a score." in capsys.readouterr().out


def test_a_judge_and_what_it_did_not_say(chat, capsys):
    chat.answer = lambda body: "maybe" if "fish" in body["messages"][0]["content"] else "A"
    Dataset.from_list(
        [{"prompt": "p", "responses": ["x", "y", "z"]}, {"prompt": "p", "responses": ["fish", "y"]}]
    ).to_json("candidates.jsonl")
    assert main(["score", "--model", "judge", "--base_url", chat.url, "--data_files", "candidates.jsonl"]) == 0
    assert [row["scores"] for row in read("scored/candidates.jsonl")] == [[0.5] * 3, [None] * 2]
    printed = capsys.readouterr().out
    assert "3 of 5 responses to 2 prompts have a score." in printed
    assert "2 of 8 answers of the judge are neither A, B nor tie" in printed


MISTAKES = [
    ("generate --data_files prompts.jsonl", 1, "`--model` is required: the model to sample from."),
    ("generate --model LM", 1, "Give either `--dataset_name` or `--data_files`."),
    ("generate --model LM --data_files nope.jsonl", 1, "there is no file nope.jsonl"),
    ("generate --model LM --data_files prompts.jsonl --prompt_column x", 1, "there is no such column. Found: ['prompt', 'id']"),
    ("generate --model LM --data_files prompts.jsonl --temperature -1", 1, "`temperature` must be a number"),
    ("generate --model LM --data_files prompts.jsonl --n 0", 1, "`n` must be a whole number"),
    ("generate --model LM --data_files prompts.jsonl --backend x", 2, "invalid choice: 'x'"),
    ("generate --model LM --data_files prompts.jsonl --temprature 1", 2, "did you mean --temperature?"),
    ("generate --model /nope --data_files prompts.jsonl", 1, "The model '/nope' cannot be loaded"),
    ("generate --model m --base_url URL/x --data_files prompts.jsonl", 1, "There is no model 'm' at"),
    ("generate --model m --base_url x --data_files prompts.jsonl", 1, "`base_url` must look like"),
    ("generate --model LM --data_files candidates.jsonl --output_dir .", 1, "candidates.jsonl is an input of this run, which would replace or remove"),
    ("score --data_files prompts.jsonl", 1, "`--model` is required: the reward model or judge."),
    ("score --model LM --data_files prompts.jsonl", 1, "`candidates` has no column `responses`"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "code", "message"), MISTAKES)
def test_mistakes_are_named_in_one_line(command, code, message, tiny_lm, chat, capsys):
    chat.answer = lambda body: 404
    Path("candidates.jsonl").write_text('{"prompt": "a"}\n')
    try:
        found = main(command.replace("LM", tiny_lm).replace("URL", chat.url).split())
    except SystemExit as error:
        found = error.code
    assert found == code
    errors = [line for line in capsys.readouterr().err.splitlines() if ": error:" in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert Path("candidates.jsonl").read_text() == '{"prompt": "a"}\n'


def test_candidates_of_somebody_else_stay(chat, capsys):
    flags = ["generate", "--model", "m", "--base_url", chat.url, "--data_files", "prompts.jsonl", "--n", "1"]
    assert main(flags) == 0
    assert main([*flags, "--seed", "1"]) == 0  # its own are replaced
    with Path("sampled/candidates.jsonl").open("a") as file:
        file.write('{"prompt": "mine"}\n')
    assert main(flags) == 1
    assert "candidates.jsonl was changed after a run of trl_real, so it is not replaced." in capsys.readouterr().err
    assert len(read("sampled/candidates.jsonl")) == 9


def test_a_column_that_json_does_not_hold(chat, capsys):
    Dataset.from_dict({"prompt": ["a"], "date": ["2026-11-27"]}).to_parquet("prompts.parquet")
    assert main(["generate", "--model", "m", "--base_url", chat.url, "--data_files", "prompts.parquet"]) == 0
    printed = capsys.readouterr().out
    assert "The candidates are in candidates.parquet, because JSON cannot hold them: column `date`" in printed
    assert Dataset.from_parquet("sampled/candidates.parquet")["date"][:] == ["2026-11-27"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["generate", "score"])
def test_kills_lose_and_repeat_nothing(command, chat):
    """Of 80 requests: each answer that is in the log is asked for once, and all are there in the end."""
    rows = [{"prompt": f"question {i}", "responses": ["x", "yy", "zzz"]} for i in range(20)]
    data = Dataset.from_list(rows)
    (data.remove_columns("responses") if command == "generate" else data).to_json("data.jsonl")

    def answer(body):
        time.sleep(0.05)
        return f"answer {body['seed']}" if command == "generate" else "A"

    chat.answer = answer
    flags = [command, "--model", "m", "--base_url", chat.url, "--data_files", "data.jsonl", "--output_dir", "out"]
    flags += ["--concurrency", "2"]
    code = "import sys; from trl_real.cli import main; sys.exit(main(sys.argv[1:]))"
    log, lines = Path("out", f"{command}_log.jsonl"), [0]
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", code, *flags], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and log.read_bytes().count(b"\n") > lines[-1]:
                break
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not Path("out/candidates.jsonl").exists()
        lines.append(log.read_bytes().count(b"\n"))
    assert main(flags) == 0
    keys = [row["key"] for row in read(log)]
    assert len(keys) == len(set(keys)) == (80 if command == "generate" else 120)
    # What was under way at a kill, two each time, is asked again.
    assert len(keys) <= len(chat.requests) <= len(keys) + 4 * 2
    out = read("out/candidates.jsonl")
    assert [row["prompt"] for row in out] == data["prompt"][:]
    assert all(len(set(row["responses"])) == (4 if command == "generate" else 3) for row in out)
