"""The server of the label page, by real HTTP: who may do what, and what happens when something goes wrong."""

import resource
import threading
import time
from pathlib import Path

import pytest
from local_page import PASSWORDS, Client, running, unlabeled

from trl_real import LabelQueue
from trl_real.label_page.server import create_app, serve
from trl_real.labeling.label_log import read_log


@pytest.fixture
def log(tmp_path):
    return tmp_path / "labels.jsonl"


@pytest.fixture
def port(log):
    with running(LabelQueue(unlabeled(12), log), PASSWORDS) as port:
        yield port


@pytest.fixture
def anna(port):
    return Client(port, "anna")


def test_a_decision_is_logged_as_it_was_shown(anna, log):
    task = anna.get("api/task").json["task"]
    choices = ["first", "second", "tie", "skip"]
    for n, choice in enumerate(choices, 1):
        reply = anna.decide(task, choice, seconds=n).json
        assert reply["mine"] == n
        assert reply["task"]["pair_id"] != task["pair_id"]
        assert anna.get("api/task").json["task"] == reply["task"]
        (line,) = list(read_log(log))[n - 1 :]
        shown = {task["first"][0]["text"]: "first", task["second"][0]["text"]: "second"}
        side = {"a": shown[f"one {int(line['pair_id'], 16)}"], "b": shown[f"two {int(line['pair_id'], 16)}"]}
        assert side.get(line["label"], {"tie": "tie", None: "skip"}.get(line["label"])) == choice
        assert (line["annotator"], line["seconds"], side[line["shown_first"]]) == ("anna", n, "first")
        task = reply["task"]


def test_undo_gives_the_pair_again(anna):
    task = anna.get("api/task").json["task"]
    anna.decide(task, "first")
    reply = anna.post("api/undo").json
    assert (reply["undone"], reply["mine"], reply["task"]) == (True, 0, task)
    assert anna.post("api/undo").json["undone"] is False


def test_annotators_get_different_pairs(port, anna):
    ben = Client(port, "ben")
    seen = set()
    for client in (anna, ben) * 6:
        task = client.get("api/task").json["task"]
        seen.add(task["pair_id"])
        client.decide(task, "tie")
    assert len(seen) == 12
    reply = ben.get("api/task").json
    assert (reply["task"], reply["mine"], reply["done"], reply["pairs"]) == (None, 6, 12, 12)


@pytest.mark.parametrize("body", [{"name": "anna", "password": "ben:s secret"}, {"name": "eve", "password": ""}])
def test_a_wrong_password_opens_nothing(port, body):
    client = Client(port)
    reply = client.post("api/sign-in", **body)
    assert (reply.status, reply.json) == (401, {"error": "The name or the password is wrong."})
    assert client.cookie is None


def test_without_a_session_nothing_is_shown_or_taken(port, anna, log):
    task = anna.get("api/task").json["task"]
    real = anna.cookie.partition("=")[2]
    forged = [
        None,
        "trl_real_session=",
        "trl_real_session=YW5uYQ==.0",
        "trl_real_session=YmVu." + real.partition(".")[2],
    ]
    for cookie in forged:
        client = Client(port)
        client.cookie = cookie
        for reply in (
            client.get("api/task"),
            client.decide(task, "first"),
            client.post("api/undo"),
            client.get("progress.png"),
        ):
            assert (reply.status, reply.json) == (401, {"error": "You are signed out. Sign in again."})
        for path in ("", "progress"):
            reply = client.get(path)
            assert (reply.status, reply.headers["location"]) == (307, "sign-in")
    assert log.read_bytes() == b""


def test_nobody_labels_in_anothers_name(anna, log):
    task = anna.get("api/task").json["task"]
    reply = anna.decide(task, "first", annotator="ben")
    assert reply.status == 400
    assert reply.json["error"] == "There is no field `annotator`. Who labels is known from the session."
    assert anna.send("GET", "api/task?annotator=ben", None, {"X-Annotator": "ben"}).json["annotator"] == "anna"
    assert log.read_bytes() == b""


