import errno
import json
import math
import re
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import HashEmbedder, candidate_rows
from datasets import Dataset, DatasetDict, Image, get_dataset_config_names, load_dataset
from huggingface_hub import CommitOperationAdd, DatasetCard, HfApi
from local_hub import ALICE, ALICE_READS, CAROL

from trl_real import SelectionConfig, push_selected_dataset, select_preferences
from trl_real.hub import retries


CONFIG = SelectionConfig(embedder=HashEmbedder(), budget=0.5)
REPO = "alice/pairs"


@pytest.fixture(autouse=True)
def no_wait(monkeypatch):
    monkeypatch.setattr(retries, "WAIT", 0.0)


@pytest.fixture
def selected(rng):
    return select_preferences(Dataset.from_list(candidate_rows(rng, 20)), CONFIG)


@pytest.fixture
def repo(hub):
    """The files of the dataset, as a reader sees them."""
    return lambda revision="main": hub.repos["dataset", REPO].files(revision)


def push(selected, repo_id=REPO, **options):
    return push_selected_dataset(selected[0], repo_id, selected[1], CONFIG, **{"token": ALICE, **options})


def load(tmp_path, *args, name="cache", **options):
    return load_dataset(REPO, *args, cache_dir=str(tmp_path / name), token=ALICE, **options)


def test_what_is_pushed_is_what_is_loaded(selected, hub, repo, tmp_path, capsys):
    commit = push(selected, license="mit")
    assert load(tmp_path, split="train").to_list() == selected[0].to_list()
    assert list(load(tmp_path, split="train", streaming=True)) == selected[0].to_list()
    assert sorted(repo()) == [
        ".gitattributes",
        "README.md",
        "data/train-00000-of-00001.parquet",
        "figures/data-train.png",
    ]
    assert repo()["figures/data-train.png"].startswith(b"\x89PNG")
    assert len(hub.sent("POST", "/commit/")) == 1
    assert commit.oid == hub.repos["dataset", REPO].head().oid
    assert capsys.readouterr().out == f"Pushing {selected[1].pairs} selected pairs to {REPO}, which is PUBLIC.\n"
    card = DatasetCard.load(REPO)
    assert card.data["dataset_info"]["download_size"] == len(repo()["data/train-00000-of-00001.parquet"])
    assert "](figures/data-train.png)" in card.text
    assert f'load_dataset("{REPO}", split="train")' in card.text


@pytest.mark.parametrize("lists_files", [True, False])
def test_a_second_push_replaces_data_and_card(lists_files, selected, hub, repo, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "lists_files", lists_files)
    push(selected, max_shard_size=500)
    assert sum(name.endswith(".parquet") for name in repo()) > 2
    fewer = selected[0].select(range(3))
    push((fewer, selected[1]))
    assert sorted(repo()) == [
        ".gitattributes",
        "README.md",
        "data/train-00000-of-00001.parquet",
        "figures/data-train.png",
    ]
    assert load(tmp_path, split="train").to_list() == fewer.to_list()
    assert DatasetCard.load(REPO).data["dataset_info"]["splits"][0]["num_examples"] == 3
    head = hub.repos["dataset", REPO].head().oid
    assert push((fewer, selected[1])).oid == head  # nothing has changed


def test_splits_and_configs(selected, repo, tmp_path):
    pairs, report = selected
    splits = DatasetDict({"train": pairs, "test": pairs.select([1, 2])})
    push((splits, {"train": report, "test": report}))
    push((pairs.select([0]), None), config_name="one")
    assert get_dataset_config_names(REPO, token=ALICE) == ["default", "one"]
    assert load(tmp_path, "one", split="train").to_list() == pairs.select([0]).to_list()
    assert load(tmp_path, split="test").to_list() == pairs.select([1, 2]).to_list()
    assert {"figures/data-train.png", "figures/data-test.png", "one/train-00000-of-00001.parquet"} <= set(repo())
    push((pairs, report))  # the other split of the configuration goes, the other configuration stays
    assert list(load(tmp_path, name="again")) == ["train"]
    assert "figures/data-test.png" not in repo()
    assert load(tmp_path, "one", split="train", name="again").to_list() == pairs.select([0]).to_list()
    text = DatasetCard.load(REPO).text
    assert text.index("## Selection\n") < text.index("## Selection `one`") < text.index("## Citation")


