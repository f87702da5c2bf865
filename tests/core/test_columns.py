import numpy as np
import pyarrow as pa
import pytest
from conftest import candidate_rows
from datasets import Dataset, concatenate_datasets
from hypothesis import given
from hypothesis import strategies as st

from trl_real import SelectionConfig, embed_responses, real_select, select_preferences
from trl_real.core import columns
from trl_real.core.columns import one_array, rows_at_once


TEXTS = ["a", "bc", "", None, "é" * 9]


@pytest.mark.parametrize(
    ("values", "large"),
    [
        (TEXTS, pa.large_string()),
        ([TEXTS, None, []], pa.list_(pa.large_string())),
        ([[{"role": "user", "content": text, "n": 1}] for text in TEXTS], None),
        ([1, 2, None], pa.int64()),
    ],
)
def test_chunks_of_more_than_two_gigabytes_become_one_array(values, large, monkeypatch):
    column = pa.chunked_array([pa.array(values), pa.array(values)])
    assert one_array(column).type == column.type
    monkeypatch.setattr(columns, "MAX_BYTES", 1)
    found = one_array(column)
    assert found.to_pylist() == values * 2
    assert found.type == large or (large is None and "large_string" in str(found.type))


def of_rows(sizes):
    """A dataset whose rows have about so many bytes."""
    rows = [{"messages": [{"content": "x" * size}], "text": "y" * size, "texts": ["z" * size, None]} for size in sizes]
    return Dataset.from_list([*rows, {"messages": None, "text": None, "texts": None}])


@given(st.lists(st.integers(0, 400), max_size=30), st.integers(1, 40), st.randoms())
def test_rows_that_are_read_at_once_have_a_bounded_size(sizes, most, random):
    dataset = of_rows(sizes)
    order = list(range(len(dataset)))
    random.shuffle(order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "BATCH_BYTES", 1000)
        for rows, of_row in ((dataset, [3 * size for size in (*sizes, 0)]), (dataset.select(order), None)):
            of_row = [3 * size for size in np.array([*sizes, 0])[order]] if of_row is None else of_row
            at_once = rows_at_once(rows, most)
            batches = [of_row[start : start + at_once] for start in range(0, len(of_row), at_once)]
            assert all(sum(batch) <= 1000 or len(batch) == 1 for batch in batches)
            if sum(of_row) <= 1000:
                assert at_once == most


def test_embeddings_count_by_their_numbers(monkeypatch):
    dataset = Dataset.from_dict({"embeddings": [[[0.0] * 100] * 3] * 8})
    monkeypatch.setattr(columns, "BATCH_BYTES", 2 * 8 * 300)
    assert rows_at_once(dataset, 1000) in (1, 2)


def test_picks_of_long_texts_are_those_of_short_ones(rng, embedder, monkeypatch):
    rows = candidate_rows(rng, 12)
    candidates = concatenate_datasets([Dataset.from_list(rows[:5]), Dataset.from_list(rows[5:])])
    options = {"embedder": embedder}

    def pairs():
        return candidates.map(real_select, batched=True, fn_kwargs=options, remove_columns=["responses", "scores"])[:]

    def embeddings():
        return candidates.map(embed_responses, batched=True, fn_kwargs=options)[:]

    expected, embedded = pairs(), embeddings()
    monkeypatch.setattr(columns, "MAX_BYTES", 1)
    assert (pairs(), embeddings()) == (expected, embedded)


def test_the_flow_reads_long_texts_in_smaller_batches(rng, embedder, monkeypatch):
    candidates = Dataset.from_list(candidate_rows(rng, 40))
    expected, report = select_preferences(candidates, SelectionConfig(embedder=embedder))
    assert len(embedder.calls) == 1
    embedder.calls.clear()
    monkeypatch.setattr(columns, "BATCH_BYTES", 2000)
    found, again = select_preferences(candidates, SelectionConfig(embedder=embedder))
    assert found.to_list() == expected.to_list()
    assert again == report
    assert len(embedder.calls) >= 4


def test_no_rows_are_read_at_once():
    assert rows_at_once(of_rows([1]).select([]), 7) == 7
