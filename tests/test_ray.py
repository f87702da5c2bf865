import os
import pickle
import re
import runpy
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import candidate_rows
from datasets import Dataset, Features, load_dataset
from local_hub import ALICE

from trl_real import (
    SelectionConfig,
    embed_responses,
    push_selected_dataset,
    real_select,
    select_budget,
    select_preferences,
)


ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

from trl_real.ray import EmbedResponses, RealSelect, selection_report  # noqa: E402


EXAMPLE = Path(__file__).parent.parent / "examples" / "ray_select.py"
USED = ["responses", "scores", "embeddings"]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import it
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def actors(size=1, **options):
    # Less than a CPU each, for reading and writing want one as well.
    return {
        "batch_format": "pyarrow",
        "batch_size": 20,
        "compute": ray.data.ActorPoolStrategy(size=size),
        "num_cpus": 0.5,
        "fn_constructor_kwargs": options,
    }


def blocks(dataset, size=10):
    return ray.data.from_arrow(list(dataset.with_format("arrow").iter(size)))


def table(ray_dataset):
    """The rows in their order, which Ray does not keep."""
    return pa.concat_tables(ray.get(ray_dataset.to_arrow_refs())).sort_by("n")


def numbered(rows):
    return Dataset.from_list([{**row, "n": n} for n, row in enumerate(rows)])


def mixed(rng, **options):
    """Rows of which the first block has no pair at all, and with some twice."""
    rows = candidate_rows(rng, 40, dim=4, **options)
    for row in rows[:10]:
        row["responses"] = row["responses"][:1]
        row["embeddings"] = row["embeddings"][:1]
        if "scores" in row:
            row["scores"] = row["scores"][:1]
    rows += rows[15:30]
    return numbered(rows)


def as_messages(row):
    return {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "responses": [[{"role": "assistant", "content": text}] for text in row["responses"]],
    }


def same(found, expected):
    """Whether a table holds what a dataset does, by rows, columns and types; NaN equals itself."""
    assert Features.from_arrow_schema(found.schema) == expected.features
    assert str(found.to_pylist()) == str(expected.to_list())


@pytest.mark.parametrize(
    ("strategy", "scores", "messages", "on_skip"),
    [
        ("easy", True, False, "keep"),
        ("hard", False, True, "keep"),
        ("centroid", True, True, "drop"),
        ("random", False, False, "drop"),
    ],
)
def test_picks_what_datasets_picks(strategy, scores, messages, on_skip, rng):
    data = mixed(rng, scores=scores)
    if messages:
        data = data.map(as_messages)
    options = {"strategy": strategy, "on_skip": on_skip, "pairs_per_prompt": 2}
    expected = data.map(real_select, batched=True, fn_kwargs=options)
    pairs = blocks(data).map_batches(RealSelect, **actors(size=2, **options))
    same(table(pairs), expected)


def test_from_parquet_to_parquet_with_empty_blocks(rng, tmp_path):
    data = mixed(rng)
    for i in range(3):
        data.shard(3, i, contiguous=True).to_parquet(tmp_path / "in" / f"{i}.parquet")
    data.select([]).to_parquet(tmp_path / "in" / "3.parquet")
    rows = ray.data.read_parquet(str(tmp_path / "in")).repartition(target_num_rows_per_block=10)
    rows = rows.filter(expr=ray.data.expressions.col("n") >= 30)
    pairs = rows.map_batches(RealSelect, **actors()).drop_columns(USED)
    pairs.write_parquet(str(tmp_path / "out"))
    found = Dataset.from_parquet(str(tmp_path / "out" / "*.parquet"))
    expected = data.select(range(30, len(data))).map(real_select, batched=True, remove_columns=USED)
    same(found.sort("n").with_format("arrow")[:], expected)


class Watched(EmbedResponses):
    """Says of each batch in which process it was, how often that has loaded an embedder, and its threads."""

    def __call__(self, batch):
        import torch

        from trl_real.embedding.embedder import _load

        out = super().__call__(batch)
        told = {"pid": os.getpid(), "loads": _load.cache_info().misses, "threads": torch.get_num_threads()}
        for name, value in told.items():
            out = out.append_column(name, pa.array([value] * len(out)))
        return out


