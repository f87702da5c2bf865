"""How a layout is to be read, beside which columns hold its fields."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class ReadOptions(NamedTuple):
    """
    What the user asked of a reader.

    Attributes:
        grouped (`bool`): Whether rows are grouped by prompt afterwards.
        conversational (`bool`): Whether text becomes messages.
        votes (`Mapping`, *optional*): What each value of a vote means: `"left"`, `"right"` or `"tie"`.
        score_field (`str`, *optional*): The field of the responses that is their score, where these are dicts.
    """

    grouped: bool = False
    conversational: bool = False
    votes: Mapping[Any, str] | None = None
    score_field: str | None = None
