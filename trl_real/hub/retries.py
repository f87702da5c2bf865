"""Retry requests to the Hub if this may help, and explain the failure otherwise."""

import errno
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from ..core.redaction import redact
from .card_parts import endpoint


logger = logging.getLogger(__name__)

Result = TypeVar("Result")
TRIES = 6
WAIT = 1.0  # seconds before the first retry, doubled for each further one
# Another commit came first, or the Hub could not answer. Any other request would fail again.
AGAIN = (408, 409, 412, 429, 500, 502, 503, 504)
# The client itself retries these requests several times.
TRIED = re.compile("/preupload/|/info/lfs/")
# The client wraps failed uploads and downloads in these.
WRAPPED = (RuntimeError, LocalEntryNotFoundError)
# Errors in which a request to the Hub may end.
REFUSALS = (HTTPError, json.JSONDecodeError, *WRAPPED)


def retried(attempt: Callable[[], Result], repo_id: str) -> Result:
    """Call `attempt` until it succeeds, or until a retry cannot help."""

    def announce(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        name = type(error if error is None else _reason(error)).__name__
        logger.warning("Pushing to %s failed (%s). Retrying in %.1f s.", repo_id, name, state.upcoming_sleep)

    retrying = Retrying(
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential(multiplier=WAIT) + wait_random(0, WAIT),
        retry=retry_if_exception(lambda error: isinstance(error, REFUSALS) and _may_help(_reason(error))),
        before_sleep=announce,
        reraise=True,
    )
    return retrying(attempt)


def _reason(error: BaseException) -> BaseException:
    """The error of the Hub, unwrapped if the client wrapped it."""
    return error.__cause__ if isinstance(error, WRAPPED) and isinstance(error.__cause__, HTTPError) else error


def _may_help(error: BaseException) -> bool:
    """Whether a retry may help: after a lost connection, an error page of a proxy, or a status in `AGAIN`."""
    if isinstance(error, WRAPPED):
        return False
    response = getattr(error, "response", None)
    if response is None:
        return True
    tried = response.request.method == "PUT" or TRIED.search(str(response.request.url))
    return response.status_code in AGAIN and not tried


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Turn a failure of the Hub or the disk into one error that says what to do and contains no token."""
    try:
        yield
    except REFUSALS as failure:
        error = _reason(failure)
        if isinstance(error, WRAPPED):
            raise
        response = getattr(error, "response", None)
        status = None if response is None else response.status_code
        kind, advice = {
            400: (ValueError, "the Hub does not accept it"),
            401: (
                PermissionError,
                "you are not logged in, or the token is not valid; run `hf auth login` or pass `token`",
            ),
            403: (
                PermissionError,
                "the token has no write access; use a token with write access, and a namespace that you can write to",
            ),
            404: (
                FileNotFoundError,
                "there is no such repository or revision that you have access to, or the name is taken; check the name, or choose "
                "another one",
            ),
            409: (
                FileExistsError,
                "the name is taken, or another commit is in progress; choose another name, or push again",
            ),
            412: (ConnectionError, "other commits were pushed at the same time; push again"),
        }.get(status or 0, (ConnectionError, f"the Hub at {endpoint()} does not answer; push again later"))
        text = f"Could not push to {repo_id!r}: {advice}. ({type(error).__name__}: {' '.join(str(error).split())})"
        clean = redact(str(error)) == str(error)
        raise kind(redact(text)) from (failure if clean else None)
    except HFValidationError as error:
        raise ValueError(
            f"`repo_id={redact(repo_id)!r}` cannot be the name of a repository: {redact(str(error))}"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and "No space left" not in str(error):
            raise
        raise OSError(
            errno.ENOSPC,
            f"Could not push to {repo_id!r}: the disk of {tempfile.gettempdir()} is full. Free up space, or set `TMPDIR` to a "
            "folder on another disk",
        ) from error
