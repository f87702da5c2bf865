"""User errors, which the command line prints in one line."""

import contextlib
import pickle
from collections.abc import Iterator


class UserError(Exception):
    """An error that the user has to fix. The cause describes it."""

    def __str__(self) -> str:
        """The cause in one line, with what lies behind it if `datasets` only says that something failed."""
        from datasets.exceptions import DatasetsError

        cause = self.__cause__
        why = cause.__cause__ if isinstance(cause, DatasetsError) and cause.__cause__ is not None else ""
        notes = " ".join(getattr(cause, "__notes__", ()))
        return " ".join(f"{str(cause) or type(cause).__name__} {why} {notes}".split())


@contextlib.contextmanager
def users_mistakes() -> Iterator[None]:
    """Turn errors that describe a mistake of the user into `UserError`."""
    try:
        yield
    except _mistakes() as error:
        raise UserError from error


def _mistakes() -> tuple[type[Exception], ...]:
    """
    What libraries raise for an input that they refuse. For pickled weights that hold code, and for chat templates that do too
    much, they have types of their own. Anything else is a defect, and shows where. The imports wait for an error, so that
    `trl-real --help` loads no library.
    """
    from datasets.exceptions import DatasetsError
    from jinja2 import TemplateError

    return (
        ValueError,
        TypeError,
        OSError,
        ImportError,
        MemoryError,
        DatasetsError,
        TemplateError,
        pickle.UnpicklingError,
    )
