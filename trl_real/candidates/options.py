"""Options for reading a layout."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class ReadOptions(NamedTuple):
    """
    Options of the user for a reader.

    Attributes:
        grouped (`bool`): Whether rows are grouped by prompt afterwards.
        conversational (`bool`): Whether text becomes messages.
        votes (`Mapping`, *optional*): The meaning of each vote: `"left"`, `"right"` or `"tie"`.
        score_field (`str`, *optional*): The field with the score, if the responses are dicts.
    """

    grouped: bool = False
    conversational: bool = False
    votes: Mapping[Any, str] | None = None
    score_field: str | None = None
