import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import HashEmbedder, candidate_rows, sentence
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from trl_real import embed_responses, real_select
from trl_real.config import EmbedderOptions
from trl_real.embedding.embed import CPU_TOKENS, encode, token_batches
from trl_real.embedding.embedder import device_of, load_embedder


def vectors(texts, embedder, max_length=None, batch_size=32, dtype="float32"):
    return encode(texts, EmbedderOptions(embedder, max_length, batch_size, dtype))[0]


@pytest.fixture
def texts(rng):
    return [sentence(rng, int(n)) for n in rng.integers(1, 40, 30)]


@pytest.mark.parametrize("name", ["tiny_lm", "tiny_encoder"])
def test_a_vector_does_not_depend_on_its_batch(name, texts, request):
    model = request.getfixturevalue(name)
    together = vectors(texts, model)
    np.testing.assert_allclose(together, vectors(texts, model, batch_size=1), atol=1e-5)
    np.testing.assert_allclose(together[::-1], vectors(texts[::-1], model), atol=1e-5)


def test_limit_is_the_models_own_up_to_512_and_what_is_cut_is_counted(tiny_encoder, tiny_lm):
    short, long = "the cat", " ".join(["the"] * 100)
    for model, own_limit in ((tiny_encoder, 64), (tiny_lm, 512)):
        assert load_embedder(EmbedderOptions(model, None, dtype="float32")).max_seq_length == own_limit
        tokenizer = load_embedder(EmbedderOptions(model, 10, dtype="float32")).tokenizer
        cut = encode([short, long, short], EmbedderOptions(model, 10, 32, "float32"))[1]
        assert cut.tolist() == [0, len(tokenizer(long)["input_ids"]) - 10, 0]
        exact = len(tokenizer(long)["input_ids"])
        if exact <= own_limit:
            assert not encode([long], EmbedderOptions(model, exact, 32, "float32"))[1].any()
            assert encode([long], EmbedderOptions(model, exact - 1, 32, "float32"))[1].all()


def test_bfloat16_is_close_and_comes_out_as_float32(tiny_encoder, texts):
    low = vectors(texts, tiny_encoder, dtype="bfloat16")
    assert low.dtype == np.float32
    high = vectors(texts, tiny_encoder, dtype="float32")
    cosine = (low * high).sum(1) / np.linalg.norm(low, axis=1) / np.linalg.norm(high, axis=1)
    assert cosine.min() > 0.99
    assert not np.array_equal(low, high)


def test_each_distinct_text_is_embedded_once(embedder):
    found, cut = encode(["a", "b", "a", "", " ", "b"], EmbedderOptions(embedder, None, 32, "float32"))
    assert embedder.calls == [["a", "b"]]
    assert cut is None
    np.testing.assert_array_equal(found[0], found[2])
    assert not found[3:5].any()


def test_embed_responses_adds_columns_beside_the_responses(tiny_encoder):
    rows = [
        {"prompt": "p", "responses": ["the cat", "", " ".join(["fish"] * 90), "the cat"]},
        {"prompt": "q", "responses": []},
        {"prompt": None, "responses": None},
    ]
    dataset = Dataset.from_list(rows).map(embed_responses, batched=True, fn_kwargs={"embedder": tiny_encoder})
    assert str(dataset.features["embeddings"]) == "List(List(Value('float32')))"
    assert dataset["responses_cut"][:] == [1, 0, 0]
    first = np.array(dataset[0]["embeddings"])
    assert first.shape == (4, 32)
    assert not first[1].any()
    np.testing.assert_array_equal(first[0], first[3])
    assert dataset["embeddings"][1:] == [[], []]
    assert dataset["responses"][:] == [row["responses"] for row in rows]


