"""Memory does not grow with the number of prompts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "scaling.py"
# 1.6 GB of text in all, of which a batch holds 16 MB.
STREAM = """
import resource, sys
from pathlib import Path

import numpy as np
from datasets import IterableDataset

from trl_real import real_select


class Embedder:
    def encode(self, texts):
        return np.array([[len(text), text.count("a")] for text in texts], dtype=np.float32)


def rows(n):
    for i in range(n):
        yield {"prompt": f"{i}", "responses": [f"{i} {'a' * (20_000 + j)}" for j in range(8)], "scores": [*range(8)]}


def pairs(n):
    stream = IterableDataset.from_generator(rows, gen_kwargs={"n": n})
    return stream.map(real_select, batched=True, batch_size=100, fn_kwargs={"embedder": Embedder()})


for pair in pairs(200):  # loads all that is imported late
    pass
data = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data + 300_000_000,) * 2)
if sys.argv[1] == "one at a time":
    print(sum(1 for pair in pairs(10_000)))
else:
    print(len(list(pairs(10_000))))
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and limits memory as Linux does")


@pytest.mark.slow
@pytest.mark.parametrize("path", ["text", "column", "flow"])
def test_ten_times_the_prompts_take_the_same_memory(path):
    command = [sys.executable, BENCHMARK, "--paths", path, "--prompts", "4000", "40000", "--more_prompts"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(process.stdout)
    assert result["growth"][path]["memory"] < 1.2, result["paths"]


@pytest.mark.slow
def test_a_stream_may_be_larger_than_memory():
    def run(how):
        return subprocess.run([sys.executable, "-c", STREAM, how], capture_output=True, text=True)

    process = run("one at a time")
    assert process.stdout == "10000\n", process.stderr
    assert "MemoryError" in run("all at once").stderr  # the limit is one