def test_candidates_go_along_as_a_second_configuration(selected, hub, repo, tmp_path, rng):
    candidates = Dataset.from_list(candidate_rows(rng, 30))
    push(selected, candidates=candidates, max_shard_size=2000)
    assert len(hub.sent("POST", "/commit/")) == 1
    assert set(get_dataset_config_names(REPO, token=ALICE)) == {"default", "candidates"}
    assert load(tmp_path)["train"].to_list() == selected[0].to_list()  # by its name alone
    assert load(tmp_path, "candidates", split="train").to_list() == candidates.to_list()
    info = {info["config_name"]: info for info in DatasetCard.load(REPO).data["dataset_info"]}
    parts = [content for name, content in repo().items() if name.startswith("candidates/")]
    assert info["candidates"]["download_size"] == sum(map(len, parts))
    assert len(parts) > 1
    head = hub.repos["dataset", REPO].head().oid
    assert push(selected, candidates=candidates, max_shard_size=2000).oid == head
    push(selected, candidates=candidates.select([0]))
    assert sum(name.startswith("candidates/") for name in repo()) == 1
    push(selected)  # those of an earlier push stay
    assert load(tmp_path, "candidates", split="train", name="again").to_list() == candidates.select([0]).to_list()
    push((selected[0].select([0]), None), config_name="one", candidates=candidates)
    assert "one-candidates" in get_dataset_config_names(REPO, token=ALICE)


def test_files_of_others_stay(selected, hub, repo):
    api = HfApi(token=ALICE)
    api.create_repo(REPO, repo_type="dataset")
    others = ["data/raw.jsonl", "data/notes.parquet", "figures/mine.png", "LICENSE"]
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=b"x") for name in others]
    api.create_commit(REPO, operations, commit_message="mine", repo_type="dataset")
    push(selected)
    assert set(others) <= set(repo())


def test_shards_that_would_be_read_go_whoever_wrote_them(selected, hub, repo, tmp_path):
    selected[0].push_to_hub(REPO, token=ALICE)
    old = "data/train-00000-of-00002-0123456789abcdef.parquet"
    HfApi(token=ALICE).upload_file(path_or_fileobj=b"x", path_in_repo=old, repo_id=REPO, repo_type="dataset")
    push((selected[0].select(range(3)), selected[1]))
    assert old not in repo()
    assert load(tmp_path, split="train").to_list() == selected[0].select(range(3)).to_list()


def test_branches_and_pull_requests(selected, hub, repo, tmp_path):
    push(selected)
    fewer = (selected[0].select([0]), selected[1])
    push(fewer, revision="small")
    push((selected[0].select([1]), selected[1]), revision="small")
    assert len(load(tmp_path, split="train", revision="small")) == 1
    pull = push(fewer, create_pr=True)
    assert pull.pr_revision == "refs/pr/1"
    assert load(tmp_path, split="train", revision="refs/pr/1").to_list() == fewer[0].to_list()
    push((selected[0].select([0, 1]), selected[1]), revision="refs/pr/1")
    assert len(load(tmp_path, split="train", revision="refs/pr/1", name="again")) == 2
    assert load(tmp_path, split="train").to_list() == selected[0].to_list()


def test_images_go_along(hub, tmp_path, rng):
    images = pytest.importorskip("PIL.Image")
    pairs = Dataset.from_dict({"prompt": ["p", "q"], "chosen": ["a", "b"], "rejected": ["c", "d"]})
    for name in ("x.png", "y.png"):
        images.new("RGB", (2, 2), (9, len(name), 0)).save(tmp_path / name)
    pairs = pairs.add_column("image", [str(tmp_path / "x.png"), str(tmp_path / "y.png")]).cast_column("image", Image())
    push((pairs, None))
    for name in ("x.png", "y.png"):
        (tmp_path / name).unlink()
    assert load(tmp_path, split="train")[0]["image"].getpixel((0, 0)) == (9, 5, 0)


