"""Models that tests build on the spot, and a Hub on this machine."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from local_hub import LocalHub


# Read when the libraries are imported: the only Hub is ours, no telemetry, and a cache that goes with the tests. Each worker of
# pytest-xdist has its own of it, and the processes that its tests start share it.
if os.environ.get("TRL_REAL_TEST_WORKER") != os.environ.get("PYTEST_XDIST_WORKER", "main"):
    HUB = LocalHub()
    os.environ.update(
        HF_ENDPOINT=HUB.url,
        HF_HOME=tempfile.mkdtemp(prefix="trl-real-tests-"),
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_ETAG_TIMEOUT="2",
        HF_DATASETS_DISABLE_PROGRESS_BARS="1",
        CUDA_VISIBLE_DEVICES="",
        TOKENIZERS_PARALLELISM="false",
        NO_PROXY="127.0.0.1,localhost",
    )
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        os.environ.pop(name, None)
    atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
    os.environ["TRL_REAL_TEST_WORKER"] = os.environ.get("PYTEST_XDIST_WORKER", "main")

import gzip
import json
import zlib

import numpy as np
import pytest
from hypothesis import settings


settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "warm",
    "mat",
    "and",
    "ate",
    "fresh",
    "fish",
    "while",
    "rain",
    "fell",
    "over",
    "green",
    "hills",
    "far",
    "from",
    "any",
    "noisy",
    "town",
    "with",
    "no",
    "music",
    "but",
    "wind",
    "river",
    "stone",
    "light",
    "bread",
]


class HashEmbedder:
    """Stands in for an encoder: the sum of a fixed random vector for each word. Counts what it is asked for."""

    dim = 16

    def __init__(self):
        self.calls = []

    def encode(self, sentences):
        self.calls.append(list(sentences))
        return np.stack([self.vector(sentence) for sentence in sentences])

    def vector(self, sentence):
        seeds = [zlib.crc32(word.encode("utf-8", "replace")) for word in sentence.split()] or [0]
        return sum(np.random.default_rng(seed).standard_normal(self.dim) for seed in seeds).astype(np.float32)


def sentence(rng, n_words=8):
    return " ".join(rng.choice(WORDS, n_words))


def candidate_rows(rng, n, k=(2, 6), scores=True, dim=None):
    """Rows of distinct random responses."""
    rows = []
    for i in range(n):
        size = int(rng.integers(k[0], k[1] + 1))
        row = {
            "prompt": f"question {i}",
            "responses": [f"{sentence(rng)} {i} {j}" for j in range(size)],
        }
        if scores:
            row["scores"] = rng.integers(0, 10, size).astype(float).tolist()
        if dim:
            row["embeddings"] = rng.standard_normal((size, dim)).astype(np.float32).tolist()
        rows.append(row)
    return rows


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The Hub, empty, and clients that remember nothing of what another test had there."""
    from huggingface_hub import HfFileSystem, constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    HfFileSystem.clear_instance_cache()
    yield HUB
    HUB.reset()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def embedder():
    return HashEmbedder()


@pytest.fixture(scope="session")
def tiny_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(
        [" ".join(WORDS)] * 3,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<pad>", "<eos>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    fast.chat_template = (
        "{% for message in messages %}{{ message.role + ': ' + message.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    return fast


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory, tiny_tokenizer):
    """Folder of a causal language model with random weights, without a pad token in its tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("tiny_lm")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tiny_tokenizer),
        n_positions=1024,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=1,
        eos_token_id=1,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            settings = json.loads((folder / name).read_text())
            settings.pop("pad_token", None)
            (folder / name).write_text(json.dumps(settings))
    return str(folder)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory, tiny_tokenizer):
    """Folder of a Sentence Transformers model with random weights."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny_encoder")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder / "bert")
    tiny_tokenizer.save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    model = SentenceTransformer(modules=[transformer, Pooling(32, "cls"), Normalize()], device="cpu")
    model.save(str(folder / "model"))
    return str(folder / "model")


def read_data(name):
    """Rows of a file of real text in the folder that `TRL_REAL_DATA` names, or skip."""
    folder = os.environ.get("TRL_REAL_DATA")
    if not folder or not (Path(folder) / name).is_file():
        pytest.skip(f"needs {name} in the folder that TRL_REAL_DATA names")
    with gzip.open(Path(folder) / name, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture
def chat(monkeypatch):
    """A chat model behind a URL, which repeats what it is asked with its seed, and is asked again at once after a fault."""
    from local_chat import LocalChat

    monkeypatch.setattr("trl_real.sampling.chat_api.WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = LocalChat(lambda body: f"{body['messages'][-1]['content']} {body.get('seed')}")
    yield server
    server.close()


@pytest.fixture(scope="session")
def tiny_reward_model(tmp_path_factory, tiny_tokenizer):
    """Folder of a reward model with random weights, which are all there."""
    import torch
    from transformers import GPT2Config, GPT2ForSequenceClassification

    folder = tmp_path_factory.mktemp("tiny_reward_model")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tiny_tokenizer), n_positions=256, n_embd=32, n_layer=2, n_head=2, num_labels=1, pad_token_id=0
    )
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return str(folder)


def similarities(rng, n, k, dim=8):
    """Cosines of random unit vectors, half of the prompts in two clumps as real responses often are."""
    vectors = rng.standard_normal((n, k, dim))
    vectors[: n // 2] += (
        2 * rng.standard_normal((n // 2, 2, dim))[np.arange(n // 2)[:, None], rng.integers(0, 2, (n // 2, k))]
    )
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return vectors, np.round(vectors @ vectors.transpose(0, 2, 1), 9)
