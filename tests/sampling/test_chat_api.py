"""A model behind a URL: retries, refusals in one line, and a key that nobody sees."""

import logging
import time

import pytest

from trl_real.sampling.chat_api import ChatAPI, RefusedError, ask_all
from trl_real.sampling.resume import Job


HELLO = [{"role": "user", "content": "hello"}]
KEY = "sk-a-very-secret-key"


def api(chat, model="model"):
    return ChatAPI(chat.url, model, "OPENAI_API_KEY")


def test_what_is_asked_and_answered(chat):
    answer = api(chat).complete(HELLO, 5, temperature=0.5, seed=3)
    assert answer == {"text": "hello 3", "finished": True}
    ((path, body, headers),) = chat.requests
    assert path == "/v1/chat/completions"
    assert body == {"model": "model", "messages": HELLO, "max_tokens": 5, "temperature": 0.5, "seed": 3}
    assert "Authorization" not in headers


def test_the_token_of_the_hub_does_not_reach_other_servers(chat, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + 34 * "x")
    api(chat).complete(HELLO, 5)
    assert "Authorization" not in chat.requests[0][2]


@pytest.mark.parametrize("faults", [[500], [503, "cut"], ["nonsense", 502, "nonsense"], [429] * 5])
def test_faults_that_pass(faults, chat):
    chat.faults = list(faults)
    assert api(chat).complete(HELLO, 5)["text"] == "hello None"
    assert len(chat.requests) == len(faults) + 1


def test_a_rate_limit_says_how_long_to_wait(chat, monkeypatch):
    waits = []
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waits.append)
    chat.faults, chat.retry_after = [429, 500], 7
    api(chat).complete(HELLO, 5)
    assert waits[0] >= 7 > waits[1]


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (401, PermissionError, "The server rejects the key in OPENAI_API_KEY. Set OPENAI_API_KEY to a valid key."),
        (403, PermissionError, "The server rejects the key"),
        (404, FileNotFoundError, "There is no model 'model' at http://127.0.0.1"),
        (400, RefusedError, "answered 400: .*no Bearer …"),
        (409, ConnectionError, "answered 409"),
        (500, ConnectionError, "does not answer after 6 attempts"),
        ("cut", ConnectionError, "does not answer after 6 attempts"),
        ("nonsense", ConnectionError, "answered 6 times, but not with a chat completion: <html>busy"),
    ],
)
def test_faults_that_stay_are_one_line_without_the_key(fault, error, message, chat, monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    chat.faults = [fault] * 100
    with caplog.at_level(logging.DEBUG), pytest.raises(error, match=message) as raised:
        api(chat).complete(HELLO, 5)
    assert chat.requests[0][2]["Authorization"] == f"Bearer {KEY}"
    assert "\n" not in str(raised.value)
    assert KEY not in str(raised.value) + caplog.text
    assert raised.value.__cause__ is None  # it would hold the request


def test_no_server(chat, monkeypatch):
    chat.close()
    with pytest.raises(ConnectionError, match="does not answer after 6 attempts: ConnectError"):
        api(chat).complete(HELLO, 5)


def test_no_key_where_one_is_needed(chat):
    chat.key = KEY
    with pytest.raises(PermissionError, match=r"The server rejects a request without a key. Set OPENAI_API_KEY"):
        api(chat).complete(HELLO, 5)


def test_newer_models_name_the_limit_otherwise(chat):
    chat.error = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    chat.answer = lambda body: 400 if "max_tokens" in body else "yes"
    model = api(chat)
    assert [model.complete(HELLO, 5)["text"] for _ in range(2)] == ["yes", "yes"]
    assert len(chat.requests) == 3


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000", "must look like 'https://host/v1', got 'localhost:8000'"),
        ("http://host:x/v1", "`base_url` is not a valid URL"),
        (f"https://user:{KEY}@host/v1", "Remove them from the URL, and set the API key in the environment"),
        (f"https://host/v1?api_key={KEY}", "Remove them from the URL, and set the API key in the environment"),
    ],
)
def test_urls_that_are_refused(url, message):
    with pytest.raises(ValueError, match=message) as raised:
        ChatAPI(url, "model", "OPENAI_API_KEY")
    assert KEY not in str(raised.value)


def test_after_a_failure_what_is_under_way_is_still_recorded():
    asked = []

    def ask(job):
        asked.append(job.payload)
        time.sleep(0.002)
        if job.payload == 0:
            raise ConnectionError("gone")
        return job.payload

    answers = {}
    with pytest.raises(ConnectionError, match="gone"):
        ask_all([Job(str(i), i) for i in range(1000)], ask, answers.update, 4)
    assert set(answers.values()) == set(asked) - {0}
    assert len(asked) < 1000
