"""Links from docs/ to other files of the repository, which read well there: a hook of MkDocs."""

import re


OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown, *, config, **kwargs):
    """Point them to the repository, once `repo_url` says where it is; until then only their text is left."""
    if not config.repo_url:
        return OUTSIDE.sub(r"\1", markdown)
    return OUTSIDE.sub(rf"[\1]({config.repo_url.rstrip('/')}/blob/main/\2)", markdown)
