"""The label page on this machine, and a client that talks HTTP to it."""

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from datasets import Dataset

from trl_real.label_page.accounts import Accounts
from trl_real.label_page.server import create_app
from trl_real.labeling.queue import LabelQueue


ROOT = Path(__file__).parent.parent
PASSWORDS = {"anna": "anna's secret", "ben": "ben:s secret"}


def unlabeled(n: int, **columns: str) -> Dataset:
    """Pairs whose texts name them."""
    row = {"prompt": "question {}", "response_a": "one {}", "response_b": "two {}", **columns}
    return Dataset.from_list(
        [{"pair_id": f"{i:x}", **{name: text.format(i) for name, text in row.items()}} for i in range(n)]
    )


@contextlib.contextmanager
def running(queue: LabelQueue, passwords: dict[str, str] | None = None, port: int = 0):
    """The page of a queue in a thread of this process; the port."""
    with serving(create_app(queue, None if passwords is None else Accounts(passwords), "anna"), port) as found:
        yield found


@contextlib.contextmanager
def serving(app: Any, port: int = 0):
    """An application in a thread of this process; the port."""
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def start_command(*flags: str, cwd: Path) -> tuple[subprocess.Popen[str], int]:
    """`trl-real label` in a process of its own; the process and its port."""
    command = [sys.executable, "-m", "trl_real.cli", "label", *flags]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert process.stdout is not None
    found = re.match(r"Label at http://127\.0\.0\.1:(\d+) as ", process.stdout.readline())
    assert found, process.wait()
    return process, int(found[1])


def start_space(folder: str, secrets: dict[str, str], code: str | None = None) -> tuple[subprocess.Popen[str], int]:
    """The app of a Space in a process of its own, after some other code; the process and its port."""
    run = "import runpy; runpy.run_path('app.py', run_name='__main__')"
    command = [sys.executable, *(["app.py"] if code is None else ["-c", f"{code}; {run}"])]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    clean = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"}
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        env={**clean, "PYTHONPATH": path, "PORT": "0", **secrets},
    )
    assert process.stdout is not None
    found = re.match(r"The page is at http://0\.0\.0\.0:(\d+)\. ", process.stdout.readline())
    assert found, process.wait()
    return process, int(found[1])


class Reply(NamedTuple):
    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Client:
    """A browser without a screen: it keeps its connection and its cookie."""

    def __init__(self, port: int, name: str | None = None, password: str | None = None):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.cookie = None
        if name is not None:
            assert self.post("api/sign-in", name=name, password=password or PASSWORDS.get(name, name)).status == 200

    def get(self, path: str, **headers: str) -> Reply:
        return self.send("GET", path, None, headers)

    def post(self, path: str, **body: Any) -> Reply:
        return self.send("POST", path, json.dumps(body), {"Content-Type": "application/json"})

    def send(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Reply:
        cookie = {} if self.cookie is None else {"Cookie": self.cookie}
        self.connection.request(method, f"/{path}", body, {**cookie, **headers})
        response = self.connection.getresponse()
        if (given := response.getheader("set-cookie")) is not None:
            self.cookie = given.partition(";")[0]
        return Reply(response.status, response.headers, response.read().decode())

    def decide(self, task: dict[str, Any], choice: str, /, **changes: Any) -> Reply:
        shown = {name: task[name] for name in ("pair_id", "first_sha256")}
        return self.post("api/decide", **{**shown, "choice": choice, "seconds": 1.5, **changes})
