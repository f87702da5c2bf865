import re

import pytest
from datasets import Dataset

from trl_real import real_select
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
         "Column `scores`, row 0 of the batch: expected numbers or None, found str ('1')."),
        ({"prompt": ["p"], "responses": [["a", "b"]], "scores": [[True, 2]]}, TypeError, "found bool (True)"),
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
