"""Annotators and their sessions: `Accounts`."""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping


class Accounts:
    """
    Names and passwords of annotators. The first one is the lead.

    A session is a cookie that can only be computed from the password. The server stores no sessions, so they survive a restart.

    Args:
        passwords (`dict[str, str]`):
            The password of each annotator.
    """

    def __init__(self, passwords: Mapping[str, str]):
        self._keys = {name: _key(name, password) for name, password in passwords.items()}
        self.lead = next(iter(passwords))

    def sign_in(self, name: str, password: str) -> str | None:
        """The session of an annotator; `None` if the name or the password is wrong."""
        key = _key(name, password)
        known = self._keys.get(name)
        if known is None or not hmac.compare_digest(known, key):
            return None
        return _session(name, key)

    def who(self, session: str) -> str | None:
        """The annotator whose session it is; `None` if it is nobody's."""
        try:
            name = urlsafe_b64decode(session.partition(".")[0]).decode()
        except ValueError:
            return None
        key = self._keys.get(name)
        return (
            name if key is not None and hmac.compare_digest(_session(name, key).encode(), session.encode()) else None
        )


def _key(name: str, password: str) -> bytes:
    salt = hashlib.sha256(b"trl_real annotator " + name.encode("utf-8", "surrogatepass")).digest()
    return hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, n=2**13, r=8, p=1)


def _session(name: str, key: bytes) -> str:
    proof = hmac.new(key, b"session", hashlib.sha256).hexdigest()
    return f"{urlsafe_b64encode(name.encode()).decode()}.{proof}"