def test_who_signs_out_is_out(anna):
    assert anna.post("api/sign-out").status == 200
    assert anna.get("api/task").status == 401


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"pair_id": "nowhere"}, 400, "There is no pair with the `pair_id` 'nowhere'."),
        ({"pair_id": "\ud800"}, 400, "There is no pair with the `pair_id`"),
        ({"pair_id": 3}, 400, "The field `pair_id` is missing or of another type."),
        ({"choice": "left"}, 400, "`choice` must be one of ['first', 'second', 'tie', 'skip'], found 'left'."),
        ({"choice": None}, 400, "The field `choice` is missing or of another type."),
        ({"seconds": -1}, 400, "`seconds` must be a number of at least 0, found"),
        ({"seconds": float("nan")}, 400, "`seconds` must be a number of at least 0, found"),
        ({"seconds": float("inf")}, 400, "`seconds` must be a number of at least 0, found"),
        ({"seconds": 10**400}, 400, "`seconds` must be a number of at least 0, found"),
        ({"seconds": True}, 400, "The field `seconds` is missing or of another type."),
        ({"first_sha256": "0"}, 409, "This pair has changed since it was shown."),
        ({"pair_id": "x" * 20_000}, 413, "The request is longer than 16384 bytes."),
    ],
)
def test_a_wrong_decision_is_named_and_leaves_no_trace(anna, log, changes, status, message):
    task = anna.get("api/task").json["task"]
    reply = anna.decide(task, "first", **changes)
    assert reply.status == status
    assert message in reply.json["error"]
    assert log.read_bytes() == b""
    anna.connection.close()
    assert anna.decide(task, "first").status == 200


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ("choice=first", "application/x-www-form-urlencoded", 415),
        ("{}", "text/plain", 415),
        ("{", "application/json", 400),
        ("[" * 9000, "application/json", 400),
        ("[]", "application/json", 400),
        ("", "application/json", 400),
    ],
)
def test_what_is_not_such_json_is_refused(anna, body, kind, status):
    for path in ("api/decide", "api/undo", "api/sign-in", "api/sign-out"):
        assert anna.send("POST", path, body, {"Content-Type": kind}).status == status


def test_methods_and_paths_that_are_not_there(anna):
    assert anna.get("api/decide").status == 405
    assert anna.get("api/nothing").status == 404
    assert anna.get("static/../server.py").status == 404
    assert anna.get("static/%2e%2e/server.py").status == 404


def test_every_answer_forbids_what_comes_from_elsewhere(anna, port):
    for path in ("", "sign-in", "progress", "static/label.js", "api/task", "api/nothing"):
        for client in (anna, Client(port)):
            policy = client.get(path).headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "http" not in policy
    cookie = Client(port).post("api/sign-in", name="ben", password=PASSWORDS["ben"]).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_without_accounts_only_this_machine_is_answered(log):
    with running(LabelQueue(unlabeled(3), log)) as port:
        client = Client(port)
        reply = client.get("api/task").json
        assert (reply["annotator"], reply["is_lead"], reply["has_accounts"]) == ("anna", True, False)
        assert client.get("api/task", Host=f"localhost:{port}").status == 200
        assert client.get("api/task", Host="rebound.example.com").status == 400
        assert client.post("api/sign-in", name="anna", password="").status == 401


def test_the_lead_alone_sees_how_it_goes(port, anna):
    task = anna.get("api/task").json["task"]
    anna.decide(task, "tie")
    text = anna.get("progress").text
    assert "Too early to tell" in text
    assert "1 of 12 done" in " ".join(text.split())
    assert '<th scope="row">anna</th>' in text
    for path in ("progress", "progress.png"):
        reply = Client(port, "ben").get(path)
        assert (reply.status, reply.json) == (403, {"error": "Only anna can see the progress."})


def test_a_name_is_text_on_the_page_of_the_lead(log):
    name = "<script>alert(1)</script>"
    with running(LabelQueue(unlabeled(3), log), {name: name}) as port:
        client = Client(port, name)
        client.decide(client.get("api/task").json["task"], "tie")
        assert "<script>" not in client.get("progress").text


def test_progress_has_the_plot_once_there_are_labels(log, rng):
    pairs = unlabeled(130).add_column("embeddings", rng.standard_normal((130, 2, 4)).astype("float32").tolist())
    queue = LabelQueue(pairs, log)
    for _ in range(110):
        task = queue.next_task("anna")
        queue.record("anna", task.pair_id, "a" if pairs[int(task.pair_id, 16)]["embeddings"][0][0] > 0 else "b")
    with running(queue, PASSWORDS) as port:
        client = Client(port, "anna")
        assert client.get("progress.png").status == 404
        text = until_new(client)
        assert 'src="progress.png"' in text
        assert "model agrees" in text
        client.connection.request("GET", "/progress.png", headers={"Cookie": client.cookie})
        response = client.connection.getresponse()
        assert response.read().startswith(b"\x89PNG")


def until_new(client):
    """The page of the lead once it has taken in all labels."""
    while "refreshes automatically" in (text := client.get("progress").text):
        time.sleep(0.1)
    return text


def test_progress_that_takes_long_keeps_nobody_waiting(log, monkeypatch):
    queue = LabelQueue(unlabeled(12), log)
    embedded, report = threading.Event(), queue.label_progress
    monkeypatch.setattr(queue, "label_progress", lambda: (embedded.wait(30), report())[1])
    with running(queue, PASSWORDS) as port:
        client = Client(port, "anna")
        assert "The responses are being embedded" in client.get("progress").text
        assert client.decide(client.get("api/task").json["task"], "tie").json["mine"] == 1
        embedded.set()
        assert "Too early to tell" in until_new(client)
        monkeypatch.setattr(queue, "label_progress", lambda: 1 / 0)
        client.decide(client.get("api/task").json["task"], "tie")
        assert client.get("progress").status == 500
        client.connection.close()
        monkeypatch.setattr(queue, "label_progress", report)
        assert "2 ties" in until_new(client)


