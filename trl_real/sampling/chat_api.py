"""Client for OpenAI-compatible chat servers: requests, retries and error messages."""

import os
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import http_backoff

from .options import SamplingOptions
from .resume import Job, Record


# Retries after a status that asks to wait or a lost connection, and, counted separately, after an invalid answer.
RETRIES = 5
WAIT = 1.0  # seconds before the first retry, doubled for each further one, unless the server says how long to wait
TIMEOUT = 600.0  # seconds to wait for an answer
CONNECT_TIMEOUT = 10.0
# Status codes of requests that are not worth a retry.
REFUSED = (400, 413, 422)


class RefusedError(ValueError):
    """The server rejects this prompt; it may accept others."""


class ChatAPI:
    """
    A model behind a URL.

    Args:
        base_url (`str`):
            The URL, up to and including `/v1`.
        model (`str`):
            The name of the model on the server.
        api_key_env (`str`):
            The environment variable with the API key. If it is not set, requests have no key.
    """

    def __init__(self, base_url: str, model: Any, api_key_env: str):
        if not isinstance(model, str):
            raise TypeError(
                f"With `base_url`, `model` must be the name of a model on the server, got {type(model).__name__}."
            )
        try:
            parts = urlsplit(base_url)
            parts.port  # noqa: B018, raises if the port is not a number
        except ValueError as error:
            raise ValueError(f"`base_url` is not a valid URL: {error}.") from None
        if parts.username is not None or parts.query:
            raise ValueError(
                "`base_url` contains a user name, a password or query parameters. Remove them from the URL, and set the API key "
                f"in the environment variable {api_key_env}."
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"`base_url` must look like 'https://host/v1', got {base_url!r}.")
        self.base_url, self.model, self.api_key_env = base_url.rstrip("/"), model, api_key_env
        self._limit = "max_tokens"  # newer OpenAI models use another name

    def complete(self, messages: list[dict[str, Any]], max_tokens: int, **options: Any) -> dict[str, Any]:
        """The answer to a conversation: its `text`, and whether the model `finished` it."""
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
            f"{self.base_url} answered {RETRIES + 1} times, but not with a chat completion: {self._clean(response.text)}"
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
            except RuntimeError:  # another thread lost its connection and closed the shared client
                continue
            except HTTPError as error:
                why = f"{type(error).__name__}: {self._clean(str(error))}"
                break
        else:
            why = "other requests have no connection"
        # Raised without the cause, which contains the request and thus the key.
        raise ConnectionError(f"{self.base_url} does not answer after {RETRIES + 1} attempts: {why}")

    def _error(self, status: int, text: str) -> Exception:
        """The exception for a status code, with a suggestion."""
        answer = f"{self.base_url} answered {status}: {self._clean(text)}"
        if status in (401, 403):
            key = f"the key in {self.api_key_env}" if os.environ.get(self.api_key_env) else "a request without a key"
            return PermissionError(f"The server rejects {key}. Set {self.api_key_env} to a valid key. {answer}")
        if status == 404:
            return FileNotFoundError(
                f"There is no model {self.model!r} at {self.base_url}, or `base_url` lacks its '/v1'. {answer}"
            )
        return RefusedError(answer) if status in REFUSED else ConnectionError(answer)

    def _clean(self, text: str) -> str:
        """The answer of a server on one line, shortened, and without the key."""
        if key := os.environ.get(self.api_key_env):
            text = text.replace(key, "…")
        text = " ".join(text.split())
        return text if len(text) <= 300 else f"{text[:300]}…"


def ask_all(jobs: list[Job], ask: Callable[[Job], Any], record: Record, concurrency: int) -> None:
    """
    Send several requests at a time, and record each answer as soon as it arrives. An answer of `None` is not recorded.

    After a failure, no more requests are sent. Answers to pending requests are still recorded before the failure is raised.
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
    Sample from a model behind a URL, with one request per response. Each request has its own seed, which some servers ignore.

    Args:
        api ([`ChatAPI`]):
            The model.
        options ([`SamplingOptions`]):
            The sampling options.
        concurrency (`int`):
            Maximum number of concurrent requests.
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
