import json
import logging
import re
from collections import Counter

import pytest
from conftest import candidate_rows
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_real import apply_labels, real_select, to_label_tasks
from trl_real.labeling.tasks import TASK


def unlabeled(rng, n=12, seed=0, **options):
    rows = [row | {"topic": i} for i, row in enumerate(candidate_rows(rng, n, scores=False))]
    options = {"strategy": "random", "selection_seed": seed, **options}
    return Dataset.from_list(rows).map(real_select, batched=True, remove_columns=["responses"], fn_kwargs=options)


def sides(pairs):
    """The texts of both sides, whichever they are on."""
    return {row["pair_id"]: {row["response_a"], row["response_b"]} for row in pairs}


@pytest.fixture
def pairs(rng):
    return unlabeled(rng)


def test_round_trip_through_a_file(pairs, tmp_path):
    tasks = to_label_tasks(pairs, tmp_path / "tasks.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "tasks.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == tasks.to_list() == pairs.select_columns(list(TASK)).to_list()
    labels = ["a", "b", "tie", None]
    with open(tmp_path / "labels.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line | {"label": labels[i % 4]}) + "\n" for i, line in enumerate(lines))
    labeled = apply_labels(pairs, tmp_path / "labels.jsonl")
    assert labeled.column_names == ["prompt", "topic", "chosen", "rejected", "similarity", "pair_id"]
    expected = [row for i, row in enumerate(pairs) if i % 4 < 2]
    for row, pair in zip(labeled, expected, strict=True):
        right, wrong = ("response_a", "response_b") if pair["topic"] % 4 == 0 else ("response_b", "response_a")
        assert (row["chosen"], row["rejected"], row["topic"]) == (pair[right], pair[wrong], pair["topic"])
    # Labeled again by the same file, or by what else says the same, nothing changes.
    by_id = {line["pair_id"]: labels[i % 4] for i, line in enumerate(lines)}
    for same in (
        by_id,
        [labels[i % 4] for i in range(len(pairs))],
        [{"pair_id": i, "label": x} for i, x in by_id.items()],
    ):
        assert apply_labels(pairs, same).remove_columns("similarity").to_list() == (
            labeled.remove_columns("similarity").to_list()
        )
    again = apply_labels(labeled, tmp_path / "labels.jsonl")
    assert again.remove_columns("similarity").to_list() == labeled.remove_columns("similarity").to_list()


@pytest.mark.parametrize("on_skip", ["drop", "keep"])
def test_messages_survive_the_file(tmp_path, on_skip):
    call = [{"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"x": 0.1 + 0.2}}]}]
    said = [{"role": "assistant", "content": "caf\u00e9 \x00"}]
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    rows = Dataset.from_list([{"prompt": prompt, "responses": [call, said]}])
    pairs = rows.map(real_select, batched=True, remove_columns=["responses"], fn_kwargs={"strategy": "random"})
    to_label_tasks(pairs, tmp_path / "tasks.jsonl")
    lines = (tmp_path / "tasks.jsonl").read_text(encoding="utf-8").splitlines()
    labels = [json.loads(line) | {"label": "b"} for line in lines]
    (row,) = apply_labels(pairs, labels, on_skip=on_skip)
    assert (row["chosen"], row["rejected"]) == (pairs[0]["response_b"], pairs[0]["response_a"])


def test_a_label_is_about_the_responses_it_was_given_to(rng, tmp_path):
    """Of another seed the sides are swapped, and the ids are the same."""
    pairs = unlabeled(rng)
    swapped = pairs.rename_columns({"response_a": "response_b", "response_b": "response_a"})
    labels = [task | {"label": "a"} for task in to_label_tasks(pairs)]
    for rows in (pairs, swapped):
        assert apply_labels(rows, labels)["chosen"][:] == pairs["response_a"][:]
    labels[0]["response_a"] = "something else"
    with pytest.raises(
        ValueError, match=f"The label of the pair '{labels[0]['pair_id']}' refers to responses that are not in"
    ):
        apply_labels(pairs, labels)


@given(votes=st.lists(st.lists(st.sampled_from(["a", "b", "tie", None]), max_size=5), min_size=1, max_size=4))
@settings(max_examples=40)
def test_the_majority_decides(votes):
    rows = [
        {"pair_id": f"{i}", "prompt": "p", "response_a": f"a{i}", "response_b": f"b{i}"} for i in range(len(votes))
    ]
    records = [
        {"pair_id": f"{i}", "label": label, "annotator": n}
        for i, labels in enumerate(votes)
        for n, label in enumerate(labels)
    ]
    records = records or {}  # an empty list would be one label a row
    kept = apply_labels(Dataset.from_list(rows), records, on_skip="keep")
    several = any(len(labels) > 1 for labels in votes)
    for row, labels in zip(kept, votes, strict=True):
        counts = Counter(label for label in labels if label)
        winner = next((label for label, n in counts.items() if 2 * n > counts.total()), None)
        if winner in ("a", "b"):
            other = {"a": "b", "b": "a"}[winner]
            assert (row["chosen"], row["rejected"]) == (row[f"response_{winner}"], row[f"response_{other}"])
            assert row["skip_reason"] is None
            assert not several or row["label_agreement"] == counts[winner] / counts.total()
        else:
            assert (row["chosen"], row["rejected"]) == (None, None)
            assert row["skip_reason"] == ("tied_labels" if counts else "missing_label")
    dropped = apply_labels(Dataset.from_list(rows), records)
    assert dropped["chosen"][:] == [row["chosen"] for row in kept if row["skip_reason"] is None]
    assert apply_labels(kept, records, on_skip="keep").to_list() == kept.to_list()


def test_what_is_left_out_and_agreement_are_reported(pairs, caplog):
    records = [
        {"pair_id": pair, "label": label, "annotator": name}
        for i, pair in enumerate(pairs["pair_id"])
        for name, label in zip("xyz", ["aab", "ab", "aaa"][i % 3], strict=False)
    ]
    with caplog.at_level(logging.WARNING, "trl_real"):
        apply_labels(pairs, records[:-3])
    assert (
        "`apply_labels` left out 5 of 12 pairs: 4 because neither side has more than half of the labels (tied_labels); 1 because "
        "nobody has labeled the pair (missing_label)."
    ) in caplog.messages
    # Four pairs at two thirds, three at one.
    assert (
        f"On average, {100 * (4 * 2 / 3 + 3) / 7:.0f}% of the labels of a pair prefer the chosen side."
        in caplog.messages
    )


def test_nothing_labeled_yet(pairs):
    labeled = apply_labels(pairs, {})
    assert len(labeled) == 0
    assert {"prompt", "chosen", "rejected", "pair_id"} <= set(labeled.column_names)
    assert labeled.features["chosen"] == pairs.features["response_a"]


def test_rows_without_a_pair_are_neither_tasks_nor_labeled(rng):
    rows = Dataset.from_list([{"prompt": "p", "responses": ["x"]}, {"prompt": "q", "responses": ["x", "y"]}])
    kept = rows.map(
        real_select, batched=True, remove_columns=["responses"], fn_kwargs={"strategy": "random", "on_skip": "keep"}
    )
    assert to_label_tasks(kept)["prompt"][:] == ["q"]
    labeled = apply_labels(kept, ["a", "a"])
    assert labeled["prompt"][:] == ["q"]
    assert apply_labels(kept, ["a", "a"], on_skip="keep")["skip_reason"][:] == ["too_few_responses", None]


def test_each_pair_is_one_task(pairs):
    doubled = DatasetDict(train=pairs, test=pairs.select([3, 1]))
    assert to_label_tasks(doubled).to_list() == to_label_tasks(pairs).to_list()


def test_a_dict_of_splits_shares_its_labels(pairs):
    splits = DatasetDict(train=pairs.select(range(8)), test=pairs.select(range(8, 12)))
    labeled = apply_labels(splits, dict.fromkeys(pairs["pair_id"], "b"))
    assert isinstance(labeled, DatasetDict)
    assert labeled["test"]["chosen"][:] == pairs["response_b"][8:]


PAIR = {"pair_id": "x", "prompt": "p", "response_a": "a", "response_b": "b"}


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ({"y": "a", "z": "b"}, ValueError, "`labels` has 2 `pair_id`s that no pair has: 'y', 'z'."),
        (
            [{"pair_id": "x", "label": "a"}] * 3,
            ValueError,
            "`labels` has 1 `pair_id`s more than once: 'x'. If several people labeled",
        ),
        ({"x": "A"}, ValueError, "The label of the pair 'x' must be 'a', 'b', 'tie' or None, found str ('A')."),
        (["left"], ValueError, "The label of row 0 must be 'a', 'b', 'tie' or None, found str ('left')."),
        ([1], ValueError, "The label of row 0 must be"),
        (["a", "b"], ValueError, "`labels` is a list of 2 for 1 pairs."),
        ([{"label": "a"}], ValueError, "Label 1 of `labels`: expected a `pair_id`, found NoneType (None)."),
        ([{"pair_id": "x", "Label": "a"}], ValueError, "None of the 1 records of `labels` has a `label`."),
        (3, TypeError, "`labels` must be a path, a dataset or its id on the Hub, a dict or a list, got int (3)."),
    ],
)
def test_wrong_labels_are_named(labels, error, message):
    with pytest.raises(error, match=re.escape(message)):
        apply_labels(Dataset.from_list([PAIR]), labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"pair_id": "x", "label": "a"}\n{"pair}', r"labels\.jsonl, line 2: expected JSON, found '\{\"pair\}'"),
        (b"[1]\n", r"labels\.jsonl, line 1: expected an object with `pair_id` and `label`, found list"),
        (b'{"pair_id": "\xff"}\n', r"labels\.jsonl is not UTF-8"),
    ],
)
def test_wrong_files_are_named(tmp_path, content, message):
    (tmp_path / "labels.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        apply_labels(Dataset.from_list([PAIR]), str(tmp_path / "labels.jsonl"))


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path):
    (tmp_path / "labels.jsonl").write_text('\ufeff{"pair_id": "x", "label": "b"}\n\n', encoding="utf-8")
    assert apply_labels(Dataset.from_list([PAIR]), str(tmp_path / "labels.jsonl"))["chosen"][:] == ["b"]


def test_wrong_datasets_are_named():
    with pytest.raises(TypeError, match=r"got IterableDataset\. Convert a stream with"):
        apply_labels(Dataset.from_list([PAIR]).to_iterable_dataset(), {})
    for function in (to_label_tasks, lambda rows: apply_labels(rows, {})):
        with pytest.raises(ValueError, match=re.escape("['pair_id', 'response_a', 'response_b'] are missing")):
            function(Dataset.from_list([{"prompt": "p", "responses": ["a", "b"]}]))
    with pytest.raises(ValueError, match=r"1 pairs have no preferred side\. The first is 'x': nobody has labeled"):
        apply_labels(Dataset.from_list([PAIR]), [None], on_skip="error")
    with pytest.raises(ValueError, match=r"labeled already, and `labels` has no decision about 1 of them: 'x'"):
        apply_labels(apply_labels(Dataset.from_list([PAIR]), {"x": "a"}), {})


LABELS = st.one_of(
    st.sampled_from(["a", "b", "tie", None, "x", "A"]), st.integers(), st.floats(), st.lists(st.none(), max_size=1)
)
RECORDS = st.dictionaries(st.sampled_from(["pair_id", "label", "annotator", "response_a", "response_b"]),
                          st.one_of(LABELS, st.sampled_from(["0", "1", "\ud800", "\x00"])))  # fmt: skip


@given(
    labels=st.one_of(
        st.lists(LABELS, max_size=3),
        st.dictionaries(st.sampled_from(["0", "1", "2", 3, None]), LABELS, max_size=3),
        st.lists(RECORDS, max_size=3),
        LABELS,
    ),
    on_skip=st.sampled_from(["drop", "keep"]),
)
@settings(max_examples=150)
def test_any_labels_are_applied_or_one_error(labels, on_skip):
    rows = [PAIR | {"pair_id": f"{i}", "response_b": None if i else "b"} for i in range(2)]
    message = "`labels`"
    try:
        for row in apply_labels(Dataset.from_list(rows), labels, on_skip=on_skip):
            assert row.get("skip_reason") or (row["chosen"], row["rejected"]) in [("a", "b"), ("b", "a")]
    except (TypeError, ValueError, FileNotFoundError) as error:
        message = str(error)
    assert re.search(r"`labels`|[Tt]he label of|No such file", message), message


def test_a_pair_that_occurs_twice_gets_one_label():
    swapped = PAIR | {"response_a": "b", "response_b": "a"}
    labeled = apply_labels(Dataset.from_list([PAIR, swapped]), {"x": "a"})  # of the first, which annotators see
    assert labeled["chosen"][:] == ["a", "a"]


def test_vectors_of_the_sides_follow_them():
    rows = [PAIR | {"pair_id": f"{i}", "embeddings": [[1.0, i], [2.0, i]]} for i in range(2)]
    labeled = apply_labels(Dataset.from_list(rows), {"0": "a", "1": "b"})
    assert labeled["embeddings"][:] == [[[1.0, 0.0], [2.0, 0.0]], [[2.0, 1.0], [1.0, 1.0]]]
    # Those of `responses` stay as these do.
    of_responses = Dataset.from_list([row | {"responses": ["a", "b"]} for row in rows])
    assert apply_labels(of_responses, {"0": "b", "1": "b"})["embeddings"][:] == [row["embeddings"] for row in rows]
