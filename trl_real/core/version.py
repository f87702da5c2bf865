"""The version of this package that goes into cache fingerprints."""

import functools
import hashlib
from pathlib import Path

from .. import __version__


@functools.cache
def code_version() -> str:
    """
    The version of this package plus a hash of its source.

    A cache then never serves a result of different code: not of another version, and in an editable install not of a
    strategy as it was before an edit.
    """
    root = Path(__file__).parents[1]
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{__version__}+{digest.hexdigest()}"
