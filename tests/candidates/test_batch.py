import re

import pytest
from datasets import Dataset, IterableDataset

from trl_real import real_select, to_candidates
from trl_real.candidates.batch import read_rows


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ({"instruction": ["p"], "completions": [["a", "b"]]}, ValueError,
         "test expects the columns `prompt` and `responses` (and `scores`, if there are any), or `chosen` and `rejected` "
         "(and `prompt`). Found: ['completions', 'instruction']. `to_candidates(dataset)` makes them from the layouts it knows."),
        ({"responses": [["a", "b"]]}, ValueError, "Found: ['responses']"),
        ({"prompt": [3], "responses": [["a", "b"]]}, TypeError,
         "Column `prompt`, row 0 of the batch: expected str or a list of messages, found int (3)."),
        ({"prompt": ["p", "q"], "responses": [["a", "b"], "ab"]}, TypeError,
         "Column `responses`, row 1 of the batch: expected a list with one item per response, found str ('ab')."),
        ({"prompt": ["p"], "responses": [["a", 3]]}, TypeError,
         "Column `responses`, row 0 of the batch: expected a response as str or as a list of messages [{'role': ..., "
         "'content': ...}], found int (3)."),
        ({"prompt": ["p"], "responses": [["a", {"role": "assistant", "content": "b"}]]}, TypeError, "found dict"),
        ({"prompt": ["p"], "responses": [["a", "b"]], "scores": [[1, 2, 3]]}, ValueError,
         "Column `scores`, row 0 of the batch: found 3 scores for 2 responses. Pass one score per response, with None for "
         "missing scores."),
        ({"prompt": ["p"], "responses": [["a", "b"]], "scores": [["1", 2]]}, TypeError,
         "Column `scores`, row 0 of the batch: expected numbers or None, found str ('1'). If it represents a "
         "number, cast the column: `dataset.cast_column('scores', List(Value('float64')))`."),
        ({"chosen": ["a"], "rejected": ["b"], "score_chosen": ["high"], "score_rejected": [1]}, TypeError,
         "Column `score_chosen`, row 0 of the batch: expected numbers or None, found str ('high'). If it represents a number, "
         "cast the column: `dataset.cast_column('score_chosen', Value('float64'))`."),
        ({"prompt": ["p"], "responses": [["a", "b"]], "scores": [0.5]}, TypeError, "found float (0.5)"),
        ({"prompt": ["p"], "chosen": ["a"], "rejected": [4]}, TypeError, "Column `rejected`, row 0 of the batch"),
        ({"prompt": "p", "responses": ["a", "b"]}, ValueError,
         "test takes a batch, got a single row. Call `dataset.map(test, batched=True)`."),
        ({"prompt": ["p", "q"], "responses": [["a", "b"]]}, ValueError,
         "The columns of a batch must have the same length, found {'prompt': 2, 'responses': 1}."),
        ([{"prompt": "p"}], TypeError, "test takes a batch as a dict of columns or a table, got list."),
        *(({"prompt": ["p"], "responses": [[[{"role": "assistant", "content": content}], "b"]]}, TypeError,
           "Column `responses`, row 0 of the batch: expected a response as str or as a list of messages")
          for content in (5, {"a": 1}, ["s"], [{"type": "text", "text": 3}])),
        ({"chosen": [3], "rejected": ["a"]}, TypeError, "Column `chosen`, row 0 of the batch"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(batch, error, message):
    with pytest.raises(error, match=re.escape(message)):
        read_rows(batch, "test")


def test_a_map_that_is_not_batched():
    data = Dataset.from_list([{"prompt": "p", "responses": ["a", "b"]}])
    for dataset in (data, data.to_iterable_dataset()):
        with pytest.raises(ValueError, match=re.escape("Call `dataset.map(real_select, batched=True)`.")):
            list(dataset.map(real_select))


@pytest.mark.parametrize(
    "name", ["input", "messages", "context", "text", "problem", "question", "instruction", "task"]
)
@pytest.mark.parametrize("sides", [("The sky is blue.", "The sky is red."), ("Blue.", "Red.")])
def test_a_prompt_that_is_not_found_says_how_to_name_it(name, sides):
    row = {name: "What colour?", "chosen": sides[0], "rejected": sides[1]}
    data = Dataset.from_list([row])
    message = re.escape(f"the column `{name}` may hold it. Name it: `prompt_column={name!r}` of `to_candidates`")
    with pytest.raises(ValueError, match=message):
        real_select({column: [value] for column, value in row.items()}, strategy="random")
    known = name in ("question", "instruction")
    for dataset in (data, data.to_iterable_dataset(), IterableDataset.from_generator(lambda: iter([row]))):
        options = {} if known else {"prompt_column": name}
        (pair,) = to_candidates(dataset, **options)
        assert pair == {"prompt": "What colour?", "chosen": sides[0], "rejected": sides[1]}
        if not known:
            with pytest.raises(ValueError, match=message):
                list(to_candidates(dataset))


def test_words_that_both_sides_begin_with_may_be_no_prompt(caplog):
    row = {"ask": "What colour?", "chosen": "The sky is blue.", "rejected": "The sky is red."}
    for dataset in (Dataset.from_list([row]), Dataset.from_list([row]).to_iterable_dataset()):
        caplog.clear()
        assert next(iter(to_candidates(dataset)))["prompt"] == "The sky is"
        assert (
            "it is read as what both sides begin with, such as 'The sky is'. If one of the columns ['ask']"
            in caplog.text
        )
        assert next(iter(to_candidates(dataset, prompt_column="ask")))["prompt"] == "What colour?"


def test_messages_without_a_prompt_of_their_own():
    user, blue, red = (
        {"role": r, "content": c} for r, c in (("user", "What?"), ("assistant", "b"), ("assistant", "r"))
    )
    row = {"messages": [user], "chosen": [blue], "rejected": [red]}
    with pytest.raises(ValueError, match="the column `messages` may hold it"):
        to_candidates(Dataset.from_list([row]))
    assert to_candidates(Dataset.from_list([row]), prompt_column="messages")[0]["prompt"] == [user]
    # Beside whole conversations it is one more copy of them.
    row = {"messages": [user, blue], "chosen": [user, blue], "rejected": [user, red]}
    assert to_candidates(Dataset.from_list([row]))[0]["prompt"] == [user]


def test_pairs_that_begin_differently_have_no_prompt():
    rows = [
        {"chosen": "Blue.", "rejected": "Red.", "id": 1},
        {"chosen": "The sky is", "rejected": "The sea is", "id": 2},
    ]
    for data in (Dataset.from_list(rows[:1]), Dataset.from_list(rows[:1]).to_iterable_dataset()):
        with pytest.raises(
            ValueError, match=r"No prompt is found: .* Name it: `prompt_column='task'` of `to_candidates`"
        ):
            to_candidates(data)
    kept = to_candidates(Dataset.from_list(rows), on_skip="keep")
    assert kept["skip_reason"][:] == ["no_shared_words", None]
    assert kept["prompt"][:] == [None, "The"]


SAID = {"user": {"role": "user", "content": "Is tea a drink?"}, "s": {"role": "system", "content": "Be brief."}}
ANSWERS = [[{"role": "assistant", "content": text}] for text in ("Yes.", "No.")]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["messages", "system", "text and messages", "text", "dialogue"])
@pytest.mark.parametrize("candidates", [False, True])
def test_a_repeated_prompt_comes_once_at_every_entrance(form, candidates, streaming):
    text = SAID["user"]["content"]
    prompt, before, texts = {
        "messages": ([SAID["user"]], [SAID["user"]], False),
        "system": ([SAID["user"]], [SAID["s"], SAID["user"]], False),
        "text and messages": (text, [SAID["user"]], False),
        "text": (text, f"{text} ", True),
        "dialogue": (f"\n\nHuman: {text}\n\nAssistant:", f"\n\nHuman: {text}\n\nAssistant: ", True),
    }[form]
    whole = [before + (answer[0]["content"] if texts else answer) for answer in ANSWERS]
    row = {
        "prompt": prompt,
        **({"responses": whole, "scores": [1, 0]} if candidates else dict(zip(SIDES, whole, strict=True))),
    }
    data = Dataset.from_list([row])
    data = data.to_iterable_dataset() if streaming else data
    found = [next(iter(data.map(real_select, batched=True, fn_kwargs={"strategy": "random"})))]
    found.append(next(iter(to_candidates(data).map(real_select, batched=True, fn_kwargs={"strategy": "random"}))))
    if not candidates:
        found.append(next(iter(to_candidates(data))))
    for pair in found:
        sides = [pair[side] if texts else pair[side][-1]["content"] for side in SIDES]
        assert [side.strip() for side in sides] == ["Yes.", "No."]
        assert texts or all(len(pair[side]) == 1 for side in SIDES)
        assert pair["prompt"] == (prompt if texts else before)


SIDES = ("chosen", "rejected")
