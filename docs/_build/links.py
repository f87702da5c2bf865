"""Links from docs/ to other files of the repository, as links to its address: a hook of MkDocs."""

import re
import tomllib
from pathlib import Path


OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown, *, config, **kwargs):
    """The page with links to the repository that pyproject.toml names."""
    pyproject = Path(config.config_file_path).with_name("pyproject.toml")
    repository = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
    return OUTSIDE.sub(rf"[\1]({repository}/blob/main/\2)", markdown)