def test_an_actor_loads_one_embedder_and_has_the_threads_of_its_cpus(rng, tiny_encoder, monkeypatch):
    rows = candidate_rows(rng, 30) + [{"prompt": "none", "responses": [], "scores": []}] * 10
    data = numbered(rows)
    options = actors(embedder=tiny_encoder) | {"num_cpus": 1, "batch_size": 10}
    found = table(blocks(data).map_batches(Watched, **options)).to_pydict()
    assert len(set(found["pid"])) == 1
    assert set(found["loads"]) == {1}
    assert set(found["threads"]) == {1}
    expected = data.map(embed_responses, batched=True, fn_kwargs={"embedder": tiny_encoder})
    assert found["responses_cut"] == expected["responses_cut"][:]
    for vectors, others in zip(found["embeddings"], expected["embeddings"], strict=True):
        np.testing.assert_allclose(vectors, others, atol=1e-2)


@pytest.mark.parametrize(("strategy", "descending"), [("easy", False), ("hard", True)])
def test_a_budget_is_a_sort(strategy, descending, rng):
    pairs = mixed(rng).map(real_select, batched=True, fn_kwargs={"strategy": strategy}, remove_columns=USED)
    ranked = sorted(pairs["similarity"], reverse=descending)
    count = next(n for n in range(1, len(ranked)) if ranked[n - 1] == ranked[n])  # between two that are as similar
    kept = blocks(pairs, 30).sort(["similarity", "n"], descending=[descending, False]).limit(count)
    assert sorted(row["n"] for row in kept.take_all()) == select_budget(pairs, count, strategy)["n"][:]


def test_a_threshold_is_a_filter(rng):
    pairs = mixed(rng).map(real_select, batched=True, remove_columns=USED)
    kept = blocks(pairs).filter(expr=ray.data.expressions.col("similarity") <= 0.1)
    assert sorted(row["n"] for row in kept.take_all()) == select_budget(pairs, None, threshold=0.1)["n"][:]


@pytest.mark.parametrize(
    ("strategy", "scores", "budget", "cut"),
    [("easy", True, None, 2), ("hard", False, 7, None), ("centroid", True, 9, 0)],
)
def test_a_report_is_that_of_select_preferences(strategy, scores, budget, cut, rng):
    data = mixed(rng, scores=scores)
    data = data.add_column("responses_cut", [1] * len(data))
    data = data.add_column("tokens_cut", [cut, *[5] * (len(data) - 1)])
    config = SelectionConfig(strategy=strategy, budget=budget)
    _, expected = select_preferences(data, config)
    candidates = blocks(data)
    pairs = candidates.map_batches(
        RealSelect, **actors(strategy=strategy, on_skip="keep" if budget is None else "drop")
    )
    if budget is not None:
        pairs = pairs.sort(["similarity", "n"], descending=[strategy == "hard", False]).limit(budget)
    assert selection_report(candidates, pairs, config) == expected
    assert expected.skipped
    assert expected.responses_cut == len(data)


def test_a_report_takes_nothing_from_the_first_rows_alone(rng):
    """Rows without a score come first, and each block has dialogues whose prompts differ."""
    data = mixed(rng)
    unscored = [{**row, "scores": [None] * len(row["scores"])} if row["n"] < 30 else row for row in data]
    data = Dataset.from_list(unscored, features=data.features)
    candidates, config = blocks(data), SelectionConfig(strategy="max_min")
    pairs = candidates.map_batches(RealSelect, **actors(strategy="max_min"))
    assert selection_report(candidates, pairs, config) == select_preferences(data, config)[1]
    dialogues = numbered(
        {
            "chosen": f"\n\nHuman: {n}?\n\nAssistant: Yes.\n\nHuman: Sure?\n\nAssistant: Yes.",
            "rejected": f"\n\nHuman: {n}?\n\nAssistant: Yes.\n\nHuman: Really?\n\nAssistant: No.",
        }
        for n in range(25)
    )
    expected = select_preferences(dialogues, SelectionConfig(strategy="random"))[1]
    candidates, config = blocks(dialogues), SelectionConfig(strategy="random")
    pairs = candidates.map_batches(RealSelect, **actors(strategy="random"))
    assert expected.policies == {"differing_prompts": 25}
    assert selection_report(candidates, pairs, config).policies == expected.policies


def test_a_report_embeds_nothing(rng):
    rows = blocks(Dataset.from_list(candidate_rows(rng, 4)))
    with pytest.raises(ValueError, match="`selection_report` needs the column `embeddings`"):
        selection_report(rows, rows)


