import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trl_real.core import output_folder
from trl_real.core.output_folder import LOCK, RECORD, OutputFolder


NAMES = ("pairs.jsonl", "tasks.jsonl")


def write(folder, **contents):
    """A run that writes files of these names, without their endings."""
    with OutputFolder(folder).replacing(NAMES) as stage:
        for name, content in contents.items():
            (stage / f"{name}.jsonl").write_text(content)


def contents(folder):
    return {path.name: path.read_text() for path in Path(folder).iterdir() if path.name not in (RECORD, LOCK)}


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "out", pairs="1", tasks="1")
    return tmp_path / "out"


def test_files_of_an_earlier_run_are_replaced_or_removed(folder):
    (folder / "notes.txt").write_text("of a user")
    write(folder, pairs="2")
    assert contents(folder) == {"pairs.jsonl": "2", "notes.txt": "of a user"}
    write(folder, tasks="3")
    assert contents(folder) == {"tasks.jsonl": "3", "notes.txt": "of a user"}


def test_files_that_stay_the_same_are_left_alone(folder):
    before = {path.name: path.stat() for path in folder.iterdir() if path.name != LOCK}
    write(folder, pairs="1", tasks="1")
    assert {path.name: path.stat() for path in folder.iterdir() if path.name != LOCK} == before


def test_several_kinds_of_runs_share_a_folder(folder):
    with OutputFolder(folder).replacing(("README.md",)) as stage:
        (stage / "README.md").write_text("card")
    write(folder, pairs="2")
    with OutputFolder(folder).replacing(("README.md",)) as stage:
        (stage / "README.md").write_text("another")
    assert contents(folder) == {"pairs.jsonl": "2", "README.md": "another"}


@pytest.mark.parametrize("name", NAMES)  # one that is written again, and one that is not
def test_a_file_that_somebody_changed_stays(name, folder):
    with open(folder / name, "a") as file:
        file.write(", and a label")
    before = contents(folder)
    with pytest.raises(
        FileExistsError, match=rf"{name} was changed after a run of trl_real, so it is not replaced\. Move"
    ):
        OutputFolder(folder).check(NAMES)
    with pytest.raises(FileExistsError, match=name):
        write(folder, pairs="2")
    assert contents(folder) == before


def test_a_file_that_somebody_changed_during_the_run_stays(folder):
    def run():
        with OutputFolder(folder).replacing(NAMES) as stage:
            (stage / "pairs.jsonl").write_text("2")
            (folder / "tasks.jsonl").write_text("1 with a label")

    with pytest.raises(FileExistsError, match=r"tasks\.jsonl was changed"):
        run()
    assert contents(folder) == {"pairs.jsonl": "1", "tasks.jsonl": "1 with a label"}


@pytest.mark.parametrize("kind", ["file", "link", "link to the same", "dangling link", "folder"])
def test_what_somebody_else_put_there_stays(kind, tmp_path):
    folder = tmp_path / "out"
    write(folder, tasks="1")
    path, other = folder / "pairs.jsonl", tmp_path / "other"
    if kind == "folder":
        path.mkdir()
        (path / "file").write_text("of a user")
    elif kind == "file":
        path.write_text("of a user")
    else:
        targets = {"link": other, "link to the same": folder / "tasks.jsonl", "dangling link": tmp_path / "nowhere"}
        other.write_text("of a user")
        path.symlink_to(targets[kind])
    message = r"pairs\.jsonl (is there, but was not written by|is a (link|folder))"
    with pytest.raises(FileExistsError, match=message):
        OutputFolder(folder).check(NAMES)
    with pytest.raises(FileExistsError, match=message):
        write(folder, pairs="2")
    assert (folder / "tasks.jsonl").read_text() == "1"
    assert not (tmp_path / "nowhere").exists()
    if kind != "folder":
        assert path.is_symlink() == (kind != "file")


def test_a_record_of_somebody_else_is_named(folder):
    for text in ('{"files": 3}', "[]", "{", '{"other": {}}'):
        (folder / RECORD).write_text(text)
        with pytest.raises(FileExistsError, match=r"_trl_real\.json is not a valid record of trl_real\. Move it"):
            write(folder, pairs="2")
        assert (folder / RECORD).read_text() == text
    (folder / RECORD).unlink()
    (folder / RECORD).symlink_to(folder / "pairs.jsonl")
    with pytest.raises(FileExistsError, match=r"_trl_real\.json is a link"):
        write(folder, pairs="2")
    assert (folder / "pairs.jsonl").read_text() == "1"


