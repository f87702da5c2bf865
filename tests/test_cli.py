import json
from pathlib import Path

import pytest
from conftest import candidate_rows
from datasets import Dataset, load_dataset

from trl_real import SelectionConfig, SelectionReport, select_preferences
from trl_real.cli import main


RECIPES = Path(__file__).parent.parent / "examples" / "recipes"


@pytest.fixture
def data(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = candidate_rows(rng, 20)
    Dataset.from_list(rows).to_json("candidates.jsonl")
    Dataset.from_list(rows).remove_columns("scores").to_parquet("unlabelled.parquet")
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
    assert main(["select", "--data_files", "unlabelled.parquet", "--embedder", tiny_encoder]) == 0
    tasks = [json.loads(line) for line in Path("selected/tasks.jsonl").read_text().splitlines()]
    assert len(tasks) == 20
    assert set(tasks[0]) == {"pair_id", "prompt", "response_a", "response_b"}


def test_a_recipe_is_read_and_flags_go_before_it(data, tiny_encoder):
    Path("recipe.yaml").write_text(f"data_files: [candidates.jsonl]\nembedder: {tiny_encoder}\nbudget: 5\n")
    assert main(["select", "--config", "recipe.yaml"]) == 0
    assert SelectionReport.load("selected/selection_report.json").pairs == 5
    assert main(["select", "--config", "recipe.yaml", "--budget", "3"]) == 0
    assert SelectionReport.load("selected/selection_report.json").pairs == 3


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
    assert "The model is in out." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["selct"], 2, "invalid choice: 'selct' (choose from"),
        (["select"], 1, "trl-real: error: Give either `--dataset_name` or `--data_files`."),
        (["select", "--data_files", "nope.jsonl"], 1, "trl-real: error: `--data_files`: there is no file nope.jsonl."),
        (["select", "--data_files", "pyproject.toml"], 1, "expected files that end in one of ['.jsonl', '.json'"),
        (
            ["select", "--data_files", "candidates.jsonl", "--strategy", "eazy"],
            2,
            "trl-real select: error: `strategy` must be",
        ),
        (
            ["select", "--data_files", "candidates.jsonl", "--budgett", "3"],
            2,
            "not used by the HfArgumentParser: ['--budgett",
        ),
        (["select", "--config", "nope.yaml"], 2, "No such file or directory: 'nope.yaml'"),
        (
            ["select", "--data_files", "candidates.jsonl", "--dataset_train_split", "x", "--embedder", "/nope"],
            1,
            "/nope",
        ),
        (["select", "--dataset_name", "no/such"], 1, "trl-real: error: Couldn't reach 'no/such' on the Hub"),
        (["dpo", "--use_cpu", "--bf16", "false"], 1, "trl-real: error: `--model_name_or_path` is required"),
    ],
)
def test_mistakes_are_named_in_one_line(flags, code, message, data, capsys):
    Path("pyproject.toml").write_text("")
    try:
        found = main(flags)
    except SystemExit as error:
        found = error.code
    assert found == code
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", [[], ["select"], ["dpo"]])
def test_help_is_there(command, capsys):
    with pytest.raises(SystemExit) as error:
        main([*command, "--help"])
    assert error.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: {' '.join(['trl-real', *command])}")
    if command:
        assert "--strategy" in printed