class LostOnce:
    """An embedder whose process is killed in the middle of the work, the first time."""

    def __init__(self, marker):
        self.marker = marker

    def encode(self, texts):
        if any(text.startswith("killer") for text in texts) and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([np.random.default_rng(zlib.crc32(text.encode())).standard_normal(4) for text in texts])


def test_a_worker_that_is_killed_changes_nothing(rng, tmp_path):
    rows = candidate_rows(rng, 60)
    rows[35]["responses"][0] = "killer"
    data = numbered(rows)
    embedder = LostOnce(tmp_path / "killed")
    found = table(blocks(data).map_batches(RealSelect, **actors(size=2, embedder=embedder)))
    assert embedder.marker.exists()
    same(found, data.map(real_select, batched=True, fn_kwargs={"embedder": embedder}, new_fingerprint="killed"))


@pytest.mark.parametrize(
    ("batch_format", "options", "message"),
    [
        ("numpy", {}, '`real_select` takes Arrow tables here, got dict: pass `batch_format="pyarrow"` to `map_batches`.'),
        ("pyarrow", {"strategy": "best"}, "`strategy` must be one of ['easy', 'hard',"),
    ],
)  # fmt: skip
def test_wrong_use_is_named(batch_format, options, message, rng):
    rows = blocks(Dataset.from_list(candidate_rows(rng, 4)))
    with pytest.raises(Exception, match=re.escape(message)):
        rows.map_batches(RealSelect, **actors(**options) | {"batch_format": batch_format}).materialize()


def test_without_ray_it_says_what_to_install():
    code = "import sys; sys.modules['ray'] = None; import importlib.util as u; import trl_real; import trl_real.ray"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: `trl_real.ray` needs Ray Data: `pip install 'trl-real[ray]'`." in result.stderr


def test_pickles_by_name():
    assert len(pickle.dumps(RealSelect(strategy="hard"))) < 500


def run_example(*flags, cwd):
    command = [sys.executable, str(EXAMPLE), *map(str, flags)]
    env = {**os.environ, "HF_TOKEN": ALICE}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=300)


@pytest.mark.slow
def test_the_example_from_parquet_to_the_hub(rng, tmp_path, hub):
    data = mixed(rng)
    data.to_parquet(tmp_path / "in" / "0.parquet")
    address = ray.get_runtime_context().gcs_address
    flags = (
        "--hub_id",
        "alice/pairs",
        "--budget",
        0.29,
        "--row_id",
        "n",
        "--address",
        address,
        "--cpus_per_actor",
        0.5,
    )
    result = run_example("in", "--output", "pairs", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    pairs = data.map(real_select, batched=True, remove_columns=USED)
    expected = select_budget(pairs, 0.29)
    assert f"{len(expected)} pairs of {len(data)} prompts in {tmp_path / 'pairs'}" in result.stdout
    found = load_dataset("alice/pairs", split="train")
    assert found.features == expected.features
    assert sorted(found["n"]) == expected["n"][:]


@pytest.mark.parametrize("source", ["alice/candidates", "hf://datasets/alice/candidates/data/*.parquet"])
def test_the_example_from_the_hub_to_parquet(source, rng, tmp_path, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", ALICE)
    monkeypatch.chdir(tmp_path)
    data = mixed(rng)
    push_selected_dataset(data, "alice/candidates", license="mit")
    monkeypatch.setattr(ray, "init", lambda address: None)  # it is there
    flags = ["--output", "out", "--strategy", "hard", "--threshold", "0.5", "--cpus_per_actor", "0.5"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), source, *flags])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    pairs = data.map(real_select, batched=True, fn_kwargs={"strategy": "hard"}, remove_columns=USED)
    expected = select_budget(pairs, None, "hard", threshold=0.5)
    found = Dataset.from_parquet("out/*.parquet")
    same(found.sort("n").with_format("arrow")[:], expected)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--strategy", "random", "--budget", "3"], "--budget and --threshold need similarities, which --strategy random does not"),
        (["--budget", "1.0"], "error: `budget"),
    ],
)  # fmt: skip
def test_the_example_names_mistakes_before_it_starts(flags, message, tmp_path):
    result = run_example("in", "--output", "out", *flags, cwd=tmp_path)
    assert result.returncode
    assert message in result.stderr.splitlines()[-1]
