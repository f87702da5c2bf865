"""Text and messages: what a prompt and a response are made of."""

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Json, LargeList, List, Value


# How HH-RLHF (arXiv 2204.05862) and what follows it write a dialogue as text.
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
    """Whether a feature is that of text, or of nothing but null."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "null")


def is_list(feature: Any) -> bool:
    """Whether a feature is that of lists."""
    return isinstance(feature, list | List | LargeList)


def item_feature(feature: Any) -> Any:
    """The feature of a response, from that of a list of them; of text where no row has any."""
    item = _item(feature)
    if isinstance(item, Json):  # texts beside messages, or messages of many forms
        return ANY_MESSAGES
    return Value("string") if item is None or item == Value("null") else item


def _item(feature: Any) -> Any:
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)


def common_feature(features: list[Any]) -> Any:
    """One feature for texts or messages of several columns: that of messages with all their keys, if there are any."""
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
    """The features of a prompt and of responses where text becomes messages if anything is messages."""
    parts = [prompt, *sides]
    if any(is_list(part) or isinstance(part, Json) for part in parts):
        # What is split off a whole conversation has all that its messages may have.
        common = common_feature(parts)
        parts = [common if is_text(part) or is_list(part) or isinstance(part, Json) else part for part in parts]
    return parts[0], parts[1:]


def is_messages(value: Any) -> bool:
    """Whether `value` is a list of messages, whose contents are text, parts or null."""
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
    """Text or messages as one line of JSON, without the nulls that Arrow gives to messages with fewer keys."""

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
    """Text as one message of `role`; messages and null stay what they are."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def as_conversation(prompt: Any, responses: list[Any]) -> tuple[Any, list[Any]]:
    """A prompt and its responses as messages: one each, or the turns of a dialogue that is written as text."""
    if not (isinstance(prompt, str) and prompt.startswith(HUMAN)):
        return as_message(prompt, "user"), [as_message(response, "assistant") for response in responses]
    turns = _turns(prompt)
    if turns[-1] == {"role": "assistant", "content": ""}:  # where the responses begin
        turns.pop()
    return turns, [_turns(ASSISTANT + response) if isinstance(response, str) else response for response in responses]


def _turns(dialogue: str) -> list[dict[str, str]]:
    _, *turns = TURN.split(dialogue)
    return [{"role": ROLES[name], "content": text.strip()} for name, text in zip(turns[::2], turns[1::2], strict=True)]


def split_prompt(chosen: Any, rejected: Any) -> tuple[Any, list[Any]]:
    """
    Split a pair with an implicit prompt into the prompt, which both sides begin with, and the two responses.

    Dialogues written as text are split after the last `"\\n\\nAssistant:"` that both share. If dialogues or messages have
    no turn in common, the prompt is `None`. Of messages, and of other text, which is split before white space, a response keeps at least the last
    message or character, even where it is all that the other one begins with.
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
            # Messages with fewer keys than others may or may not have got the rest as null from Arrow.
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
    """Whether a response to a dialogue goes on with other turns: then the last prompts of the sides differ."""
    if isinstance(prompt, list):
        return any(message.get("role") == "user" for response in responses for message in response or ())
    return (
        isinstance(prompt, str)
        and prompt.startswith(HUMAN)
        and any(isinstance(response, str) and TURN.search(response) is not None for response in responses)
    )
