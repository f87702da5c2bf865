import json
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from conftest import candidate_rows
from datasets import Dataset, Features, Json, List, Value
from datasets.fingerprint import Hasher

import trl_real
from trl_real import embed_responses, real_select
from trl_real.core import transform as transforms


SCRIPT = """
import json, sys
from datasets import Dataset
from trl_real import real_select, embed_responses
from trl_real.core import transform as transforms
path, embedder, strategy, version = sys.argv[1:]
if version:
    transforms.code_version = lambda: version  # that of another package
dataset = Dataset.load_from_disk(path)
embedded = dataset.map(embed_responses, batched=True, fn_kwargs={"embedder": embedder})
pairs = embedded.map(real_select, batched=True, fn_kwargs={"strategy": strategy})
print(json.dumps([embedded.cache_files[0]["filename"], pairs.cache_files[0]["filename"]]))
"""


def cache_files(path, embedder, strategy="easy", version=""):
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), embedder, strategy, version], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_cache_is_hit_in_a_new_process_and_missed_by_another_config_or_version(tmp_path, tiny_encoder):
    Dataset.from_list(candidate_rows(np.random.default_rng(0), 8)).save_to_disk(tmp_path / "data")
    first = cache_files(tmp_path / "data", tiny_encoder)
    assert cache_files(tmp_path / "data", tiny_encoder) == first
    other_strategy = cache_files(tmp_path / "data", tiny_encoder, "hard")
    assert other_strategy[0] == first[0]  # the embeddings serve every strategy
    assert other_strategy[1] != first[1]
    other_version = cache_files(tmp_path / "data", tiny_encoder, version="99.0")
    assert other_version[0] != first[0]
    assert other_version[1] != first[1]


def test_pickles_without_weights_and_hashes_by_version(tiny_encoder, monkeypatch):
    real_select({"prompt": ["p"], "responses": [["a cat", "the sea"]]}, embedder=tiny_encoder)  # loads the embedder
    for transform in (real_select, embed_responses):
        pickled = pickle.dumps(transform)
        assert len(pickled) < 500
        assert pickle.loads(pickled) is transform
    before = Hasher.hash(real_select)
    assert before == Hasher.hash(real_select)
    monkeypatch.setattr(transforms, "code_version", lambda: "99.0")
    assert before != Hasher.hash(real_select)
    assert trl_real.__version__ != "99.0"


def test_looks_like_the_function_it_wraps():
    assert real_select.__name__ == "real_select"
    assert "worth a label" in real_select.__doc__
    assert repr(real_select) == "<transform trl_real.selection.select.real_select>"


@pytest.mark.parametrize("kind", [None, "numpy", "torch", "arrow", "pandas"])
def test_nested_columns_and_wrapped_transforms_in_every_format(kind):
    messages = [[{"role": "assistant", "content": text}] for text in "xy"]
    rows = [{"prompt": "q", "responses": messages, "spans": [[0], [1, 2]], "other": 1}] * 2
    data = Dataset.from_list([*rows, {**rows[0], "responses": []}])
    expected = data.map(real_select, batched=True, fn_kwargs={"strategy": "random"}, remove_columns=["other"])
    for dataset in (data, data.to_iterable_dataset()):
        found = dataset.with_format(kind).map(
            lambda batch: real_select(batch, strategy="random"), batched=True, remove_columns=["other"]
        )
        found = list(found.with_format(None))
        assert all(np.isnan(row.pop("similarity")) for row in found)  # nothing was embedded
        assert found == expected.remove_columns("similarity").to_list()


@pytest.mark.parametrize("tools", [False, True])
def test_a_table_has_the_same_types_whatever_it_holds(tools, embedder):
    message = {"role": Value("string"), "content": Value("string"), **({"tool_calls": List(Json())} if tools else {})}
    features = Features(prompt=List(message), responses=List(List(message)), scores=List(Value("float64")))

    def turn(role, text, **calls):
        return [{"role": role, "content": text, **(calls if tools else {})}]

    sides = [turn("assistant", "a", tool_calls=[{"name": "f", "n": 1}]), turn("assistant", "b", tool_calls=[])]
    whole = {"prompt": turn("user", "p", tool_calls=None), "responses": sides, "scores": [1.0, 2.0]}
    schemas = []
    for row in (whole, {**whole, "responses": [], "scores": []}, {**whole, "responses": sides[:1], "scores": [None]}):
        table = Dataset.from_list([row], features=features).with_format("arrow")[:]
        embedded = embed_responses(table, embedder=embedder)
        assert embedded.schema.field("embeddings").type == pa.list_(pa.list_(pa.float32()))
        kept = real_select(embedded, on_skip="keep")
        assert real_select(embedded).schema == kept.drop_columns("skip_reason").schema
        schemas.append(kept.schema)
        # What `datasets` knows of the types comes along.
        found = Features.from_arrow_schema(kept.schema)
        assert found["chosen"] == found["prompt"] == features["prompt"]
    assert schemas[0] == schemas[1] == schemas[2]
