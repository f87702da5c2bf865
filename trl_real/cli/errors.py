"""User errors, which the command line prints in one line."""

import contextlib
from collections.abc import Iterator

from datasets.exceptions import DatasetsError


class UserError(Exception):
    """An error that the user has to fix. The cause describes it."""


@contextlib.contextmanager
def users_mistakes() -> Iterator[None]:
    """Turn errors that describe a mistake of the user into `UserError`."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, DatasetsError) as error:
        raise UserError from error
