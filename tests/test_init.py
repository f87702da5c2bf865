import subprocess
import sys

import pytest

import trl_real


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_import_is_light_and_changes_nothing():
    result = run(
        "import os, sys, warnings, logging\n"
        "before = dict(os.environ), list(warnings.filters), logging.getLogger().level, sys.getrecursionlimit()\n"
        "import trl_real\n"
        "heavy = {'torch', 'trl', 'transformers', 'datasets', 'sentence_transformers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert before == (dict(os.environ), list(warnings.filters), logging.getLogger().level, "
        "sys.getrecursionlimit())\n"
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_the_help_of_the_command_line_is_light(argument):
    result = run(
        "import sys\n"
        "from trl_real.cli import main\n"
        "try:\n"
        f"    main([{argument!r}])\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "heavy = {'torch', 'trl', 'transformers', 'datasets', 'pandas', 'pyarrow', 'numpy', 'jinja2', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    assert result.returncode == 0, result.stderr
    assert "trl-real" in result.stdout


@pytest.mark.parametrize("name", ["real_select", "embed_responses", "SelectionConfig", "select_budget"])
def test_selection_does_not_import_trl(name):
    result = run(f"import sys; from trl_real import {name}; assert 'trl' not in sys.modules")
    assert result.returncode == 0, result.stderr


def test_every_public_name_is_there():
    for name in trl_real.__all__:
        assert getattr(trl_real, name).__doc__, name
        assert name in dir(trl_real)


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'trl_real' has no attribute 'real_selekt'"):
        _ = trl_real.real_selekt
