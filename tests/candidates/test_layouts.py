import re

import pyarrow as pa
import pytest
from datasets import Dataset, IterableDataset

from trl_real.candidates.layouts import LAYOUTS, find_layout
from trl_real.core.columns import column_blocks


DIALOGUE = "\n\nHuman: Hi\n\nAssistant: Hello."
TURN = [{"role": "assistant", "content": "a"}]
SHP = {"history": "p", "human_ref_A": "a", "human_ref_B": "b", "score_A": 1, "score_B": 2, "labels": 0}


@pytest.mark.parametrize("streaming", ["no", "yes", "without features"])
@pytest.mark.parametrize(
    ("row", "layout", "columns"),
    [
        ({"prompt": "p", "responses": ["a", "b"]}, "candidates", {"prompt": "prompt", "responses": "responses"}),
        ({"prompt": "p", "completions": ["a"], "scores": [1.0]}, "candidates",
         {"prompt": "prompt", "responses": "completions", "scores": "scores"}),
        ({"question": "p", "answers": [{"text": "a", "score": 3}]}, "candidates",
         {"prompt": "question", "responses": "answers"}),
        ({"prompt": "p", "responses": ["a"], "completions": ["b"]}, "candidates",  # the usual name wins
         {"prompt": "prompt", "responses": "responses"}),
        ({"instruction": "p", "completions": [{"response": "a"}]}, "ultrafeedback",
         {"prompt": "instruction", "responses": "completions"}),
        ({"prompt": "p", "answers": [{"answer": "a", "rank": 1}]}, "nectar", {"prompt": "prompt", "responses": "answers"}),
        ({"prompt": "p", "answers": ["a"], "ratings": [1]}, "candidates",
         {"prompt": "prompt", "responses": "answers", "scores": "ratings"}),
        ({"prompt": "p", "responses": ["a", "b"], "reward": [1, 2]}, "candidates",
         {"prompt": "prompt", "responses": "responses", "scores": "reward"}),
        ({"prompt": "p", "responses": ["a", "b"], "scores": [1, 2], "score": [3, 4]}, "candidates",
         {"prompt": "prompt", "responses": "responses", "scores": "scores"}),
        ({"prompt": "p", "responses": ["a", "b"], "score": 3}, "candidates",  # of the prompt
         {"prompt": "prompt", "responses": "responses"}),
        ({"prompt": "p", "responses": ["a", "b"], "rating": [3]}, "candidates",
         {"prompt": "prompt", "responses": "responses"}),
        (SHP, "shp", {"prompt": "history"} | {name: name for name in SHP if name != "history"}),
        ({"chosen": DIALOGUE, "rejected": DIALOGUE}, "hh", {"chosen": "chosen", "rejected": "rejected"}),
        ({"chosen": "a", "rejected": "b"}, "preference", {"chosen": "chosen", "rejected": "rejected"}),
        ({"chosen": DIALOGUE, "rejected": DIALOGUE, "prompt": "p"}, "preference",
         {"chosen": "chosen", "rejected": "rejected", "prompt": "prompt"}),
        ({"chosen": TURN, "rejected": TURN}, "preference", {"chosen": "chosen", "rejected": "rejected"}),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "responses": ["a", "b"]}, "preference",
         {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}),
        ({"prompt": "p", "completion": "a", "label": True}, "unpaired",
         {"prompt": "prompt", "responses": "completion", "scores": "label"}),
        ({"prompt": TURN, "completion": TURN, "score": 0.5}, "unpaired",
         {"prompt": "prompt", "responses": "completion", "scores": "score"}),
    ],
)  # fmt: skip
def test_layouts_are_recognized_by_their_columns(row, layout, columns, streaming):
    dataset = Dataset.from_list([row])
    if streaming == "yes":
        dataset = dataset.to_iterable_dataset()
    if streaming == "without features":
        dataset = IterableDataset.from_generator(lambda: iter([row]))
    assert find_layout(dataset) == (layout, columns)
    assert find_layout(dataset, layout) == (layout, columns)


def test_the_first_row_may_be_null():
    rows = [{"chosen": None, "rejected": None}, {"chosen": DIALOGUE, "rejected": DIALOGUE}]
    assert find_layout(Dataset.from_list(rows)).layout == "hh"


