import logging
import os
import re
from pathlib import Path

import pytest
from conftest import read_data
from datasets import Dataset, DatasetDict, IterableDataset, LargeList, List, Value, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from trl_real import SelectionConfig, real_select, select_preferences, to_candidates


def message(role, content, **fields):
    return {"role": role, "content": content, **fields}


def every_kind(rows):
    """The rows as a dataset, as a stream with features, and as a stream without."""
    dataset = Dataset.from_list(rows)
    return dataset, dataset.to_iterable_dataset(), IterableDataset.from_generator(lambda: iter(rows))


def check(rows, expected, **options):
    """`to_candidates` makes `expected` of `rows`, whatever kind of dataset they are."""
    for dataset in every_kind(rows):
        found = [{name: row[name] for name in expected[0]} for row in to_candidates(dataset, **options)]
        assert found == expected


def rated(response, overall=None, fine=None, **ratings):
    annotations = {aspect: {"Rating": rating, "Rationale": "..."} for aspect, rating in ratings.items()}
    return {
        "model": "m",
        "response": response,
        "overall_score": overall,
        "fine-grained_score": fine,
        "annotations": {"helpfulness": None, "honesty": None} | annotations,
    }


def ultrafeedback(*completions):
    return {"source": "s", "instruction": "Why?", "models": ["m"] * len(completions), "completions": list(completions)}


def shp(post, history, a, b, score_a, score_b):
    return {
        "post_id": post,
        "domain": "askx_test",
        "upvote_ratio": 0.9,
        "history": history,
        "human_ref_A": a,
        "human_ref_B": b,
        "labels": int(score_a > score_b),
        "score_A": score_a,
        "score_B": score_b,
    }


