import pytest

from trl_real.core.messages import as_conversation, prompts_differ, response_text, split_prompt


def test_text_of_messages():
    call = {"name": "f", "arguments": {"x": 1}}
    assert response_text([{"role": "assistant", "content": "Hi"}]) == "Hi"
    assert response_text(
        [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "2"},
            {"role": "assistant", "content": [{"type": "text", "text": "It is "}, {"type": "text", "text": "2."}]},
        ]
    ) == '[{"arguments": {"x": 1}, "name": "f"}]\n2\nIt is 2.'  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "responses"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is", [" blue.", " green."]),
        ("Q: x\n\nA: yes", "Q: x\n\nA: yes indeed", "Q: x\n\nA:", [" yes", " yes indeed"]),
        ("The cat sat", "The cats ran", "The", [" cat sat", " cats ran"]),
        ("same words", "same words", "same", [" words", " words"]),
        ("a", "b", "", ["a", "b"]),
        ("", "b", "", ["", "b"]),
        (None, "b", None, [None, "b"]),
    ],
)
def test_implicit_prompts(chosen, rejected, prompt, responses):
    assert split_prompt(chosen, rejected) == (prompt, responses)


def test_implicit_prompt_of_messages_leaves_a_message_to_each_side():
    user, hello, more = ({"role": r, "content": c} for r, c in (("user", "u"), ("assistant", "h"), ("user", "m")))
    assert split_prompt([user, hello], [user, more]) == ([user], [[hello], [more]])
    # One side is how the other begins.
    assert split_prompt([user, hello], [user, hello, more]) == ([user], [[hello], [hello, more]])


def test_messages_that_begin_with_different_turns_have_no_prompt():
    hi, ho, hello = ({"role": r, "content": c} for r, c in (("user", "hi"), ("user", "ho"), ("assistant", "hello")))
    assert split_prompt([hi, hello], [ho, hello]) == (None, [[hi, hello], [ho, hello]])


def test_messages_of_one_prompt_may_have_different_keys():
    user = {"role": "user", "content": "u"}
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}
    said = {"role": "assistant", "content": "s"}
    prompt, sides = split_prompt([user | {"tool_calls": None}, call], [user, said])
    assert prompt == [user | {"tool_calls": None}]
    assert sides == [[call], [said]]


def test_prompts_that_differ():
    user, said = {"role": "user", "content": "u"}, {"role": "assistant", "content": "s"}
    assert prompts_differ([user], [[said], [said, user, said]])
    assert not prompts_differ([user], [[said], [said]])
    assert prompts_differ("\n\nHuman: u\n\nAssistant:", [" s", " s\n\nHuman: u\n\nAssistant: s"])
    assert not prompts_differ("Which speaker says '\n\nHuman:'?", [" s", "\n\nHuman: is one of two"])


def test_a_dialogue_as_messages():
    prompt = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Tea?\n\nAssistant:"
    roles = ("user", "assistant", "user")
    messages = [{"role": r, "content": c} for r, c in zip(roles, ("Hi", "Hello.", "Tea?"), strict=True)]
    assert as_conversation(prompt, [" Yes.", None]) == (messages, [[{"role": "assistant", "content": "Yes."}], None])
    assert as_conversation("Tea?", ["Yes."]) == (messages[2:], [[{"role": "assistant", "content": "Yes."}]])
