"""Remove access tokens from text."""

import re


# Access tokens of the Hub: 34 letters and digits, or a JSON web token.
TOKEN = re.compile(r"(?<![A-Za-z0-9])(hf|api_org)_([A-Za-z0-9]{30,}|(oauth|jwt)_[A-Za-z0-9._-]{20,})")


def redact(text: str) -> str:
    """Replace everything that looks like a Hub token."""
    return TOKEN.sub(r"\1_…", text)
