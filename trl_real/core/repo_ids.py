"""Names of repositories on the Hub: `is_repo_id`."""

from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .redaction import TOKEN


def is_repo_id(name: str | None) -> bool:
    """Whether `name` is a valid `"owner/name"` of a repository on the Hub, and not a local path."""
    if name is None or name.count("/") != 1 or TOKEN.search(name):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()
