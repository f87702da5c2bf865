import numpy as np
import pytest
from conftest import WORDS
from hypothesis import given
from hypothesis import strategies as st

from trl_real.config import EmbedderOptions
from trl_real.embedding import tokens
from trl_real.embedding.embed import encode
from trl_real.embedding.tokens import beginnings, read_tokens


class Words:
    """An embedder whose tokens are words."""

    max_seq_length = 4
    truncation_side = "right"

    def tokenizer(self, texts, **options):
        self.read += sum(map(len, texts))
        return {"input_ids": [text.split() for text in texts]}

    def __init__(self):
        self.read = 0


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(tokens, "LONG", 40)
    monkeypatch.setattr(tokens, "MARGIN", 2)


@given(st.lists(st.text(alphabet="ab  ", max_size=900), max_size=6))
def test_what_is_embedded_stays_and_short_texts_are_counted_exactly(texts):
    model = Words()
    parts, counts = read_tokens(model, texts)
    for text, part, count in zip(texts, parts, counts.tolist(), strict=True):
        assert text.startswith(part)
        assert part.split()[:4] == text.split()[:4]
        assert (count > 4) == (len(text.split()) > 4)
        if len(text) <= 40 or part == text:
            assert part == text
            assert count == len(text.split())
    assert model.read <= 3 * sum(map(len, texts)) + 40


def test_of_a_long_text_little_is_read_and_the_rest_is_estimated():
    model = Words()
    (part,), counts = read_tokens(model, ["word " * 10_000])
    assert len(part) == model.read == 40
    assert counts.tolist() == [10_000]


def test_what_is_cut_from_the_left_stays_whole():
    model, text = Words(), "word " * 100
    model.tokenizer = type(
        "",
        (),
        {"truncation_side": "left", "__call__": lambda self, *args, **_: model.__class__.tokenizer(model, *args)},
    )()
    assert read_tokens(model, [text])[0] == [text]


def test_an_embedder_without_a_tokenizer_gets_whole_texts():
    assert read_tokens(object(), ["x" * 99]) == (["x" * 99], None)
    assert beginnings(object(), ["x" * 99]) == ["x" * 99]


def test_vectors_of_long_texts_are_those_of_whole_ones(tiny_encoder, rng, monkeypatch):
    texts = [" ".join(rng.choice(WORDS, n)) for n in (3, 200, 400)] + ["x" * 3000, " " * 2000 + "rain", "👩‍🚀" * 300]
    options = EmbedderOptions(tiny_encoder, None)
    monkeypatch.setattr(tokens, "LONG", 1 << 16)
    whole, whole_cut = encode(texts, options)
    monkeypatch.setattr(tokens, "LONG", 300)
    vectors, cut = encode(texts, options)
    assert (vectors == whole).all()
    assert ((cut > 0) == (whole_cut > 0)).all()
    assert np.allclose(cut, whole_cut, rtol=0.2)
