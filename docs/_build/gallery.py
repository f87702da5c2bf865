"""
Make the pictures of docs/gallery.md: `python docs/_build/gallery.py`, with Playwright and Debian's Chromium.

Everything is from the package's sample and the example cards in model_cards/. No person labels: the longer response is better.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datasets import Dataset
from huggingface_hub import RepoCard
from markdown_it import MarkdownIt
from playwright.sync_api import Browser, sync_playwright

from trl_real import SelectionConfig, embed_responses, label_progress, load_sample, real_select, select_preferences


ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "figures"
CARDS = ROOT / "model_cards"
DECIDED = 7
SIZES = {"wide": {"width": 1200, "height": 640}, "narrow": {"width": 400, "height": 800}}
TOP = {"x": 0, "y": 0, "width": 900, "height": 1900}  # of a card
# Close to how the Hub shows a card.
CARD_STYLE = """
body { font: 16px/1.6 system-ui, sans-serif; color: #1f2937; max-width: 820px; margin: 2em auto; padding: 0 2em; }
h1, h2, h3 { line-height: 1.3; } h2 { border-bottom: 1px solid #e5e7eb; padding-bottom: .3em; } img { max-width: 100%; }
table { border-collapse: collapse; } td, th { border: 1px solid #d1d5db; padding: .3em .7em; }
code { background: #f3f4f6; padding: .1em .3em; border-radius: 4px; font-size: 90%; }
pre { background: #f3f4f6; padding: 1em; overflow-x: auto; } pre code { padding: 0; }
"""


def main() -> None:
    plot_report()
    plot_progress()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        with label_page() as url:
            photograph_label_page(browser, url)
        for name in ("dataset_card", "model_card"):
            photograph_card(browser, name)
        browser.close()


def plot_report() -> None:
    _, report = select_preferences(load_sample(), SelectionConfig(budget=0.5))
    report.plot(PICTURES / "report.png")


def plot_progress() -> None:
    """The curve after 200 labels."""
    candidates = load_sample().remove_columns("scores").map(embed_responses, batched=True)
    pairs = candidates.map(real_select, batched=True, fn_kwargs={"strategy": "random", "pairs_per_prompt": 10})
    longer = {
        row["pair_id"]: "a" if len(row["response_a"]) > len(row["response_b"]) else "b"
        for row in pairs.shuffle(seed=0).select(range(200))
    }
    label_progress(pairs, longer).plot(PICTURES / "progress.png")


@contextmanager
def label_page() -> Iterator[str]:
    """The address of a labeling page for the sample."""
    with tempfile.TemporaryDirectory() as folder:
        candidates = load_sample().remove_columns("scores")
        pairs: Dataset = candidates.map(
            real_select, batched=True, remove_columns=["responses"], fn_kwargs={"strategy": "random"}
        )
        pairs.to_json(f"{folder}/pairs.jsonl")
        flags = f"--data_files {folder}/pairs.jsonl --output_dir {folder}/project --annotator anna --port 0"
        command = [sys.executable, "-m", "trl_real.cli", "label", *flags.split()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            yield re.search(r"http://\S+", server.stdout.readline())[0]
            server.terminate()


def photograph_label_page(browser: Browser, url: str) -> None:
    """The page after some decisions, in light and dark, wide and narrow."""
    page = browser.new_page(viewport=SIZES["wide"])
    page.goto(url)
    for n in range(1, DECIDED + 1):
        page.locator("#task").wait_for()
        page.keyboard.press("0")
        page.locator("#mine", has_text=f"{n} by you").wait_for()
    page.keyboard.press("1")
    page.locator("#mine", has_text=f"{DECIDED + 1} by you").wait_for()
    page.close()
    for size, viewport in SIZES.items():
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport=viewport, color_scheme=scheme)
            page.goto(url)
            page.locator("#task").wait_for()
            page.screenshot(path=PICTURES / f"label_page_{size}_{scheme}.png")
            page.close()


def photograph_card(browser: Browser, name: str) -> None:
    """A card as the Hub shows it, without its metadata."""
    text = RepoCard.load(CARDS / f"{name}.md").text
    body = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(text)
    with tempfile.NamedTemporaryFile("w", suffix=".html", dir=CARDS, encoding="utf-8") as file:
        file.write(f"<!doctype html><meta charset='utf-8'><style>{CARD_STYLE}</style>{body}")
        file.flush()
        page = browser.new_page(viewport={"width": 900, "height": 800})
        page.goto(Path(file.name).as_uri())
        page.screenshot(path=PICTURES / f"{name}.png", full_page=True, clip=TOP)
        page.close()


if __name__ == "__main__":
    main()
