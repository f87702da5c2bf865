import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import sentence
from datasets import Dataset
from huggingface_hub import constants
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from trl_real import SelectionConfig, embed_responses, select_preferences
from trl_real.config import EmbedderOptions
from trl_real.embedding import static, unreadable
from trl_real.embedding.embed import encode
from trl_real.embedding.embedder import free_embedder, load_embedder
from trl_real.embedding.identity import embedder_identity


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no embedder of another test."""
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "cache"))
    free_embedder()
    return tmp_path / "cache" / "trl_real"


@pytest.fixture
def texts(rng):
    return [sentence(rng, int(n)) for n in rng.integers(1, 120, 30)]


def named(model, max_length=None):
    return EmbedderOptions(f"static:{model}", max_length)


@pytest.mark.parametrize("model", ["tiny_encoder", "tiny_lm"])
def test_the_vectors_of_tokens_are_those_of_the_model_in_other_axes(model, request):
    """All distances between the tokens stay as they are, because a tiny model has fewer than 256 dimensions."""
    model = request.getfixturevalue(model)
    static_of, encoder = load_embedder(named(model)), load_embedder(EmbedderOptions(model, dtype="float32"))
    special = set(encoder.tokenizer.all_special_ids)
    ids = [i for i in range(len(encoder.tokenizer)) if i not in special]
    with torch.no_grad():
        alone = [encoder({"input_ids": torch.tensor([[i]]), "attention_mask": torch.ones(1, 1)}) for i in ids]
    expected = torch.cat([found["sentence_embedding"] for found in alone]).numpy()
    chance = 1 / np.arange(2, len(ids) + 2)
    weight = 1e-4 / (1e-4 + chance / chance.sum())
    found = static_of._table[ids] / weight[:, None]
    distances = [np.linalg.norm(each[:, None] - each[None], axis=2) for each in (found, expected)]
    np.testing.assert_allclose(*distances, atol=2e-3 * distances[1].max())
    assert not static_of._table[list(special)].any()


def test_a_text_is_the_normalized_sum_over_its_first_tokens(tiny_encoder, texts, monkeypatch):
    monkeypatch.setattr(static, "TEXTS", 7)
    tokenizer = SentenceTransformer(tiny_encoder, device="cpu").tokenizer
    for limit in (None, 10):
        found, cut = encode(texts, named(tiny_encoder, limit))
        model, first = load_embedder(named(tiny_encoder, limit)), limit or 64  # the limit of the model
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        sums = np.stack([model._table[row[:first]].sum(0) for row in ids])
        np.testing.assert_allclose(found, sums / np.linalg.norm(sums, axis=1, keepdims=True), atol=1e-5)
        assert cut.tolist() == [max(0, len(row) - first) for row in ids]
    assert max(cut) > 0


def test_empty_texts_get_zeros_and_long_ones_are_read_in_part(tiny_encoder, monkeypatch):
    long = "rain " * 400_000
    found, cut = encode(["", "  ", "rain", long, long[: 5 * 1000]], named(tiny_encoder))
    assert not found[:2].any()
    np.testing.assert_allclose(np.linalg.norm(found[2:], axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(found[3], found[4])
    assert cut[3] > 400_000 - 64


def test_it_is_distilled_once_for_each_version_of_the_model(tiny_encoder, tiny_lm, cache, caplog):
    for model in (tiny_encoder, tiny_lm, tiny_encoder):
        encode(["rain"], named(model))
        free_embedder()
    assert caplog.text.count("Distilling the static embedder") == 2
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 2


def test_caches_tell_it_from_the_encoder_and_each_other(tiny_encoder, tiny_lm):
    options = [
        EmbedderOptions(tiny_encoder),
        *(named(model, limit) for model in (tiny_encoder, tiny_lm) for limit in (None, 9)),
    ]
    assert len({embedder_identity(each).key for each in options}) == len(options)
    assert embedder_identity(named(tiny_encoder)) == embedder_identity(
        EmbedderOptions(f"static:{tiny_encoder}", dtype="bfloat16")
    )


def test_a_selection_names_it_and_the_commit_or_hash_of_its_model(tiny_encoder, rng):
    rows = Dataset.from_list(
        [{"prompt": "p", "responses": [sentence(rng) for _ in range(4)], "scores": [1, 2, 3, 4]}] * 3
    )
    pairs, report = select_preferences(rows, SelectionConfig(embedder=f"static:{tiny_encoder}"))
    assert len(pairs) == 3
    assert report.embedder == f"static:{tiny_encoder}"
    assert report.embedder_revision == embedder_identity(EmbedderOptions(tiny_encoder)).revision
    assert report.embedder_max_length == 64
    embedded = rows.map(embed_responses, batched=True, fn_kwargs={"embedder": f"static:{tiny_encoder}"})
    similarity = np.array(embedded[0]["embeddings"]) @ np.array(embedded[0]["embeddings"]).T
    assert pairs[0]["similarity"] == pytest.approx(similarity.min(), abs=1e-5)


def test_a_static_model_cannot_be_distilled_again(tmp_path, tiny_tokenizer):
    SentenceTransformer(modules=[StaticEmbedding(tiny_tokenizer, embedding_dim=8)], device="cpu").save(
        str(tmp_path / "model")
    )
    with pytest.raises(ValueError, match="If the model is static already, leave out 'static:'"):
        encode(["rain"], named(tmp_path / "model"))


def test_a_name_that_is_no_model():
    with pytest.raises(ValueError, match="neither a folder nor the id of a model on the Hub"):
        encode(["rain"], named("no such/model/at all"))


def test_once_distilled_it_needs_no_torch(tiny_encoder, cache):
    encode(["rain"], named(tiny_encoder))
    code = (
        "import sys\n"
        "from datasets import Dataset\n"
        "from trl_real import SelectionConfig, select_preferences\n"
        "rows = Dataset.from_list([{'prompt': 'p', 'responses': ['rain', 'green hills', 'the cat'], 'scores': [1, 2, 3]}])\n"
        f"pairs, _ = select_preferences(rows, SelectionConfig(embedder='static:{tiny_encoder}'))\n"
        "assert len(pairs) == 1\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "HF_HOME": str(cache.parent)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_the_static_embedder_of_the_default_reads_words(monkeypatch, caplog):
    monkeypatch.setattr(unreadable, "_warned", set())
    model = named("all-MiniLM-L6-v2")
    cats, kittens, taxes, *thai = encode(
        ["The cat sleeps.", "Two kittens are napping.", "You must pay income tax by April.", "สวัสดี", "ขอบคุณครับ"], model
    )[0]
    assert cats @ kittens > 0.3 + cats @ taxes
    assert thai[0] @ thai[1] > 0.999  # unknown tokens all of them
    assert "does not support their language or script" in caplog.text
