"""Labels of a Space go to a dataset on the Hub, whatever fails on the way."""

import http.client
import json
import re
import threading
import time

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from local_hub import ALICE
from local_page import PASSWORDS, Client, serving, unlabeled

from trl_real import LabelQueue
from trl_real.label_page import label_saver
from trl_real.label_page.accounts import Accounts
from trl_real.label_page.label_saver import LabelSaver
from trl_real.label_page.server import create_app
from trl_real.labeling.label_log import append_decision, create_log


LABELS = "alice/labels"


@pytest.fixture(autouse=True)
def alice(monkeypatch, hub):
    monkeypatch.setenv("HF_TOKEN", ALICE)
    monkeypatch.setattr(label_saver, "EVERY", 1000.0)  # commits come when a test asks for them
    monkeypatch.setattr(label_saver, "WAIT", 0.0)
    HfApi().create_repo(LABELS, repo_type="dataset", private=True)


@pytest.fixture
def log(tmp_path):
    create_log(tmp_path / "labels.jsonl")
    return tmp_path / "labels.jsonl"


def start(log):
    """A saver that has looked once, as it does when it starts."""
    saver = LabelSaver(log, LABELS)
    while not hasattr(saver, "last_future"):
        time.sleep(0.001)
    saver.last_future.result()
    return saver


def decide(log, *pairs):
    for pair in pairs:
        append_decision(log, {"pair_id": pair, "label": "a", "annotator": "anna", "time": "2026-01-01T00:00:00Z"})


def on_hub(hub):
    """The pairs in each file of the dataset."""
    files = hub.repos["dataset", LABELS].files()
    return {
        name: [json.loads(line)["pair_id"] for line in text.splitlines()]
        for name, text in files.items()
        if name.startswith("labels/")
    }


def test_new_decisions_are_committed_and_counted(hub, log):
    decide(log, "0", "1")  # which are on the Hub already
    with start(log) as saver:
        assert saver.saved() == (2, 2, False)
        decide(log, "2", "3")
        assert saver.saved() == (2, 4, False)
        saver.trigger().result()
        assert saver.saved() == (4, 4, False)
        assert saver.trigger().result() is None  # nothing is new
        decide(log, "4")
    assert on_hub(hub) == {saver.name: ["2", "3", "4"]}
    assert [commit.message for commit in hub.repos["dataset", LABELS].history()[1:]] == [
        "Save 2 decisions",
        "Save 1 decision",
    ]


def test_a_line_that_is_being_written_waits_for_its_end(hub, log):
    with start(log) as saver:
        decide(log, "0")
        line = log.read_bytes()
        log.write_bytes(line + line[:10])
        saver.trigger().result()
        assert (on_hub(hub), saver.saved()) == ({saver.name: ["0"]}, (1, 1, False))
        log.write_bytes(line + line)
    assert on_hub(hub) == {saver.name: ["0", "0"]}


@pytest.mark.parametrize("with_", [500, 412, "drop", "lose"])
def test_after_a_failed_commit_the_next_one_has_everything(hub, log, with_):
    with start(log) as saver:
        decide(log, "0")
        hub.fail("POST", "/commit/", with_=with_)
        assert isinstance(saver.trigger().exception(), HTTPError)
        assert saver.saved() == (0, 1, True)
        decide(log, "1")
        saver.trigger().result()
        assert (on_hub(hub), saver.saved()) == ({saver.name: ["0", "1"]}, (2, 2, False))


def test_the_last_commit_is_tried_several_times(hub, log):
    with start(log) as saver:
        decide(log, "0")
        hub.fail("POST", "/commit/", times=label_saver.TRIES - 1)
    assert on_hub(hub) == {saver.name: ["0"]}


def test_what_could_not_be_saved_is_said_and_stays(hub, log, caplog):
    saver = start(log)
    decide(log, "0")
    hub.fail("POST", "/commit/", times=label_saver.TRIES)
    with pytest.raises(HTTPError, match="503"), saver:
        pass
    assert f"1 decisions are only in {log}." in caplog.text
    assert ALICE not in caplog.text
    assert log.read_text().count("\n") == 1
    saver.stop()  # otherwise, it tries again when the process ends


def test_starts_at_the_same_time_have_files_of_their_own(hub, tmp_path):
    savers = []

    def run(n):
        log = tmp_path / f"{n}.jsonl"
        create_log(log)
        with start(log) as saver:
            savers.append(saver)
            decide(log, str(n))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = on_hub(hub)
    assert sorted(found) == sorted({saver.name for saver in savers})
    assert sorted(found.values()) == [["0"], ["1"], ["2"], ["3"]]


@pytest.fixture
def page(hub, log):
    """A page as a Space serves it, with its saver."""
    queue = LabelQueue(unlabeled(3), log)
    with start(log) as saver:
        with serving(create_app(queue, Accounts(PASSWORDS), "", saver)) as port:
            yield port, saver
        log.write_bytes(b"")  # nothing is left to save


def test_the_page_says_how_much_is_saved(page, hub):
    port, saver = page
    assert Client(port).get("api/saved").status == 401
    client = Client(port, "anna")
    reply = client.get("api/task").json
    assert reply["hub"] == {"saved": 0, "decisions": 0, "failing": False}
    assert client.decide(reply["task"], "tie").json["hub"] == {"saved": 0, "decisions": 1, "failing": False}
    hub.fail("POST", "/commit/")
    assert isinstance(saver.trigger().exception(), HTTPError)
    assert client.get("api/saved").json == {"saved": 0, "decisions": 1, "failing": True}
    saver.trigger().result()
    assert client.get("api/saved").json == {"saved": 1, "decisions": 1, "failing": False}


def test_the_hub_can_show_the_page_in_a_frame(page):
    port, _ = page
    client = Client(port)
    reply = client.post("api/sign-in", name="anna", password=PASSWORDS["anna"])
    cookie = set(reply.headers["set-cookie"].split("; ")[1:])
    assert {"HttpOnly", "Secure", "SameSite=none", "Partitioned", "Path=/"} <= cookie
    policy = reply.headers["content-security-policy"]
    assert re.findall("frame-ancestors [^;]*", policy) == ["frame-ancestors 'self' https://huggingface.co"]
    assert "Max-Age=0" in client.post("api/sign-out").headers["set-cookie"]
    assert client.get("api/task").status == 401


def test_a_space_is_asked_by_the_name_that_the_hub_gives_it(hub, log):
    with start(log) as saver, serving(create_app(LabelQueue(unlabeled(3), log), saver=saver)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/api/task", headers={"Host": "alice-label.hf.space"})
        assert connection.getresponse().status == 200
        connection.close()


def test_elsewhere_the_page_stays_strict(log):
    with serving(create_app(LabelQueue(unlabeled(3), log), Accounts(PASSWORDS))) as port:
        client = Client(port)
        reply = client.post("api/sign-in", name="anna", password=PASSWORDS["anna"])
        assert "SameSite=strict" in reply.headers["set-cookie"]
        assert "huggingface" not in reply.headers["content-security-policy"]
        assert client.get("api/task").json["hub"] is None
        assert client.get("api/saved").status == 404
