"""Text of others inside Markdown: shown as it is, and read by nobody as Markdown, HTML, YAML or a template."""

import re
import textwrap


# What is invisible, turns the direction of text around or ends a line for some readers only: controls, marks and overrides of
# direction (Unicode UAX #9), other separators, tags and surrogates. Joiners stay, which emoji and Persian need.
UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f\ud800-\udfff]"
)
# What means something within a line, `www.` and addresses among it, which GitHub's Markdown makes links of.
PUNCTUATION = re.compile(r"([\\`*_{}\[\]<>#!|~&$@^:]|(?<=www)\.)")
TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{16,}\b")
WIDTH = 100


def visible(text: str) -> str:
    """Text in which everything can be seen: what is invisible as its code point, tabs as spaces, `\\n` between lines."""
    text = re.sub(r"\r\n?", "\n", text).expandtabs(4)
    return UNSEEN.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


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
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def quote(text: str, limit: int = 1000) -> str:
    """
    A block of text as it is, its lines wrapped, at most `limit` characters of it. It is indented, so that no line begins with
    something that means anything: a fence, a heading, three hyphens.
    """
    cut = len(text) - limit
    lines = visible(text[:limit]).strip("\n").split("\n")
    wrapped = [part for line in lines for part in (textwrap.wrap(line, WIDTH) or [""])]
    if cut > 0:
        wrapped.append(f"[… {cut:,} more characters]")
    return textwrap.indent("\n".join(wrapped), "    ") if any(line.strip() for line in wrapped) else "    (blank)"


def redact(text: str) -> str:
    """Text without anything that looks like a token of the Hub."""
    return TOKEN.sub(r"\1_…", text)
