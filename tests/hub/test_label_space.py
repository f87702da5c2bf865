"""The labeling page in a Space: what is pushed, that its app runs as it was pushed, and where the labels go."""

import hashlib
import json
import signal

import pytest
from conftest import HashEmbedder
from datasets import load_dataset
from huggingface_hub import HfApi, snapshot_download
from local_hub import ALICE, ALICE_READS, CAROL
from local_page import Client, start_space, unlabeled

from trl_real import __version__, apply_labels, label_progress, next_pairs, push_label_space
from trl_real.hub import retries
from trl_real.label_page.space_settings import ANNOTATORS


PAIRS = unlabeled(6)
SPACE, LABELS = "alice/label", "alice/label-labels"
TEAM = {"anna": "anna's secret", "ben": "ben:s secret"}


@pytest.fixture(autouse=True)
def alice(monkeypatch, hub):
    monkeypatch.setattr(retries, "WAIT", 0.0)
    monkeypatch.setenv("HF_TOKEN", ALICE)  # as after `hf auth login`


def push(pairs=PAIRS, repo_id=SPACE, **options):
    return push_label_space(pairs, repo_id, **{"space_token": ALICE, **options})


def decide(pair_id, label="a", annotator="anna", time="2026-01-01T00:00:00Z"):
    return {"pair_id": pair_id, "label": label, "annotator": annotator, "time": time}


def put(path, *decisions, repo_id=LABELS):
    """Put a label log into the dataset, as a Space does."""
    text = "".join(json.dumps(decision) + "\n" for decision in decisions)
    HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo=path, repo_id=repo_id, repo_type="dataset")


@pytest.fixture
def run_space(tmp_path, hub):
    """Run the app of the pushed Space in a process of its own, with the secrets of the Space and nothing else."""
    processes = []

    def run(code=None):
        folder = snapshot_download(SPACE, repo_type="space", local_dir=tmp_path / f"space-{len(processes)}")
        process, port = start_space(folder, hub.repos["space", SPACE].secrets, code)
        processes.append(process)
        return process, port

    yield run
    for process in processes:
        process.kill()
        process.wait()


def test_everything_is_private_and_the_space_comes_in_one_commit(hub, capsys):
    done = push(overlap=2)
    space, labels = hub.repos["space", SPACE], hub.repos["dataset", LABELS]
    assert (space.private, labels.private) == (True, True)
    files = space.files()
    assert set(files) == {".gitattributes", "README.md", "Dockerfile", "app.py", "label_space.json"}
    assert len(hub.sent("POST", "/api/spaces/.*/commit/")) == 1
    assert done.oid == space.head().oid
    assert f'"trl-real[label,plot]=={__version__}"' in files["Dockerfile"].decode()
    assert b"sdk: docker\napp_port: 7860\n" in files["README.md"]
    settings = json.loads(files["label_space.json"])
    assert settings == {
        "labels_repo_id": LABELS,
        "pairs_sha256": hashlib.sha256(labels.files()["pairs.parquet"]).hexdigest(),
        "annotator": "alice",
        "queue_options": {"overlap": 2},
    }
    assert set(labels.files()) == {".gitattributes", "README.md", "pairs.parquet"}
    out = capsys.readouterr().out
    assert f"Pushing 6 pairs to label to {LABELS}, which is private." in out
    assert f"/spaces/{SPACE}. The labels go to the dataset {LABELS}." in out


def test_tokens_and_passwords_are_secrets_and_in_no_file(hub, capsys):
    hub.tokens[other := "hf_" + "alicesSpace".ljust(34, "Y")] = ("alice", "write")
    push(space_token=other, annotators=TEAM)
    space = hub.repos["space", SPACE]
    assert space.secrets == {"HF_TOKEN": other, ANNOTATORS: json.dumps(TEAM)}
    out = capsys.readouterr()
    everywhere = [out.out, out.err, *(text.decode("latin-1") for text in space.files().values())]
    everywhere += [text.decode("latin-1") for text in hub.repos["dataset", LABELS].files().values()]
    for secret in (other, ALICE, *TEAM.values()):
        assert not any(secret in text for text in everywhere)


def test_secrets_are_there_before_the_app_starts(hub):
    push()
    paths = [path for method, path, _ in hub.requests if method == "POST" and "/api/spaces/" in path]
    assert [path.split("/")[5] for path in paths if "preupload" not in path] == ["secrets", "commit"]


