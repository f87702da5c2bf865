"""Tasks go to a tool, annotators answer in it, and what it exports comes back as exactly their labels."""

import csv
import json
import re
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trl_real import apply_labels, label_progress, next_pairs, to_label_tasks
from trl_real.labeling.formats.tools import FORMATS
from trl_real.labeling.sources import read_labels
from trl_real.selection.select import pair_id


EXPORTS = Path(__file__).parent / "exports"
ANSWERS = ("a", "b", "tie", None)
SIDES = {"response_a": "response_b", "response_b": "response_a"}


def to_pairs(rows):
    """Pairs from `(prompt, response_a, response_b)`."""
    return Dataset.from_list(
        [
            {"pair_id": pair_id(*row), "prompt": row[0], "response_a": row[1], "response_b": row[2], "similarity": 0.5}
            for row in rows
        ]
    )


# --- What each tool exports, given the file of tasks and the answer of each annotator about each pair ---


def label_studio(path, answers, result):
    tasks = json.loads(path.read_text(encoding="utf-8"))
    for n, task in enumerate(tasks):
        task |= {"id": n, "predictions": [], "drafts": [], "annotations": []}
        for user, label in enumerate(answers[task["data"]["pair_id"]], 1):
            task["annotations"].append(
                {
                    "id": 10 * n + user,
                    "completed_by": user if n % 2 else {"id": user, "email": f"{user}@example.com"},
                    "result": [] if label is None else [result(label)],
                    "was_cancelled": label is None,
                    "created_at": "2026-11-27T16:44:31.365315Z",
                    "updated_at": "2026-11-27T16:44:31.365435Z",
                    "lead_time": 2.5,
                }
            )
    path.write_text(json.dumps(tasks), encoding="utf-8")


def choices(label):
    return {"type": "choices", "from_name": "x", "to_name": "prompt", "value": {"choices": [label.upper()]}}


def pairwise(label):
    if label == "tie":
        return {"type": "choices", "from_name": "y", "to_name": "prompt", "value": {"choices": ["tie"]}}
    selected = {"a": "left", "b": "right"}[label]
    return {"type": "pairwise", "from_name": "z", "to_name": "z", "value": {"selected": selected}}


def argilla(path, answers):
    records = json.loads(path.read_text(encoding="utf-8"))
    for record in records:
        labels = answers[record["id"]]
        record |= {
            "status": "pending",
            "_server_id": None,
            "preference.responses": labels,
            "preference.responses.users": [str(user) for user in range(len(labels))],
            "preference.responses.status": ["discarded" if label is None else "submitted" for label in labels],
        }
    path.write_text(json.dumps(records), encoding="utf-8")
    return records


def prodigy(path, answers):
    lines = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        task = json.loads(line)
        for user, label in enumerate(answers[task["pair_id"]]):
            answer = {"accept": [label] if label else [], "answer": "accept" if label or user else "ignore"}
            lines.append(task | answer | {"_annotator_id": f"pairs-{user}", "_timestamp": 1764261871})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def spreadsheet(path, answers, delimiter=",", ending="\r\n"):
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for cell in (cell for row in rows for cell in row.values()):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator=ending, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        for row in rows:
            for user, label in enumerate(answers[row["pair_id"]]):
                writer.writerow(row | {"label": (label or "").capitalize(), "annotator": f"{user}"})


def lines(path, answers):
    tasks = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    done = [
        task | {"label": label, "annotator": user}
        for task in tasks
        for user, label in enumerate(answers[task["pair_id"]])
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in done), encoding="utf-8")


TOOLS = {
    "label_studio": ("label_studio", lambda path, answers: label_studio(path, answers, choices)),
    "label_studio_pairwise": ("label_studio", lambda path, answers: label_studio(path, answers, pairwise)),
    "argilla": ("argilla", argilla),
    "prodigy": ("prodigy", prodigy),
    "csv": ("csv", spreadsheet),
    "csv_of_other_spreadsheets": ("csv", lambda path, answers: spreadsheet(path, answers, ";", "\n")),
    "jsonl": ("jsonl", lines),
}


# --- The round trip ---

