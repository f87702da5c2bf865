"""Twenty annotators at once, and a server that is killed under them."""

import http.client
import signal
import threading
import time
from collections import Counter

import pytest
from local_page import Client, start_command, unlabeled

from trl_real.labeling.label_log import read_log


NAMES = [f"annotator {i}" for i in range(20)]
PAIRS, OVERLAP = 1000, 2  # 2,000 labels


class Annotator(threading.Thread):
    """Labels until there is nothing left, and asks again where the server does not answer."""

    def __init__(self, name, port, labels):
        super().__init__()
        self.who, self.port, self.labels = name, port, labels
        self.confirmed = []

    def run(self):
        client = Client(self.port, self.who)
        reply = client.get("api/task").json
        while reply["done"] < reply["pairs"]:
            if reply["task"] is None:
                time.sleep(0.05)
                reply = self.ask(lambda: client.get("api/task"), client)
                continue
            task = reply["task"]
            reply = self.ask(lambda task=task: client.decide(task, "first"), client)
            self.confirmed.append(task["pair_id"])
            self.labels.release()

    def ask(self, request, client):
        for _ in range(300):
            try:
                reply = request()
                assert reply.status == 200, reply.text
                return reply.json
            except (OSError, http.client.HTTPException):
                client.connection.close()
                time.sleep(0.1)
        raise AssertionError("the server did not come back")


@pytest.mark.slow
def test_twenty_annotators_lose_nothing_and_do_nothing_twice(tmp_path):
    unlabeled(PAIRS).to_json(tmp_path / "pairs.jsonl")
    (tmp_path / "annotators.txt").write_text("".join(f"{name}:{name}\n" for name in NAMES))
    flags = [
        "--data_files",
        "pairs.jsonl",
        "--output_dir",
        "project",
        "--auth",
        "annotators.txt",
        "--overlap",
        "2",
        "--port",
    ]
    server, port = start_command(*flags, "0", cwd=tmp_path)
    labels = threading.Semaphore(0)
    annotators = [Annotator(name, port, labels) for name in NAMES]
    try:
        for annotator in annotators:
            annotator.start()
        for _ in range(700):  # then in the middle
            assert labels.acquire(timeout=60)
        server.send_signal(signal.SIGKILL)
        server.wait()
        server, again = start_command(*flags, str(port), cwd=tmp_path)
        assert again == port
        for annotator in annotators:
            annotator.join(timeout=120)
            assert not annotator.is_alive()
    finally:
        server.kill()
        server.wait()
    lines = list(read_log(tmp_path / "project" / "labels.jsonl"))
    logged = Counter((line["annotator"], line["pair_id"]) for line in lines)
    confirmed = {(annotator.who, pair) for annotator in annotators for pair in annotator.confirmed}
    assert confirmed == set(logged)  # nothing that was confirmed is lost, and nothing else is there
    assert set(logged.values()) == {1}
    per_pair = Counter(pair for _, pair in logged)
    assert len(per_pair) == PAIRS
    assert min(per_pair.values()) == OVERLAP
    # A killed server forgets its leases: what was shown at that time may be decided once more, and still counts.
    assert sum(per_pair.values()) <= PAIRS * OVERLAP + len(NAMES)
