import gzip
import json
from pathlib import Path

import pytest
from conftest import candidate_rows
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard, ModelCard
from local_hub import ALICE

from trl_real import SelectionConfig, SelectionReport, select_preferences
from trl_real.cli import main


RECIPES = Path(__file__).parent.parent.parent / "examples" / "recipes"


@pytest.fixture
def data(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = candidate_rows(rng, 20)
    Dataset.from_list(rows).to_json("candidates.jsonl")
    Dataset.from_list(rows).remove_columns("scores").to_parquet("unlabeled.parquet")
    Dataset.from_list(rows).remove_columns("scores").to_json("unlabeled.jsonl")
    Dataset.from_list(rows).to_json("candidates.jsonl.gz", compression="gzip")
    return Dataset.from_list(rows)


def test_select_writes_what_select_preferences_gives(data, tiny_encoder, capsys, tmp_path):
    flags = [
        "--embedder",
        tiny_encoder,
        "--budget",
        "0.5",
        "--strategy",
        "aepo",
        "--strategy_kwargs",
        '{"lambda_": 2}',
    ]
    expected, report = select_preferences(
        data, SelectionConfig(embedder=tiny_encoder, budget=0.5, strategy="aepo", strategy_kwargs={"lambda_": 2})
    )
    for file in ("candidates.jsonl", "candidates.jsonl.gz"):
        assert main(["select", "--data_files", file, "--output_dir", "out", *flags]) == 0
        pairs = load_dataset(
            "json", data_files="out/pairs.jsonl", split="train", cache_dir=str(tmp_path / f"cache of {file}")
        )
        assert pairs["chosen"][:] == expected["chosen"][:]
    assert SelectionReport.load("out/selection_report.json") == report
    assert Path("out/selection.png").is_file()
    printed = capsys.readouterr().out
    assert "strategy              aepo" in printed
    assert "Written to out: pairs.jsonl, selection.png, selection_report.json." in printed


def test_select_without_scores_writes_label_tasks(data, tiny_encoder):
    assert main(["select", "--data_files", "unlabeled.parquet", "--embedder", tiny_encoder]) == 0
    tasks = [json.loads(line) for line in Path("selected/tasks.jsonl").read_text().splitlines()]
    assert len(tasks) == 20
    assert set(tasks[0]) == {"pair_id", "prompt", "response_a", "response_b"}


def test_a_recipe_is_read_and_flags_go_before_it(data, tiny_encoder):
    Path("recipe.yaml").write_text(f"data_files: [candidates.jsonl]\nembedder: {tiny_encoder}\nbudget: 5\n")
    assert main(["select", "--config", "recipe.yaml"]) == 0
    assert SelectionReport.load("selected/selection_report.json").pairs == 5
    for budget in (3, 1):
        assert main(["select", "--config", "recipe.yaml", "--budget", str(budget)]) == 0
        assert SelectionReport.load("selected/selection_report.json").pairs == budget


@pytest.mark.parametrize("recipe", ["dpo_full", "dpo_lora"])
def test_dpo_trains_by_recipe(recipe, data, tiny_lm, tiny_encoder, capsys):
    flags = [
        "--model_name_or_path",
        tiny_lm,
        "--data_files",
        "candidates.jsonl",
        "--output_dir",
        "out",
        "--max_steps",
        "2",
    ]
    flags += ["--use_cpu", "--bf16", "false", "--report_to", "none", "--disable_tqdm", "true"]
    if recipe == "dpo_lora":
        flags += ["--embedder", tiny_encoder]
    assert main(["dpo", "--config", str(RECIPES / f"{recipe}.yaml"), *flags]) == 0
    weights = "model.safetensors" if recipe == "dpo_full" else "adapter_model.safetensors"
    assert {weights, "README.md", "selection_report.json"} <= {path.name for path in Path("out").iterdir()}
    report = SelectionReport.load("out/selection_report.json")
    assert report.embedder == (f"policy ({tiny_lm})" if recipe == "dpo_full" else tiny_encoder)
    assert report.budget == 0.35
    assert "The model was saved to out." in capsys.readouterr().out


def test_local_files_are_evaluated_and_a_run_goes_on(data, tiny_lm, tiny_encoder, capsys):
    Path("recipe.yaml").write_text(
        f"model_name_or_path: {tiny_lm}\ndata_files: candidates.jsonl\neval_data_files: unlabeled.jsonl\n"
        f"embedder: {tiny_encoder}\noutput_dir: out\nuse_cpu: true\nbf16: false\nreport_to: none\nsave_steps: 1\n"
        "eval_strategy: steps\neval_steps: 1\nmax_steps: 2\n"
    )
    assert main(["dpo", "--config", "recipe.yaml"]) == 1
    assert "`eval_dataset` has no scores" in capsys.readouterr().err
    evaluate = ["dpo", "--config", "recipe.yaml", "--eval_data_files", "candidates.jsonl"]
    assert main(evaluate) == 0
    assert "eval_loss" in capsys.readouterr().out
    assert main([*evaluate, "--resume_from_checkpoint", "true", "--max_steps", "3"]) == 0
    assert Path("out/checkpoint-3").is_dir()


def test_select_and_dpo_push(data, tiny_lm, tiny_encoder, hub, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", ALICE)
    select = ["select", "--data_files", "candidates.jsonl", "--embedder", tiny_encoder, "--output_dir", "pairs"]
    assert main([*select, "--push_to_hub", "--license", "mit"]) == 0
    assert f"Pushed: {hub.url}/datasets/alice/pairs/commit/" in capsys.readouterr().out
    pairs = load_dataset("alice/pairs", split="train", cache_dir=str(tmp_path / "cache"))
    assert pairs["chosen"][:] == [
        json.loads(line)["chosen"] for line in Path("pairs/pairs.jsonl").read_text().splitlines()
    ]
    assert "budget: null" in DatasetCard.load("alice/pairs").text
    assert main([*select, "--push_to_hub", "--hub_dataset_id", "bob/pairs"]) == 1
    assert "trl-real: error: Could not push to 'bob/pairs': the token has no write access" in capsys.readouterr().err
    dpo = ["dpo", "--model_name_or_path", tiny_lm, "--dataset_name", "alice/pairs", "--output_dir", "out"]
    dpo += ["--max_steps", "1", "--use_cpu", "--bf16", "false", "--report_to", "none", "--push_to_hub"]
    assert main([*dpo, "--hub_private_repo", "true", "--hub_dataset_id", "alice/trained-on"]) == 0
    assert "It was pushed to alice/out." in capsys.readouterr().out
    assert set(hub.repos) == {("dataset", "alice/pairs"), ("dataset", "alice/trained-on"), ("model", "alice/out")}
    assert [hub.repos["dataset", "alice/trained-on"].private, hub.repos["model", "alice/out"].private] == [True, True]
    assert ModelCard.load("alice/out").data.datasets == "alice/trained-on"


def test_outputs_of_an_earlier_run_do_not_stay(data, tiny_encoder, capsys):
    Path("other.txt").write_text("")
    flags = ["--embedder", tiny_encoder, "--output_dir", "."]
    assert main(["select", "--data_files", "unlabeled.parquet", *flags]) == 0
    assert Path("tasks.jsonl").is_file()
    assert main(["select", "--data_files", "candidates.jsonl", *flags]) == 0
    assert not Path("tasks.jsonl").exists()
    assert "Written to .: pairs.jsonl, selection.png, selection_report.json." in capsys.readouterr().out


@pytest.mark.parametrize("recipe", [False, True])
def test_select_from_columns_by_name(recipe, data, tiny_encoder):
    expected, report = select_preferences(data, SelectionConfig(embedder=tiny_encoder))
    names = {"prompt": "q", "responses": "replies", "scores": "votes"}
    data.rename_columns(names).to_json("named.jsonl")
    arguments = {f"{part}_column": column for part, column in names.items()}
    arguments |= {"data_files": "named.jsonl", "embedder": tiny_encoder, "layout": "candidates"}
    Path("recipe.yaml").write_text("".join(f"{name}: {value}\n" for name, value in arguments.items()))
    flags = [text for name, value in arguments.items() for text in (f"--{name}", value)]
    assert main(["select", *(["--config", "recipe.yaml"] if recipe else flags)]) == 0
    pairs = [json.loads(line) for line in Path("selected/pairs.jsonl").read_text().splitlines()]
    assert [pair["chosen"] for pair in pairs] == expected["chosen"][:]
    assert SelectionReport.load("selected/selection_report.json") == report


def test_dpo_on_columns_by_name(data, tiny_lm, tiny_encoder, capsys):
    pairs, _ = select_preferences(data, SelectionConfig(embedder=tiny_encoder))
    pairs.select_columns(["prompt", "chosen", "rejected"]).rename_columns(
        {"chosen": "better", "rejected": "worse"}
    ).to_json("named.jsonl")
    dpo = ["dpo", "--model_name_or_path", tiny_lm, "--data_files", "named.jsonl", "--output_dir", "out", "--use_cpu"]
    dpo += ["--bf16", "false", "--report_to", "none", "--max_steps", "1", "--embedder", tiny_encoder]
    assert main(dpo) == 1
    assert "for pairs, `chosen_column='better', rejected_column='worse'`" in capsys.readouterr().err
    assert main([*dpo, "--chosen_column", "better", "--rejected_column", "worse"]) == 0
    assert Path("out/model.safetensors").is_file()


ROW = b'{"prompt": "caf\xc3\xa9?", "responses": ["x", "y"], "scores": [1, 2]}\n'
LATIN1 = ROW.decode().encode("latin1")
GZIP = gzip.compress(ROW + LATIN1, mtime=0)  # a time would be in the name of the test


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", ROW + LATIN1, "a.jsonl is not UTF-8: byte 0xe9 in line 2 (invalid continuation byte). Convert it"),
        ("a.jsonl", ROW + LATIN1, "`iconv -f latin1 -t utf-8`"),
        ("a.jsonl.gz", GZIP, "a.jsonl.gz is not UTF-8: byte 0xe9 in line 2"),
        ("a.jsonl", 30_000 * ROW + LATIN1, "byte 0xe9 in line 30001"),  # several blocks
        ("a.jsonl", ROW + b"\xc3", "byte 0xc3 in line 2 (unexpected end of data)"),
        (
            "a.json",
            ROW.decode().encode("utf-16"),
            "byte 0xff in line 1 (invalid start byte). Convert it, for example with `iconv -f utf-16",
        ),
        ("a.csv", b"prompt,completion,label\ncaf\xe9,a,1\n", "a.csv is not UTF-8: byte 0xe9 in line 2"),
    ],
)
def test_a_file_that_is_not_utf8_is_named(name, content, message, data, capsys):
    Path(name).write_bytes(content)
    assert main(["select", "--data_files", name]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["select"], ["dpo"]])
def test_help_is_there(command, capsys):
    with pytest.raises(SystemExit) as error:
        main([*command, "--help"])
    assert error.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: {' '.join(['trl-real', *command])}")
    if command:
        assert "--strategy" in printed
