import importlib.util
import logging
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
import transformers
from conftest import sentence
from packaging.version import Version

from trl_real.config import EmbedderOptions
from trl_real.embedding.embed import encode
from trl_real.embedding.embedder import free_embedder, load_embedder


openvino = pytest.importorskip("trl_real.embedding.openvino")
pytestmark = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.9.0"), reason="Transformers before 5.9 cannot be traced"
)


@pytest.fixture
def texts(rng):
    return [sentence(rng, int(n)) for n in rng.integers(1, 80, 30)]


@pytest.fixture
def through_torch(monkeypatch):
    """Vectors of an embedder that is loaded as if OpenVINO were not installed."""

    def vectors(texts, embedder, dtype):
        free_embedder()
        find_spec = importlib.util.find_spec
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name))
            found = encode(texts, EmbedderOptions(embedder, None, 32, dtype))[0]
        assert not in_openvino(load_embedder(EmbedderOptions(embedder, None, dtype=dtype)))
        free_embedder()
        return found

    return vectors


def in_openvino(model):
    return isinstance(model.forward, openvino._Forward)


@pytest.mark.parametrize(("dtype", "distance"), [("float32", 1e-6), ("bfloat16", 1e-2)])
def test_vectors_are_those_of_pytorch(dtype, distance, tiny_encoder, texts, through_torch):
    expected = through_torch(texts, tiny_encoder, dtype)
    model = load_embedder(EmbedderOptions(tiny_encoder, None, dtype=dtype))
    assert in_openvino(model)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    found = encode(texts, EmbedderOptions(tiny_encoder, None, 32, dtype))[0]
    cosines = (expected * found).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(found, axis=1)
    assert cosines.min() > 1 - distance


def test_the_default_embedder_runs_in_openvino(through_torch):
    texts = ["a cat", "", "a kitten sleeps under the green tree", "income tax " * 200]
    name = "sentence-transformers/all-MiniLM-L6-v2"
    expected = through_torch(texts, name, "float32")
    assert in_openvino(load_embedder(EmbedderOptions(name, None, dtype="float32")))
    np.testing.assert_allclose(encode(texts, EmbedderOptions(name, None, 32, "float32"))[0], expected, atol=1e-5)


def test_a_prompt_of_the_model_is_no_part_of_the_mean(tiny_encoder, texts, tmp_path, through_torch):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer = SentenceTransformer(tiny_encoder, device="cpu")[0]
    model = SentenceTransformer(
        modules=[transformer, Pooling(32, "mean", include_prompt=False)],
        prompts={"any": "the green tree "},
        default_prompt_name="any",
        device="cpu",
    )
    model.save(str(tmp_path / "model"))
    expected = through_torch(texts, str(tmp_path / "model"), "float32")
    np.testing.assert_allclose(model.encode(texts), expected, atol=1e-5)
    np.testing.assert_allclose(
        encode(texts, EmbedderOptions(str(tmp_path / "model"), None, 32, "float32"))[0], expected, atol=1e-5
    )


@pytest.mark.parametrize("window", [8, 128])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sliding_window_is_computed_or_left_to_pytorch(window, dtype, tiny_tokenizer, tmp_path, rng, through_torch):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import ModernBertConfig, ModernBertModel

    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        local_attention=window,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        cls_token_id=0,
        sep_token_id=0,
    )
    ModernBertModel(config).save_pretrained(tmp_path / "body")
    tiny_tokenizer.save_pretrained(tmp_path / "body")
    model = SentenceTransformer(modules=[Transformer(str(tmp_path / "body")), Pooling(32, "mean")], device="cpu")
    model.save(str(tmp_path / "model"))
    texts = [sentence(rng, n) for n in (1, 2, 40, 90, 130, 250)]
    expected = through_torch(texts, str(tmp_path / "model"), dtype)
    found = encode(texts, EmbedderOptions(str(tmp_path / "model"), None, 32, dtype))[0]
    cosines = (expected * found).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(found, axis=1)
    assert cosines.min() > 0.99


def test_the_memory_of_an_embedder_is_freed(tiny_encoder):
    model = weakref.ref(load_embedder(EmbedderOptions(tiny_encoder, None, dtype="float32")))
    assert in_openvino(model())
    free_embedder()
    assert model() is None


