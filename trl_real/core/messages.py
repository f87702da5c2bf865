"""Text and lists of messages: the two forms of a prompt or a response."""

import json
import re
from collections.abc import Mapping
from typing import Any

from datasets import LargeList, List, Value


# HH-RLHF (arXiv 2204.05862) and the datasets modeled on it write a dialogue as text with these markers.
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
TURN = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}

MESSAGES = List({"role": Value("string"), "content": Value("string")})


def is_text(feature: Any) -> bool:
    """Whether a feature describes text, or a column of nulls."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string", "null")


def is_list(feature: Any) -> bool:
    """Whether a feature describes lists."""
    return isinstance(feature, list | List | LargeList)


def item_feature(feature: Any) -> Any:
    """The feature of one response, given the feature of a list of responses; text if no row has a response."""
    item = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return Value("string") if item is None or item == Value("null") else item


def common_feature(features: list[Any]) -> Any:
    """
    One feature that fits several columns of text or messages. If any of them holds messages, it is a feature of messages
    with the keys of all of them.
    """
    lists = [feature for feature in features if is_list(feature)]
    if lists:
        items = [item for item in map(item_feature, lists) if isinstance(item, dict)]
        message = dict(MESSAGES.feature)
        for item in items:
            message |= {
                key: feature for key, feature in item.items() if feature != Value("null") or key not in message
            }
        return List(message)
    return next((feature for feature in features if feature != Value("null")), Value("string"))


def joint_features(prompt: Any, sides: list[Any]) -> tuple[Any, list[Any]]:
    """The features of a prompt and its responses. If one of them is messages, all of them become messages."""
    parts = [prompt, *sides]
    if any(map(is_list, parts)):  # a part that was split off a conversation may hold every key of its messages
        parts = [common_feature(parts) if is_text(part) or is_list(part) else part for part in parts]
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
    """The text of a response: the string itself, or the contents and tool calls of its messages, one per line."""
    if isinstance(messages, str):
        return messages
    lines = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):  # content parts: only text can be embedded
            content = "".join(part.get("text") or "" for part in content)
        lines.append(content or "")
        if message.get("tool_calls"):
            lines.append(as_json(message["tool_calls"]))
    return "\n".join(line for line in lines if line)


def as_json(value: Any) -> str:
    """Text or messages as one line of JSON, without the nulls that Arrow adds to messages with fewer keys."""

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items() if item is not None}
        return [clean(item) for item in value] if isinstance(value, list) else value

    return json.dumps(clean(value), sort_keys=True, default=str)


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
