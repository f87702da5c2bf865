"""
Label pairs in a real Label Studio: `make label-studio-check`. It is not a part of `make test`, because it installs Label Studio.

Two annotators sign up at a server on this machine and label the tasks of `to_label_tasks` through its API: in a project with our labeling
interface, and in one with the `Pairwise` control of its templates. `apply_labels` must then give exactly their labels.

    python tests/label_studio_check.py .venv/label-studio/bin/label-studio [--keep folder]
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import requests
from datasets import Dataset

from trl_real import apply_labels, real_select, to_label_tasks


ODD = [
    '=1+1 "quoted"',
    "two\nlines\tand a tab",
    "naïve 日本語 🧑‍🚀",
    "<b>no</b> & <script>alert(1)</script>",
    "  spaces  ",
    "'tis",
    "-1",
    "$price",
]
PAIRWISE = """
<View>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="comparison" toName="one,two"/>
  <Text name="one" value="$response_a"/>
  <Text name="two" value="$response_b"/>
  <Choices name="draw" toName="prompt"><Choice value="tie"/></Choices>
</View>
"""
WAIT = 600  # seconds for the server to create its database


def pairs():
    """Pairs of plain text and of messages."""
    rows = [{"prompt": f"Which? {text}", "responses": [text, f"{text} or not"]} for text in ODD]
    plain = Dataset.from_list(rows)
    talk = Dataset.from_list(
        [
            {
                "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": row["prompt"]}],
                "responses": [[{"role": "assistant", "content": response}] for response in row["responses"]],
            }
            for row in rows
        ]
    )
    select = {"batched": True, "remove_columns": ["responses"], "fn_kwargs": {"strategy": "random"}}
    return {"text": plain.map(real_select, **select), "messages": talk.map(real_select, **select)}


class User:
    """A user of Label Studio, signed in as in a browser."""

    def __init__(self, url, email):
        self.url, self.email, self.session = url, email, requests.Session()
        page = self.session.get(f"{url}/user/signup/", timeout=60).text
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)[1]
        form = {"email": email, "password": "a-long-password-1", "csrfmiddlewaretoken": token}
        self.session.post(f"{url}/user/signup/", data=form, headers={"Referer": url}, timeout=60).raise_for_status()
        self.id = self.call("GET", "current-user/whoami")["id"]

    def call(self, method, path, body=None):
        headers = {"X-CSRFToken": self.session.cookies.get("csrftoken", ""), "Referer": self.url}
        reply = self.session.request(method, f"{self.url}/api/{path}", json=body, headers=headers, timeout=60)
        if not reply.ok:
            raise SystemExit(f"{method} {path}: {reply.status_code} {reply.text[:500]}")
        return reply.json()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(command, folder):
    """Start a server with a new SQLite database in `folder`, and wait until it answers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    flags = ["start", "--no-browser", "--data-dir", folder, "--internal-host", "127.0.0.1", "--port", str(port)]
    quiet = {
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    log = open(Path(folder, "server.log"), "w")  # noqa: SIM115
    server = subprocess.Popen(
        [command, *flags], env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True
    )
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if requests.get(f"{url}/health", timeout=5).ok:
                return server, url
        except requests.ConnectionError:
            time.sleep(1)
    server.kill()
    raise SystemExit(f"Label Studio did not start:\n{Path(folder, 'server.log').read_text()[-3000:]}")


def result(label, pairwise):
    """The result that the page of Label Studio saves for a label."""
    if pairwise and label != "tie":
        value = {"selected": {"a": "left", "b": "right"}[label]}
        return [{"type": "pairwise", "from_name": "comparison", "to_name": "comparison", "value": value}]
    name = "draw" if pairwise else "preference"
    return [{"type": "choices", "from_name": name, "to_name": "prompt", "value": {"choices": [label]}}]


def label_project(users, title, dataset, folder, pairwise):
    """Label a project as two users, and return the labels of each pair and the paths of its exports."""
    path = folder / f"{title}.json"
    to_label_tasks(dataset, path, format="label_studio")
    config = PAIRWISE if pairwise else path.with_suffix(".xml").read_text()
    anna, ben = users
    project = anna.call("POST", "projects", {"title": title, "label_config": config, "maximum_annotations": 2})["id"]
    imported = anna.call("POST", f"projects/{project}/import?return_task_ids=true", json.loads(path.read_text()))
    assert imported["task_count"] == len(dataset), imported
    expected = {}
    for n, task in enumerate(imported["task_ids"]):
        pair = anna.call("GET", f"tasks/{task}")["data"]["pair_id"]
        first, second = [("a", "a"), ("b", "b"), ("tie", "tie"), (None, "a"), ("b", None), ("a", "b"), (None, None)][
            n % 7
        ]
        for user, label in ((anna, first), (ben, second)):
            skipped = {"result": [], "was_cancelled": True}
            answer = {"result": result(label, pairwise), "lead_time": 3.5} if label else skipped
            user.call("POST", f"tasks/{task}/annotations", answer)
        if n == 0:  # Anna changes her mind with a second annotation
            anna.call("POST", f"tasks/{task}/annotations", {"result": result("b", pairwise)})
            first = "b"
        expected[pair] = [first, second]
    exports = []
    for kind in ("JSON", "JSON_MIN"):
        exports.append(folder / f"{title}.{kind}.export.json")
        found = anna.call("GET", f"projects/{project}/export?exportType={kind}&download_all_tasks=true")
        exports[-1].write_text(json.dumps(found, ensure_ascii=False, indent=1))
    return expected, exports


def check(dataset, expected, exports):
    """`apply_labels` gives the labels of the annotators, whichever side is which, and refuses the export without skipped tasks."""
    columns = {"response_a": "response_b", "response_b": "response_a"}
    for rows in (dataset, dataset.rename_columns(columns)):
        labeled = apply_labels(rows, exports[0], on_skip="keep")
        for row, pair, before in zip(labeled, rows, dataset, strict=True):
            votes = [label for label in expected[pair["pair_id"]] if label is not None]
            agreed = votes[0] if len(set(votes)) == 1 and votes[0] != "tie" else None
            assert row["chosen"] == (before[f"response_{agreed}"] if agreed else None), (row, votes)
            assert row["n_labels"] == len(votes), (row, votes)
    try:
        apply_labels(dataset, exports[1])
    except ValueError as error:
        return f"{len(dataset)} pairs, all labels as given. JSON_MIN: {error}"
    raise AssertionError("JSON_MIN was not refused.")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("label_studio", help="Command of Label Studio.")
    parser.add_argument("--keep", help="Folder for the tasks and the exports.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(arguments.keep or scratch)
        server, url = start(arguments.label_studio, scratch)
        try:
            users = [User(url, f"{name}@example.com") for name in ("anna", "ben")]
            print("Label Studio", requests.get(f"{url}/api/version", timeout=60).json()["release"], "at", url)
            for form, dataset in pairs().items():
                for control in ("choices", "pairwise"):
                    expected, exports = label_project(
                        users, f"{form}-{control}", dataset, folder, control == "pairwise"
                    )
                    print(f"{form}, {control}:", check(dataset, expected, exports))
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


if __name__ == "__main__":
    main()
