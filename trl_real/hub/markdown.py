"""Text of others inside Markdown: shown as it is, and read by nobody as Markdown, HTML, YAML or a template."""

import re
import textwrap
import unicodedata

from ..core.redaction import redact


# What nobody sees, or what turns the direction of text around or ends a line for some readers only: by category, and blanks that
# are letters or symbols. Joiners stay, which emoji and Persian need.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"
BLANKS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0" + "".join(map(chr, range(0xE0100, 0xE01F0)))
# What means something within a line, `www.` and addresses among it, which GitHub's Markdown makes links of.
PUNCTUATION = re.compile(r"([\\`*_{}\[\]<>#!|~&$@^:]|(?<=www)\.)")
WIDTH = 88


def visible(text: str) -> str:
    """Text in which all that is there can be seen, but for tokens: what is invisible as its code point, tabs as spaces."""
    text = re.sub(r"\r\n?", "\n", redact(text)).expandtabs(4)
    return re.sub(r"[^\x20-\x7e\n]", _seen, text)


def _seen(match: re.Match[str]) -> str:
    char = match.group()
    if char not in BLANKS and (char in JOINERS or unicodedata.category(char) not in UNSEEN):
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def one_line(text: str, limit: int = 120) -> str:
    """Visible text on one line, at most `limit` characters of it."""
    text = " ".join(visible(text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def escape(text: str) -> str:
    """A line of text for a paragraph, heading or table."""
    return PUNCTUATION.sub(r"\\\1", one_line(text))


def code(text: str) -> str:
    """Inline code, in a table, too."""
    text = one_line(text)
    ticks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    space = " " if text[:1] in ("`", "") or text[-1:] == "`" else ""
    return f"{ticks}{space}{text}{space}{ticks}".replace("|", r"\|")


def fenced(text: str, language: str) -> str:
    """A code block of a language, behind a fence that `text` does not close."""
    text = redact(text).rstrip()
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f"{fence}{language}\n{text}\n{fence}"


def quote(text: str, limit: int = 1000) -> str:
    """
    A block of text as it is, its lines wrapped, at most `limit` characters of it. It is indented, so that no line begins with
    something that means anything: a fence, a heading, three hyphens.
    """
    text = redact(text)
    cut = len(text) - limit
    lines = visible(text[:limit]).strip("\n").split("\n")
    wrapped = [part for line in lines for part in (textwrap.wrap(line, WIDTH) or [""])]
    if cut > 0:
        wrapped.append(f"[… {cut:,} more characters]")
    return textwrap.indent("\n".join(wrapped), "    ") if any(line.strip() for line in wrapped) else "    (blank)"
