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


def test_the_table_of_the_readme_is_that_of_the_results(run):
    shown = run.README.read_text(encoding="utf-8").split(run.BEGIN)[1].split(run.END)[0]
    assert shown.strip() == run.table().strip()
    for figure in re.findall(r"!\[.*?\]\((.*?)\)", shown):
        assert (ROOT / figure).is_file()


def test_each_benchmark_has_its_results():
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"machine", "run"}
    assert {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")} == scripts
