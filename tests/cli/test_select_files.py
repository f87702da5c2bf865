"""`trl-real select` and what is in its folder: nothing of the user's is lost, whatever is run, killed or full."""

import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from conftest import candidate_rows
from datasets import Dataset, load_dataset
from local_hub import ALICE, ALICE_READS

from trl_real import SelectionReport, to_label_tasks
from trl_real.cli import disk_space, main
from trl_real.core.output_folder import LOCK, RECORD


OURS = {"_trl_real.json", "_trl_real.lock"}
RANDOM = ["--strategy", "random"]  # which needs no embedder


@pytest.fixture
def data(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = Dataset.from_list(candidate_rows(rng, 30, (2, 4)))
    rows.to_json("candidates.jsonl")
    rows.remove_columns("scores").to_json("unlabeled.jsonl")
    return rows


def identity(path):
    """What changes where a file is written or replaced, and not where it is read."""
    found = os.lstat(path)
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns


def select(*flags, data_files="candidates.jsonl"):
    return main(["select", "--data_files", data_files, *RANDOM, *map(str, flags)])


def contents(folder):
    return {
        p.name: p.read_bytes() for p in Path(folder).iterdir() if p.name not in OURS and not p.name.startswith(".")
    }


def one_error(capsys):
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line.lower()]
    assert line.startswith("trl-real: error: ")
    return line


def test_an_input_is_never_an_output(data, capsys):
    assert select() == 0
    before = contents("selected")
    os.link("selected/pairs.jsonl", "linked.jsonl")
    Path("link").symlink_to("selected")
    for path in ("selected/pairs.jsonl", "linked.jsonl", "./selected/../link/pairs.jsonl"):
        assert select("--budget", 5, data_files=path) == 1
        assert "is an input of this run, which would replace or remove selected/pairs.jsonl" in one_error(capsys)
    for name in ("selected", "link"):
        assert main(["select", "--dataset_name", name, *RANDOM, "--budget", "5"]) == 1
        assert "is an input of this run" in one_error(capsys)
    assert contents("selected") == before
    assert select("--budget", 5, "--output_dir", "fewer", data_files="selected/pairs.jsonl") == 0
    assert len(load_dataset("json", data_files="fewer/pairs.jsonl", split="train", cache_dir="cache")) == 5
    Path("recipe.yaml").write_text("data_files: selected/pairs.jsonl\n")
    assert main(["select", "--config", "recipe.yaml", *RANDOM]) == 1
    assert "is an input of this run" in one_error(capsys)


def test_an_input_with_the_name_of_an_output_stays(data, capsys):
    Path("in").mkdir()
    shutil.copy("candidates.jsonl", "in/tasks.jsonl")
    before = Path("in/tasks.jsonl").read_bytes()
    assert select("--output_dir", "in", data_files="in/tasks.jsonl") == 1
    assert "in/tasks.jsonl is an input of this run" in one_error(capsys)
    assert {path.name: path.read_bytes() for path in Path("in").glob("*.jsonl")} == {"tasks.jsonl": before}


