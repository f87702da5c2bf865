"""Whatever the data hold, what the page shows of them does nothing by itself."""

import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_real.label_page.rendering import MAX_MARKDOWN, TAGS, task_for_page, to_html, turns
from trl_real.labeling.label_log import side_sha256
from trl_real.labeling.queue import LabelTask


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![pixel](https://example.com/pixel.png)",
    '![x](https://example.com/x.png "title" onerror=alert(1))',
    "[click](javascript:alert(1))",
    "[click](  JaVaScRiPt:alert(1))",
    "[click](java\tscript:alert(1))",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "[click](vbscript:x)",
    "<javascript:alert(1)>",
    '[a](<https://x" onmouseover="alert(1)>)',
    "<svg onload=alert(1)>",
    "<iframe src=https://example.com></iframe>",
    "<style>body{background:url(https://example.com)}</style>",
    '<a href="https://example.com" onclick="alert(1)">x</a>',
    "```html\n<script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\nx\n```',
    "[x]: https://example.com/x.png\n\n![x]",
    "| <script> | b |\n|-|-|\n| <img src=x onerror=1> | c |",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#60;script&#62;alert(1)",
    "<form action=https://example.com><input name=q></form>",
    "<base href=https://example.com>",
    "</div></section></main><script>alert(1)</script>",
    "<!--<img src=--><img src=x onerror=alert(1)//>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "\x00<script\x00>alert(1)</script>",
    "![![x](https://a/b.png)](https://c/d.png)",
]


class Elements(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def check_inert(html):
    for tag, attributes in Elements(html).found:
        assert tag in TAGS
        allowed = {"a": {"href", "rel", "target"}, "ol": {"start"}}.get(tag, set())
        assert set(attributes) <= allowed
        if "href" in attributes:
            assert attributes["href"].startswith(("http://", "https://"))
            assert attributes["rel"] == "noopener noreferrer nofollow"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert(text):
    check_inert(to_html(text))


@given(st.lists(st.one_of(st.sampled_from([*HOSTILE, *"<>[]()!`*_#|\\\"'&\n ", "](", "<a ", "http://x"]), st.text())))
def test_any_mixture_is_inert(parts):
    check_inert(to_html("".join(parts).encode("utf-8", "replace").decode()))


def test_markdown_is_rendered():
    html = to_html(
        "# Title\n\n**bold** *soft* `code` ~~gone~~\nnext\n\n3. three\n\n| a | b |\n|-|-|\n| 1 | 2 |\n\n> said"
    )
    tags = {tag for tag, _ in Elements(html).found}
    assert tags >= {"h1", "strong", "em", "code", "s", "br", "ol", "li", "table", "th", "td", "blockquote"}
    assert '<a href="https://x.y/z"' in to_html("[x](https://x.y/z)")
    assert Elements(to_html("a < b & <b>c</b>")).text.strip() == "a < b & <b>c</b>"  # HTML is text here


def test_an_image_is_named_and_not_loaded():
    assert Elements(to_html("see ![a <b>cat](https://example.com/cat.png)")).text.strip() == "see [image: a <b>cat]"


@pytest.mark.parametrize("unit", ["[", "[a](", "*a ", "> ", "|a", "`", "<a ", "![", "&", "**a *b "])
def test_no_text_keeps_the_server_long(unit):
    began = time.perf_counter()
    check_inert(to_html((unit * MAX_MARKDOWN)[:MAX_MARKDOWN]))
    assert time.perf_counter() - began < 10


def test_messages_are_turns():
    messages = [
        {"role": "system", "content": "Be *kind*."},
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look", "arguments": {"x": 1}}}]},
    ]
    shown = turns(messages, "user")
    assert [turn["role"] for turn in shown] == ["system", "user", "assistant"]
    assert [turn["text"] for turn in shown[:2]] == ["Be *kind*.", "one two"]
    assert '"look"' in shown[2]["text"]
    assert "<em>kind</em>" in shown[0]["html"]
    assert turns("plain", "user") == [{"role": "user", "text": "plain", "html": "<p>plain</p>\n"}]


def test_a_long_text_is_not_rendered():
    (turn,) = turns("*x* " * MAX_MARKDOWN, "assistant")
    assert turn["html"] is None
    assert len(turn["text"]) == 4 * MAX_MARKDOWN


@pytest.mark.parametrize("first", ["a", "b"])
def test_responses_come_in_the_order_that_the_annotator_sees(first):
    task = task_for_page(LabelTask("x", "why", "one", "two", first))
    expected = ["one", "two"] if first == "a" else ["two", "one"]
    assert [task[part][0]["text"] for part in ("first", "second")] == expected
    assert task["first_sha256"] == side_sha256(expected[0])
