"""Text and lists of messages: the two forms of a prompt or a response."""

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Json, LargeList, List, Value


# HH-RLHF (arXiv 2204.05862) and the datasets modeled on it write a dialogue as text with these markers.
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
TURN = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}

# Where messages keep what a model thought before it spoke, and what it called after.
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
CALLS = ("tool_calls", "function_call")

MESSAGES = List({"role": Value("string"), "content": Value("string")})
# Messages whose keys hold one kind of thing here and another there.
ANY_MESSAGES = List(Json())


def is_text(feature: Any) -> bool:
    """Whether a feature describes text, or a column of nulls."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "null")


def is_list(feature: Any) -> bool:
    """Whether a feature describes lists."""
    return isinstance(feature, list | List | LargeList)


def item_feature(feature: Any) -> Any:
    """The feature of one response, given the feature of a list of responses; text if no row has a response."""
    item = _item(feature)
    if isinstance(item, Json):  # text beside messages, or messages of several forms
        return ANY_MESSAGES
    return Value("string") if item is None or item == Value("null") else item


def _item(feature: Any) -> Any:
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)


def common_feature(features: list[Any]) -> Any:
    """
    One feature that fits several columns of text or messages. If any of them holds messages, it is a feature of messages
    with the keys of all of them.
    """
    lists = [ANY_MESSAGES if isinstance(feature, Json) else feature for feature in features]
    lists = [feature for feature in lists if is_list(feature)]
    if lists:
        return List(functools.reduce(_merged, map(_item, lists), MESSAGES.feature))
    return next((feature for feature in features if feature != Value("null")), Value("string"))


def _merged(a: Any, b: Any) -> Any:
    """One feature for what two hold: JSON where they are of different kinds, and all keys of both where they are dicts."""
    if a == b or b in (None, Value("null")):
        return a
    if a in (None, Value("null")):
        return b
    if isinstance(a, dict) and isinstance(b, dict):
        return a | {key: _merged(a.get(key), feature) for key, feature in b.items()}
    if is_list(a) and is_list(b):
        return List(_merged(_item(a), _item(b)))
    return Value("string") if is_text(a) and is_text(b) else Json()


def are_alike(features: list[Any]) -> bool:
    """Whether a prompt and its responses are all text, or all messages."""
    return all(map(is_text, features)) or all(map(is_list, features))


def joint_features(prompt: Any, sides: list[Any]) -> tuple[Any, list[Any]]:
    """The features of a prompt and its responses. If one of them is messages, all of them become messages."""
    parts = [prompt, *sides]
    if any(is_list(part) or isinstance(part, Json) for part in parts):
        # A part that was split off a conversation may hold every key of its messages.
        common = common_feature(parts)
        parts = [common if is_text(part) or is_list(part) or isinstance(part, Json) else part for part in parts]
    return parts[0], parts[1:]


def is_messages(value: Any) -> bool:
    """Whether `value` is a list of messages, each with text, content parts or null as its content."""
    return isinstance(value, list) and all(
        isinstance(message, Mapping) and "role" in message and _is_content(message.get("content")) for message in value
    )


def _is_content(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(part, Mapping) and isinstance(part.get("text"), str | None) for part in value)
    return isinstance(value, str | None)


def response_text(messages: Any) -> str:
    """The text of a response: itself, or all of its messages that a model is trained on, one part a line."""
    if isinstance(messages, str):
        return messages
    return "\n".join(part for message in messages for part in _parts(message) if part)


def _parts(message: Mapping[str, Any]) -> Iterator[str]:
    yield from (_as_text(message.get(key)) for key in THOUGHTS)
    content = message.get("content")
    yield "".join(map(_part_text, content)) if isinstance(content, list) else content or ""
    yield from (_as_text(message.get(key)) for key in CALLS)


def _part_text(part: Mapping[str, Any]) -> str:
    """The text of a part of a message; of an image and the like JSON, the same for the same content."""
    if part.get("text"):
        return str(part["text"])
    return _as_text({key: value for key, value in part.items() if key not in ("type", "text") and value is not None})


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else as_json(value) if value else ""


def as_json(value: Any) -> str:
    """Text or messages as one line of JSON, without the nulls that Arrow adds to messages with fewer keys."""

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items() if item is not None}
        return [clean(item) for item in value] if isinstance(value, list) else value

    return json.dumps(clean(value), sort_keys=True, default=_digest)


def _digest(value: Any) -> str:
    """What JSON has no form for: bytes and images by a hash of their content, numbers and dates as text."""
    if hasattr(value, "tobytes") and hasattr(value, "mode"):  # an image of Pillow
        value = f"{value.mode} {value.size}".encode() + value.tobytes()
    elif hasattr(value, "__array__"):
        value = f"{value.dtype} {value.shape}".encode() + value.tobytes()
    if isinstance(value, bytes | bytearray):
        return f"sha256:{hashlib.sha256(value).hexdigest()}"
    return str(value)


def as_message(value: Any, role: str) -> Any:
    """Turn text into one message with the given role. Messages and null stay as they are."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def as_conversation(prompt: Any, responses: list[Any]) -> tuple[Any, list[Any]]:
    """A prompt and its responses as messages. Text becomes one message; a dialogue written as text, one per turn."""
    if not (isinstance(prompt, str) and prompt.startswith(HUMAN)):
        return as_message(prompt, "user"), [as_message(response, "assistant") for response in responses]
    turns = _turns(prompt)
    if turns[-1] == {"role": "assistant", "content": ""}:  # the responses begin here
        turns.pop()
    return turns, [_turns(ASSISTANT + response) if isinstance(response, str) else response for response in responses]


