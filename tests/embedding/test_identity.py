"""An embedder is known by all that its vectors depend on, and by nothing else."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import HashEmbedder, candidate_rows
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from trl_real import SelectionConfig, embed_responses, label_reliability, select_preferences
from trl_real.config import EmbedderOptions
from trl_real.embedding import identity
from trl_real.embedding.embed import embed, encode
from trl_real.embedding.identity import embedder_identity, folder_digest


@pytest.fixture
def on_disk(rng, tmp_path):
    """Candidates in a folder of the user's, beside which `datasets` caches."""
    Dataset.from_list(candidate_rows(rng, 30, (2, 4))).save_to_disk(tmp_path / "data")
    return Dataset.load_from_disk(tmp_path / "data")


@pytest.fixture
def folder(tiny_encoder, tmp_path):
    """A copy of an encoder that may be trained in place."""
    return str(shutil.copytree(tiny_encoder, tmp_path / "encoder"))


def retrain(folder, keep_times=False):
    """Replace the weights in a folder by others of the same size."""
    files = _safetensors(folder)
    times = [os.stat(path) for path in files]
    model = SentenceTransformer(folder, device="cpu")
    with torch.no_grad():
        model[0].auto_model.embeddings.word_embeddings.weight.add_(
            torch.randn_like(model[0].auto_model.embeddings.word_embeddings.weight)
        )
    model.save(folder)
    for path, stat in zip(files, times, strict=True) if keep_times else ():
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _safetensors(folder):
    return [
        os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names if "safetensors" in name
    ]


def fresh(texts, folder):
    """The vectors of a new process, which has no cache."""
    code = (
        "import sys, json; from sentence_transformers import SentenceTransformer;"
        "print(json.dumps(SentenceTransformer(sys.argv[1], device='cpu').encode(json.loads(sys.argv[2])).tolist()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, folder, json.dumps(texts)], capture_output=True, text=True, check=True
    )
    return np.array(json.loads(result.stdout.splitlines()[-1]))


def options(folder):
    return EmbedderOptions(folder, dtype="float32")


@pytest.mark.parametrize("keep_times", [False, True])
def test_a_folder_that_is_trained_in_place_is_another_embedder(keep_times, on_disk, folder):
    texts = on_disk[0]["responses"]
    before, first = embed(on_disk, options(folder))
    retrain(folder, keep_times)
    after, second = embed(on_disk, options(folder))
    assert first.key != second.key
    assert first.revision != second.revision
    assert not np.allclose(before[0]["embeddings"], after[0]["embeddings"], atol=1e-3)
    np.testing.assert_allclose(after[0]["embeddings"], fresh(texts, folder), atol=1e-4)
    np.testing.assert_allclose(encode(texts, options(folder))[0], fresh(texts, folder), atol=1e-4)


def test_a_selection_follows_the_weights(on_disk, folder):
    config = SelectionConfig(embedder=folder, embedder_dtype="float32")
    before, report = select_preferences(on_disk, config)
    retrain(folder)
    after, again = select_preferences(on_disk, config)
    expected, _ = select_preferences(Dataset.from_list(on_disk.to_list()), config)
    assert after["similarity"][:] == pytest.approx(expected["similarity"][:], abs=1e-5)
    assert after["similarity"][:] != before["similarity"][:]
    assert report.embedder_revision.startswith("sha256:")
    assert report.embedder_revision != again.embedder_revision


def test_the_same_weights_elsewhere_are_the_same_embedder(tiny_encoder, folder):
    assert embedder_identity(options(tiny_encoder)) == embedder_identity(options(folder))
    with open(f"{folder}/optimizer.pt", "wb") as file:  # what a training run leaves beside them
        file.write(b"1")
    shutil.copytree(tiny_encoder, f"{folder}/checkpoint-3")
    assert embedder_identity(options(tiny_encoder)) == embedder_identity(options(folder))


def test_limit_dtype_and_version_tell_embedders_apart(folder, monkeypatch):
    keys = {
        embedder_identity(each).key
        for each in (
            options(folder),
            EmbedderOptions(folder, 8, dtype="float32"),
            EmbedderOptions(folder, dtype="bfloat16"),
        )
    }
    monkeypatch.setattr(identity, "code_version", lambda: "another")
    keys.add(embedder_identity(options(folder)).key)
    monkeypatch.setattr(identity, "back_end", lambda: "another")
    keys.add(embedder_identity(options(folder)).key)
    assert len(keys) == 5
    assert embedder_identity(EmbedderOptions(folder, batch_size=1)) == embedder_identity(EmbedderOptions(folder))