def test_a_session_and_a_shown_pair_outlive_the_server(log):
    pairs = unlabeled(12)
    with running(LabelQueue(pairs, log), PASSWORDS) as port:
        client = Client(port, "anna")
        task = client.get("api/task").json["task"]
    client.connection.close()
    with running(LabelQueue(pairs, log), PASSWORDS, port=port):
        assert client.decide(task, "second").json["mine"] == 1
    assert [line["annotator"] for line in read_log(log)] == ["anna"]


def test_a_pair_whose_sides_were_shuffled_anew_is_shown_again(log):
    pairs = unlabeled(12)
    with running(LabelQueue(pairs, log), PASSWORDS) as port:
        tasks = [Client(port, "anna").get("api/task").json["task"]]
    other = next(
        seed
        for seed in range(1, 99)
        if LabelQueue(pairs, log, seed=seed).task("anna", tasks[0]["pair_id"]).shown_first
        != LabelQueue(pairs, log).task("anna", tasks[0]["pair_id"]).shown_first
    )
    with running(LabelQueue(pairs, log, seed=other), PASSWORDS) as port:
        assert Client(port, "anna").decide(tasks[0], "first").status == 409
    assert log.read_bytes() == b""


def test_a_full_disk_is_told(anna, log):
    task = anna.get("api/task").json["task"]
    anna.decide(task, "first")
    before, limit = log.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    task = anna.get("api/task").json["task"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), limit[1]))
    try:
        replies = [anna.decide(task, "first"), anna.post("api/undo")]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    for reply in replies:
        assert reply.status == 507
        assert reply.json["error"].startswith("Your last decision was not saved: File too large.")
    assert log.read_bytes() == before
    assert anna.get("api/task").json["task"] == task
    assert anna.decide(task, "first").json["mine"] == 2


def test_a_log_that_cannot_be_read_is_told(anna, log):
    task = anna.get("api/task").json["task"]
    log.write_text("not a label\n")
    reply = anna.decide(task, "first")
    assert reply.status == 400
    assert "line 1: expected JSON, found 'not a label'" in reply.json["error"]


def test_a_wrong_line_of_another_program_hides_no_decision_behind_it(anna, log):
    line = '{{"pair_id": "3", "label": "{}", "annotator": "ben"}}\n'
    log.write_text(line.format("A!") + line.replace("3", "4").format("b"))
    for _ in range(2):
        reply = anna.get("api/task")
        assert reply.status == 400
        assert "must be 'a', 'b', 'tie' or None, found str ('A!')" in reply.json["error"]
    log.write_text(line.format("a") + line.replace("3", "4").format("b"))
    assert anna.get("api/task").json["done"] == 2


def test_an_embedder_that_is_not_there_costs_no_decision(log, monkeypatch):
    """And nobody is told so: neither the annotator whose next round it would pick, nor the lead who looks at the progress."""
    pairs, nowhere = unlabeled(120), "nobody/not-there"
    with running(LabelQueue(pairs, log, embedder=nowhere), PASSWORDS) as port:
        client = Client(port, "anna")
        task = client.get("api/task").json["task"]
        for _ in range(105):
            task = client.decide(task, "first").json["task"]
        text = client.get("progress").text
        assert "There is no report for the newest labels: The embedder" in text
        assert nowhere in text
        assert "105 of 120 done" in text
    queue = LabelQueue(pairs, log)
    with running(queue, PASSWORDS) as port, monkeypatch.context() as without:
        client = Client(port, "anna")
        task = client.get("api/task").json["task"]
        without.setattr(queue, "next_task", lambda annotator: Path(nowhere).read_bytes())
        reply = client.decide(task, "first")
        assert (reply.status, "not saved" in reply.json["error"]) == (500, False)
        assert nowhere in reply.json["error"]
    assert len(list(read_log(log))) == 106


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_the_address_is_one_to_open(host, shown, log, monkeypatch):
    found = []
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: found.append(sockets[0].getsockname()[1]))
    serve(create_app(LabelQueue(unlabeled(1), log)), host, 0, found.append)
    url, port = found
    assert url == f"http://{shown}:{port}"


def test_a_response_of_5_mb_is_served(log):
    pairs = unlabeled(1, response_a="x" * 5_000_000)
    with running(LabelQueue(pairs, log), PASSWORDS) as port:
        client = Client(port, "anna")
        task = client.get("api/task").json["task"]
        assert sorted(len(task[part][0]["text"]) for part in ("first", "second")) == [5, 5_000_000]
        assert client.decide(task, "first").json["done"] == 1
