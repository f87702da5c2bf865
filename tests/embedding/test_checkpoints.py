import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import HashEmbedder, candidate_rows
from datasets import Dataset
from sentence_transformers import SentenceTransformer

from trl_real import RealDPOConfig, RealDPOTrainer
from trl_real.config import EmbedderOptions
from trl_real.embedding import checkpoints, identity
from trl_real.embedding.checkpoints import embed_in_chunks
from trl_real.embedding.embed import embed


@pytest.fixture
def data(rng):
    return Dataset.from_list(candidate_rows(rng, 30, (2, 4)))


def test_chunks_are_what_embedding_at_once_gives(data, tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHUNK", 7)
    options = EmbedderOptions(tiny_encoder, 8, dtype="float32")
    for rows in (data, data.shuffle(seed=0).select(range(20)), data.select_columns(["prompt", "responses"])):
        expected, known_by = embed(rows, options)
        found, found_identity = embed_in_chunks(rows, options, tmp_path)
        assert found.column_names == expected.column_names
        assert found_identity == known_by
        assert found["tokens_cut"][:] == expected["tokens_cut"][:]
        assert sum(found["tokens_cut"]) > 0
        assert found["prompt"][:] == rows["prompt"][:]
        assert found["responses_cut"][:] == expected["responses_cut"][:]
        for a, b in zip(found["embeddings"], expected["embeddings"], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_what_is_finished_is_not_embedded_again(data, tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHUNK", 7)
    options = EmbedderOptions(tiny_encoder)
    asked = []

    def fails_after_two(part, options, in_memory):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(part))
        return embed(part, options)

    monkeypatch.setattr(checkpoints, "embed", fails_after_two)
    with pytest.raises(KeyboardInterrupt):
        embed_in_chunks(data, options, tmp_path)
    monkeypatch.setattr(
        checkpoints, "embed", lambda part, options, in_memory: (asked.append(len(part)), embed(part, options))[1]
    )
    found, _ = embed_in_chunks(Dataset.from_list(data.to_list()), options, tmp_path)  # in-memory data, built anew
    assert asked == [7, 7, 7, 7, 2]
    assert len(found) == 30
    embed_in_chunks(data, options, tmp_path)
    assert len(asked) == 5
    embed_in_chunks(data, EmbedderOptions(tiny_encoder, 5), tmp_path)  # another embedding
    assert len(asked) == 10


def test_another_embedder_of_the_same_name_embeds_anew(data, tiny_encoder, tmp_path, monkeypatch):
    path = shutil.copytree(tiny_encoder, tmp_path / "encoder")
    options = EmbedderOptions(str(path), dtype="float32")
    first, _ = embed_in_chunks(data, options, tmp_path / "chunks")
    other = SentenceTransformer(str(path), device="cpu")
    with torch.no_grad():
        other[0].auto_model.embeddings.word_embeddings.weight.mul_(-1)
    other.save(str(path))
    second, _ = embed_in_chunks(data, options, tmp_path / "chunks")
    assert second[0]["embeddings"] != first[0]["embeddings"]
    assert second[0]["embeddings"] == embed(data, options)[0][0]["embeddings"]
    n_chunks = len(list((tmp_path / "chunks").iterdir()))
    monkeypatch.setattr(identity, "code_version", lambda: "another")
    embed_in_chunks(data, options, tmp_path / "chunks")
    assert len(list((tmp_path / "chunks").iterdir())) == n_chunks + 1


@pytest.mark.parametrize(
    ("damage", "content"),
    [
        ("sha256.json", b"{"),
        ("sha256.json", b"{}"),
        ("data/dataset_info.json", b"{"),
        ("data/data-00000-of-00001.arrow", b"{"),
    ],
)
def test_a_damaged_chunk_is_embedded_again(damage, content, data, tiny_encoder, tmp_path, caplog):
    options = EmbedderOptions(tiny_encoder)
    expected, _ = embed_in_chunks(data, options, tmp_path)
    (chunk,) = tmp_path.iterdir()
    (chunk / damage).unlink()  # and not written to: it is mapped
    (chunk / damage).write_bytes(content)
    found, _ = embed_in_chunks(data, options, tmp_path)
    assert found.to_list() == expected.to_list()
    assert "is damaged and will be embedded again" in caplog.text


def test_a_chunk_with_zeros_in_its_middle_is_embedded_again(data, tiny_encoder, tmp_path, caplog):
    options = EmbedderOptions(tiny_encoder)
    expected, _ = embed_in_chunks(data, options, tmp_path)
    expected = expected.to_list()
    (path,) = tmp_path.glob("*/data/*.arrow")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 512] = bytes(512)
    path.unlink()  # and not written to: it is mapped
    path.write_bytes(content)
    found, _ = embed_in_chunks(data, options, tmp_path)
    assert found.to_list() == expected
    assert "is damaged and will be embedded again: data/data-00000-of-00001.arrow has changed" in caplog.text
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_of_chunks_that_is_a_link_is_not_written_to(data, embedder, tiny_encoder, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "chunks").symlink_to(tmp_path / "other")
    for name in (tiny_encoder, embedder):
        with pytest.raises(FileExistsError, match="chunks is a link and will not be overwritten"):
            embed_in_chunks(data, EmbedderOptions(name), tmp_path / "chunks")
    assert list((tmp_path / "other").iterdir()) == []


def test_several_trainers_share_a_folder(data, tiny_encoder, tmp_path, monkeypatch):
    """All of them are about to write the same chunks at the same time."""
    monkeypatch.setattr(checkpoints, "CHUNK", 7)
    expected, _ = embed_in_chunks(data, EmbedderOptions(tiny_encoder), tmp_path / "alone")
    everybody = threading.Barrier(4, timeout=60)

    def waits(part, options, in_memory):
        everybody.wait()
        columns = {"responses_cut": 0, "tokens_cut": 0}
        return part.map(lambda row: {"embeddings": [[1.0]] * len(row["responses"]), **columns}), None

    monkeypatch.setattr(checkpoints, "embed", waits)
    embedders = [tiny_encoder, tiny_encoder, HashEmbedder(), HashEmbedder()]
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(embed_in_chunks, data, EmbedderOptions(e), tmp_path / "out") for e in embedders]
        for run in runs:
            assert run.result()[0].column_names == expected.column_names
    assert len(list((tmp_path / "out").iterdir())) == 5  # the chunks of the embedder with a name


