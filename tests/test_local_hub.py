import json
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import torch
import transformers
from datasets import Dataset, DatasetDict, load_dataset
from hub_repos import Large
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, HfApi, errors, get_session
from local_hub import ALICE, ALICE_READS, BOB_READS, CAROL
from tokenizers import Tokenizer, models, pre_tokenizers


httpx = pytest.importorskip(type(get_session()).__module__.split(".")[0])  # httpx2 from huggingface_hub 2 on
PAIRS = "alice/pairs"
api = HfApi(token=ALICE)
ROWS = Dataset.from_dict({"prompt": ["a", "b", "c"], "score": [0.5, 1.5, 2.5]})


@pytest.fixture
def pairs(hub):
    api.create_repo(PAIRS, repo_type="dataset")
    return hub.repos["dataset", PAIRS]


def add(path, content=b"hello"):
    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)


def commit(*operations, token=ALICE, **options):
    return HfApi(token=token).create_commit(PAIRS, operations, commit_message="m", repo_type="dataset", **options)


def status(call, *args, **options):
    with pytest.raises(errors.HfHubHTTPError) as caught:
        call(*args, **options)
    return caught.value.response.status_code


def test_accounts_and_repositories(hub):
    assert api.whoami()["name"] == "alice"
    assert api.whoami(token=BOB_READS)["auth"]["accessToken"]["role"] == "read"
    assert status(HfApi(token="hf_" + "z" * 34).whoami) == 401
    url = api.create_repo(PAIRS, repo_type="dataset")
    assert (url.repo_id, url.repo_type, str(url)) == (PAIRS, "dataset", f"{hub.url}/datasets/{PAIRS}")
    assert status(api.create_repo, PAIRS, repo_type="dataset") == 409
    assert api.create_repo(PAIRS, repo_type="dataset", exist_ok=True).repo_id == PAIRS
    assert api.create_repo("tiny", private=True).repo_id == "alice/tiny"
    for token, code in ((CAROL, 403), (ALICE_READS, 403), (False, 401)):
        assert status(api.create_repo, "alice/other", token=token) == code
        if token:
            assert api.create_repo(PAIRS, repo_type="dataset", exist_ok=True, token=token).repo_id == PAIRS
    api.delete_repo(PAIRS, repo_type="dataset")
    assert set(hub.repos) == {("model", "alice/tiny")}


def test_private(hub):
    api.create_repo(PAIRS, repo_type="dataset", private=True)
    commit(add("a.txt"))
    for token in (False, CAROL, BOB_READS):
        options = {"repo_id": PAIRS, "repo_type": "dataset", "token": token}
        calls = [partial(api.repo_info, **options), partial(api.hf_hub_download, filename="a.txt", **options)]
        for call in (*calls, partial(commit, add("b.txt"), token=token)):
            with pytest.raises(errors.RepositoryNotFoundError):
                call()
    assert api.repo_info(PAIRS, repo_type="dataset", token=ALICE_READS).private
    api.update_repo_settings(PAIRS, repo_type="dataset", private=False)
    assert not api.repo_info(PAIRS, repo_type="dataset", token=False).private
    for token, code in ((CAROL, 403), (BOB_READS, 403), (ALICE_READS, 403), (False, 401)):
        assert status(commit, add("b.txt"), token=token) == code


def test_commits(hub, pairs, tmp_path):
    first = commit(add("a.txt"), add("data/b.parquet", b"large"), add("empty.bin", b""))
    (tmp_path / "file.bin").write_bytes(b"on disk" * 1000)
    api.upload_file(path_or_fileobj=tmp_path / "file.bin", path_in_repo="f.bin", repo_id=PAIRS, repo_type="dataset")
    assert pairs.files()["f.bin"] == b"on disk" * 1000
    large = {path for path, content in pairs.files().items() if isinstance(content, Large)}
    assert set(pairs.files()) - large == {".gitattributes", "a.txt", "empty.bin"}
    assert status(commit, add("a.txt", b"new"), parent_commit=first.oid) == 412
    assert commit(add("a.txt"), add("data/b.parquet", b"large")).oid == pairs.refs["main"][-1].oid
    gone = commit(CommitOperationDelete("a.txt"), CommitOperationDelete("data/"), parent_commit=pairs.head().oid)
    assert sorted(pairs.files()) == [".gitattributes", "empty.bin", "f.bin"]
    with pytest.raises(errors.RemoteEntryNotFoundError):
        commit(CommitOperationDelete("a.txt"), add("z.txt"))
    assert pairs.head().oid == gone.oid
    with pytest.raises(errors.RevisionNotFoundError):
        commit(add("a.txt"), revision="nowhere")
    told = [entry.commit_id for entry in api.list_repo_commits(PAIRS, repo_type="dataset")]
    assert told == [kept.oid for kept in reversed(pairs.refs["main"])]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: commit(add(f"many/{n}.bin", bytes([n]))), range(8)))
    assert sum(name.startswith("many/") for name in pairs.files()) == 8


