"""Mistakes of the user, which end in one line."""

import contextlib
from collections.abc import Iterator

from datasets.exceptions import DatasetsError


class UserError(Exception):
    """What a user has to mend; the cause says what."""


@contextlib.contextmanager
def users_mistakes() -> Iterator[None]:
    """Turns the errors that name a mistake into `UserError`."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, DatasetsError) as error:
        raise UserError from error
