"""The description on PyPI: README.md with links to the repository that pyproject.toml names. Everything else is in pyproject.toml."""

import re
import tomllib
from pathlib import Path

from setuptools import setup


HERE = Path(__file__).parent
RELATIVE_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)]+)\)")


def description() -> str:
    """README.md, in which files of the repository have full addresses, as PyPI needs them."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project["urls"]["Repository"]
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    return RELATIVE_LINK.sub(
        lambda link: f"{link[1]}[{link[2]}]({repository}/{'raw' if link[1] else 'blob'}/main/{link[3]})", readme
    )


setup(long_description=description(), long_description_content_type="text/markdown")