def test_branches_and_pull_requests(hub, pairs):
    commit(add("a.txt"))
    api.create_branch(PAIRS, repo_type="dataset", branch="v/1")
    assert status(api.create_branch, PAIRS, repo_type="dataset", branch="v/1") == 409
    commit(add("b.txt"), revision="v/1")
    pull = commit(add("c.txt"), token=CAROL, create_pr=True)
    assert (pull.pr_num, pull.pr_revision) == (1, "refs/pr/1")
    commit(add("d.bin"), token=CAROL, revision="refs/pr/1")
    names = {ref: sorted(set(pairs.files(ref)) - {".gitattributes"}) for ref in pairs.refs}
    assert names == {"main": ["a.txt"], "v/1": ["a.txt", "b.txt"], "refs/pr/1": ["a.txt", "c.txt", "d.bin"]}
    refs = api.list_repo_refs(PAIRS, repo_type="dataset", include_pull_requests=True)
    assert [ref.name for ref in refs.branches + refs.pull_requests] == list(pairs.refs)
    assert "d.bin" in api.list_repo_files(PAIRS, repo_type="dataset", revision="refs/pr/1")


def test_reading(hub, pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "page_size", 2)
    contents = {f"data/{n}/part.{kind}": f"{n}{kind}".encode() for n in range(4) for kind in ("txt", "parquet")}
    first = commit(*(add(path, content) for path, content in contents.items()))
    commit(add("data/0/part.txt", b"newer"))
    assert len(list(api.list_repo_tree(PAIRS, repo_type="dataset", recursive=True))) == 1 + 8 + 5
    assert len(hub.sent("GET", "tree.*cursor")) == 6
    assert [e.path for e in api.list_repo_tree(PAIRS, "data", repo_type="dataset")] == [f"data/{n}" for n in range(4)]
    assert status(list, api.list_repo_tree(PAIRS, "nope", repo_type="dataset")) == 404
    info = api.get_paths_info(PAIRS, ["data/0/part.parquet", "data", "nope"], repo_type="dataset")
    assert [e.path for e in info] == ["data/0/part.parquet", "data"]
    folder = api.snapshot_download(PAIRS, repo_type="dataset", revision=first.oid, cache_dir=tmp_path)
    assert {path: Path(folder, path).read_bytes() for path in contents} == contents
    assert Path(api.hf_hub_download(PAIRS, "data/0/part.txt", repo_type="dataset")).read_bytes() == b"newer"
    missing = {("nope", "main"): errors.RemoteEntryNotFoundError, ("x", "nope"): errors.RevisionNotFoundError}
    for (path, revision), error in missing.items():
        with pytest.raises(error):
            api.hf_hub_download(PAIRS, path, repo_type="dataset", revision=revision)
    url = f"{hub.url}/datasets/{PAIRS}/resolve/main/data/1/part.parquet"
    for wanted, code, part in (("2-4", 206, b"arq"), ("3-", 206, b"rquet"), ("-2", 206, b"et"), ("9-", 416, b"Ran")):
        got = get_session().get(url, headers={"Range": f"bytes={wanted}"})
        assert (got.status_code, part in got.content) == (code, True)
    commit(add("rows.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)))
    raw = load_dataset(PAIRS, data_files="rows.jsonl", split="train", cache_dir=str(tmp_path))
    assert raw.to_dict() == ROWS.to_dict()
    assert not api.repo_exists("alice/nope")
    assert not api.file_exists(PAIRS, "nope", repo_type="dataset")


def test_cards(hub, pairs):
    card = DatasetCard("---\nlicense: mit\ntags: [x]\n---\n# Pairs\n")
    if huggingface_hub.__version__ >= "2":
        card.push_to_hub(PAIRS, token=ALICE)
    else:  # 1.5 asks huggingface.co itself to validate the card
        commit(add("README.md", str(card).encode()))
    assert DatasetCard.load(PAIRS).data.license == "mit"
    assert api.dataset_info(PAIRS).tags == ["x", "license:mit"]
    for bad in ("license: nonesuch", "a: [b"):
        with pytest.raises(ValueError, match=r"Invalid metadata|license|YAML|while parsing"):
            commit(add("README.md", f"---\n{bad}\n---\n".encode()))
    with pytest.warns(UserWarning, match="empty or missing yaml"):
        commit(add("README.md", b"# No metadata"))


def test_datasets(hub, tmp_path):
    options = {"token": ALICE, "cache_dir": str(tmp_path)}
    first = ROWS.push_to_hub(PAIRS, private=True, token=ALICE)
    assert hub.repos["dataset", PAIRS].private
    with pytest.raises(datasets.exceptions.DatasetNotFoundError):
        load_dataset(PAIRS, cache_dir=str(tmp_path / "other"))
    assert load_dataset(PAIRS, split="train", **options).to_dict() == ROWS.to_dict()
    assert list(load_dataset(PAIRS, split="train", streaming=True, token=ALICE)) == list(ROWS)
    splits = DatasetDict(train=ROWS, test=ROWS.select([1]))
    splits.push_to_hub(PAIRS, token=ALICE)
    splits.push_to_hub(PAIRS, config_name="second", token=ALICE)
    assert datasets.get_dataset_config_names(PAIRS, token=ALICE) == ["default", "second"]
    assert load_dataset(PAIRS, "second", split="test", **options).to_dict() == ROWS.select([1]).to_dict()
    assert set(load_dataset(PAIRS, revision=first.oid, **options)) == {"train"}
    assert set(load_dataset(PAIRS, **options)) == {"train", "test"}
    pull = ROWS.push_to_hub(PAIRS, config_name="third", token=ALICE, create_pr=True)
    third = load_dataset(PAIRS, "third", split="train", revision=pull.pr_revision, **options)
    assert third.to_dict() == ROWS.to_dict()


def tiny():
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2, "c": 3}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    config = transformers.GPT2Config(vocab_size=4, n_embd=8, n_layer=1, n_head=1, n_positions=8)
    return transformers.GPT2LMHeadModel(config), transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<unk>"
    )


