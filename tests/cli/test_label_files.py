"""`trl-real tasks` and `trl-real apply`: the same as the functions, from files to files."""

import json
from dataclasses import fields
from inspect import signature
from pathlib import Path

import pytest
from conftest import candidate_rows
from datasets import Dataset

from trl_real import apply_labels, real_select, to_label_tasks
from trl_real.cli import main
from trl_real.cli.apply import ApplyArguments
from trl_real.cli.tasks import TasksArguments
from trl_real.labeling.formats.tools import FORMATS


@pytest.fixture(autouse=True)
def pairs(tmp_path, monkeypatch, rng):
    monkeypatch.chdir(tmp_path)
    rows = Dataset.from_list(candidate_rows(rng, 6, scores=False))
    pairs = rows.map(real_select, batched=True, remove_columns=["responses"], fn_kwargs={"strategy": "random"})
    pairs.to_json("pairs/pairs.jsonl")
    return pairs


@pytest.mark.parametrize(("arguments", "function"), [(TasksArguments, to_label_tasks), (ApplyArguments, apply_labels)])
def test_defaults_are_those_of_the_function(arguments, function):
    parameters = signature(function).parameters
    shared = {field.name: field.default for field in fields(arguments) if field.name in parameters}
    assert shared
    assert all(parameters[name].default in (default, parameters[name].empty) for name, default in shared.items())


@pytest.mark.parametrize("name", FORMATS)
def test_tasks_writes_what_the_function_writes(name, pairs, capsys):
    assert main(["tasks", "--dataset_name", "pairs", "--format", name]) == 0
    path = Path("tasks").with_suffix(FORMATS[name].suffix)
    to_label_tasks(pairs, f"expected{path.suffix}", format=name)
    assert path.read_bytes() == Path(f"expected{path.suffix}").read_bytes()
    config = ", and the labeling interface to tasks.xml" if name == "label_studio" else ""
    assert capsys.readouterr().out == f"Written 6 tasks to {path}{config}.\n"
    assert Path("tasks.xml").exists() == bool(config)


def test_tasks_replace_no_input(pairs, capsys):
    for name, rows in (("a", pairs.select(range(3))), ("b", pairs.select(range(3, 6)))):
        to_label_tasks(rows, f"{name}.jsonl")
    before = Path("a.jsonl").read_bytes()
    assert main(["tasks", "--data_files", "a.jsonl", "b.jsonl", "--output_file", "./a.jsonl"]) == 1
    assert (
        "a.jsonl is an input of this run, which would replace or remove a.jsonl. Choose another `output_file`"
        in capsys.readouterr().err
    )
    assert Path("a.jsonl").read_bytes() == before


def test_apply_writes_what_the_function_gives(pairs, capsys):
    Path("recipe.yaml").write_text("data_files: pairs/pairs.jsonl\nformat: csv\noutput_file: sheet.csv\n")
    assert main(["tasks", "--config", "recipe.yaml"]) == 0
    rows = [f"{pair},{label}" for pair, label in zip(pairs["pair_id"], ["a", "b", "tie", "", "A", "B"], strict=True)]
    Path("labels.csv").write_text("\n".join(["pair_id,label", *rows]))
    assert main(["apply", "--dataset_name", "pairs", "--labels", "labels.csv", "--output_dir", "out"]) == 0
    assert "4 of 6 pairs have a preferred side.\nWritten to out: preferences.jsonl." in capsys.readouterr().out
    written = [json.loads(line) for line in Path("out/preferences.jsonl").read_text().splitlines()]
    columns = ["prompt", "chosen", "rejected"]
    expected = apply_labels(pairs, "labels.csv").select_columns(columns).to_list()
    assert [{name: row[name] for name in columns} for row in written] == expected
    Path("recipe.yaml").write_text(
        "data_files: pairs/pairs.jsonl\nlabels: labels.csv\noutput_dir: out\non_skip: keep\n"
    )
    assert main(["apply", "--config", "recipe.yaml", "--aggregate", "dawid_skene"]) == 0
    assert "4 of 6 pairs have a preferred side." in capsys.readouterr().out
    assert len(Path("out/preferences.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("tasks --dataset_name pairs --format excel", 2, "invalid choice: 'excel'"),
        ("tasks --dataset_name pairs --output_file nope/tasks.json", 1, "nope/tasks.json"),
        ("tasks --dataset_name pairs --output_file pairs/pairs.jsonl", 1, "pairs/pairs.jsonl is an input of this run"),
        ("tasks --data_files labels.csv", 1, "Unlabeled pairs have the columns"),
        ("tasks", 1, "Give either `--dataset_name` or `--data_files`."),
        ("apply --dataset_name pairs", 1, "`--labels` is required"),
        ("apply --dataset_name pairs --labels nope.json", 1, "No such file or directory: 'nope.json'"),
        ("apply --dataset_name pairs --labels labels.csv", 1, "row 2 of labels.csv: expected 'a', 'b', 'tie'"),
        ("apply --dataset_name pairs --labels labels.csv --on_skip x", 2, "invalid choice: 'x'"),
        ("apply --dataset_name pairs --labels labels.csv --aggregate x", 2, "invalid choice: 'x'"),
        ("apply --dataset_name pairs --labels pairs/pairs.jsonl", 1, "None of the 6 records of `labels` has a `label`"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(command, code, message, capsys):
    Path("labels.csv").write_text("pair_id,label\nx,left\n")
    try:
        found = main(command.split())
    except SystemExit as stopped:
        found = stopped.code
    printed = capsys.readouterr()
    assert found == code
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert Path("labels.csv").read_text() == "pair_id,label\nx,left\n"