def test_a_column_of_an_earlier_embedding_is_replaced(data, tiny_encoder, tmp_path):
    rows = data.add_column("responses_cut", [7] * len(data))
    found, _ = embed_in_chunks(rows, EmbedderOptions(tiny_encoder), tmp_path)
    assert found.column_names[-3:] == ["embeddings", "responses_cut", "tokens_cut"]
    assert set(found["responses_cut"]) == {0}


def test_equal_chunks_are_embedded_once(rng, tiny_encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHUNK", 3)
    rows = candidate_rows(rng, 3, (2, 2))
    found, _ = embed_in_chunks(Dataset.from_list(rows * 3), EmbedderOptions(tiny_encoder), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert found["embeddings"][:3] == found["embeddings"][6:]


def test_an_embedder_without_a_name_leaves_nothing_behind(data, tmp_path):
    first, second = HashEmbedder(), HashEmbedder()
    (tmp_path / "unnamed" / "of a run that was killed").mkdir(parents=True)
    embed_in_chunks(data, EmbedderOptions(first), tmp_path)
    found, _ = embed_in_chunks(data, EmbedderOptions(second), tmp_path)
    assert second.calls
    assert list(tmp_path.iterdir()) == []
    assert len(found[0]["embeddings"][0]) == 16


TRAIN = """
import json, os, signal, sys
import torch
from transformers import TrainerCallback
sys.path.insert(0, sys.argv[4])
from conftest import candidate_rows
import numpy as np
from datasets import Dataset
from trl_real import RealDPOConfig, RealDPOTrainer
from trl_real.embedding import checkpoints
from trl_real.embedding.embed import encode

model, embedder, out = sys.argv[1:4]
texts = []
import trl_real.embedding.embed
checkpoints.CHUNK = int(os.environ.get("CHUNK", checkpoints.CHUNK))
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
def count(sentences, *args, **kwargs):
    if len(texts) > 30 and "KILL_WHILE_EMBEDDING" in os.environ:
        kill()
    texts.extend(sentences)
    return encode(sentences, *args, **kwargs)
class KillWhileTraining(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3 and "KILL_WHILE_TRAINING" in os.environ:
            kill()
trl_real.embedding.embed.encode = count
data = Dataset.from_list(candidate_rows(np.random.default_rng(0), 30, (2, 4)))
if "OTHER_ORDER" in os.environ:
    data = data.shuffle(seed=int(os.environ["RANK"]))
if "FAIL_ON" in os.environ and os.environ["FAIL_ON"] == os.environ["RANK"]:
    trl_real.embedding.embed.encode = None
config = RealDPOConfig(
    output_dir=out, embedder=embedder, embedder_dtype="float32", budget=0.8, max_steps=4, use_cpu=True, bf16=False,
    per_device_train_batch_size=2, report_to="none", disable_tqdm=True, save_steps=2, learning_rate=1e-3,
)
trainer = RealDPOTrainer(model, args=config, train_dataset=data, callbacks=[KillWhileTraining()])
trainer.train(resume_from_checkpoint=os.path.isdir(f"{out}/checkpoint-2"))
rank = trainer.accelerator.process_index
result = {
    "world": trainer.accelerator.num_processes,
    "pairs": [row["chosen"] for row in trainer.selected_dataset],
    "texts": texts,
    "weight": sum(p.double().abs().sum().item() for p in trainer.model.parameters()),
}
open(f"{out}/rank{rank}.json", "w").write(json.dumps(result))
"""


def run(tmp_path, out, tiny_lm, embedder, launch=(), **environment):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    return subprocess.run(
        [
            sys.executable,
            *launch,
            str(script),
            tiny_lm,
            embedder,
            str(tmp_path / out),
            str(Path(__file__).parent.parent),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_weights(tmp_path, tiny_lm, tiny_encoder):
    def result(out):
        return json.loads((tmp_path / out / "rank0.json").read_text())

    whole = run(tmp_path, "whole", tiny_lm, tiny_encoder, CHUNK="8")
    assert whole.returncode == 0, whole.stderr[-3000:]
    for where in ("KILL_WHILE_EMBEDDING", "KILL_WHILE_TRAINING"):
        killed = run(tmp_path, where, tiny_lm, tiny_encoder, CHUNK="8", **{where: "1"})
        assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
        again = run(tmp_path, where, tiny_lm, tiny_encoder, CHUNK="8")
        assert again.returncode == 0, again.stderr[-3000:]
        assert result(where)["pairs"] == result("whole")["pairs"]
        assert result(where)["weight"] == result("whole")["weight"]
        embedded = len(result(where)["texts"])
        if where == "KILL_WHILE_TRAINING":
            assert embedded == 0
        else:
            assert 0 < embedded < len(result("whole")["texts"]) - 25


RANKS = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder", "policy"])
def test_two_ranks_embed_each_response_once_and_train_on_the_same_picks(kind, tmp_path, tiny_lm, tiny_encoder, rng):
    embedder = tiny_encoder if kind == "encoder" else "policy"
    result = run(tmp_path, "out", tiny_lm, embedder, RANKS)
    assert result.returncode == 0, result.stderr[-3000:]
    first, second = (json.loads((tmp_path / "out" / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["world"] == second["world"] == 2
    assert first["pairs"] == second["pairs"]
    assert first["weight"] == second["weight"]
    rows = candidate_rows(np.random.default_rng(0), 30, (2, 4))
    texts = sorted(text for row in rows for text in row["responses"])
    assert sorted(first["texts"] + second["texts"]) == texts
    assert min(len(first["texts"]), len(second["texts"])) > len(texts) / 4
    config = RealDPOConfig(
        output_dir=str(tmp_path / "alone"),
        embedder=embedder,
        embedder_dtype="float32",
        budget=0.8,
        use_cpu=True,
        bf16=False,
    )
    alone = RealDPOTrainer(tiny_lm, args=config, train_dataset=Dataset.from_list(rows))
    assert alone.selected_dataset["chosen"][:] == first["pairs"]


@pytest.mark.slow
def test_a_rank_that_fails_does_not_hang_the_other(tmp_path, tiny_lm, tiny_encoder):
    result = run(tmp_path, "out", tiny_lm, tiny_encoder, RANKS, FAIL_ON="1")
    assert result.returncode != 0
    assert "'NoneType' object is not callable" in result.stderr


@pytest.mark.slow
def test_ranks_with_rows_in_another_order_are_told_so(tmp_path, tiny_lm, tiny_encoder):
    result = run(tmp_path, "out", tiny_lm, tiny_encoder, RANKS, OTHER_ORDER="1")
    assert result.returncode != 0
    assert "The processes have different rows, or the same rows in another order." in result.stderr
    assert "`output_dir` must be a folder that all see" not in result.stderr
