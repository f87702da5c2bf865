"""Prompts and responses as the plain text that label tools show, and how to recognize it when it comes back."""

import re
from typing import Any

from ..core.messages import as_json, is_messages, response_text


# Control characters. PostgreSQL, on which Label Studio may run, refuses some of them.
UNSHOWN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# A cell of Excel holds 32,767 characters, white space included. It cuts off the rest.
RECOGNIZED = 10_000


def plain_text(value: Any) -> str:
    """A prompt or a response as text, without control characters. Several messages become turns that begin with the role."""
    if not is_messages(value):
        return UNSHOWN.sub("", value if isinstance(value, str) else as_json(value))
    texts = [response_text([message]) for message in value]
    if len(value) != 1:
        roles = [str(message["role"]).capitalize() for message in value]
        texts = [f"{role}: {text}" for role, text in zip(roles, texts, strict=True)]
    return UNSHOWN.sub("", "\n\n".join(texts))


def recognizable(value: Any) -> str:
    """What is the same after a tool has changed the white space of a text, or cut it off at the end."""
    return "".join(plain_text(value).split())[:RECOGNIZED]