def test_an_openvino_that_cannot_be_imported_is_a_warning(tiny_encoder, texts, monkeypatch, caplog, through_torch):
    expected = through_torch(texts, tiny_encoder, "float32")
    monkeypatch.setitem(sys.modules, "trl_real.embedding.openvino", None)
    with caplog.at_level(logging.WARNING):
        found = encode(texts, EmbedderOptions(tiny_encoder, None, 32, "float32"))[0]
    free_embedder()
    assert "stays with PyTorch, since OpenVINO cannot be imported" in caplog.text
    np.testing.assert_array_equal(found, expected)


def test_half_precision_and_causal_models_stay_with_pytorch(tiny_encoder, tiny_lm, caplog):
    for name, dtype in ((tiny_encoder, "float16"), (tiny_lm, "float32")):
        assert not in_openvino(load_embedder(EmbedderOptions(name, None, dtype=dtype)))
    assert not caplog.records


@pytest.mark.parametrize("fault", ["raises", "wrong"])
def test_a_model_that_openvino_cannot_run_stays_with_pytorch(
    fault, tiny_encoder, texts, through_torch, monkeypatch, caplog
):
    expected = through_torch(texts, tiny_encoder, "bfloat16")

    def forward(self, features):
        if fault == "raises":
            raise RuntimeError("no such operation")
        return {"sentence_embedding": -self._forward(features)["sentence_embedding"]}

    monkeypatch.setattr(openvino._Forward, "__call__", forward)
    with caplog.at_level(logging.WARNING):
        model = load_embedder(EmbedderOptions(tiny_encoder, None, dtype="bfloat16"))
    assert not in_openvino(model)
    assert ("no such operation" if fault == "raises" else "away from PyTorch") in caplog.text
    np.testing.assert_array_equal(encode(texts, EmbedderOptions(tiny_encoder, None, 32, "bfloat16"))[0], expected)
    free_embedder()


def test_no_logger_is_changed_and_nothing_is_printed(tiny_encoder):
    code = (
        "import logging, sys\n"
        "from transformers.utils import logging as hf\nhf.disable_progress_bar()\n"
        "from trl_real.embedding.embedder import load_embedder; from trl_real.config import EmbedderOptions\n"
        "root = logging.getLogger(); before = root.level, list(root.handlers), list(root.filters), hf.get_verbosity()\n"
        f"load_embedder(EmbedderOptions({tiny_encoder!r}, None, dtype='float32'))\n"
        "assert 'openvino' in sys.modules and 'openvino_telemetry' not in sys.modules\n"
        "assert before == (root.level, list(root.handlers), list(root.filters), hf.get_verbosity())\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_workers_do_not_hang_after_the_parent_has_embedded_in_openvino(tiny_encoder, tmp_path):
    code = (
        "import sys, numpy as np\nsys.path.insert(0, 'tests')\nfrom conftest import candidate_rows\n"
        "from datasets import Dataset\nfrom trl_real import embed_responses\n"
        "data = Dataset.from_list(candidate_rows(np.random.default_rng(0), 40))\n"
        f"kwargs = dict(batched=True, fn_kwargs={{'embedder': {tiny_encoder!r}, 'embedder_dtype': 'float32'}})\n"
        "forked_first = data.map(embed_responses, num_proc=2, **kwargs)\n"
        "once, twice = data.map(embed_responses, **kwargs), data.map(embed_responses, num_proc=2, **kwargs)\n"
        f"other = data.map(embed_responses, num_proc=2, batched=True, fn_kwargs={{**kwargs['fn_kwargs'], 'embedder_max_length': 9}})\n"
        "for found in (forked_first, twice):\n"
        "    for a, b in zip(once['embeddings'], found['embeddings']):\n"
        "        np.testing.assert_allclose(a, b, atol=1e-5)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def test_signals_are_handled_after_several_models(tiny_encoder):
    code = (
        "import faulthandler, os, signal\nfaulthandler.enable()\n"
        "from trl_real.embedding.embedder import free_embedder, load_embedder; from trl_real.config import EmbedderOptions\n"
        f"for limit in (8, 9, 10): load_embedder(EmbedderOptions({tiny_encoder!r}, limit, dtype='float32'))\n"
        "free_embedder()\n"
        "signal.signal(signal.SIGCHLD, lambda *_: print('handled'))\n"  # as a `DataLoader` with workers does
        "os.kill(os.getpid(), signal.SIGCHLD)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (0, "handled\n"), result.stderr
