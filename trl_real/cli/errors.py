"""User errors, which the command line prints in one line."""

import contextlib
import pickle
from collections.abc import Iterator

from datasets.exceptions import DatasetsError
from jinja2 import TemplateError


# What libraries raise for an input that they refuse: of pickled weights that hold code, and of chat templates that do too much,
# it has types of its own. Anything else is a defect, and shows where.
MISTAKES = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    DatasetsError,
    TemplateError,
    pickle.UnpicklingError,
)


class UserError(Exception):
    """An error that the user has to fix. The cause describes it."""


@contextlib.contextmanager
def users_mistakes() -> Iterator[None]:
    """Turn errors that describe a mistake of the user into `UserError`."""
    try:
        yield
    except MISTAKES as error:
        raise UserError from error