def test_candidates():
    texts = {"prompt": "p", "responses": ["a", "b"], "scores": [1.0, None]}
    check([texts], [texts])
    check([{"prompt": "p", "completions": ["a", "b"]}], [{"prompt": "p", "responses": ["a", "b"]}])
    prompt = [message("system", "s"), message("user", "u")]
    answers = [[message("assistant", "a")], [message("assistant", "b")]]
    check([{"prompt": prompt, "responses": answers}], [{"prompt": prompt, "responses": answers}])
    single = [answer[0] for answer in answers]
    check([{"prompt": prompt, "responses": single}], [{"prompt": prompt, "responses": answers}])
    scored = [{"text": "a", "score": 2}, {"text": "b", "score": None}, {"text": "c", "score": 1}]
    check(
        [{"question": "p", "answers": scored}],
        [{"prompt": "p", "responses": ["a", "b", "c"], "scores": [2.0, None, 1.0]}],
    )
    check(
        [{"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]}],
        [{"prompt": "p", "responses": ["a", "b"], "scores": [-1.0, -2.0]}],
    )


def test_what_is_as_it_should_be_is_left_alone():
    rows = Dataset.from_list([{"topic": 1, "prompt": "p", "responses": ["a", None], "scores": [1, 2]}])
    assert to_candidates(rows).to_list() == rows.to_list()
    assert to_candidates(rows).features == rows.features
    pairs = Dataset.from_list([{"prompt": "p", "chosen": "a", "rejected": "b"}])
    assert to_candidates(pairs).to_list() == pairs.to_list()


def test_ultrafeedback():
    check(
        [
            ultrafeedback(rated("a", 7.5, 4.0), rated("b", 8.0, 3.0)),
            # One of them has no overall score: all of a prompt are compared on one scale.
            ultrafeedback(rated("a", 9.5, 2.0), rated("b", None, 3.0)),
            ultrafeedback(rated("a", helpfulness="4", honesty="3"), rated("b", helpfulness="N/A", honesty="5")),
            ultrafeedback(rated("a", helpfulness="", honesty="1_0"), rated("b", helpfulness="2 of 5", honesty="2")),
            ultrafeedback(rated("a", 5.0), rated("b", helpfulness="1"), rated("c", 4.0)),
            ultrafeedback(),
        ],
        [
            {"prompt": "Why?", "responses": ["a", "b"], "scores": [7.5, 8.0], "source": "s", "models": ["m", "m"]},
            {"prompt": "Why?", "responses": ["a", "b"], "scores": [2.0, 3.0], "source": "s", "models": ["m", "m"]},
            {"prompt": "Why?", "responses": ["a", "b"], "scores": [3.5, 5.0], "source": "s", "models": ["m", "m"]},
            {"prompt": "Why?", "responses": ["a", "b"], "scores": [None, 2.0], "source": "s", "models": ["m", "m"]},
            {"prompt": "Why?", "responses": ["a", "b", "c"], "scores": [5.0, None, 4.0], "source": "s", "models": ["m"] * 3},
            {"prompt": "Why?", "responses": [], "scores": [], "source": "s", "models": []},
        ],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "scores"),
    [
        (None, [9.0, 2.0]),
        ("overall_score", [9.0, 2.0]),
        ("fine-grained_score", [1.0, 4.5]),
        ("honesty", [2.0, 5.0]),
        ("annotations", [2.5, 4.0]),
    ],
)
def test_the_score_of_ultrafeedback_is_chosen_by_name(field, scores):
    row = ultrafeedback(
        rated("a", 9.0, 1.0, helpfulness="3", honesty="2"), rated("b", 2.0, 4.5, helpfulness="3", honesty="5")
    )
    options = {} if field is None else {"scores_column": field}
    check([row], [{"prompt": "Why?", "responses": ["a", "b"], "scores": scores}], **options)


def test_a_score_that_is_neither_a_column_nor_a_field_is_named():
    with pytest.raises(ValueError, match="`scores_column='overall'` is not a column"):
        to_candidates(Dataset.from_list([ultrafeedback(rated("a", 9.0))]), scores_column="overall")


MARKS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


@pytest.mark.parametrize("streaming", [False, True])
def test_the_marks_of_helpsteer2_are_named_and_never_guessed(streaming, caplog):
    rows = [{"prompt": "p", "response": text, **dict.fromkeys(MARKS, i), "row_id": i} for i, text in enumerate("ab")]
    dataset = Dataset.from_list(rows)
    dataset = dataset.to_iterable_dataset() if streaming else dataset
    assert "scores" not in next(iter(to_candidates(dataset)))
    assert f"No scores are read, although the columns {list(MARKS)} hold one number per response." in caplog.text
    caplog.clear()
    found = [row["scores"] for row in to_candidates(dataset, scores_column="helpfulness")]
    assert found == [[0.0, 1.0]]
    assert not caplog.text


def test_openai_preferences():
    user, tools = [message("user", "q")], [{"type": "function", "function": {"name": "f"}}]
    row = {
        "input": {"messages": user, "tools": tools, "parallel_tool_calls": True},
        "preferred_output": [message("assistant", "a")],
        "non_preferred_output": [message("assistant", "b")],
    }
    expected = {
        "prompt": user,
        "chosen": row["preferred_output"],
        "rejected": row["non_preferred_output"],
        "tools": tools,
    }
    check([row], [expected])
    del row["input"]["tools"]
    check([row, row | {"input": None}], [{name: expected[name] for name in ("prompt", "chosen", "rejected")}])
    for dataset in every_kind([row | {"input": "q"}]):
        with pytest.raises(
            TypeError, match=r"Column `input`, row 0 of the batch: expected \{'messages': \[...\]\} or None"
        ):
            list(to_candidates(dataset))


@pytest.mark.parametrize("rating", ["N/A", "", "four", "nan", "inf", "1e5", "1_0", None, float("nan"), float("inf")])
def test_a_rating_that_is_no_number_is_missing(rating):
    answers = [{"answer": "a", "rating": rating}, {"answer": "b", "rating": " 4.5 "}]
    stream = IterableDataset.from_generator(lambda: iter([{"prompt": "p", "answers": answers}]))
    assert next(iter(to_candidates(stream)))["scores"] == [None, 4.5]


def test_shp():
    rows = [
        shp("x1", "Tea?", "Yes.", "No.", 9, 3),
        shp("x2", "Rain?", "Soon.", "Never.", 2, 4),
        shp("x1", "Tea?", "Green.", "Yes.", 12, 9),
        shp("x1", "Tea?", " No. ", "Green.", 5, 12),
    ]
    expected = [
        {"prompt": "Tea?", "responses": ["Yes.", " No. ", "Green."], "scores": [9.0, 4.0, 12.0], "post_id": "x1"},
        {"prompt": "Rain?", "responses": ["Soon.", "Never."], "scores": [2.0, 4.0], "post_id": "x2"},
    ]
    grouped = to_candidates(Dataset.from_list(rows))
    assert [{name: row[name] for name in expected[0]} for row in grouped] == expected
    assert grouped["upvote_ratio"][:] == [[0.9] * 3, [0.9]]
    check([rows[i] for i in (0, 2, 3, 1)], expected)  # a stream, too, where the rows of a post are adjacent
    one_each = to_candidates(Dataset.from_list(rows), group=False)
    assert one_each["responses"][:] == [[row["human_ref_A"], row["human_ref_B"]] for row in rows]
    assert one_each["scores"][2] == [12.0, 9.0]


def test_posts_of_different_sites_may_share_an_id():
    rows = [shp("1", "Tea?", "Yes.", "No.", 9, 3), shp("1", "Rain?", "Soon.", "Never.", 2, 4)]
    assert len(to_candidates(Dataset.from_list(rows))) == 2


HH = [
    {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Tea?\n\nAssistant: Yes, a cup.",
     "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Tea?\n\nAssistant: Yes, no."},
    {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Tea?\n\nAssistant: Yes.",
     "rejected": "\n\nHuman: Hi\n\nAssistant: Hey."},
    {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": "\n\nHuman: Ho\n\nAssistant: Hello."},
    {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.", "rejected": None},
]  # fmt: skip


def test_hh_rlhf(caplog):
    first = "\n\nHuman: Hi\n\nAssistant:"
    expected = [
        {"prompt": first + " Hello.\n\nHuman: Tea?\n\nAssistant:", "chosen": " Yes, a cup.", "rejected": " Yes, no."},
        {"prompt": first, "chosen": " Hello.\n\nHuman: Tea?\n\nAssistant: Yes.", "rejected": " Hey."},
    ]
    with caplog.at_level(logging.INFO, "trl_real"):
        check(HH, expected)
    assert (
        "`to_candidates` dropped 2 of 4 rows: in 1 the two sides begin with different turns (no_shared_turn); in 1 `chosen` "
        "or `rejected` is null (missing_response)."
    ) in caplog.messages
    assert any("layout 'hh': 1 the prompts of both sides differ" in text for text in caplog.messages)
    # Nothing is lost but the place of the split.
    for row, pair in zip(HH, expected, strict=False):
        assert [pair["prompt"] + pair[side] for side in row] == list(row.values())


def test_hh_rlhf_as_messages():
    hi, hello, tea = message("user", "Hi"), message("assistant", "Hello."), message("user", "Tea?")
    check(
        HH,
        [
            {
                "prompt": [hi, hello, tea],
                "chosen": [message("assistant", "Yes, a cup.")],
                "rejected": [message("assistant", "Yes, no.")],
            },
            {
                "prompt": [hi],
                "chosen": [hello, tea, message("assistant", "Yes.")],
                "rejected": [message("assistant", "Hey.")],
            },
        ],
        conversational=True,
    )


def test_rows_that_cannot_be_converted_are_kept_or_an_error():
    for dataset in every_kind(HH):
        kept = list(to_candidates(dataset, on_skip="keep"))
        assert [row["skip_reason"] for row in kept] == [None, None, "no_shared_turn", "missing_response"]
        assert kept[3]["chosen"] == HH[3]["chosen"]
        with pytest.raises(
            ValueError, match=r"the two sides begin with different turns \(no_shared_turn\)\. Correct it"
        ):
            list(to_candidates(dataset, on_skip="error"))


@pytest.mark.parametrize("conversational", [False, True])
def test_preferences(conversational):
    user, yes, no = message("user", "Tea?"), message("assistant", "Yes."), message("assistant", "No.")
    explicit = {"prompt": [user], "chosen": [yes], "rejected": [no]}
    whole = {"chosen": [user, yes], "rejected": [user, no]}
    check([explicit], [explicit], conversational=conversational)
    check([whole], [explicit], conversational=conversational)
    check([{"prompt": "Tea?", **whole}], [explicit], conversational=conversational)  # UltraFeedback binarized
    text = {"prompt": "Tea?", "chosen": "Yes.", "rejected": "No."}
    check([text], [explicit if conversational else text], conversational=conversational)
    sky = {"chosen": "The sky is blue.", "rejected": "The sky is red."}
    if not conversational:
        check([sky], [{"prompt": "The sky is", "chosen": " blue.", "rejected": " red."}])


def test_unpaired():
    votes = [("p", "a", True), ("q", "c", False), ("p", "b", False), ("p", "a ", False), ("p", "d", None)]
    rows = [{"prompt": p, "completion": c, "label": label, "by": i} for i, (p, c, label) in enumerate(votes)]
    grouped = to_candidates(Dataset.from_list(rows))
    assert grouped.to_list() == [
        {"prompt": "p", "responses": ["a", "b", "d"], "scores": [0.5, 0.0, None], "by": [0, 2, 3, 4]},
        {"prompt": "q", "responses": ["c"], "scores": [0.0], "by": [1]},
    ]
    user, answers = [message("user", "p")], [[message("assistant", text)] for text in "ab"]
    check(
        [{"prompt": user, "completion": answer, "score": i} for i, answer in enumerate(answers)],
        [{"prompt": user, "responses": answers, "scores": [0.0, 1.0]}],
    )
    check([{"prompt": "p", "completion": text} for text in "ab"], [{"prompt": "p", "responses": ["a", "b"]}])


def test_nectar():
    answers = [{"answer": "a", "model": "m", "rank": 2.0}, {"answer": "b", "model": "n", "rank": 1.0}]
    row = {"prompt": "\n\nHuman: Tea?\n\nAssistant: ", "answers": answers, "turns": 1}
    expected = {"prompt": row["prompt"], "responses": ["a", "b"], "scores": [-2.0, -1.0], "turns": 1}
    check([row], [expected])
    expected["prompt"] = [message("user", "Tea?")]
    expected["responses"] = [[message("assistant", text)] for text in "ab"]
    check([row], [expected], conversational=True)


def test_pairs_that_share_a_prompt_stay_pairs_unless_the_user_asks():
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": "a", "rejected": "c"},
        {"prompt": "p", "chosen": "c ", "rejected": "b"},
    ]
    check(rows, rows)
    check(rows, [{"prompt": "p", "responses": ["a", "b", "c"], "scores": [2.0, 0.0, 1.0]}], group=True)
    whole = [
        {
            "chosen": [message("user", row["prompt"]), message("assistant", row["chosen"])],
            "rejected": [message("user", row["prompt"]), message("assistant", row["rejected"])],
        }
        for row in rows
    ]
    responses = [[message("assistant", text)] for text in "abc"]
    expected = {"prompt": [message("user", "p")], "responses": responses, "scores": [2.0, 0.0, 1.0]}
    check(whole, [expected], group=True)


def test_repeated_prompts_of_candidates_are_grouped_if_the_user_asks():
    rows = [
        {"prompt": "p", "responses": ["a", "b"], "scores": [1.0, 2.0]},
        {"prompt": "p", "responses": ["c"], "scores": [3.0]},
    ]
    check(rows, rows)
    check(rows, [{"prompt": "p", "responses": ["a", "b", "c"], "scores": [1.0, 2.0, 3.0]}], group=True)


def test_tools_and_other_columns_survive():
    tools = [{"name": "f", "description": "d", "parameters": {"x": {"type": "int"}}}]
    call = [
        message("assistant", None, tool_calls=[{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}])
    ]
    plain = [message("assistant", "No.")]
    common = {"tools": tools, "chat_template_kwargs": {"thinking": False}}
    user = [message("system", "s"), message("user", "u")]
    for dataset in every_kind([{"chosen": [*user, *call], "rejected": [*user, *plain], **common}]):
        (pair,) = to_candidates(dataset)
        assert without_nulls(pair) == without_nulls({"prompt": user, "chosen": call, "rejected": plain, **common})
    votes = [{"prompt": user, "completion": c, "label": c is call, **common} for c in (call, plain)]
    expected = {"prompt": user, "responses": [call, plain], "scores": [1.0, 0.0], **common}
    for dataset in every_kind(votes)[:2]:  # in which Arrow writes the keys of every message to all
        (row,) = to_candidates(dataset)
        (pair,) = to_candidates(dataset).map(real_select, batched=True, fn_kwargs={"strategy": "random"})
        assert without_nulls({name: row[name] for name in expected}) == without_nulls(expected)
        assert without_nulls(pair["chosen"]) == without_nulls(call)
        assert without_nulls(pair["tools"]) == tools
    # Other tools make another prompt.
    votes[1]["tools"] = None
    assert len(to_candidates(Dataset.from_list(votes))) == 2


def without_nulls(value):
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def test_a_dict_of_splits():
    rows = [{"instruction": "p", "completions": [{"response": "a", "score": 1}]}]
    splits = to_candidates(DatasetDict(train=Dataset.from_list(rows), test=Dataset.from_list(rows * 2)))
    assert isinstance(splits, DatasetDict)
    assert splits["test"]["responses"][:] == [["a"], ["a"]]


def test_large_lists():
    rows = Dataset.from_list([{"prompt": "p", "completions": ["a", "b"], "ratings": [1.0, 2.0]}])
    rows = rows.cast_column("completions", LargeList(Value("large_string"))).cast_column(
        "ratings", LargeList(Value("float32"))
    )
    (row,) = to_candidates(rows)
    assert row == {"prompt": "p", "responses": ["a", "b"], "scores": [1.0, 2.0]}


def test_scores_that_are_all_missing_are_no_scores():
    rows = [
        {"prompt": f"p{i}", "responses": ["a", "b"], "scores": scores} for i, scores in enumerate([None, [None, None]])
    ]
    nan = float("nan")
    for dataset in (Dataset.from_list(rows), Dataset.from_list([rows[0], rows[1] | {"scores": [nan, nan]}])):
        assert to_candidates(dataset).column_names == ["prompt", "responses"]
    pairs, report = select_preferences(Dataset.from_list(rows), SelectionConfig(strategy="random"))
    assert {"response_a", "response_b", "pair_id"} <= set(pairs.column_names)
    assert not report.labeled


def test_features_do_not_depend_on_the_rows():
    empty = Dataset.from_list([ultrafeedback(rated("a", 1.0))]).select([])
    for options in ({}, {"conversational": True}, {"group": True}):
        full = to_candidates(Dataset.from_list([ultrafeedback(rated("a", 1.0))]), **options)
        assert to_candidates(empty, **options).features == full.features
    assert to_candidates(empty).features["scores"] == List(Value("float64"))


@pytest.mark.parametrize(
    ("row", "options", "error", "message"),
    [
        ({"prompt": 3, "responses": ["a"], "ranks": [1]}, {}, TypeError,
         "Column `prompt`, row 0 of the batch: expected str or a list of messages, found int (3)."),
        ({"prompt": "p", "completions": [3]}, {}, TypeError, "Column `completions`, row 0 of the batch: expected a response"),
        ({"prompt": "p", "completions": "a"}, {}, TypeError, "Column `completions`, row 0 of the batch: expected a list"),
        ({"prompt": "p", "answers": [{"model": "m"}]}, {}, ValueError,
         "Column `answers` holds dicts without a text. Found: ['model']. Expected one of ['response', 'text',"),
        ({"prompt": "p", "completion": "a", "label": "good"}, {}, TypeError,
         "Column `label`, row 0 of the batch: expected numbers or None, found str ('good'). If it represents a number, cast"),
        ({"prompt": "p", "answers": ["a", "b"], "scores": [1]}, {"layout": "candidates"}, ValueError,
         "Column `scores`, row 0 of the batch: found 1 scores for 2 responses."),
        (shp("x", "h", "a", "b", 1, 2) | {"score_B": "2"}, {}, TypeError, "Column `score_B`, row 0 of the batch: expected"),
        (shp("x", "h", "a", "b", 1, 2) | {"human_ref_B": 7}, {}, TypeError, "Column `human_ref_B`, row 0 of the batch: expected"),
        ({"question": "q", "completions": ["a"], "responses": "b"}, {"responses_column": "completions"}, ValueError,
         "The layout 'candidates' is read from ['completions', 'question'] here, and would replace the columns "
         "['responses']. Rename or remove them."),
        ({"prompt": "p", "responses": ["a"], "chosen": "a", "rejected": "b"}, {"layout": "candidates"}, ValueError,
         "would replace the columns ['chosen', 'rejected']. Rename or remove them."),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, {"on_skip": "skip"}, ValueError,
         "`on_skip` must be one of ['drop', 'keep', 'error'], got 'skip'."),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, {"group": "prompt"}, TypeError,
         "`group` must be True, False or None, got 'prompt'."),
        ({"chosen": "a", "rejected": 4}, {}, TypeError, "Column `rejected`, row 0 of the batch: expected a response"),
        ({"chosen": "a", "rejected": [message("user", "u")]}, {}, TypeError,
         "Column `rejected`, row 0 of the batch: expected the same kind as `chosen`, text or messages"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(row, options, error, message):
    for dataset in every_kind([row]):
        with pytest.raises(error, match=re.escape(message)):
            list(to_candidates(dataset, **options))


def test_half_characters_are_named():
    for row, column in (
        ({"prompt": "\ud800", "completions": ["a"]}, "prompt"),
        ({"prompt": "p", "completions": ["a", "b\udfff"]}, "completions"),
        ({"prompt": "p", "completions": [[message("assistant", "\ud800")]]}, "completions"),
    ):
        stream = IterableDataset.from_generator(lambda row=row: iter([row]))
        with pytest.raises(ValueError, match=f"Column `{column}`, row 0 of the batch: found a lone surrogate"):
            list(to_candidates(stream))


def test_only_datasets():
    with pytest.raises(TypeError, match="`dataset` must be a `Dataset` or `IterableDataset`, got list"):
        to_candidates([{"prompt": "p"}])


def test_every_row_of_hh_rlhf_is_accounted_for(tmp_path):
    rows = read_data("hh_rlhf_harmless.jsonl.gz")
    path = str(Path(os.environ["TRL_REAL_DATA"]) / "hh_rlhf_harmless.jsonl.gz")
    dataset = load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path))
    pairs, report = select_preferences(dataset, SelectionConfig(strategy="random"))
    assert report.layout == "hh"
    assert report.rows == len(rows) == len(pairs) + sum(report.skipped.values())
    differing = [
        row
        for row in rows
        if row["chosen"].rsplit("\n\nAssistant:", 1)[0] != row["rejected"].rsplit("\n\nAssistant:", 1)[0]
    ]
    assert report.policies["differing_prompts"] == len(differing) == 4
    # Two answers are empty, from which nobody could learn.
    assert report.skipped == {"too_few_responses": 2}
    rows = [row for row in rows if not any(text.rstrip().endswith("Assistant:") for text in row.values())]
    for row, pair in zip(rows, pairs, strict=True):
        assert pair["prompt"].endswith("\n\nAssistant:")
        assert [pair["prompt"] + pair[side] for side in ("chosen", "rejected")] == [row["chosen"], row["rejected"]]


# Tables as a user might hand them over: a known layout, in which anything may be missing, null or of another type.
TEXTS = st.sampled_from(["", " ", "a", "a ", "b", "\x00", "e\u0301", "\u00e9", "\n\nHuman: a\n\nAssistant: b", None])
NUMBERS = st.one_of(st.none(), st.integers(-3, 3), st.floats(), st.booleans())
SAID = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TEXTS})
MESSAGES = st.lists(SAID, max_size=2)
STRUCTS = st.fixed_dictionaries(
    {"response": TEXTS, "rating": TEXTS, "overall_score": st.sampled_from([None, 1.0, 2.0])}
)
LISTS = [st.lists(item, max_size=3) for item in (TEXTS, MESSAGES, STRUCTS, SAID)]
SCORES = st.lists(st.sampled_from([None, 1, 2, 2.5]), max_size=3)
ONE = [TEXTS, MESSAGES]
LAYOUT_COLUMNS = [
    {"prompt": ONE, "responses": LISTS},
    {"prompt": ONE, "responses": LISTS, "scores": [SCORES]},
    {"instruction": ONE, "completions": LISTS},
    {"chosen": ONE, "rejected": ONE},
    {"prompt": ONE, "chosen": ONE, "rejected": ONE},
    {"prompt": ONE, "completion": ONE, "label": [NUMBERS]},
    {"history": ONE, "human_ref_A": ONE, "human_ref_B": ONE, "score_A": [NUMBERS], "score_B": [NUMBERS]},
]


