import math
import unicodedata
from collections import defaultdict

import numpy as np
import PIL.Image
import pytest
from datasets import Dataset, Features, Image, IterableDataset, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_real.candidates.grouping import COUNTS, group_rows


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": st.sampled_from(["p", "q", "p ", None]),
            "tools": st.sampled_from([None, "t"]),
            "responses": st.lists(st.sampled_from(["a", " a", "e\u0301", "\u00e9", "", None, "b"]), max_size=3),
        }
    ),
    min_size=1,
    max_size=12,
)
FEATURES = Features(
    {
        "prompt": Value("string"),
        "tools": Value("string"),
        "responses": List(Value("string")),
        "id": Value("int64"),
        "scores": List(Value("float64")),
    }
)


def oracle(rows, wins):
    """Groups by a dictionary of rows, in the order in which the prompts first occur."""
    groups = defaultdict(list)
    for n, row in enumerate(rows):
        groups[n if row["prompt"] is None else (row["prompt"], row["tools"])].append(row)
    out = []
    for members in groups.values():
        scores, texts, counts = {}, {}, dict.fromkeys(COUNTS, 0)
        for row in members:
            for response, score in zip(row["responses"], row["scores"], strict=True):
                key = unicodedata.normalize("NFC", (response or "").strip())
                if key:
                    texts.setdefault(key, []).append(response)
                    scores.setdefault(key, []).append(score)
                else:
                    counts["_empty_responses"] += 1
        merged = []
        for found in scores.values():
            counts["_equal_responses"] += len(found) - 1
            known = [score for score in found if score is not None]
            if wins:
                merged.append(sum(found))
            else:
                merged.append(math.fsum(known) / len(known) if known else None)
                counts["_averaged_scores"] += len(set(known)) > 1
        out.append(
            {
                "prompt": members[0]["prompt"],
                "tools": members[0]["tools"],
                "responses": [min(found) for found in texts.values()],
                "scores": merged,
                "id": [row["id"] for row in members],
                **counts,
            }
        )
    return out


@given(rows=ROWS, wins=st.booleans(), data=st.data())
@settings(max_examples=60)
def test_rows_of_a_prompt_are_grouped_wherever_they_lie(rows, wins, data):
    values = [0.0, 1.0, 2.0] if wins else [None, 0.0, 1.0, 2.0]
    for n, row in enumerate(rows):
        row["id"] = n
        row["scores"] = [data.draw(st.sampled_from(values)) for _ in row["responses"]]
    expected = oracle(rows, wins)
    dataset = Dataset.from_list(rows, features=FEATURES)
    assert group_rows(dataset, ("prompt", "tools"), wins).to_list() == expected
    # A stream has the same groups where their rows are adjacent.
    adjacent = [row for group in expected for n in group["id"] for row in rows if row["id"] == n]
    key = ("prompt", "tools")
    for stream in (
        Dataset.from_list(adjacent, features=FEATURES).to_iterable_dataset(),
        IterableDataset.from_generator(lambda: iter(adjacent)),
    ):
        assert list(group_rows(stream, key, wins)) == oracle(adjacent, wins)


