"""`trl-real label`: what it refuses before anybody is let in, and that it serves what it says."""

import json
import signal

import pytest
from local_hub import ALICE
from local_page import Client, start_command, unlabeled

from trl_real.cli import main
from trl_real.cli.label import _user, read_passwords
from trl_real.labeling.label_log import append_decision, read_log


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unlabeled(6).to_json("pairs.jsonl")
    unlabeled(6).remove_columns("pair_id").to_json("no_ids.jsonl")
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data_files", "nothing.jsonl"], "`--data_files`: there is no file nothing.jsonl."),
        (["--data_files", "no_ids.jsonl"], "['pair_id'] are missing. Found: ['prompt', 'response_a', 'response_b']."),
        ([], "Give either `--dataset_name` or `--data_files`."),
        (["--data_files", "pairs.jsonl", "--overlap", "0"], "`overlap` must be a whole number of at least 1, got 0."),
        (
            ["--data_files", "pairs.jsonl", "--auth", "hunter2"],
            "`--auth`: value 1 is not of the form `name:password`, nor is it a file.",
        ),
        (["--data_files", "pairs.jsonl", "--auth", "hunter2" * 50], "`--auth`: value 1 is not of the form"),
        (["--data_files", "pairs.jsonl", "--auth", "a:hunter2", "--annotator", "b"], "cannot be combined"),
        (["--data_files", "pairs.jsonl", "--labels_repo_id", "a/b"], "it needs `--push_to_space`."),
        (["--data_files", "pairs.jsonl", "--auth", "a:hunter2", "a:x"], "`--auth`: 'a' comes twice."),
        (["--data_files", "pairs.jsonl", "--port", "70000"], "`--host 127.0.0.1 --port 70000`: "),
        (["--data_files", "pairs.jsonl", "--host", "0.0.0.0"], "`--host 0.0.0.0` lets others reach the page"),
        (
            ["--data_files", "pairs.jsonl", "--output_dir", "pairs.jsonl"],
            "`output_dir`: pairs.jsonl is a file, not a folder.",
        ),
    ],
)
def test_mistakes_end_in_one_line(flags, message, capsys):
    assert main(["label", *flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "hunter2" not in error


def test_labels_of_other_pairs_are_refused(project, capsys):
    append_decision(project / "labeling" / "labels.jsonl", {"pair_id": "elsewhere", "label": "a", "annotator": "anna"})
    assert main(["label", "--data_files", "pairs.jsonl"]) == 1
    assert "`labels` has 1 `pair_id`s that no pair has: 'elsewhere'." in capsys.readouterr().err


def test_passwords_come_from_values_and_files(project):
    (project / "team.txt").write_text("ben:two:three\n\n cleo:four\n")
    assert read_passwords(["anna:one", "team.txt"]) == {"anna": "one", "ben": "two:three", "cleo": "four"}
    assert read_passwords([]) == {}
    assert read_passwords(["anna:" + "long " * 100]) == {"anna": "long " * 100}
    (project / "notepad.txt").write_text("anna:one\n", encoding="utf-8-sig")
    assert read_passwords(["notepad.txt"]) == {"anna": "one"}
    for text, message in (
        ("anna:one\nsecret\n", "`--auth`: line 2 of team.txt is not of the form `name:password`."),
        (":secret", "`--auth`: line 1 of team.txt is not of the form `name:password`."),
        ("anna:\n", "`--auth`: line 1 of team.txt is not of the form `name:password`."),
        ("\n", "`--auth`: there is no annotator in team.txt."),
    ):
        (project / "team.txt").write_text(text)
        with pytest.raises(ValueError, match=r"`--auth`") as found:
            read_passwords(["team.txt"])
        assert str(found.value) == message


def test_a_user_without_a_name_is_annotator(monkeypatch):
    """As in a container whose user is in no list: `getpass` raises `KeyError` before Python 3.13, and `OSError` since."""
    for error in (KeyError("getpwuid(): uid not found: 1234"), OSError("No username set in the environment")):

        def nobody(error=error):
            raise error

        monkeypatch.setattr("getpass.getuser", nobody)
        assert _user() == "annotator"


def test_the_page_is_put_into_a_space(hub, monkeypatch, capsys):
    flags = ["--data_files", "pairs.jsonl", "--push_to_space", "label", "--auth", "anna:hunter2"]
    monkeypatch.setenv("HF_TOKEN", ALICE)
    monkeypatch.setenv("TRL_REAL_SPACE_TOKEN", ALICE)
    assert main(["label", *flags, "--annotator", "anna"]) == 1
    assert (
        "`--annotator` is for a page on this machine, and has no meaning for `--push_to_space`."
        in capsys.readouterr().err
    )
    assert main(["label", *flags, "--port", "80"]) == 1
    assert "`--port` is for a page on this machine" in capsys.readouterr().err
    assert main(["label", *flags, "--overlap", "2", "--labels_repo_id", "alice/named"]) == 0
    settings = json.loads(hub.repos["space", "alice/label"].files()["label_space.json"])
    assert (settings["labels_repo_id"], settings["queue_options"]["overlap"]) == ("alice/named", 2)
    assert "pairs.parquet" in hub.repos["dataset", "alice/named"].files()
    assert "hunter2" in hub.repos["space", "alice/label"].secrets["TRL_REAL_ANNOTATORS"]


@pytest.mark.slow
def test_the_page_is_served_until_it_is_interrupted(project, capsys):
    flags = ["--data_files", "pairs.jsonl", "--annotator", "anna", "--output_dir", "project", "--port"]
    server, port = start_command(*flags, "0", cwd=project)
    try:
        client = Client(port)
        task = client.get("api/task").json["task"]
        assert client.decide(task, "tie").json["annotator"] == "anna"
        assert main(["label", *flags, "0"]) == 1
        assert "Another run is writing to project." in capsys.readouterr().err
        assert main(["label", *flags[:-3], "--output_dir", "other", "--port", str(port)]) == 1
        assert (
            f"`--host 127.0.0.1 --port {port}`: Address already in use. Choose another `--host` or `--port`."
            in capsys.readouterr().err
        )
        client.connection.close()
        server.send_signal(signal.SIGINT)
        printed = server.stdout.read()
        assert server.wait(timeout=30) == 0
        assert "1 of 6 pairs are done. Every decision is in project/labels.jsonl." in printed
    finally:
        server.kill()
        server.wait()
    assert [(line["annotator"], line["label"]) for line in read_log(project / "project" / "labels.jsonl")] == [
        ("anna", "tie")
    ]
