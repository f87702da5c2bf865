"""What caches know this package by."""

import functools
import hashlib
from pathlib import Path

from .. import __version__


@functools.cache
def code_version() -> str:
    """
    The version of this package with a hash of its source, so that no cache serves what other code has made: neither that of
    another version nor, in an editable install, that of a strategy that has been edited since.
    """
    root = Path(__file__).parents[1]
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{__version__}+{digest.hexdigest()}"