@pytest.mark.parametrize("scores", [True, False])
def test_labels_that_people_have_written_stay(scores, data, capsys):
    assert select(data_files="unlabeled.jsonl") == 0
    lines = [json.loads(line) for line in Path("selected/tasks.jsonl").read_text().splitlines()]
    lines[2]["label"] = "a"
    Path("selected/tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = contents("selected")
    again = "candidates.jsonl" if scores else "unlabeled.jsonl"
    assert select("--selection_seed", 1, data_files=again) == 1
    assert "selected/tasks.jsonl was changed after a run of trl_real, so it is not replaced. Move it" in one_error(
        capsys
    )
    assert contents("selected") == before
    shutil.move("selected/tasks.jsonl", "labels.jsonl")
    assert select("--selection_seed", 1, data_files=again) == 0


@pytest.mark.parametrize(
    "name", ["pairs.jsonl", "pairs.parquet", "selection.png", "selection_report.json", "tasks.jsonl"]
)
@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_file_of_the_users_stays(name, kind, data, capsys):
    Path("selected").mkdir()
    path = Path("selected", name)
    Path("other").write_text("of a user")
    {"file": lambda: path.write_text("mine"), "link": lambda: path.symlink_to("../other"), "folder": path.mkdir}[
        kind
    ]()
    before = identity(path)
    assert select() == 1
    assert f"selected/{name} " in one_error(capsys)
    assert identity(path) == before
    assert Path("other").read_text() == "of a user"
    assert {path.name for path in Path("selected").iterdir()} == {name, LOCK}


def test_a_link_with_the_name_of_anything_temporary_is_not_followed(data, tmp_path):
    Path("other").write_text("of a user")
    Path("selected").mkdir()
    Path("selected/.pairs.jsonl").symlink_to(tmp_path / "other")
    assert select() == 0
    assert Path("other").read_text() == "of a user"


def test_equal_output_is_left_alone(data):
    assert select() == 0
    before = identity("selected/pairs.jsonl")
    assert select() == 0
    assert identity("selected/pairs.jsonl") == before
    assert select("--selection_seed", 1) == 0
    assert identity("selected/pairs.jsonl") != before


def test_the_kind_of_the_pairs_file_may_change(data, capsys):
    data.add_column("weight", [float("inf")] * 30).to_parquet("big.parquet")
    assert select() == 0
    capsys.readouterr()
    assert select(data_files="big.parquet") == 0
    printed = capsys.readouterr().out
    assert "Written to selected: pairs.parquet, selection.png, selection_report.json." in printed
    assert (
        "The pairs are in pairs.parquet, because JSON cannot hold them: column `weight` has an infinite number."
        in printed
    )
    assert not Path("selected/pairs.jsonl").exists()
    assert select() == 0
    assert not Path("selected/pairs.parquet").exists()


@pytest.mark.parametrize("path", ["file", "file/out"])
def test_the_folder_is_checked_before_any_work(path, data, capsys, monkeypatch):
    Path("file").write_text("of a user")
    monkeypatch.setattr("trl_real.cli.arguments.load_files", None)
    assert select("--output_dir", path) == 1
    assert "`output_dir`: file" in (error := one_error(capsys))
    assert "is a file, not a folder" in error


def test_a_disk_without_room_is_named_before_any_embedding(data, capsys, monkeypatch):
    def free(n_bytes):
        monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(n_bytes))

    free(1000)
    with monkeypatch.context() as patch:
        patch.setattr("trl_real.cli.select.select_converted", None)
        assert select() == 1
        assert "`output_dir`: the pairs take at least 2," in (error := one_error(capsys))
        assert "bytes, but the disk of selected has 1,000 left. Free up space, or choose" in error
        assert contents("selected") == {}
    assert select("--budget", 5) == 0  # which fits
    free(Path("selected/pairs.jsonl").stat().st_size)
    assert select("--budget", 5, "--output_dir", "again") == 0


@pytest.mark.parametrize(
    ("flags", "token", "message"),
    [
        (["--hub_dataset_id", "a/b/c"], ALICE, "`repo_id='a/b/c'` cannot be the name of a repository"),
        (
            ["--hub_dataset_id", "bob/pairs"],
            ALICE,
            "Could not push to 'bob/pairs': the token has no write access, because",
        ),
        ([], ALICE_READS, "Could not push to 'selected': the token has no write access, because it is read-only"),
        ([], "hf_" + "z" * 34, "Could not push to 'selected': you are not logged in, or the token is not valid"),
        ([], None, "Could not push to 'selected': you are not logged in. Run `hf auth login`"),
    ],
)
def test_a_push_that_would_be_refused_is_named_before_any_work(flags, token, message, data, hub, capsys, monkeypatch):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr("trl_real.cli.arguments.load_files", None)
    assert select("--push_to_hub", *flags) == 1
    assert message in one_error(capsys)
    assert not hub.repos


# --- Races, kills and full disks, in forked children, which have everything imported ---


def child(run, *arguments):
    """A process that runs a function, silently, and exits with what it returns."""

    def quietly():
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
            code = run(*arguments)
        os._exit(code or 0)

    process = multiprocessing.get_context("fork").Process(target=quietly)
    process.start()
    return process


def run_select(seed, output_dir="selected", data_files="unlabeled.jsonl"):
    return select("--selection_seed", seed, "--output_dir", output_dir, data_files=data_files)


def check_whole(folder, whole):
    """Everything is there and complete: as the run with one of the seeds writes it."""
    found = contents(folder)
    assert set(found) == {"pairs.jsonl", "selection.png", "selection_report.json", "tasks.jsonl"}
    for name in ("pairs.jsonl", "tasks.jsonl"):
        assert found[name] in [contents(other)[name] for other in whole]
    SelectionReport.load(Path(folder, "selection_report.json"))
    assert found["selection.png"].endswith(b"IEND\xaeB`\x82")


