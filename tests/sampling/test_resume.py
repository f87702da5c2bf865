"""The log of what is done: nothing in it is lost or repeated, whatever happens to the process or the disk."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from trl_real.sampling.resume import Job, ResumeLog, content_key, run_jobs


def jobs(n):
    return [Job(content_key(i), i) for i in range(n)]


def double(batches, record):
    for batch in batches:
        record({job.key: 2 * job.payload for job in batch})


def test_a_second_run_does_what_is_missing_in_the_same_batches(tmp_path):
    seen = []

    def work(batches, record):
        for batch in batches:
            seen.append([job.payload for job in batch])
            if len(seen) == 3:
                raise RuntimeError("killed")
            record({job.key: 2 * job.payload for job in batch})

    path = tmp_path / "deep" / "log.jsonl"
    with pytest.raises(RuntimeError), ResumeLog(path) as log:
        run_jobs(jobs(10), work, log, 3, "")
    with ResumeLog(path) as log:
        results = run_jobs(jobs(10), work, log, 3, "")
    assert results == {key: 2 * i for key, i in jobs(10)}
    assert seen == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [6, 7, 8], [9]]


def test_equal_jobs_are_done_once(tmp_path):
    with ResumeLog(tmp_path / "log.jsonl") as log:
        run_jobs(jobs(3) + jobs(3), double, log, 2, "")
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_line_is_cut_off(cut, tmp_path):
    path = tmp_path / "log.jsonl"
    with ResumeLog(path) as log:
        run_jobs(jobs(2), double, log, 2, "")
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[0][: min(cut, 44)])
    with ResumeLog(path) as log:
        assert run_jobs(jobs(2), double, log, 2, "") == {key: 2 * i for key, i in jobs(2)}
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "content",
    [
        '{"prompt": "mine"}\n',
        '{"key": "value", "settings": [1, 2, 3]}',
        "no log",
        '[1]\n{"key": "a", "result": 1}\n',
        "\n",
    ],
)
def test_a_file_that_is_no_log_stays_as_it_is(content, tmp_path):
    path = tmp_path / "candidates.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match="line 1: expected a line of a log of `trl_real`, found"), ResumeLog(path):
        pass
    assert path.read_text() == content


def test_one_process_at_a_time(tmp_path):
    with (
        ResumeLog(tmp_path / "log.jsonl"),
        pytest.raises(BlockingIOError, match=r"Another process is writing to .*log.jsonl"),
        ResumeLog(tmp_path / "log.jsonl"),
    ):
        pass


def test_a_full_disk_keeps_what_is_there(tmp_path, monkeypatch):
    path, write = tmp_path / "log.jsonl", os.write

    def full(file, data):
        write(file, data[:20])
        raise OSError(28, "No space left on device")

    with ResumeLog(path) as log:
        log.append({"a": 1})
        whole = path.read_bytes()
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(
            OSError,
            match=r"The disk of .* is full. Free up space and start again: the run resumes from the saved results",
        ):
            log.append({"b": 2})
        monkeypatch.setattr(os, "write", write)
        assert path.read_bytes() == whole
        log.append({"b": 2})
    with ResumeLog(path) as log:
        assert [log["a"], log["b"]] == [1, 2]


SLOW = """
import sys, time
from trl_real.sampling.resume import Job, ResumeLog, content_key, run_jobs

def work(batches, record):
    for batch in batches:
        time.sleep(0.002)
        record({job.key: "x" * 5000 for job in batch})

with ResumeLog(sys.argv[1]) as log:
    run_jobs([Job(content_key(i), i) for i in range(2000)], work, log, 3, "")
"""


@pytest.mark.slow
def test_kills_lose_and_repeat_nothing(tmp_path, rng):
    path, sizes = tmp_path / "log.jsonl", [0]
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", SLOW, str(path)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and (path.stat().st_size if path.exists() else 0) <= sizes[-1]:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        with ResumeLog(path):
            sizes.append(path.stat().st_size)
    assert sizes == sorted(set(sizes))  # more each time
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert keys == [content_key(i) for i in range(len(keys))]
