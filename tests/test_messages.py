import pytest

from trl_real.messages import response_text, split_prompt


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