@pytest.mark.slow
def test_the_app_runs_as_it_was_pushed_and_its_labels_come_back(hub, run_space):
    push(annotators=TEAM)
    process, port = run_space()
    chosen = {}
    for name in ("anna", "ben"):
        client = Client(port, name)
        task = client.get("api/task").json["task"]
        client.decide(task, "first")
        chosen[task["prompt"][0]["text"]] = task["first"][0]["text"]
    reply = client.get("api/saved").json
    assert (reply["decisions"], reply["failing"]) == (2, False)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    preferences = apply_labels(PAIRS, LABELS)
    assert dict(zip(preferences["prompt"], preferences["chosen"], strict=True)) == chosen
    assert len(next_pairs(PAIRS, LABELS)) == 4
    assert label_progress(PAIRS, LABELS, embedder=HashEmbedder()).reasons


@pytest.mark.slow
def test_what_was_saved_before_a_crash_is_there_after_a_restart(hub, run_space):
    push()
    fast = "import trl_real.label_page.label_saver as saver; saver.EVERY = 0.2 / 60"
    process, port = run_space(fast)
    client = Client(port)
    for _ in range(2):
        reply = client.decide(client.get("api/task").json["task"], "tie").json
    while (saved := client.get("api/saved").json)["saved"] < 2:
        assert saved["decisions"] == 2
    process.kill()
    process, port = run_space()
    client = Client(port)
    reply = client.get("api/task").json
    assert (reply["annotator"], reply["mine"], reply["hub"]["saved"]) == ("alice", 2, 2)
    client.decide(reply["task"], "skip")
    process.terminate()
    assert process.wait(30) == 0
    logs = [name for name in hub.repos["dataset", LABELS].files() if name.startswith("labels/")]
    assert len(logs) == 2  # a file of each start
    decided = [json.loads(line) for name in logs for line in hub.repos["dataset", LABELS].files()[name].splitlines()]
    assert len({line["pair_id"] for line in decided}) == len(decided) == 3


def test_a_second_push_keeps_labels_and_takes_more_pairs(hub):
    push(PAIRS.select(range(3)))
    put("labels/1.jsonl", decide("0"), decide("1", "tie"))
    head = hub.repos["space", SPACE].head().oid
    assert push(PAIRS.select(range(3))).oid == head  # nothing has changed
    push()
    assert hub.repos["space", SPACE].head().oid != head  # which starts the Space again
    assert "labels/1.jsonl" in hub.repos["dataset", LABELS].files()
    assert apply_labels(PAIRS, LABELS)["pair_id"][:] == ["0"]


def test_labels_of_other_pairs_are_refused_before_anything_changes(hub):
    push()
    put("labels/1.jsonl", decide("0"))
    before = hub.repos["space", SPACE].head().oid
    with pytest.raises(ValueError, match="`labels` has 1 `pair_id`s that no pair has: '0'"):
        push(PAIRS.select([1, 2]))
    assert hub.repos["space", SPACE].head().oid == before


def test_the_space_keeps_its_dataset(hub):
    push(labels_repo_id="alice/elsewhere")
    push()
    assert json.loads(hub.repos["space", SPACE].files()["label_space.json"])["labels_repo_id"] == "alice/elsewhere"
    assert ("dataset", LABELS) not in hub.repos


def create(repo_type, repo_id, file=None, private=True):
    api = HfApi()
    api.create_repo(
        repo_id, repo_type=repo_type, private=private, space_sdk="docker" if repo_type == "space" else None
    )
    if file is not None:
        api.upload_file(path_or_fileobj=b"{}", path_in_repo=file, repo_id=repo_id, repo_type=repo_type)


@pytest.mark.parametrize(
    ("there", "error", "message"),
    [
        (("space", SPACE, "app.py"), FileExistsError, "alice/label is a Space with other files"),
        (
            ("space", SPACE, None, False),
            ValueError,
            "alice/label must be private, but it already exists and is public",
        ),
        (("dataset", LABELS, "data/train.jsonl"), FileExistsError, "alice/label-labels is a dataset with other"),
        (("dataset", LABELS, "labels/cats.jsonl"), FileExistsError, "it does not have the tag `label-log`"),
        (("dataset", LABELS, None, False), ValueError, "alice/label-labels must be private, but it already exists"),
    ],
)
def test_repositories_of_others_are_left_alone(hub, there, error, message):
    create(*there)
    before = {key: repo.head().oid for key, repo in hub.repos.items()}
    for options in ({}, {"labels_repo_id": LABELS}):
        with pytest.raises(error, match=message):
            push(**options)
    assert {key: repo.head().oid for key, repo in hub.repos.items()} == before