CHARACTERS = st.characters(exclude_categories=["Cs"])
ODD = st.sampled_from(
    [
        "=1+1",
        "+1",
        "-x",
        "@a",
        "\t",
        "\r",
        "'=1",
        "''-",
        "'tis",
        '"',
        ",",
        ";",
        "\n",
        "\r\n",
        "🧑‍🚀",
        "1/2",
        "7",
        "\x00",
        " ",
    ]
)
TEXT = st.one_of(st.lists(ODD, min_size=1, max_size=3).map("".join), st.text(CHARACTERS, min_size=1, max_size=12))
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["assistant", "tool"]), "content": TEXT}), min_size=1, max_size=2
)


def rows_of(prompt, response):
    row = st.tuples(prompt, response, response).filter(lambda row: row[1] != row[2])
    return st.lists(row, min_size=1, max_size=12, unique_by=lambda row: pair_id(*row))


ROWS = st.one_of(rows_of(TEXT, TEXT), rows_of(MESSAGES, MESSAGES))


def winners(pairs, answers):
    """The response that all annotators prefer who prefer anything; `None` if there is none."""
    found = []
    for row in pairs:
        labels = [label for label in answers[row["pair_id"]] if label is not None]
        agreed = labels[0] if len(set(labels)) == 1 and labels[0] != "tie" else None
        found.append(row[f"response_{agreed}"] if agreed else None)
    return found


@pytest.mark.parametrize("tool", TOOLS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, data=st.data())
def test_labels_come_back_as_they_were_given(tool, rows, data, tmp_path):
    format, answer = TOOLS[tool]
    pairs = to_pairs(rows)
    answers = {
        pair: data.draw(st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=2)) for pair in pairs["pair_id"][:]
    }
    path = tmp_path / "tasks"
    path.unlink(missing_ok=True)
    to_label_tasks(pairs, path, format=format)
    answer(path, answers)
    for of in (pairs, pairs.rename_columns(SIDES)):  # another seed gives the other order of the sides
        labeled = apply_labels(of, path, on_skip="keep")
        assert labeled["chosen"][:] == winners(pairs, answers)


@pytest.mark.parametrize("tool", TOOLS)
def test_labels_about_other_texts_are_refused(tool, tmp_path):
    format, answer = TOOLS[tool]
    pairs = to_pairs([("Why?", "because", "why not"), ("How?", "so", "like that")])
    answers = {pair: ["a"] for pair in pairs["pair_id"][:]}
    to_label_tasks(pairs, tmp_path / "tasks", format=format)
    answer(tmp_path / "tasks", answers)
    others = pairs.map(lambda row: {"response_b": row["response_b"] + "!"})
    with pytest.raises(ValueError, match="refers to responses that are not in the pair: 'because' and 'why not'"):
        apply_labels(others, tmp_path / "tasks")
    # What the annotators saw counts, even if the texts and the hash contradict each other.
    text = (tmp_path / "tasks").read_text(encoding="utf-8-sig")
    swapped = re.sub("because|why not", lambda found: {"because": "why not", "why not": "because"}[found[0]], text)
    (tmp_path / "tasks").write_text(swapped, encoding="utf-8")
    assert apply_labels(pairs, tmp_path / "tasks")["chosen"][:] == ["why not", "so"]


@pytest.mark.parametrize("tool", TOOLS)
def test_every_function_that_takes_labels_reads_every_format(tool, tmp_path):
    format, answer = TOOLS[tool]
    pairs = to_pairs([(f"Why {n}?", f"because {n}", f"why not {n}") for n in range(30)])
    pairs = pairs.add_column("embeddings", [[[1.0, n], [0.5, 1.0]] for n in range(30)])
    answers = {pair: [ANSWERS[n % 3]] for n, pair in enumerate(pairs["pair_id"][:])}
    to_label_tasks(pairs.select(range(20)), tmp_path / "tasks", format=format)
    answer(tmp_path / "tasks", answers)
    done = set(pairs["pair_id"][:20])
    assert not done & set(next_pairs(pairs, tmp_path / "tasks", n=10)["pair_id"][:])
    assert label_progress(pairs, tmp_path / "tasks").decided == 20