def _turns(dialogue: str) -> list[dict[str, str]]:
    _, *turns = TURN.split(dialogue)
    return [{"role": ROLES[name], "content": text.strip()} for name, text in zip(turns[::2], turns[1::2], strict=True)]


def split_prompt(chosen: Any, rejected: Any) -> tuple[Any, list[Any]]:
    """
    Split a pair with an implicit prompt into the prompt, which both sides begin with, and the two responses.

    Dialogues written as text are split after the last `"\\n\\nAssistant:"` that both sides share. Messages are split after
    the last message that both sides share, and other text before white space. There, each response keeps at least its last
    message or character, even if the other side begins with all of it. If dialogues or messages have no turn in common, the
    prompt is `None`.
    """
    if chosen is None or rejected is None:
        return None, [chosen, rejected]
    if isinstance(chosen, str) and chosen.startswith(HUMAN):
        turn = chosen.rfind(ASSISTANT)
        while turn >= 0 and not rejected.startswith(chosen[: turn + len(ASSISTANT)]):
            turn = chosen.rfind(ASSISTANT, 0, turn)
        if turn < 0:
            return None, [chosen, rejected]
        shared = turn + len(ASSISTANT)
    else:
        shared = 0
        for a, b in zip(chosen[:-1], rejected[:-1], strict=False):
            # Arrow may have filled the missing keys of a message with nulls.
            if a != b and (isinstance(chosen, str) or as_json(a) != as_json(b)):
                break
            shared += 1
        if isinstance(chosen, str):
            while shared > 0 and not (chosen[shared].isspace() and rejected[shared].isspace()):
                shared -= 1
        elif shared == 0:
            return None, [chosen, rejected]
    return chosen[:shared], [chosen[shared:], rejected[shared:]]


def prompts_differ(prompt: Any, responses: list[Any]) -> bool:
    """Whether a response contains further turns of the user. The two sides then answer different last prompts."""
    if isinstance(prompt, list):
        return any(message.get("role") == "user" for response in responses for message in response or ())
    return (
        isinstance(prompt, str)
        and prompt.startswith(HUMAN)
        and any(isinstance(response, str) and TURN.search(response) is not None for response in responses)
    )
