"""Render a task for the page: Markdown as inert HTML, and the raw text."""

from functools import lru_cache
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from ..core.messages import is_messages, response_text
from ..labeling.label_log import OTHER_SIDE, side_sha256
from ..labeling.queue import LabelTask


# Longer texts are shown as they are: rendering them would keep an annotator waiting.
MAX_MARKDOWN = 20_000
TAGS = {
    *("p", "br", "hr", "blockquote", "pre", "code", "ul", "ol", "li", "em", "strong", "s", "a"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td"),
}


def _name_image(renderer: RendererHTML, tokens: list[Token], n: int, options: Any, env: Any) -> str:
    """An image as its description, since nothing is loaded from elsewhere."""
    alt = renderer.renderInlineAsText(tokens[n].children or [], options, env)
    return nh3.clean_text(f"[image: {alt}]" if alt else "[image]")


MARKDOWN = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
MARKDOWN.add_render_rule("image", _name_image)


def task_for_page(task: LabelTask) -> dict[str, Any]:
    """A task as JSON for the page, with the responses in the order in which the annotator sees them."""
    first, second = (getattr(task, f"response_{side}") for side in (task.shown_first, OTHER_SIDE[task.shown_first]))
    return {
        "pair_id": task.pair_id,
        "first_sha256": side_sha256(first),
        "prompt": turns(task.prompt, "user"),
        "first": turns(first, "assistant"),
        "second": turns(second, "assistant"),
    }


def turns(text: Any, role: str) -> list[dict[str, Any]]:
    """Text or messages as turns with a `role`, the `text`, and its `html`, which is `None` if the text is too long to be rendered."""
    messages = text if is_messages(text) else [{"role": role, "content": text}]
    shown = []
    for message in messages:
        content = response_text([message])
        html = to_html(content) if len(content) <= MAX_MARKDOWN else None
        shown.append({"role": str(message["role"]), "text": content, "html": html})
    return shown


@lru_cache(maxsize=1024)
def to_html(text: str) -> str:
    """Markdown as HTML without scripts, styles, images or anything else that acts by itself."""
    return nh3.clean(
        MARKDOWN.render(text),
        tags=TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes={"http", "https"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )
