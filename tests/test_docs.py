"""The examples in docstrings, README and docs/ are run, and print what they say."""

import contextlib
import doctest
import inspect
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import candidate_rows
from datasets import Dataset
from local_hub import ALICE

import trl_real
from trl_real import push_selected_dataset, real_select


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", re.DOTALL)


@pytest.mark.parametrize(
    "name",
    [
        "load_sample",
        "to_candidates",
        "embed_responses",
        "real_select",
        "to_label_tasks",
        "apply_labels",
        "select_budget",
        "select_preferences",
        "label_reliability",
        "create_dataset_card",
        "WinRate",
        "PreferenceMargin",
        "LabelError",
        "PreferenceDiversity",
    ],
)
def test_docstrings(name):
    text = inspect.getdoc(getattr(trl_real, name)).replace("```", "")  # fences are no output
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert test.examples
    output = io.StringIO()
    doctest.DocTestRunner().run(test, out=output.write)
    assert not output.getvalue(), output.getvalue()


@pytest.mark.parametrize(
    ("code", "printed"), BLOCK.findall(README), ids=lambda text: text.splitlines()[0][:40] if text else "silent"
)
def test_readme(code, printed, tmp_path, monkeypatch, rng, tiny_lm, hub):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", ALICE)
    candidates = Dataset.from_list(candidate_rows(rng, 30, (2, 3)))
    candidates.to_json("candidates.jsonl")
    pairs = candidates.map(real_select, batched=True, fn_kwargs={"strategy": "random"})
    pairs.select_columns(["prompt", "chosen", "rejected"]).to_json("preferences.jsonl")
    # The Hub is one on this machine, and TRL trains in bfloat16 by default, for which transformers wants a GPU.
    code = code.replace("Qwen/Qwen2.5-0.5B-Instruct", tiny_lm).replace("your-name/", "alice/")
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "README.md", "exec"), {})
    if printed:
        assert re.sub(r"[\d.]+ s\b", "? s", output.getvalue()) == re.sub(
            r"[\d.]+ s\b", "? s", printed
        )  # but for the time


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_pages(page, tmp_path, monkeypatch, rng, hub):
    """The blocks of a page one after the other, in one folder."""
    blocks = [code for code, _ in BLOCK.findall(page.read_text(encoding="utf-8"))]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", ALICE)
    candidates = Dataset.from_list([{**row, "id": i} for i, row in enumerate(candidate_rows(rng, 30, (2, 3)))])
    candidates.to_parquet("candidates/0.parquet")
    push_selected_dataset(candidates, "alice/candidates", license="apache-2.0")
    code = "\n".join(blocks).replace("your-name/", "alice/")
    if "import ray\n" in code:
        pytest.importorskip("ray")
        code = "import ray\nray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)\n" + code
    # In a process of its own: threads of Ray's outlive `ray.shutdown`.
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]


def test_make_targets_of_the_readme_come_first():
    targets = re.findall(r"^make (\S+)", README, re.MULTILINE)
    assert targets[:2] == ["quickstart", "test"]