@st.composite
def tables(draw):
    columns = {name: draw(st.sampled_from(kinds)) for name, kinds in draw(st.sampled_from(LAYOUT_COLUMNS)).items()}
    for name in draw(st.lists(st.sampled_from([*columns, "extra", "tools", "skip_reason", "embeddings"]), max_size=2)):
        columns[name] = draw(
            st.sampled_from([*ONE, *LISTS, SCORES, NUMBERS, st.none(), st.one_of(TEXTS, NUMBERS, MESSAGES)])
        )
    missing = draw(st.sampled_from([None, None, None, *columns]))
    columns.pop(missing, None)
    return draw(st.lists(st.fixed_dictionaries(columns), max_size=4))


@given(rows=tables(), in_arrow=st.booleans(), options=st.sampled_from([{}, {"group": True}, {"conversational": True}]))
@settings(max_examples=200)
def test_any_table_is_converted_or_one_error_that_names_a_column(rows, in_arrow, options):
    if in_arrow:
        try:
            dataset = Dataset.from_list(rows)
        except Exception:
            return
    else:
        dataset = IterableDataset.from_generator(lambda: iter(rows))
    message, converted, selected = "Column", [], []
    try:
        converted = list(to_candidates(dataset, **options))
        selected = list(
            to_candidates(dataset, **options).map(real_select, batched=True, fn_kwargs={"strategy": "random"})
        )
    except (TypeError, ValueError) as error:
        message = str(error)
    assert re.search(r"[Cc]olumn|Found: \[|`\w+` may be", message), message
    for row in converted:
        assert {"prompt", "chosen", "rejected"} <= set(row) or {"prompt", "responses"} <= set(row)
    for row in selected:
        assert row.get("skip_reason") is None