def test_private_as_told(selected, hub, capsys):
    push(selected, private=True)
    assert hub.repos["dataset", REPO].private
    assert "which is private." in capsys.readouterr().out
    push((selected[0].select([0]), None))
    assert hub.repos["dataset", REPO].private
    push(selected, "alice/open")
    with pytest.raises(
        ValueError, match=r"`private=True`, but alice/open already exists and is public\. Make it private"
    ):
        push((selected[0].select([0]), None), "alice/open", private=True)


def test_a_name_alone_is_in_the_users_namespace(selected, hub):
    assert push(selected, "short", model_id="model").repo_url.repo_id == "alice/short"
    assert "[alice/model](" in hub.repos["dataset", "alice/short"].files()["README.md"].decode()


def test_the_license_of_the_source_is_carried_over(hub, repo, tmp_path, rng, caplog):
    api = HfApi(token=ALICE)
    Dataset.from_list(candidate_rows(rng, 6, dim=4)).push_to_hub("alice/source", token=ALICE)
    card = DatasetCard.load("alice/source")
    card.data.license, card.data["license_name"], card.data.language = "other", "mine", ["nl"]
    api.upload_file(
        path_or_fileobj=str(card).encode(), path_in_repo="README.md", repo_id="alice/source", repo_type="dataset"
    )
    candidates = load_dataset("alice/source", split="train", cache_dir=str(tmp_path))
    pairs, report = select_preferences(candidates)
    push((pairs, report))
    data = DatasetCard.load(REPO).data
    assert (data.license, data["license_name"], data.language) == ("other", "mine", ["nl"])
    assert data.source_datasets == ["alice/source"]
    push((pairs, report), "alice/stated", license="mit")
    assert DatasetCard.load("alice/stated").data.license == "mit"
    assert "The license of the pairs is unknown" not in caplog.text
    push((pairs, report), "alice/elsewhere", source="my own prompts")
    assert (
        "The license of the pairs is unknown. Look up the license of their source, and pass it as `license`"
        in caplog.text
    )


ENDPOINTS = [
    ("GET", "/api/datasets/alice/pairs$"),
    ("POST", "/api/repos/create"),
    ("POST", "/api/validate-yaml"),
    ("POST", "/preupload/"),
    ("POST", "/info/lfs/objects/batch"),
    ("PUT", "/storage/"),
    ("POST", "/commit/"),
]


@pytest.mark.parametrize("fault", [503, 429, "drop", "lose", "a page of a proxy"])
@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_a_fault_that_passes_is_got_over(method, path, fault, selected, hub, tmp_path):
    page = {"with_": 503, "body": "<html>busy</html>", "mime": "text/html"}
    hub.fail(method, path, **(page if isinstance(fault, str) and " " in fault else {"with_": fault}))
    push((selected[0], None))  # without a figure, which takes its time
    assert load(tmp_path, split="train").to_list() == selected[0].to_list()
    assert len(hub.sent(method, path)) >= 1


@pytest.mark.parametrize("fault", [503, "drop", "lose"])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_fault_while_the_card_that_is_there_is_read(method, fault, selected, hub, repo):
    push((selected[0].select([0]), None), config_name="other")
    hub.fail(method, "/resolve/.*README.md", fault)
    push(selected)
    assert "## Selection `other`" in repo()["README.md"].decode()


