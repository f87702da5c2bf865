"""Any server that speaks the chat protocol of OpenAI: requests, retries, and what is said when it refuses."""

import os
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import http_backoff

from .options import SamplingOptions
from .resume import Job, Record


# Tries again after a status that says "later", or a cut connection, and as often after an answer that makes no sense.
RETRIES = 5
WAIT = 1.0  # seconds before the second try, twice as many before the next, unless the server says how many
TIMEOUT = 600.0  # seconds that an answer may take
CONNECT_TIMEOUT = 10.0
# What a server answers to a request that it will never answer otherwise.
REFUSED = (400, 413, 422)


class RefusedError(ValueError):
    """The server does not answer this prompt; it may answer others."""


class ChatAPI:
    """
    A model behind a URL.

    Args:
        base_url (`str`):
            The URL, up to and with `/v1`.
        model (`str`):
            The name of the model there.
        api_key_env (`str`):
            The environment variable that holds the key. Where it is not set, requests have none.
    """

    def __init__(self, base_url: str, model: Any, api_key_env: str):
        if not isinstance(model, str):
            raise TypeError(f"With `base_url`, `model` must be the name of a model there, got {type(model).__name__}.")
        try:
            parts = urlsplit(base_url)
            parts.port  # noqa: B018, which raises if it is no number
        except ValueError as error:
            raise ValueError(f"`base_url` is no URL: {error}.") from None
        if parts.username is not None or parts.query:
            raise ValueError(
                "`base_url` holds a user, a password or parameters. Keys come from the environment alone: set the variable "
                f"{api_key_env}, and leave them out of the URL."
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"`base_url` must look like 'https://host/v1', got {base_url!r}.")
        self.base_url, self.model, self.api_key_env = base_url.rstrip("/"), model, api_key_env
        self._limit = "max_tokens"  # newer models of OpenAI call it otherwise

    def complete(self, messages: list[dict[str, Any]], max_tokens: int, **options: Any) -> dict[str, Any]:
        """The answer to a conversation: its `text`, and whether the model has `finished` it."""
        for _ in range(RETRIES + 1):
            body = {"model": self.model, "messages": messages, self._limit: max_tokens, **options}
            response = self._post(body)
            if (
                response.status_code == 400
                and self._limit == "max_tokens"
                and "max_completion_tokens" in response.text
            ):
                self._limit = "max_completion_tokens"
                continue
            if response.status_code >= 300:
                raise self._error(response.status_code, response.text)
            try:
                choice = response.json()["choices"][0]
                text = choice["message"].get("content") or ""
            except (ValueError, LookupError, TypeError, AttributeError):
                continue
            if isinstance(text, str):
                return {"text": text, "finished": choice.get("finish_reason") != "length"}
        raise ConnectionError(
            f"{self.base_url} answered {RETRIES + 1} times with what is no chat completion: {self._clean(response.text)}"
        )

    def _post(self, body: dict[str, Any]) -> Any:
        key = os.environ.get(self.api_key_env)
        for _ in range(RETRIES + 1):
            try:
                return http_backoff(
                    "POST",
                    f"{self.base_url}/chat/completions",
                    max_retries=RETRIES,
                    base_wait_time=WAIT,
                    json=body,
                    headers={"Authorization": f"Bearer {key}"} if key else {},
                    timeout=(CONNECT_TIMEOUT, TIMEOUT, TIMEOUT, TIMEOUT),
                )
            except RuntimeError:  # another thread had no connection, and closed the client that all share
                continue
            except HTTPError as error:
                why = f"{type(error).__name__}: {self._clean(str(error))}"
                break
        else:
            why = "other requests have no connection"
        # Without the cause, which holds the request and with it the key.
        raise ConnectionError(f"{self.base_url} does not answer after {RETRIES + 1} tries: {why}")

    def _error(self, status: int, text: str) -> Exception:
        """What a status means, and what to do."""
        answer = f"{self.base_url} answered {status}: {self._clean(text)}"
        if status in (401, 403):
            key = f"the key in {self.api_key_env}" if os.environ.get(self.api_key_env) else "a request without a key"
            return PermissionError(f"The server refuses {key}. Set {self.api_key_env} to a valid one. {answer}")
        if status == 404:
            return FileNotFoundError(
                f"There is no model {self.model!r} at {self.base_url}, or `base_url` lacks its '/v1'. {answer}"
            )
        return RefusedError(answer) if status in REFUSED else ConnectionError(answer)

    def _clean(self, text: str) -> str:
        """What a server said, short, on one line, without the key."""
        if key := os.environ.get(self.api_key_env):
            text = text.replace(key, "…")
        text = " ".join(text.split())
        return text if len(text) <= 300 else f"{text[:300]}…"


def ask_all(jobs: list[Job], ask: Callable[[Job], Any], record: Record, concurrency: int) -> None:
    """
    Record the answers to all jobs, each as soon as it is there, with several requests under way at a time; `None` is no answer.

    After a failure no more requests are sent, the answers to those under way are still recorded, and then it is raised.
    """

    def ask_one(job: Job) -> None:
        answer = ask(job)
        if answer is not None:
            record({job.key: answer})

    pool = ThreadPoolExecutor(concurrency)
    futures = [pool.submit(ask_one, job) for job in jobs]
    try:
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        pool.shutdown(cancel_futures=True)
    for future in futures:
        if not future.cancelled():
            future.result()


class ChatBackend:
    """
    Samples from a model behind a URL: one request for each response, with a seed of its own, which some servers ignore.

    Args:
        api ([`ChatAPI`]):
            The model.
        options ([`SamplingOptions`]):
            What to sample with.
        concurrency (`int`):
            How many requests are under way at a time.
    """

    batch_size = 1

    def __init__(self, api: ChatAPI, options: SamplingOptions, concurrency: int):
        self.name, self.api = api.model, api
        self.identity = ["openai", api.base_url, api.model]
        self.refused: dict[str, str] = {}
        self._options, self._concurrency = options, concurrency

    def sample(self, batches: list[list[Job]], record: Record) -> None:
        ask_all([job for batch in batches for job in batch], self._ask, record, self._concurrency)

    def _ask(self, job: Job) -> dict[str, Any] | None:
        prompt, _ = job.payload
        options = self._options
        try:
            return self.api.complete(
                options.messages(prompt),
                options.max_new_tokens,
                temperature=float(options.temperature),
                top_p=float(options.top_p),
                seed=options.seed_of(*job.payload) >> 32,  # 31 bits, which every server takes
            )
        except RefusedError as error:
            self.refused[job.key] = str(error)
            return None