def test_embed_responses_ignores_the_prompt_and_embeds_both_sides_of_given_pairs(embedder):
    batch = {"prompt": ["p", "q"], "responses": [["a", "b"], ["a", "b"]]}
    one, two = embed_responses(batch, embedder=embedder)["embeddings"]
    np.testing.assert_array_equal(one, two)
    pairs = embed_responses({"prompt": ["p"], "chosen": ["a"], "rejected": ["b"]}, embedder=embedder)
    np.testing.assert_array_equal(pairs["embeddings"][0], one)
    implicit = embed_responses({"chosen": ["say a"], "rejected": ["say b"]}, embedder=embedder)
    np.testing.assert_array_equal(implicit["embeddings"][0], [embedder.vector(" a"), embedder.vector(" b")])


class Returns:
    def __init__(self, value):
        self.value = value

    def encode(self, sentences):
        return self.value(len(sentences))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda n: np.zeros(n), "The embedder Returns returned an array of shape (2,) for 2 texts, expected (2, dim)"),
        (lambda n: np.zeros((n + 1, 4)), "returned an array of shape (3, 4) for 2 texts, expected (2, dim)"),
        (lambda n: np.zeros((n, 0)), "returned an array of shape (2, 0) for 2 texts"),
        (lambda n: [[1.0], [1.0, 2.0]], "The embedder Returns returned something that is not an array of numbers"),
        (lambda n: None, "The embedder Returns returned an array of shape ()"),
        (
            lambda n: np.array([[1.0], [np.nan]]),
            "returned NaN or infinity for 1 of 2 texts, the first of them 'the sea'",
        ),
        (lambda n: torch.full((n, 2), torch.inf), "returned NaN or infinity for 2 of 2 texts"),
    ],
)
def test_what_an_embedder_returns_is_checked(value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        real_select({"prompt": ["p"], "responses": [["a cat", "the sea"]]}, embedder=Returns(value))


def test_tensors_are_taken():
    found = vectors(["a", "b"], Returns(lambda n: torch.arange(2 * n, dtype=torch.bfloat16).reshape(n, 2)))
    assert found.tolist() == [[0, 1], [2, 3]]


def test_odd_text_is_embedded(tiny_encoder):
    found = vectors(["a\x00b", "👩‍🚀" * 200, "\u202e", "x" * 100_000], tiny_encoder)
    assert np.isfinite(found).all()


def test_a_forked_worker_does_not_hang_after_the_parent_has_embedded(tiny_encoder):
    code = (
        "import sys, numpy as np, torch\nsys.path.insert(0, 'tests')\nfrom conftest import candidate_rows\n"
        "from datasets import Dataset\nfrom trl_real import real_select\n"
        "torch.set_num_threads(4); x = torch.randn(800, 800); x @ x\n"
        "data = Dataset.from_list(candidate_rows(np.random.default_rng(0), 40))\n"
        f"kwargs = dict(batched=True, fn_kwargs={{'embedder': {tiny_encoder!r}, 'embedder_dtype': 'float32'}})\n"
        "once, twice = data.map(real_select, **kwargs), data.map(real_select, num_proc=2, **kwargs)\n"
        "assert once['chosen'][:] == twice['chosen'][:]\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_an_empty_batch(embedder):
    out = embed_responses({"prompt": [], "responses": []}, embedder=embedder)
    assert out == {"prompt": [], "responses": [], "embeddings": [], "responses_cut": [], "tokens_cut": []}
    assert real_select(out)["similarity"] == []


def test_a_stand_in_counts_nothing_as_cut():
    dataset = Dataset.from_list(candidate_rows(np.random.default_rng(0), 3))
    dataset = dataset.map(embed_responses, batched=True, fn_kwargs={"embedder": HashEmbedder()})
    assert dataset["responses_cut"][:] == [None] * 3


@given(st.lists(st.integers(0, 600), max_size=60), st.integers(1, 20_000), st.sampled_from(["cpu", "cuda"]))
def test_batches_of_tokens_hold_every_text_once_and_no_more_than_they_may(lengths, most, device):
    batches = list(token_batches(np.array(lengths, dtype=np.int64), most, device))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    in_order = [lengths[i] for batch in batches for i in batch]
    assert in_order == sorted(lengths, reverse=True)
    most = min(most, CPU_TOKENS) if device == "cpu" else most
    for batch, following in zip(batches, [*batches[1:], None], strict=False):
        longest = max(1, lengths[batch[0]])
        assert len(batch) == 1 or len(batch) * longest <= most
        assert following is None or (len(batch) + 1) * longest > most  # nor less


def test_an_embedder_gets_batches_of_few_and_long_or_many_and_short_texts(tiny_encoder, monkeypatch):
    model = load_embedder(EmbedderOptions(tiny_encoder, None, dtype="float32"))
    sizes, encode_batch = [], model.encode
    monkeypatch.setattr(
        model, "encode", lambda texts, **options: sizes.append(len(texts)) or encode_batch(texts, **options)
    )
    texts = [f"{'the ' * 70}{i}" for i in range(4)] + [f"cat {i}" for i in range(40)]
    vectors(texts, tiny_encoder, batch_size=2)  # 2 * 64 tokens
    assert sizes[:2] == [2, 2]
    assert max(sizes) > 10
    assert sum(sizes) == 44


@pytest.mark.parametrize("transform", [embed_responses, real_select])
def test_the_rank_of_a_worker_is_its_gpu(transform, monkeypatch, tiny_encoder):
    from trl_real.embedding import embed as embedding

    assert device_of(0) is None  # no GPU here
    devices, load = [], embedding.load_embedder
    monkeypatch.setattr(embedding, "load_embedder", lambda *args: devices.append(args[-1]) or load(*args[:-1], None))

    def device_with_two_gpus(rank):
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: True)
            patch.setattr(torch.cuda, "device_count", lambda: 2)
            return device_of(rank)

    monkeypatch.setattr(embedding, "device_of", device_with_two_gpus)
    batch = {"prompt": ["p"], "responses": [["a", "b"]]}
    for rank in (None, 0, 1, 2):
        transform(dict(batch), rank, embedder=tiny_encoder, embedder_dtype="float32")
    assert devices == [None, "cuda:0", "cuda:1", "cuda:0"]


def test_with_rank_of_datasets(tiny_encoder):
    dataset = Dataset.from_list(candidate_rows(np.random.default_rng(0), 6))
    options = {
        "batched": True,
        "with_rank": True,
        "fn_kwargs": {"embedder": tiny_encoder, "embedder_dtype": "float32"},
    }
    once = dataset.map(real_select, **options)
    assert dataset.map(real_select, num_proc=2, **options)["chosen"][:] == once["chosen"][:]


def test_embeddings_are_stored_in_half_the_space(tiny_encoder):
    dataset = Dataset.from_list(
        [*candidate_rows(np.random.default_rng(0), 30), {"prompt": "p", "responses": [], "scores": []}]
    )
    full, half = (
        dataset.map(
            embed_responses,
            batched=True,
            batch_size=7,
            fn_kwargs={"embedder": tiny_encoder, "embeddings_dtype": dtype},
        )
        for dtype in ("float32", "float16")
    )
    assert str(half.features["embeddings"]) == "List(List(Value('float16')))"
    arrow = dataset.with_format("arrow").map(
        embed_responses, batched=True, fn_kwargs={"embedder": tiny_encoder, "embeddings_dtype": "float16"}
    )
    assert arrow.features["embeddings"] == half.features["embeddings"]
    numbers = [
        dataset.with_format("arrow")["embeddings"][:].combine_chunks().flatten().flatten() for dataset in (full, half)
    ]
    assert numbers[1].nbytes == numbers[0].nbytes / 2
    np.testing.assert_allclose(numbers[1].to_numpy(), numbers[0].to_numpy(), atol=1e-3)
    for strategy in ("easy", "hard", "centroid", "random"):
        ours, theirs = (
            stored.map(real_select, batched=True, fn_kwargs={"strategy": strategy}) for stored in (full, half)
        )
        np.testing.assert_allclose(theirs["similarity"][:], ours["similarity"][:], atol=2e-3)


def test_embeddings_that_float16_does_not_hold():
    class Constant:
        def __init__(self, value):
            self.value = value

        def encode(self, sentences):
            return np.full((len(sentences), 2), self.value)

    for size in (1e5, 1e-5):
        large = Constant(size)
        with pytest.raises(ValueError, match="holds vectors whose largest number lies between"):
            embed_responses({"prompt": ["p"], "responses": [["a"]]}, embedder=large, embeddings_dtype="float16")
    with pytest.raises(
        ValueError, match=re.escape("`embeddings_dtype` must be one of ('float32', 'float16'), got 'int8'")
    ):
        embed_responses({"prompt": ["p"], "responses": [["a"]]}, embedder=large, embeddings_dtype="int8")


def test_embeddings_of_another_type_are_not_written_over(embedder):
    dataset = Dataset.from_dict({"prompt": ["p"], "responses": [["a", "b"]]})
    options = {"batched": True, "new_fingerprint": None}
    half = dataset.map(lambda b: embed_responses(b, embedder=embedder, embeddings_dtype="float16"), **options)
    with pytest.raises(
        ValueError, match=r"already exists with the type list<.*halffloat.*>, and the new one has the type float"
    ):
        half.map(lambda b: embed_responses(b, embedder=embedder), **options)
    again = half.map(lambda b: embed_responses(b, embedder=embedder, embeddings_dtype="float16"), **options)
    assert again["embeddings"][:] == half["embeddings"][:]


def test_a_table_without_rows_has_the_same_types(embedder):
    table = Dataset.from_dict({"prompt": ["p"], "responses": [["a", "b"]]}).with_format("arrow")[:]
    for dtype in ("float32", "float16"):
        full, empty = (
            embed_responses(part, embedder=embedder, embeddings_dtype=dtype) for part in (table, table.slice(0, 0))
        )
        assert empty.schema.types == full.schema.types


def test_four_strategies_cost_one_embedding_pass(embedder):
    dataset = Dataset.from_list(candidate_rows(np.random.default_rng(0), 10))
    dataset = dataset.map(embed_responses, batched=True, fn_kwargs={"embedder": embedder}, new_fingerprint="embedded")
    asked = len(embedder.calls)
    for strategy in ("easy", "hard", "centroid", "aepo"):
        dataset.map(real_select, batched=True, fn_kwargs={"strategy": strategy})
    assert len(embedder.calls) == asked


def test_threads_that_embed_at_once_get_the_vectors_of_one(tiny_encoder, rng):
    options = EmbedderOptions(tiny_encoder, dtype="float32")
    batches = [[sentence(rng, int(rng.integers(1, 90))) for _ in range(12)] for _ in range(40)]
    expected = [encode(batch, options) for batch in batches]
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda batch: encode(batch, options), batches))
    for (vectors_of_one, cut_of_one), (vectors_of_many, cut_of_many) in zip(expected, found, strict=True):
        np.testing.assert_allclose(vectors_of_many, vectors_of_one, atol=1e-6)
        np.testing.assert_array_equal(cut_of_many, cut_of_one)


WITH_TORCH = """
import sys
import torch
from datasets import Dataset
from trl_real import embed_responses

class Torch:
    weight = torch.randn(512, 512)
    def encode(self, sentences):
        return (torch.tensor([[float(len(s))] * 512 for s in sentences]) @ self.weight).numpy()

embedder = Torch()
embedder.encode(["the parent computes first"] * 256)
Dataset.from_list([{"prompt": "p", "responses": ["a", "b" * n]} for n in range(1, 400)]).save_to_disk(sys.argv[1])
data = Dataset.load_from_disk(sys.argv[1])
found = data.map(embed_responses, batched=True, num_proc=2, fn_kwargs={"embedder": embedder})
print(len(found[0]["embeddings"][0]))
"""


def test_an_object_that_uses_torch_does_not_hang_in_workers(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", WITH_TORCH, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=120,
        env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"},
    )
    assert result.stdout.splitlines()[-1:] == ["512"], result.stderr[-2000:]
