"""The examples in docstrings, README and docs/ are run, and print what they say; docs/ become a site without a warning."""

import contextlib
import doctest
import inspect
import io
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import candidate_rows
from datasets import Dataset
from local_hub import ALICE
from local_page import Client, serving
from markdown_it import MarkdownIt

import trl_real
from trl_real import cli, push_selected_dataset
from trl_real.candidates import layouts
from trl_real.candidates.eligibility import POLICIES
from trl_real.candidates.layouts import LAYOUTS
from trl_real.selection.report import REASONS
from trl_real.strategies import STRATEGIES


ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"


class Block(NamedTuple):
    """A fenced block of a page: what stands after the fence, the text, the line it begins on, and what it is said to print."""

    info: str
    text: str
    line: int
    printed: str | None


def blocks(page):
    fences = [token for token in MarkdownIt().parse(page.read_text(encoding="utf-8")) if token.type == "fence"]
    for fence, after in itertools.zip_longest(fences, fences[1:]):
        printed = after.content if after is not None and after.info == "text" else None
        yield Block(fence.info, fence.content, fence.map[0] + 1, printed)


PAGES = [page for page in (README, *sorted(DOCS.glob("*.md"))) if list(blocks(page))]
ON_RAY = [page for page in PAGES if "import ray\n" in page.read_text(encoding="utf-8")]
# Other commands: the first word says that another test runs them, or that nothing here can.
NOT_RUN = {"make", "pip", "ray", "hf", ".venv/bin/python"}