@pytest.mark.parametrize(
    "how", ["path", "relative", "link", "hard link", "folder", "parent", "link to folder", "link in folder"]
)
def test_an_input_is_not_an_output(how, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    path = folder / "pairs.jsonl"
    if how == "link":
        (tmp_path / "in.jsonl").symlink_to(path)
    elif how == "hard link":
        (tmp_path / "in.jsonl").hardlink_to(path)
    elif how == "link to folder":
        (tmp_path / "data").symlink_to(folder)
    elif how == "link in folder":
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
        (tmp_path / "data" / "inner").symlink_to(folder)
    given = {"path": path, "relative": "../out/./pairs.jsonl", "folder": folder, "parent": tmp_path}
    given = given.get(how, tmp_path / ("in.jsonl" if how.endswith(("link", "hard link")) else "data"))
    with pytest.raises(
        FileExistsError, match=r"is an input of this run, which would replace or remove .*\.jsonl\. Choose"
    ):
        OutputFolder(folder).check(NAMES, [given])


def test_other_inputs_may_lie_anywhere(folder, tmp_path):
    (folder / "candidates.jsonl").write_text("")
    OutputFolder(folder).check(NAMES, [folder / "candidates.jsonl", "user/dataset", tmp_path / "nowhere"])
    OutputFolder(tmp_path / "new").check(NAMES, [folder / "pairs.jsonl"])


def test_a_run_that_is_killed_while_it_replaces_leaves_files_that_the_next_one_knows(folder, monkeypatch):
    for n_calls in range(3):
        real, calls = output_folder.replace_file, []

        def killed(*args, real=real, calls=calls, n_calls=n_calls):
            if len(calls) == n_calls:
                raise KeyboardInterrupt
            calls.append(args)
            real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(output_folder, "replace_file", killed)
            if n_calls < 2:
                with pytest.raises(KeyboardInterrupt):
                    write(folder, pairs=f"{n_calls} 2", tasks=f"{n_calls} 2")
        assert len(json.loads((folder / RECORD).read_text())["files"]["tasks.jsonl"]) == (2 if n_calls < 2 else 1)
        write(folder, pairs=f"{n_calls} 3", tasks=f"{n_calls} 3")
        assert contents(folder) == {"pairs.jsonl": f"{n_calls} 3", "tasks.jsonl": f"{n_calls} 3"}


HOLD = """
import sys, time
from trl_real.core.output_folder import OutputFolder
with OutputFolder(sys.argv[1]).locked():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_one_run_at_a_time_and_a_killed_one_is_over(folder):
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"locked\n"
        message = r"Another run is writing to .*out\. Wait until it ends, or choose another `output_dir`\."
        with pytest.raises(OSError, match=message), OutputFolder(folder).locked():
            pass
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    (folder / f".trl_real-{'0' * 32}.jsonl").write_text("half")
    with OutputFolder(folder).locked(), OutputFolder(folder).locked():  # again in the same run
        assert set(contents(folder)) == set(NAMES)
        write(folder, pairs="2")
        with pytest.raises(OSError, match="Another run"):
            in_a_thread(lambda: OutputFolder(folder).locked().__enter__())


def in_a_thread(function):
    raised = []

    def run():
        try:
            function()
        except OSError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


@pytest.mark.parametrize("path", ["file", "file/out", "link"])
def test_a_folder_that_cannot_be_one_is_named(path, tmp_path):
    (tmp_path / "file").write_text("of a user")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with (
        pytest.raises(
            NotADirectoryError, match=r"`output_dir`: .*(file|link).* is a file, not a folder\. Choose another"
        ),
        OutputFolder(tmp_path / path).locked(),
    ):
        pass
    assert (tmp_path / "file").read_text() == "of a user"


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with (
            pytest.raises(
                OSError, match=r"out cannot be written to: No space left on device\. Make room or change its"
            ),
            OutputFolder(tmp_path / "out").locked(),
        ):
            pass
    assert contents(tmp_path / "out") == {}
    message = r"`output_dir`: /proc/.* cannot be written to: "
    with pytest.raises(OSError, match=message), OutputFolder("/proc/self/out").locked():
        pass