@pytest.mark.slow
def test_a_card_that_cannot_be_read_is_not_overwritten(selected, hub, repo, monkeypatch):
    monkeypatch.setattr(retries, "TRIES", 1)  # the client tries several times itself
    push((selected[0].select([0]), None), config_name="third")
    hub.fail("HEAD", "/resolve/.*README.md", 503, times=math.inf)
    before = dict(repo())
    with pytest.raises(ConnectionError, match="does not answer; push again later"):
        push((selected[0].select([1]), None))
    assert repo() == before


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("fault", [503, "drop"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/commit/"), ("POST", "/api/validate-yaml"), ("GET", "/api/datasets/alice/pairs$")]
)
def test_a_fault_that_stays_is_one_error_and_leaves_the_repository_as_it_was(
    method, path, fault, there, selected, hub, repo
):
    if there:
        push((selected[0].select([0]), None))
        before = dict(repo())
    hub.fail(method, path, fault, times=math.inf)
    with pytest.raises(ConnectionError, match=f"Could not push to '{REPO}': the Hub at {hub.url} does not answer"):
        push(selected)
    hub.faults.clear()
    assert repo() == before if there else ("dataset", REPO) not in hub.repos


@pytest.mark.slow
def test_an_upload_that_keeps_failing_is_one_error(selected, hub):
    hub.fail("PUT", "/storage/", 500, times=math.inf)
    with pytest.raises(ConnectionError, match="does not answer; push again later"):
        push(selected)
    assert ("dataset", REPO) not in hub.repos


def test_a_branch_that_could_not_be_filled_is_taken_back(selected, hub):
    push(selected)
    hub.fail("POST", "/commit/", 503, times=math.inf)
    with pytest.raises(ConnectionError):
        push((selected[0].select([0]), None), revision="small")
    assert list(hub.repos["dataset", REPO].refs) == ["main"]


def test_a_commit_whose_answer_was_lost_is_not_taken_back(selected, hub, repo, monkeypatch):
    monkeypatch.setattr(retries, "TRIES", 1)
    hub.fail("POST", "/commit/", "lose")
    with pytest.raises(ConnectionError):
        push(selected)
    assert "data/train-00000-of-00001.parquet" in repo()


def test_a_branch_whose_commit_has_landed_stays(selected, hub, repo, monkeypatch):
    push(selected)
    monkeypatch.setattr(retries, "TRIES", 1)
    hub.fail("POST", "/commit/", "lose")
    with pytest.raises(ConnectionError):
        push((selected[0].select([0]), None), revision="small")
    assert "small" in hub.repos["dataset", REPO].refs


def test_a_pull_request_is_not_opened_twice(selected, hub):
    push(selected)
    hub.fail("POST", "/commit/", "lose")
    with pytest.raises(ConnectionError, match=r"while a pull request was opened\. Check "):
        push((selected[0].select([0]), None), create_pr=True)
    assert list(hub.repos["dataset", REPO].refs) == ["main", "refs/pr/1"]


def test_a_repository_that_others_made_meanwhile_is_theirs(selected, hub, monkeypatch):
    create = HfApi.create_repo

    def create_late(self, *args, **kwargs):
        monkeypatch.setattr(HfApi, "create_repo", create)
        create(self, REPO, repo_type="dataset", private=True)
        return create(self, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_repo", create_late)
    hub.fail("POST", "/commit/", 503, times=math.inf)
    with pytest.raises(ConnectionError):
        push(selected)
    assert ("dataset", REPO) in hub.repos


def test_what_cannot_be_taken_back_is_said(selected, hub, caplog):
    hub.fail("POST", "/commit/", 503, times=math.inf)
    hub.fail("DELETE", "/api/repos/delete", 503, times=math.inf)
    with pytest.raises(ConnectionError):
        push(selected)
    assert "The new repository or branch of alice/pairs could not be removed" in caplog.text


def test_pushes_at_the_same_time_all_land(selected, hub, repo):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: push((selected[0].select([0]), None), config_name=name), ["a", "b", "c", "d"]))
    text = repo()["README.md"].decode()
    assert all(f"## Selection `{name}`" in text for name in "abcd")