def test_a_file_is_read_once_for_as_long_as_it_stays_the_same(folder, monkeypatch):
    expected, read = folder_digest(folder), []
    monkeypatch.setattr(identity, "sha256", lambda path: read.append(path) or "0")
    assert folder_digest(folder) == expected
    assert read == []
    os.utime(_safetensors(folder)[0], ns=(1, 1))
    assert folder_digest(folder) != expected
    assert len(read) == 1


class Known(HashEmbedder):
    """An embedder that says what it is known by."""

    def __init__(self, name):
        super().__init__()
        self.name = name

    def fingerprint(self):
        return self.name


def test_an_object_is_known_by_its_fingerprint(on_disk, tmp_path):
    first = Known("a")
    embed(on_disk, EmbedderOptions(first))
    same, other = Known("a"), Known("b")
    embed(on_disk, EmbedderOptions(same))
    embed(on_disk, EmbedderOptions(other))
    assert (len(first.calls), len(same.calls), len(other.calls)) == (1, 0, 1)
    assert len(list((tmp_path / "data").glob("cache-*.arrow"))) == 2
    _, report = select_preferences(on_disk, SelectionConfig(embedder=Known("a")))
    assert report.embedder_revision == "a"
    with pytest.raises(TypeError, match="`fingerprint\\(\\)` of the embedder Known must return a str"):
        embed(on_disk, EmbedderOptions(Known(3)))


def test_an_object_without_a_fingerprint_leaves_nothing_behind(on_disk, tmp_path):
    before = {path.name for path in (tmp_path / "data").iterdir()}
    embedder = HashEmbedder()
    pairs, _ = select_preferences(on_disk, SelectionConfig(embedder=embedder))
    expected = pairs["similarity"][:]
    embedder.vector = lambda sentence: np.arange(16, dtype=np.float32) + len(sentence) % 7  # it has changed
    again, _ = select_preferences(on_disk, SelectionConfig(embedder=embedder))
    assert len(pairs) == len(again)
    assert again["similarity"][:] != expected == pairs["similarity"][:]
    assert {path.name for path in (tmp_path / "data").iterdir()} == before


def test_a_model_of_the_hub_is_known_by_its_commit(on_disk, folder, hub):
    from huggingface_hub import HfApi
    from local_hub import ALICE

    api = HfApi(token=ALICE)
    api.create_repo("alice/encoder")

    def push():
        return api.upload_folder(repo_id="alice/encoder", folder_path=folder).oid

    commit = push()
    before, first = embed(on_disk, options("alice/encoder"))
    assert first.revision == commit
    retrain(folder)
    commit = push()
    after, second = embed(on_disk, options("alice/encoder"))
    assert second.revision == commit
    np.testing.assert_allclose(after[0]["embeddings"], fresh(on_disk[0]["responses"], folder), atol=1e-4)
    assert not np.allclose(before[0]["embeddings"], after[0]["embeddings"], atol=1e-3)


def test_reliability_and_selection_share_a_cache(rng, tmp_path):
    rows = [{"prompt": f"q {n}", "chosen": f"good {n} cat", "rejected": f"bad {n} dog"} for n in range(30)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "pairs")
    data, embedder = Dataset.load_from_disk(tmp_path / "pairs"), Known("shared")
    select_preferences(data, SelectionConfig(embedder=embedder, budget=5))
    calls = len(embedder.calls)
    label_reliability(data, embedder=embedder)
    assert len(embedder.calls) == calls


def test_a_users_own_map_is_the_documented_exception(on_disk, folder):
    options = {"batched": True, "fn_kwargs": {"embedder": folder, "embedder_dtype": "float32"}}
    before = on_disk.map(embed_responses, **options)
    retrain(folder)
    assert on_disk.map(embed_responses, **options)[0]["embeddings"] == before[0]["embeddings"]
    way_round = on_disk.map(embed_responses, **options, new_fingerprint=folder_digest(folder)[:16])
    np.testing.assert_allclose(way_round[0]["embeddings"], fresh(on_disk[0]["responses"], folder), atol=1e-4)
