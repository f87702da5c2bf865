import logging

import numpy as np
import pytest
from datasets import Dataset

from trl_real import SelectionConfig, embed_responses, select_preferences
from trl_real.embedding import unreadable


@pytest.fixture(autouse=True)
def not_warned(monkeypatch):
    monkeypatch.setattr(unreadable, "_warned", set())


THAI = ["\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u0e02\u0e2d\u0e1a\u0e04\u0e38\u0e13\u0e04\u0e23\u0e31\u0e1a"]
EMOJI = ["\U0001f600\U0001f600", "\U0001f680 \U0001f354"]
KHMER = ["\u1787\u17c6\u179a\u17b6\u1794\u179f\u17bd\u179a", "\u17a2\u179a\u1782\u17bb\u178e"]


@pytest.mark.parametrize("texts", [THAI, KHMER, EMOJI])
def test_a_script_that_the_embedder_does_not_know_is_named(texts, caplog):
    rows = [{"prompt": "p", "responses": texts, "scores": [1, 2]}]
    select_preferences(Dataset.from_list(rows), SelectionConfig())
    assert "2 of 2 different responses" in caplog.text
    assert "does not support their language or script" in caplog.text
    assert "`embedder='sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2'`" in caplog.text


def test_a_text_that_is_cut_brings_no_warning_of_the_tokenizer(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    rows = Dataset.from_list([{"prompt": "p", "responses": ["the cat sat on the mat", "rain fell over green hills"]}])
    embedded = rows.map(
        embed_responses, batched=True, fn_kwargs={"embedder_max_length": 5}, load_from_cache_file=False
    )
    assert embedded["responses_cut"] == [2]
    assert "sequence length" not in caplog.text


def test_equal_vectors_are_named_once_per_embedder(caplog):
    class Deaf:
        def encode(self, sentences):
            return np.ones((len(sentences), 3))

    rows = Dataset.from_list([{"prompt": "p", "responses": ["a", "b", "c"]}])
    for _ in range(2):
        rows.map(embed_responses, batched=True, fn_kwargs={"embedder": Deaf()}, load_from_cache_file=False)
    assert (
        caplog.text.count("3 of 3 different responses have the same vector as another response, for example 'a'") == 1
    )


def test_what_is_read_is_not_named(tiny_encoder, embedder, caplog):
    rows = [{"prompt": "p", "responses": ["the cat sat", "rain fell over green hills"]}] * 3
    for each in (tiny_encoder, embedder):
        rows_of_each = Dataset.from_list(rows)
        rows_of_each.map(embed_responses, batched=True, fn_kwargs={"embedder": each})
    few = np.vstack([np.eye(30), np.eye(30)[:1]])
    unreadable.warn_of_unreadable([str(i) for i in range(31)], few, None, "one pair of equal vectors in 31")
    assert "script" not in caplog.text