def test_a_commit_of_others_in_between_is_kept(selected, hub, repo, monkeypatch):
    push((selected[0].select([0]), None), config_name="other")
    create, interrupted = HfApi.create_commit, []

    def commit_late(self, *args, **kwargs):
        if not interrupted:
            interrupted.append(True)
            push((selected[0].select([1]), None), config_name="theirs")
        return create(self, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", commit_late)
    push(selected)
    text = repo()["README.md"].decode()
    for title in ("## Selection\n", "## Selection `other`", "## Selection `theirs`"):
        assert title in text
    assert {"data", "other", "theirs"} <= {name.split("/")[0] for name in repo()}


@pytest.mark.parametrize(
    ("token", "repo_id", "error", "message"),
    [
        (False, REPO, PermissionError, "you are not logged in, or the token is not valid; run `hf auth login`"),
        ("hf_" + "z" * 34, REPO, PermissionError, "you are not logged in, or the token is not valid"),
        (ALICE_READS, REPO, PermissionError, "the token has no write access; use a token with write access"),
        (CAROL, REPO, PermissionError, "the token has no write access; use a token with write access"),
        (ALICE, "alice/a/b", ValueError, "`repo_id='alice/a/b'` cannot be the name of a repository"),
        (ALICE, "hf_" + "a" * 34, ValueError, "`repo_id` contains a token. Pass only the name of the repository"),
        (ALICE, f"https://x:{ALICE}@hub/alice/x", ValueError, "`repo_id` contains a token"),
    ],
)
def test_what_the_hub_refuses_is_explained(token, repo_id, error, message, selected, hub, caplog, capsys):
    with pytest.raises(error, match=re.escape(message)) as caught:
        push(selected, repo_id, token=token)
    said = "".join(traceback.format_exception(caught.value)) + caplog.text + capsys.readouterr().out
    for secret in (ALICE, ALICE_READS, CAROL, "hf_" + "z" * 34, "hf_" + "a" * 34):
        assert secret not in said
    assert not hub.repos


def test_a_token_that_the_hub_repeats_is_not_repeated(selected, hub):
    hub.fail("POST", "/commit/", 403, body=json.dumps({"error": f"{ALICE} must not"}))
    with pytest.raises(PermissionError, match="use a token with write access") as caught:
        push(selected)
    assert ALICE not in "".join(traceback.format_exception(caught.value))


def test_a_name_that_is_taken_by_what_one_cannot_see(selected, hub):
    HfApi(token=ALICE).create_repo("alice/secret", repo_type="dataset", private=True)
    with pytest.raises(PermissionError, match="a namespace that you can write to"):
        push(selected, "alice/secret", token=CAROL)
    hub.fail(
        "POST", "/api/repos/create", 409, body=json.dumps({"error": "taken", "url": f"{hub.url}/datasets/alice/taken"})
    )
    with pytest.raises(FileNotFoundError, match="the name is taken; check the name, or choose another one"):
        push(selected, "alice/taken")


def test_a_full_disk(selected, hub, monkeypatch):
    def write(self, path, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Dataset, "to_parquet", write)
    with pytest.raises(OSError, match=r"the disk of .* is full\. Free up space, or set `TMPDIR`") as caught:
        push(selected)
    assert caught.value.errno == errno.ENOSPC
    assert not hub.repos


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config_name": "data"}, "`config_name` must be letters, digits"),
        (
            {"candidates": Dataset.from_dict({"a": [1]})},
            "`candidates` must have rows with a column `responses`, but its",
        ),
        ({"max_shard_size": "many"}, "many"),
    ],
)
def test_wrong_arguments(options, message, selected, hub):
    with pytest.raises(ValueError, match=message):
        push(selected, **options)
    with pytest.raises(TypeError, match="`candidates` must be a `Dataset` or a `DatasetDict`, got list"):
        push(selected, candidates=[1])
    with pytest.raises(ValueError, match="`dataset` has no rows in its split 'train'"):
        push((selected[0].select([]), None))
    splits = DatasetDict({"train": selected[0], "test": selected[0].remove_columns("similarity")})
    with pytest.raises(ValueError, match="The splits of `dataset` have different columns: see 'test'"):
        push((splits, None))
    assert not hub.repos
