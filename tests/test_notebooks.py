"""The notebooks run from top to bottom, with a tiny model and no network, and show what they say."""

import ast
import base64
import io
import json
import re
import tomllib
from pathlib import Path

import matplotlib.image
import nbformat
import pytest
from nbclient import NotebookClient


ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def read(name):
    return nbformat.read(NOTEBOOKS[0].parent / f"{name}.ipynb", as_version=4)


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def run(notebook, settings, folder, monkeypatch):
    """The outputs of each cell by its id. The cell that installs is left out, as all of it is installed."""
    (defaults,) = tagged(notebook, "parameters")
    names = {target.id for node in ast.parse(defaults.source).body for target in node.targets}
    assert set(settings) <= names
    override = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    notebook.cells.insert(notebook.cells.index(defaults) + 1, nbformat.v4.new_code_cell(override, id="override"))
    (install,) = tagged(notebook, "install")
    notebook.cells.remove(install)
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def printed(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def pictures(outputs):
    shown = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [matplotlib.image.imread(io.BytesIO(base64.b64decode(picture))) for picture in shown]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_clean_and_begins_with_what_a_user_needs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(re.fullmatch(r"[a-z-]+", cell.id) for cell in notebook.cells)  # ids that a person chose stay
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert code[0].source.startswith('%pip install -q "trl-real[gguf,offline,plot]"')
    assert [code[0]] == tagged(notebook, "install")
    assert [code[1]] == tagged(notebook, "parameters")
    assert notebook.metadata.kernelspec.name == "python3"
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    repository = urls["Repository"].removeprefix("https://github.com/")
    assert (
        f"(https://colab.research.google.com/github/{repository}/blob/main/examples/{path.name})"
        in notebook.cells[0].source
    )


@pytest.mark.slow
def test_select_and_train(tmp_path, tiny_lm, monkeypatch):
    notebook = read("select_and_train")
    numbers = (
        "import json\n"
        "print(json.dumps({'results': results, 'strategies': by_strategy.to_dict('index')}))\n"
        "assert trainer.selected_dataset.to_list() == pairs.to_list()"
    )
    notebook.cells.append(nbformat.v4.new_code_cell(numbers, id="numbers"))
    settings = {"MODEL": tiny_lm, "LEARNING_RATE": 1e-2, "NEW_TOKENS": 5}
    shown = run(notebook, settings, tmp_path, monkeypatch)
    assert "pairs out             14 labeled" in printed(shown["select"])
    assert "random, mean of 20" in shown["describe"][-1].data["text/plain"]
    assert "selected pairs" in shown["after"][-1].data["text/html"]
    assert printed(shown["answers"]).count("before: ") == printed(shown["answers"]).count("after: ") == 2
    for name in ("figure", "comparison"):
        (picture,) = pictures(shown[name])
        assert picture.std() > 0.05
    numbers = json.loads(printed(shown["numbers"]))
    similarity = {name: values["similarity"] for name, values in numbers["strategies"].items()}
    assert similarity["easy"] < similarity["random, mean of 20"] < similarity["hard"]
    assert numbers["results"]["selected pairs"]["margin"] > 0
    assert numbers["results"]["selected pairs"]["accuracy"] > 0.5


@pytest.mark.slow
def test_prompts_to_model(tmp_path, tiny_lm, monkeypatch):
    notebook = read("prompts_to_model")
    settings = {
        "MODEL": tiny_lm,
        "RESPONSES": 3,
        "NEW_TOKENS": 24,
        "MIN_SCORE_GAP": 0.0,
        "STEPS": 2,
        "LEARNING_RATE": 1e-2,
    }
    shown = run(notebook, settings, tmp_path, monkeypatch)
    assert "prompts in            20 with 60 responses" in printed(shown["select"])
    text = printed(shown["compare"])
    assert text.count("  before ") == text.count("  after ") == 5
    assert re.search(r"held-out margin -?\d+\.\d{3}, accuracy [01]\.\d\d", text)


@pytest.mark.slow
def test_label_round_trip(tmp_path, tiny_lm, monkeypatch):
    """With a person who labels by hand beside the simulated annotators."""
    notebook = read("label_round_trip")
    (form,) = (cell for cell in notebook.cells if cell.id == "buttons")
    # A click a task on the form, half of them on another one, as after an interruption, and one that is taken back.
    clicks = (
        "labeled = []\n"
        "for clicks in (len(tasks) // 2, len(tasks)):\n"
        "    view, buttons = labeling_form(ANNOTATOR).children\n"
        "    while len(labeled) < clicks:\n"
        "        labeled.append(view.value)\n"
        "        buttons.children[len(labeled) % 4].click()\n"
        "assert 'Go on' in view.value and buttons.children[0].disabled\n"
        "buttons.children[4].click()\n"
        "assert view.value == labeled[-1]\n"
        "buttons.children[1].click()"
    )
    notebook.cells.insert(notebook.cells.index(form) + 1, nbformat.v4.new_code_cell(clicks, id="clicks"))
    settings = {"MODEL": tiny_lm, "LEARNING_RATE": 1e-2, "ANNOTATOR": "me"}
    shown = run(notebook, settings, tmp_path, monkeypatch)
    tasks = [json.loads(line) for line in (tmp_path / "tasks.jsonl").open(encoding="utf-8")]
    log = [json.loads(line) for line in (tmp_path / "project" / "labels.jsonl").open(encoding="utf-8")]
    by_hand = [line for line in log if line["annotator"] == "me"]
    assert {line["pair_id"] for line in by_hand} == {task["pair_id"] for task in tasks}
    assert len(by_hand) == len(tasks) + 2  # what was taken back, and what came instead
    assert {line["label"] for line in by_hand} == {"a", "b", "tie", None}
    assert f"{4 * len(tasks)} labels of 4 annotators make" in printed(shown["apply"])
    table = shown["errors"][-1].data["text/plain"]
    assert all(name in table for name in ("me", "Ada", "Ben", "Cleo", "majority"))
    assert "annotators" in printed(shown["progress"])
    assert "Too small a sample" in printed(shown["reliability"])
    (picture,) = pictures(shown["reliability-figure"])
    assert picture.std() > 0.05
    result = ast.literal_eval(shown["result"][-1].data["text/plain"])
    assert result["margins"] != 0
