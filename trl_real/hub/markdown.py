"""Show foreign text inside Markdown as it is, so that no tool reads it as Markdown, HTML, YAML or a template."""

import re
import textwrap
import unicodedata

from ..core.redaction import redact


# Invisible characters, and characters that change the direction of text or end a line in some programs: by Unicode category, and
# blank letters and symbols. Joiners are kept, since emoji and Persian need them.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"
BLANKS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0" + "".join(map(chr, range(0xE0100, 0xE01F0)))
# Characters with a meaning in Markdown within a line, including those of URLs, which GitHub's Markdown turns into links.
PUNCTUATION = re.compile(r"([\\`*_{}\[\]<>#!|~&$@^:]|(?<=www)\.)")
WIDTH = 88


def visible(text: str) -> str:
    """Text without tokens, with invisible characters replaced by their code points and tabs by spaces."""
    text = re.sub(r"\r\n?", "\n", redact(text)).expandtabs(4)
    return re.sub(r"[^\x20-\x7e\n]", _seen, text)


def _seen(match: re.Match[str]) -> str:
    char = match.group()
    if char not in BLANKS and (char in JOINERS or unicodedata.category(char) not in UNSEEN):
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def one_line(text: str, limit: int = 120) -> str:
    """Visible text on one line, shortened to `limit` characters."""
    text = " ".join(visible(text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def escape(text: str) -> str:
    """One line of text, escaped for a paragraph, heading or table."""
    return PUNCTUATION.sub(r"\\\1", one_line(text))


def code(text: str) -> str:
    """Inline code that also works in a table."""
    text = one_line(text)
    ticks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    space = " " if text[:1] in ("`", "") or text[-1:] == "`" else ""
    return f"{ticks}{space}{text}{space}{ticks}".replace("|", r"\|")


def fenced(text: str, language: str) -> str:
    """A code block with a fence that `text` cannot close."""
    text = redact(text).rstrip()
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f"{fence}{language}\n{text}\n{fence}"


def quote(text: str, limit: int = 1000) -> str:
    """
    A block of text with wrapped lines, shortened to `limit` characters. It is indented, so that no line can begin with Markdown
    syntax such as a fence, a heading or three hyphens.
    """
    text = redact(text)
    cut = len(text) - limit
    lines = visible(text[:limit]).strip("\n").split("\n")
    wrapped = [part for line in lines for part in (textwrap.wrap(line, WIDTH) or [""])]
    if cut > 0:
        wrapped.append(f"[… {cut:,} more characters]")
    return textwrap.indent("\n".join(wrapped), "    ") if any(line.strip() for line in wrapped) else "    (blank)"