def test_a_new_space_without_files_is_used(hub):
    create("space", SPACE)
    push()
    assert "app.py" in hub.repos["space", SPACE].files()


def test_without_a_token_the_space_says_what_it_needs(hub, capsys):
    push(space_token=None)
    assert hub.repos["space", SPACE].secrets == {}
    assert "as its secret `HF_TOKEN`: " in (printed := capsys.readouterr().out)
    assert f"/spaces/{SPACE}/settings" in printed
    push()
    push(space_token=None)  # which keeps the secret
    assert hub.repos["space", SPACE].secrets == {"HF_TOKEN": ALICE}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pairs": PAIRS.remove_columns("pair_id")}, ValueError, r"\['pair_id'\] are missing"),
        ({"overlap": 0}, ValueError, "`overlap` must be a whole number of at least 1"),
        ({"colour": "red"}, TypeError, "colour"),
        ({"embedder": "."}, ValueError, "`embedder` must be the id of a model on the Hub"),
        ({"embedder": "static:."}, ValueError, "`embedder` must be the id of a model on the Hub"),
        ({"annotators": {}}, TypeError, "`annotators` must map each name to a password"),
        ({"annotators": {"anna": ""}}, ValueError, "Neither can be empty"),
        ({"space_token": ""}, ValueError, "`space_token` must be a token for the Space"),
        ({"space_token": ALICE_READS}, PermissionError, "`space_token`: .* it is read-only"),
        ({"space_token": CAROL}, PermissionError, "`space_token`: .* the namespace is neither 'carol'"),
        ({"space_token": "hf_" + "x" * 34}, PermissionError, "`space_token`: .* the token is not valid"),
        ({"token": ALICE_READS}, PermissionError, "it is read-only"),
        ({"repo_id": "a/b/c"}, ValueError, "cannot be the name of a repository"),
    ],
)
def test_mistakes_leave_nothing_on_the_hub(hub, options, error, message):
    with pytest.raises(error, match=message) as found:
        push(**options)
    assert "hf_" not in str(found.value)
    assert hub.repos == {}


def test_a_failed_push_leaves_no_space(hub):
    hub.fail("POST", f"/api/spaces/{SPACE}/commit", with_=403)
    with pytest.raises(PermissionError):
        push()
    assert ("space", SPACE) not in hub.repos
    push()
    assert "app.py" in hub.repos["space", SPACE].files()


def test_a_busy_hub_is_asked_again(hub):
    hub.fail("POST", f"/api/spaces/{SPACE}/(secrets|commit)", with_=503, times=2)
    push()
    assert "app.py" in hub.repos["space", SPACE].files()


def test_in_an_organization_each_member_needs_a_name(hub):
    hub.orgs["team"] = ["alice"]
    with pytest.raises(ValueError, match="All members of the organization can open team/label"):
        push(repo_id="team/label")
    assert hub.repos == {}
    push(repo_id="team/label", annotators=TEAM)
    assert json.loads(hub.repos["space", "team/label"].files()["label_space.json"])["annotator"] is None


def test_a_token_without_access_to_the_dataset_is_named(hub, monkeypatch):
    hub.tokens[other := "hf_" + "fine".ljust(34, "Z")] = ("carol", "fineGrained")
    monkeypatch.setattr("trl_real.hub.label_space._check_space_token", lambda *_: None)
    with pytest.raises(
        PermissionError, match="`space_token` has no access to the dataset alice/label-labels, which exists"
    ):
        push(space_token=other)
    assert ("space", SPACE) not in hub.repos


def test_the_dataset_loads_as_the_pairs(hub, tmp_path):
    push()
    put("labels/1.jsonl", decide("0"))
    assert load_dataset(LABELS, cache_dir=str(tmp_path / "cache"), split="train").to_list() == PAIRS.to_list()