def test_tasks_of_other_tools_are_never_replaced(tmp_path):
    pairs = to_pairs([("Why?", "because", "why not"), ("How?", "so", "like that")])
    for name, tool in FORMATS.items():
        path = tmp_path / f"{name}{tool.suffix}"
        to_label_tasks(pairs, path, format=name)
        before = path.read_bytes()
        to_label_tasks(pairs, path, format=name)  # the same
        if name != "jsonl":
            with pytest.raises(FileExistsError, match="is there already and may contain labels"):
                to_label_tasks(pairs.select([0]), path, format=name)
            assert path.read_bytes() == before
    config = tmp_path / "label_studio.xml"
    config.write_text("<View/>")
    (tmp_path / "label_studio.json").unlink()
    with pytest.raises(FileExistsError, match=r"label_studio\.xml is there already"):
        to_label_tasks(pairs, tmp_path / "label_studio.json", format="label_studio")
    assert not (tmp_path / "label_studio.json").exists()
    with pytest.raises(ValueError, match=re.escape("`format` must be one of ['jsonl', 'label_studio', 'argilla'")):
        to_label_tasks(pairs, format="excel")


# --- What the tools really wrote ---


def exported(name):
    """The pairs of an export of Label Studio or Argilla, and its records."""
    records = json.loads((EXPORTS / name).read_text(encoding="utf-8"))
    tasks = [record.get("data", record) for record in records]
    pairs = Dataset.from_list(
        [{key: task[key] for key in ("pair_id", "prompt", "response_a", "response_b")} for task in tasks]
    )
    return pairs, records


def sides(pairs, labels):
    return [row[f"response_{label}"] if label else None for row, label in zip(pairs, labels, strict=True)]


@pytest.mark.parametrize("name", ["label_studio_choices.json", "label_studio_pairwise.json"])
def test_an_export_of_label_studio(name):
    """`tests/label_studio_check.py` labeled these tasks in Label Studio 1.23.2."""
    pairs, records = exported(name)
    # Two annotators: a then b, and a; b, b; tie, tie; skipped, a; b, skipped; a, b; skipped, skipped.
    labeled = apply_labels(pairs, EXPORTS / name, on_skip="keep")
    assert labeled["chosen"][:] == sides(pairs, [None, "b", None, "a", "b", None, None])
    assert labeled["n_labels"][:] == [2, 2, 2, 1, 1, 2, 0]
    assert apply_labels(pairs, records, on_skip="keep").to_list() == labeled.to_list()
    names = {
        annotator.name
        for annotator in label_progress(
            pairs.add_column("embeddings", [[[1.0, 0.0], [0.0, 1.0]]] * 7), EXPORTS / name
        ).by_annotator
    }
    assert names == {"1", "2"}


def test_what_the_page_of_label_studio_saves():
    """Somebody pressed 1, 2 and 0, each with Ctrl+Enter, and Ctrl+Space on the page of Label Studio 1.23.2, with our interface."""
    pairs, _ = exported("label_studio_page.json")
    records = read_labels(EXPORTS / "label_studio_page.json", [pairs])
    assert [record.label for record in records] == ["a", "b", "tie", None]
    assert [record.pair for record in records] == pairs["pair_id"][:4]


def test_an_export_of_argilla():
    """The SDK of Argilla 2.8.0 wrote these."""
    pairs, records = exported("argilla_flat.json")
    # a, a; b and a draft; tie and discarded; discarded; nothing; a draft; b, b; a.
    expected = sides(pairs, ["a", "b", None, None, None, None, "b", "a"])
    table = Dataset.from_json(str(EXPORTS / "argilla_datasets.jsonl"))
    for labels in (EXPORTS / "argilla_flat.json", EXPORTS / "argilla_datasets.jsonl", records, table):
        labeled = apply_labels(pairs, labels, on_skip="keep")
        assert labeled["chosen"][:] == expected
        assert labeled["n_labels"][:] == [2, 1, 1, 0, 0, 0, 2, 1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "label_studio_json_min.json",
            "JSON_MIN or CSV of Label Studio, which leaves out skipped tasks. Export as JSON.",
        ),
        ("argilla_nested.json", "the nested export of Argilla, which does not say which responses were submitted."),
    ],
)
def test_exports_that_lose_something_are_refused(name, message):
    pairs, _ = exported("label_studio_choices.json")
    with pytest.raises(ValueError, match=re.escape(message)):
        apply_labels(pairs, EXPORTS / name)
