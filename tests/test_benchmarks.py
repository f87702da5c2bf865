import importlib.util
import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parent.parent


@pytest.fixture
def run(monkeypatch):
    """benchmarks/run.py as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("run", ROOT / "benchmarks" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "block", "write"),
    [("PAGE", "benchmarks", "table"), ("RAY", "billion", "billion"), ("README", "speed", "extract")],
)
def test_what_is_said_is_that_of_the_results(page, block, write, run):
    page = getattr(run, page)
    shown = page.read_text(encoding="utf-8").split(f"<!-- {block} -->\n")[1].split(f"<!-- /{block} -->\n")[0]
    assert shown.strip() == getattr(run, write)().strip()
    for figure in re.findall(r"!\[.*?\]\((.*?)\)", shown):
        assert (page.parent / figure).is_file()


def test_each_benchmark_has_its_results():
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"documents", "machine", "run"}
    assert {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")} == scripts
