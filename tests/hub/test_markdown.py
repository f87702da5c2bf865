import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from trl_real.core.redaction import redact
from trl_real.hub import markdown


HOSTILE = [
    "```\n# heading\n```",
    "~~~~\n</pre>\n~~~~",
    "---\nlicense: mit\n---",
    "<script>alert(1)</script>\n<!-- trl-real: begin of the selection 'default' -->",
    "{{ 7 * 7 }} {% raw %} {# x #}",
    "[a](javascript:alert(1)) ![b](http://x/y.png) http://example.org www.example.org a@b.org",
    "\u202egnp.exe \u2066x\u2069 \u200b\ufeff\x00\x0b\x85\u2028next",
    "| a | b |\n|---|---|\n| c | d |",
    "  indented\n\n\n    more\n\ttab",
    "``` `` ` \\` *b* _i_ #",
    "",
    "   ",
]
parser = MarkdownIt("gfm-like", {"html": True, "linkify": False})
texts = st.one_of(
    st.sampled_from(HOSTILE), st.text(max_size=200), st.lists(st.sampled_from(HOSTILE), max_size=6).map("\n".join)
)


def kinds(text):
    return [token.type for token in parser.parse(text)]


@given(texts)
def test_a_quote_is_one_block_of_code_that_shows_the_text(text):
    block = markdown.quote(text)
    tokens = parser.parse(f"before\n\n{block}\n\n# after\n")
    assert [token.type for token in tokens[3:]] == ["code_block", "heading_open", "inline", "heading_close"]
    assert all(line.startswith("    ") or not line for line in block.split("\n"))
    shown, meant = re.sub(r"\s", "", tokens[3].content), re.sub(r"\s", "", markdown.visible(text))
    assert shown == (meant or "(blank)")


def test_a_long_quote_is_cut_and_its_lines_are_wrapped():
    block = markdown.quote("word " * 20_000)
    assert len(block) < 2000
    assert max(map(len, block.split("\n"))) <= markdown.WIDTH + 4
    assert block.endswith("[… 99,000 more characters]")
    assert max(map(len, markdown.quote("x" * 900).split("\n"))) <= markdown.WIDTH + 4


@given(texts)
def test_inline_code_and_escaped_text_stay_in_their_cell(text):
    for cell in (markdown.code(text), markdown.escape(text)):
        (inline,) = (t for t in parser.parse(f"| a | b |\n|---|---|\n| x {cell} | end |") if t.content.startswith("x"))
        found = {child.type for child in inline.children}
        assert found <= {"text", "code_inline", "text_special"}
    assert len(markdown.one_line("x" * 1000)) == 120


@given(texts)
def test_a_fence_is_not_closed_by_what_is_in_it(text):
    (token,) = parser.parse(markdown.fenced(text, "yaml"))
    assert token.type == "fence"
    assert token.info == "yaml"


@given(texts)
def test_nothing_invisible_is_left(text):
    for char in markdown.visible(text):
        assert char in "\n\u200c\u200d" or unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp")
        assert char in "\u200c\u200d" or unicodedata.category(char) != "Cf"
    assert markdown.visible("\U000e0041\u202e\u3164") == "\\U000e0041\\u202e\\u3164"


TOKENS = [
    "hf_" + "aB" * 17,
    "hf_" + "Q1" * 20,
    "api_org_" + "b" * 34,
    "hf_oauth_" + "c" * 40,
    "hf_jwt_" + "eyJh.x-y" * 9,
]


@pytest.mark.parametrize("token", TOKENS)
def test_tokens_are_redacted_before_anything_else_happens_to_them(token):
    for text in (f"Bearer {token}, {token}", f"x_{token}_x", f"é{token}", f"https://h/?token={token}"):
        secret = token.split("_")[-1]
        assert secret not in redact(text)
        for safe in (markdown.escape, markdown.code, markdown.one_line, markdown.visible, markdown.quote):
            assert secret not in safe(text)
            assert secret[:8] not in re.sub(r"\s|\\\\", "", safe("long " * 16 + text))
    assert secret[:8] not in markdown.quote("x" * 980 + f" {token}")
    for name in ("hf_hub_download", "hf_conversationscores", "alice/hf_helpfulharmlesspairs", "api_org_x"):
        assert redact(name) == name