@pytest.mark.parametrize(
    "name",
    [
        "load_sample",
        "score_responses",
        "to_candidates",
        "embed_responses",
        "real_select",
        "to_label_tasks",
        "apply_labels",
        "next_pairs",
        "LabelQueue",
        "label_progress",
        "simulate_labeling",
        "select_budget",
        "select_preferences",
        "label_reliability",
        "suspect_labels",
        "create_dataset_card",
        "WinRate",
        "PreferenceMargin",
        "LabelError",
        "PreferenceDiversity",
    ],
)
def test_docstrings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = inspect.getdoc(getattr(trl_real, name)).replace("```", "")  # fences are no output
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert test.examples
    output = io.StringIO()
    doctest.DocTestRunner().run(test, out=output.write)
    assert not output.getvalue(), output.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch, rng, hub):
    """Where a page is run: with candidates and preferences, and logged in to a Hub on this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", ALICE)
    monkeypatch.setenv("TRL_REAL_SPACE_TOKEN", ALICE)
    candidates = Dataset.from_list([{**row, "id": i} for i, row in enumerate(candidate_rows(rng, 30, (2, 3)))])
    candidates.to_json("candidates.jsonl")
    candidates.to_parquet("candidates/0.parquet")
    preferences = [
        {"prompt": row["prompt"], "chosen": row["responses"][0], "rejected": row["responses"][1]} for row in candidates
    ]
    Dataset.from_list(preferences).to_json("preferences.jsonl")
    candidates.remove_columns("scores").to_json("unlabeled.jsonl")
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ON_RAY], ids=lambda page: page.name)
def test_pages(page, folder, tiny_lm, tiny_reward_model, tiny_encoder, chat, monkeypatch):
    """Files are written, and code and commands run, one after the other as a reader would."""
    # Models of the Hub are small ones here, and TRL trains in bfloat16 by default, for which transformers wants a GPU.
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    monkeypatch.setattr("transformers.trainer_callback.DefaultFlowCallback.on_step_end", stop)
    monkeypatch.setattr(
        "trl_real.training.real_dpo_trainer.free_embedder", lambda: None
    )  # the next page takes it again
    monkeypatch.setattr("trl_real.offline_lm", lambda: tiny_lm)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
    monkeypatch.setattr("trl_real.label_page.server.serve", label_everything)
    say = chat.answer
    chat.answer = lambda body: "tie" if "<response_A>" in body["messages"][-1]["content"] else say(body)
    here = {
        "Qwen/Qwen2.5-0.5B-Instruct": tiny_lm,
        "Skywork/Skywork-Reward-V2-Qwen3-0.6B": tiny_reward_model,
        "BAAI/bge-small-en-v1.5": tiny_encoder,
        "static:all-MiniLM-L6-v2": f"static:{tiny_encoder}",
        "your-name/": "alice/",
        "max_new_tokens=256": "max_new_tokens=8",
        "max_new_tokens 256": "max_new_tokens 8",
        "OPENAI_API_KEY=... ": "",
        "TRL_REAL_SPACE_TOKEN=hf_... ": "",
        "https://example.com/v1": chat.url,
        "examples/recipes": str(ROOT / "examples" / "recipes"),
    }
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        text = re.sub("|".join(map(re.escape, here)), lambda found: here[found[0]], block.text)
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            if title := re.search(r'title="(.*)"', block.info):
                Path(title[1]).write_text(text, encoding="utf-8")
            elif block.info == "python":
                exec(compile("\n" * block.line + text, str(page), "exec"), namespace)
            elif block.info == "bash":
                for line in text.replace("\\\n", " ").splitlines():
                    run(shlex.split(line, comments=True), tiny_lm)
        if block.printed is not None:
            found, said = (re.sub(r"[\d.]+ s\b", "? s", text) for text in (output.getvalue(), block.printed))
            assert found == said  # but for the time


def test_layouts_name_every_column_that_is_known():
    page = (ROOT / "docs" / "layouts.md").read_text(encoding="utf-8")
    parts = {
        "the prompt": layouts.PROMPT,
        "a list of responses": layouts.RESPONSES,
        "their scores, higher is better": (*layouts.SCORES, *layouts.SCORE),
        "one response per row": layouts.RESPONSE,
        "its label or score": layouts.SCORE,
    }
    for part, names in parts.items():
        (row,) = re.findall(rf"^\| {part} \| (.*) \|$", page, re.M)
        assert tuple(re.findall("`(.*?)`", row)) == names


def stop(callback, args, state, control, **kwargs):
    """One step of training is enough to see that it runs."""
    control.should_training_stop = True
    return control


def label_everything(app, host, port, started):
    """Serve the label page until all annotators in `annotators.txt`, or the only one, have labeled all pairs: longer is better."""
    accounts = Path("annotators.txt")
    with serving(app) as port:
        for line in accounts.read_text(encoding="utf-8").splitlines() if accounts.exists() else [None]:
            client = Client(port, *(line.split(":", 1) if line else ()))
            while (task := client.get("api/task").json["task"]) is not None:
                first, second = (len(task[part][0]["text"]) for part in ("first", "second"))
                client.decide(task, "first" if first > second else "second")
            client.connection.close()


def run(command, model):
    """Run a command of the package in this process."""
    if command[:2] == ["accelerate", "launch"]:
        command = ["trl-real", *command[command.index("trl_real.cli") + 1 :]]
    if command[:1] == ["trl-real"]:
        flags = f"--model_name_or_path {model} --use_cpu --bf16 false --max_steps 1 --report_to none".split()
        assert cli.main(command[1:] + (flags if command[1] == "dpo" else [])) == 0
    else:
        assert not command or command[0] in NOT_RUN


@pytest.mark.slow
@pytest.mark.parametrize("page", ON_RAY, ids=lambda page: page.name)
def test_pages_on_ray(page, folder):
    """In a process of its own: threads of Ray's outlive `ray.shutdown`."""
    pytest.importorskip("ray")
    push_selected_dataset(Dataset.from_parquet("candidates/0.parquet"), "alice/candidates", license="apache-2.0")
    code = ["import ray", "ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)"]
    code += [block.text for block in blocks(page) if block.info == "python"]
    code = "\n".join(code).replace("your-name/", "alice/")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` does it."""
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    # Not `--quiet`, which keeps warnings from being counted.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_the_site_has_every_page_and_every_name(site):
    for page in DOCS.glob("*.md"):
        text = (site / page.with_suffix(".html").name).read_text(encoding="utf-8")
        assert "[`" not in text, page.name  # references that became no link
        assert "*optional*" not in text
        assert not re.search(r"(src|href)=\"https?://\S+\.(js|css|woff2?|png)\b", text)  # nothing from elsewhere
    reference = (site / "reference.html").read_text(encoding="utf-8")
    assert "<dt><code>budget_cost</code> (<code>str</code>, <em>optional</em>)</dt>" in reference
    for name in trl_real.__all__:
        assert f'id="trl_real.{name}"' in reference
    assert re.search(r'<a class="autorefs[^>]* href="#trl_real.real_select">', reference)


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("layouts.md", LAYOUTS),
        ("strategies.md", [*STRATEGIES, *(option for row in STRATEGIES.values() for option in row.options)]),
        ("report.md", [*REASONS, *POLICIES]),
    ],
)
def test_tables_are_complete(page, names):
    text = (DOCS / page).read_text(encoding="utf-8")
    assert not [name for name in names if f"`{name}`" not in text]


def test_links_of_the_repository_lead_somewhere():
    for page in (README, *DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_make_targets_of_the_readme_come_first():
    targets = re.findall(r"`make (\S+)`", README.read_text(encoding="utf-8"))
    assert targets[:2] == ["quickstart", "test"]