def test_messages_and_nested_columns(rng):
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    call = [{"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}]
    said = [{"role": "assistant", "content": "Hello.", "tool_calls": None}]
    rows = [
        {"prompt": prompt, "responses": [call, said], "extra": {"n": [1, None]}},
        {"prompt": [{"role": "user", "content": "u"}], "responses": [said], "extra": {"n": []}},
        {"prompt": prompt, "responses": [said], "extra": {"n": None}},
    ]
    grouped = group_rows(Dataset.from_list(rows), ("prompt",), wins=False)
    assert grouped[0]["prompt"] == prompt
    assert grouped[0]["responses"] == [call, said]
    assert grouped["extra"][:] == [[{"n": [1, None]}, {"n": None}], [{"n": []}]]


def test_rows_that_were_selected_or_shuffled_before():
    rows = [{"prompt": f"p{i % 3}", "responses": [f"r{i}"]} for i in range(12)]
    dataset = Dataset.from_list(rows).shuffle(seed=0).select(range(9))
    grouped = group_rows(dataset, ("prompt",), wins=False)
    found = {row["prompt"]: row["responses"] for row in grouped}
    for prompt in found:
        assert found[prompt] == [row["responses"][0] for row in dataset if row["prompt"] == prompt]


def test_groups_across_batches():
    n = 2500  # prompts, more than two batches
    order = np.random.default_rng(0).permutation(3 * n)
    rows = [{"prompt": f"p{i % n}", "responses": [f"r{i}"]} for i in order]
    grouped = group_rows(Dataset.from_list(rows), ("prompt",), wins=False)
    assert len(grouped) == n
    for row in grouped:
        i = int(row["prompt"][1:])
        assert sorted(row["responses"]) == sorted(f"r{j}" for j in (i, i + n, i + 2 * n))


def test_no_rows():
    empty = Dataset.from_dict({"prompt": [], "responses": []})
    assert len(group_rows(empty, ("prompt",), wins=False)) == 0


def test_another_key_is_another_cache(tmp_path):
    rows = [{"prompt": "p", "tools": tool, "responses": [tool]} for tool in "ab"]
    Dataset.from_list(rows).save_to_disk(tmp_path)
    dataset = Dataset.load_from_disk(tmp_path)
    assert len(group_rows(dataset, ("prompt",), wins=False)) == 1
    again = group_rows(dataset, ("prompt", "tools"), wins=False)
    assert len(again) == 2
    assert again.cache_files == group_rows(dataset, ("prompt", "tools"), wins=False).cache_files
    assert again.cache_files != group_rows(dataset, ("prompt", "tools"), wins=True).cache_files


@pytest.mark.parametrize("streaming", [False, True])
def test_a_row_with_a_skip_reason_stays_alone(streaming):
    rows = [{"prompt": "p", "responses": ["a"], "skip_reason": reason} for reason in (None, "missing_response", None)]
    dataset = Dataset.from_list(rows[::2] + rows[1:2])
    dataset = dataset.to_iterable_dataset() if streaming else dataset
    grouped = list(group_rows(dataset, ("prompt",), wins=False))
    assert [row["skip_reason"] for row in grouped] == [None, "missing_response"]


def test_workers_of_a_data_loader_lose_no_row():
    from torch.utils.data import DataLoader

    rows = [{"prompt": f"p{i // 3}", "responses": [f"r{i}"]} for i in range(60)]
    stream = group_rows(Dataset.from_list(rows).to_iterable_dataset(num_shards=4), ("prompt",), wins=False)
    found = list(DataLoader(stream, batch_size=None, num_workers=2))
    assert sorted(response for row in found for response in row["responses"]) == sorted(f"r{i}" for i in range(60))
    assert len(found) == 20


def test_rows_with_equal_images_are_those_of_one_prompt():
    shades = ["red", "blue", "red", "red"]
    rows = {
        "prompt": ["p"] * 4,
        "responses": [[text] for text in "abcd"],
        "image": [PIL.Image.new("RGB", (4, 4), shade) for shade in shades],
    }
    dataset = Dataset.from_dict(rows).cast_column("image", Image())
    expected = [["a", "c", "d"], ["b"]]
    assert group_rows(dataset, ("prompt", "image"), wins=False)["responses"][:] == expected
    stream = dataset.select([0, 2, 3, 1]).to_iterable_dataset()
    assert [row["responses"] for row in group_rows(stream, ("prompt", "image"), wins=False)] == expected
    # In a message, as bytes, and as an array.
    for image in (b"red", np.zeros((2, 2))):
        other = image + b"!" if isinstance(image, bytes) else image + 1
        rows = [{"prompt": [{"role": "user", "content": [{"image": i}]}], "responses": [t]} for i, t in
                ((image, "a"), (other, "b"), (image, "c"))]  # fmt: skip
        ordered = IterableDataset.from_generator(lambda rows=rows: iter([rows[0], rows[2], rows[1]]))
        found = [row["responses"] for row in group_rows(ordered, ("prompt",), wins=False)]
        assert found == [["a", "c"], ["b"]]