@pytest.fixture
def whole(data):
    for seed in (1, 2):
        assert run_select(seed, f"whole{seed}") == 0
    return ["whole1", "whole2"]


@pytest.mark.slow
def test_two_runs_in_one_folder_give_one_result_and_one_error(whole):
    outcomes = set()
    for _ in range(50):
        shutil.rmtree("selected", ignore_errors=True)
        runs = [child(run_select, seed) for seed in (1, 2)]
        for run in runs:
            run.join(60)
        codes = sorted(run.exitcode for run in runs)
        assert codes in ([0, 0], [0, 1])  # one after the other, or one of them
        outcomes.add(tuple(codes))
        check_whole("selected", whole)
        if codes == [0, 1]:
            winner = whole[[run.exitcode for run in runs].index(0)]
            assert contents("selected")["tasks.jsonl"] == contents(winner)["tasks.jsonl"]
    assert (0, 1) in outcomes


@pytest.mark.slow
def test_a_killed_run_loses_nothing(whole):
    rng, killed, hidden = random.Random(0), 0, []
    start = time.perf_counter()
    assert run_select(1) == 0
    seconds = time.perf_counter() - start
    Path("selected/notes.txt").write_text("of a user")
    for n in range(30):
        process = child(run_select, n % 2 + 1)
        time.sleep(rng.uniform(0.3, 1.3) * seconds)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        found = contents("selected")
        assert found.pop("notes.txt") == b"of a user"
        assert set(found) == {"pairs.jsonl", "selection.png", "selection_report.json", "tasks.jsonl"}
        for name in ("pairs.jsonl", "tasks.jsonl"):
            assert found[name] in [contents(folder)[name] for folder in whole]
        SelectionReport.load("selected/selection_report.json")
        assert found["selection.png"].endswith(b"IEND\xaeB`\x82")
        hidden += [path.name for path in Path("selected").glob(".*")]
    assert killed > 5
    assert all(name.startswith(".trl_real-") for name in hidden)
    assert run_select(1) == 0
    assert not list(Path("selected").glob(".*"))
    Path("selected/notes.txt").unlink()
    check_whole("selected", whole)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["tasks", "report", "figure", "card"])
def test_a_file_that_is_written_while_its_process_is_killed_is_whole(what, data, tmp_path):
    from trl_real.core.files import write_text

    assert select(data_files="unlabeled.jsonl") == 0
    rows = load_dataset("json", data_files="selected/pairs.jsonl", split="train", cache_dir="cache")
    report = SelectionReport.load("selected/selection_report.json")
    folder = tmp_path / "out"
    folder.mkdir()
    path = folder / {"figure": "a.png", "card": "README.md"}.get(what, "a.jsonl")
    text = ["card\n" * n for n in (50_000, 60_000)]

    def write(n):
        if what == "tasks":
            to_label_tasks(rows.select(range(20 + n)), path)
        elif what == "report":
            report.rows = n
            report.save(path)
        elif what == "figure":
            report.strategy = "ab"[n]
            report.plot(path)
        else:
            write_text(path, text[n])

    expected = []
    for n in (0, 1):
        write(n)
        expected.append(path.read_bytes())

    def forever():
        while True:
            write(0)
            write(1)

    rng = random.Random(0)
    for _ in range(30):
        process = child(forever)
        time.sleep(rng.uniform(0.02, 0.2))
        process.kill()
        process.join()
        assert path.read_bytes() in expected
    write(0)
    assert path.read_bytes() == expected[0]


def limited(n_bytes, function, *arguments):
    """Run as if the disk was full once a file has so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
    return function(*arguments)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
@pytest.mark.parametrize("data_files", ["unlabeled.jsonl", "candidates.jsonl"])
def test_a_full_disk_leaves_what_was_there(data_files, data):
    assert run_select(1, data_files=data_files) == 0
    assert run_select(2, "other", data_files) == 0
    before = {path.name: path.read_bytes() for path in Path("selected").iterdir()}
    sizes = sorted(len(content) for content in contents("other").values())
    for limit in [0, 100, 30_000, *(size - 1 for size in sizes)]:
        process = child(limited, limit, run_select, 2, "selected", data_files)
        process.join(60)
        assert process.exitcode == 1
        assert {path.name: path.read_bytes() for path in Path("selected").iterdir()} == before
    assert run_select(2, data_files=data_files) == 0
    assert json.loads(Path("selected", RECORD).read_text())["files"].keys() == contents("other").keys()