def test_transformers(hub, tmp_path):
    model, tokenizer = tiny()
    model.push_to_hub("alice/tiny", private=True, token=ALICE)
    tokenizer.push_to_hub("alice/tiny", token=ALICE)
    options = {"cache_dir": tmp_path, "token": ALICE_READS}
    same, again = (
        auto.from_pretrained("alice/tiny", **options)
        for auto in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer)
    )
    ids = again("a b c", return_tensors="pt")["input_ids"]
    assert ids.tolist() == [[1, 2, 3]]
    assert torch.equal(same.eval()(ids).logits, model.eval()(ids).logits)
    with pytest.raises(OSError, match="alice/tiny"):
        transformers.AutoModelForCausalLM.from_pretrained("alice/tiny", cache_dir=tmp_path / "other")


def test_trainer(hub, tmp_path):
    model, tokenizer = tiny()
    data = [{"input_ids": [1, 2, 3], "labels": [1, 2, 3]}] * 4
    pushing = {"push_to_hub": True, "hub_model_id": "alice/trained", "hub_token": ALICE}
    args = transformers.TrainingArguments(tmp_path, max_steps=1, report_to="none", **pushing)
    trainer = transformers.Trainer(model, args, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    trainer.push_to_hub()
    wanted = {"README.md", "model.safetensors", "tokenizer.json", "training_args.bin"}
    assert wanted <= set(hub.repos["model", "alice/trained"].files())


def test_faults(hub, pairs):
    hub.fail("POST", "/commit/", 503)
    assert status(commit, add("a.txt")) == 503
    for answer, landed in (("drop", False), ("lose", True)):
        hub.fail("POST", "/commit/", answer)
        with pytest.raises(httpx.RemoteProtocolError):
            commit(add("a.txt"))
        assert ("a.txt" in pairs.files()) is landed
    assert len(hub.sent("POST", "/commit/")) == 3
    hub.fail("POST", "/preupload/", 503)
    hub.fail("PUT", "/storage/", 500)
    commit(add("b.bin"))  # both are tried again
    assert len(hub.sent("PUT", "")) == 2
    hub.fail("POST", "validate-yaml", 503, body="<html>Busy</html>", mime="text/html")
    with pytest.raises(json.JSONDecodeError):
        commit(add("README.md", b"# x"))
    hub.fail("POST", "/commit/", 429, after=1, times=math.inf)
    commit(add("c.txt"))
    assert status(commit, add("d.txt")) == 429
    assert ("POST", f"/api/datasets/{PAIRS}/commit/main", "alice") in hub.requests


def test_large_files_are_checked(hub, pairs):
    oid, session, headers = "1" * 64, get_session(), {"Authorization": f"Bearer {ALICE}"}
    lines = [{"key": "header", "value": {"summary": "s"}}, {"key": "lfsFile", "value": {"path": "x", "oid": oid}}]
    body = "\n".join(map(json.dumps, lines))
    answer = session.post(f"{hub.url}/api/datasets/{PAIRS}/commit/main", headers=headers, content=body)
    assert (answer.status_code, list(pairs.files())) == (400, [".gitattributes"])
    batch = {"operation": "upload", "objects": [{"oid": oid, "size": 3}]}
    answer = session.post(f"{hub.url}/datasets/{PAIRS}.git/info/lfs/objects/batch", json=batch, headers=headers)
    actions = answer.json()["objects"][0]["actions"]
    assert session.put(actions["upload"]["href"], content=b"abc").status_code == 400
    assert session.post(actions["verify"]["href"], json={"oid": oid, "size": 3}, headers=headers).status_code == 404
    assert session.get(actions["upload"]["href"]).status_code == 404