def test_named_columns():
    named = {"prompt": "q", "responses": "r", "scores": "s"}
    several = Dataset.from_list([{"q": "p", "r": ["a", "b"], "s": [1.0, 2.0], "prompt": "other"}])
    assert find_layout(several, named=named) == ("candidates", named)
    one = Dataset.from_list([{"q": "p", "r": "a", "s": 1.0}])
    assert find_layout(one, named=named) == ("unpaired", named)
    pair = Dataset.from_list([{"better": "a", "worse": "b", "instruction": "p"}])
    found = find_layout(pair, named={"chosen": "better", "rejected": "worse"})
    assert found == ("preference", {"chosen": "better", "rejected": "worse", "prompt": "instruction"})


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"text": "a"}, {}, "The columns fit no known layout. Found: ['text']. Expected: `prompt`, `completion` "
         "('unpaired'); `prompt`, `responses` ('candidates'); `prompt`, `answers` ('nectar'); `instruction`, `completions` "
        "('ultrafeedback'); `info`, `summaries`, `choice` ('summaries'); `response_a`, `response_b`, `score_a`, `score_b` "
        "('webgpt'); `response_a`, `response_b`, `vote` ('votes'); `response1`, `response2`, `overall_preference` "
        "('helpsteer3'); `input`, `preferred_output`, `non_preferred_output` ('openai'); `history`, `human_ref_A`, `human_ref_B`, `score_A`, `score_B` ('shp'); `chosen`, `rejected` "
        "('preference'); `chosen`, `rejected` ('hh'). If your columns have other names, pass them, for example with "
        "`to_candidates(dataset, prompt_column='question', responses_column='replies', scores_column='votes')` or, for pairs, "
         "`chosen_column='better', rejected_column='worse'`; on the command line with `--prompt_column question` and so on."),
        ({"prompt": "p", "completion": "a"}, {"layout": "shp"}, "Expected: `history`, `human_ref_A`"),
        ({"prompt": "p"}, {"layout": "alpaca"}, f"`layout` must be one of {list(LAYOUTS)}, got 'alpaca'."),
        ({"instruction": "p", "question": "q", "responses": ["a"]}, {},
         "`prompt` may be any of the columns ['instruction', 'question']. Say which one: `prompt_column='instruction'` in "
         "`to_candidates`, or `--prompt_column instruction` on the command line."),
        ({"prompt": "p", "responses": ["a"], "score": [1], "reward": [2]}, {},
         "`scores` may be any of the columns ['score', 'reward']. Say which one: `scores_column='score'`"),
        ({"prompt": "p", "responses": ["a"]}, {"named": {"scores": "votes"}},
         "`scores_column='votes'` is not a column. Found: ['prompt', 'responses']."),
    ],
)  # fmt: skip
def test_what_is_not_recognized_is_named(row, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        find_layout(Dataset.from_list([row]), **options)


def test_columns_that_fit_with_rows_that_do_not_are_for_the_reader_to_name():
    assert find_layout(Dataset.from_list([{"prompt": "p", "responses": "a"}])).layout == "candidates"


@pytest.mark.parametrize("rows", [range(2500), [7, 3, 2400, 3]])
def test_a_column_in_blocks_is_the_column(rows):
    data = Dataset.from_dict({"a": list(range(2500)), "b": ["x"] * 2500}).with_format("numpy").select(rows)
    assert [value for block in column_blocks(data, "a") for value in block.to_pylist()] == list(rows)


def _invalid(column):
    """Rows as PyArrow's JSON reader makes them, of which the third is not UTF-8."""
    texts = pa.array([b"a", "\u00e9".encode(), b"caf\xe9?", None]).view(pa.string())
    columns = {"prompt": pa.array(["p"] * 4), "responses": pa.array([["a", "b"]] * 4), "note": pa.array([""] * 4)}
    if column == "responses":
        texts = pa.ListArray.from_arrays(pa.array(range(5), pa.int32()), texts)
    if column == "note":
        texts = pa.StructArray.from_arrays([texts], ["text"])
    return Dataset(pa.table(columns | {column: texts}))


@pytest.mark.parametrize("column", ["prompt", "responses", "note"])
def test_text_that_is_not_utf8_is_an_error_and_no_crash(column):
    dataset = _invalid(column)
    message = f"Column `{column}`, row {{}}: found text that is not UTF-8: byte 0xe9 (invalid continuation byte)."
    with pytest.raises(ValueError, match=re.escape(message.format(2))):
        find_layout(dataset)
    with pytest.raises(ValueError, match=re.escape(message.format(0))):
        find_layout(dataset.select([2, 0]))
    assert find_layout(dataset.select([0, 1, 3])).layout == "candidates"
    assert find_layout(dataset.select(range(2))).layout == "candidates"
