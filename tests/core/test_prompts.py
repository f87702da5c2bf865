import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_real.core.messages import ASSISTANT, HUMAN
from trl_real.core.prompts import take_off_prompt, with_system


def turn(role, content, **keys):
    return {"role": role, "content": content, **keys}


WORDS = st.sampled_from(["tea", "Tea?", "a cup of tea", "\u00e9t\u00e9", "which one", "Yes.", "7"])
# Conversations that end with a user, perhaps after a system message.
TALKS = st.lists(WORDS, min_size=1, max_size=5).map(
    lambda texts: [
        turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts[: len(texts) - 1 + len(texts) % 2])
    ]
)
SYSTEMS = st.sampled_from([[], [turn("system", "Be brief.")]])
ANSWERS = st.lists(WORDS, min_size=2, max_size=3).map(lambda texts: [[turn("assistant", text)] for text in texts])


@given(
    SYSTEMS, TALKS, ANSWERS, st.sampled_from(["all", "one", "keys", "parts", "spaces"]), st.booleans(), st.booleans()
)
def test_messages_that_repeat_the_prompt(system, talk, answers, form, with_the_system, in_prompt):
    """In every form: with or without the system message in the prompt and in the responses, in all or in one of them."""
    prompt = (system if in_prompt else []) + talk
    repeated = {
        "all": talk,
        "one": talk,
        "keys": [message | {"tool_calls": None} for message in talk],
        "parts": [turn(m["role"], [{"type": "text", "text": m["content"]}]) for m in talk],
        "spaces": [turn(m["role"], m["content"] + "\n") for m in talk],
    }[form]
    whole = [(system if with_the_system else []) + repeated + answer for answer in answers]
    if form == "one":
        whole[1:] = answers[1:]
    found, responses = take_off_prompt(prompt, whole)
    assert responses == answers
    assert [message["role"] for message in found if message["role"] != "system"] == [m["role"] for m in talk]
    if form != "one":
        assert (found[0]["role"] == "system") == (bool(system) and (with_the_system or in_prompt))


@given(TALKS, ANSWERS)
def test_the_last_turn_as_the_prompt_of_whole_conversations(talk, answers):
    for prompt in (talk[-1]["content"], talk[-1:]):
        found, responses = take_off_prompt(prompt, [talk + answer for answer in answers])
        assert found == talk
        assert responses == answers


@given(TALKS, ANSWERS)
def test_messages_that_do_not_repeat_the_prompt(talk, answers):
    assert take_off_prompt(talk, answers) is None
    other = [turn("user", "Something else?")]
    assert take_off_prompt(talk, [other + answer for answer in answers]) is None


PROMPTS = st.sampled_from(
    ["Is tea a drink?", "Tea or\ncoffee:", f"{HUMAN} Hi{ASSISTANT}", "a b", "Wer hat \u00e9t\u00e9?"]
)


@given(
    PROMPTS,
    st.lists(WORDS, min_size=2, max_size=3),
    st.sampled_from(["", " ", "\n\n", "\n"]),
    st.sampled_from(["", " "]),
)
def test_text_that_repeats_the_prompt(prompt, answers, between, before):
    between = between or ("" if prompt.endswith((":", "?")) else " ")
    found, responses = take_off_prompt(prompt, [before + prompt + between + answer for answer in answers] + [None])
    assert found == prompt
    assert [response and response.strip() for response in responses] == [*answers, None]


@pytest.mark.parametrize(
    ("prompt", "responses"),
    [
        ("Tea", ["Tea is", "Tea was"]),  # a word with which an answer may begin
        ("the cat", ["the cats", "the cat"]),  # goes on within a word
        ("Is tea a drink?", ["Is tea a drink? Yes.", "No."]),
        ("Is tea a drink?", ["Is tea a drink?", "Is tea a drink?"]),
        ("", ["a", "b"]),
        (None, ["a", "b"]),
        ("a b", [None, None]),
        ("a b", []),
    ],
)
def test_text_that_does_not(prompt, responses):
    assert take_off_prompt(prompt, responses) is None


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_dialogues_that_repeat_a_prompt_without_names(prompt, answers):
    expected = f"{HUMAN} {prompt}{ASSISTANT}", [f" {answer}" for answer in answers]
    assert take_off_prompt(prompt, [f"{HUMAN} {prompt}{ASSISTANT} {answer}" for answer in answers]) == expected
    unfinished = f"{HUMAN} {prompt}"
    assert take_off_prompt(unfinished, [f"{unfinished}{ASSISTANT} {answer}" for answer in answers]) == expected


def test_a_system_message_that_has_no_place_or_has_one():
    user, system = [turn("user", "u")], turn("system", "s")
    assert with_system(user, "s") == [system, *user]
    for prompt, text in (("u", "s"), (None, "s"), ([system, *user], "t"), (user, None), (user, " "), (user, 3)):
        assert with_system(prompt, text) is prompt