def test_nulls_in_pairs_are_the_same_in_every_kind_of_dataset():
    rows = [
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "chosen": None, "rejected": "b"},
        {"prompt": None, "chosen": "a", "rejected": "b"},
    ]
    check(rows, rows[:1])
    for dataset in every_kind(rows):
        kept = [row["skip_reason"] for row in to_candidates(dataset, on_skip="keep")]
        assert kept == [None, "missing_response", "missing_prompt"]


def test_what_would_no_longer_fit_goes_and_what_separates_prompts_does_not():
    rows = [
        {"system": system, "prompt": "p", "responses": [f"{i}"], "scores": [i], "embeddings": [[1.0]]}
        for i, system in enumerate(["s", "t", "s"])
    ]
    grouped = to_candidates(Dataset.from_list(rows), group=True)
    assert grouped.to_list() == [
        {"prompt": "p", "responses": ["0", "2"], "scores": [0.0, 2.0], "system": "s"},
        {"prompt": "p", "responses": ["1"], "scores": [1.0], "system": "t"},
    ]


def test_scores_beside_messages_and_from_stack_exchange():
    said = [message("assistant", "a", score=2.0), message("assistant", "b", score=1.0)]
    for dataset in every_kind([{"prompt": "p", "responses": said}]):
        assert next(iter(to_candidates(dataset)))["scores"] == [2.0, 1.0]
    answers = [{"text": "a", "pm_score": 3, "selected": True}, {"text": "b", "pm_score": 0, "selected": False}]
    check([{"question": "p", "answers": answers}], [{"prompt": "p", "responses": ["a", "b"], "scores": [3.0, 0.0]}])


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"logits": [0.5, None]}, "the column `logits` holds one number per response."),
        ({"rm": [1, 2], "length": [3, 4]}, "the columns ['rm', 'length'] hold one number per response."),
        ({"logits": [0.5]}, None),
        ({"seen": [True, False], "tags": ["x", "y"], "n": 2, "embeddings": [[1.0], [2.0]]}, None),
        ({"logits": [0.5, 1.0], "scores": [1, 2]}, None),
    ],
)
def test_scores_that_are_not_used_are_named(columns, found, streaming, caplog):
    rows = Dataset.from_list([{"prompt": "p", "responses": ["a", "b"], **columns}])
    to_candidates(rows.to_iterable_dataset() if streaming else rows)
    warnings = [record.getMessage() for record in caplog.records if record.name == "trl_real.candidates.responses"]
    assert len(warnings) == (found is not None)
    if found:
        name = next(iter(columns))
        assert found in warnings[0]
        assert f"`scores_column={name!r}` to `to_candidates`, or `--scores_column {name}`" in warnings[0]
        assert to_candidates(rows, scores_column=name)[0]["scores"] == columns[name]
