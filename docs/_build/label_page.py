"""Take the screenshot of docs/labeling-page.md: `python docs/_build/label_page.py`, with Playwright and Debian's Chromium."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from trl_real import load_sample, real_select


PICTURE = Path(__file__).parent.parent / "figures" / "label_page.png"
DECIDED = 7


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        candidates = load_sample().remove_columns("scores")
        pairs = candidates.map(real_select, batched=True, remove_columns=["responses"], fn_kwargs={"strategy": "random"})
        pairs.to_json(f"{folder}/pairs.jsonl")
        flags = f"--data_files {folder}/pairs.jsonl --output_dir {folder}/project --annotator anna --port 0"
        command = [sys.executable, "-m", "trl_real.cli", "label", *flags.split()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
            url = re.search(r"http://\S+", server.stdout.readline())[0]
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1200, "height": 640})
            page.goto(url)
            for n in range(1, DECIDED + 1):
                page.locator("#task").wait_for()
                page.keyboard.press("0")
                page.locator("#mine", has_text=f"{n} by you").wait_for()
            page.keyboard.press("1")
            page.locator("#mine", has_text=f"{DECIDED + 1} by you").wait_for()
            page.screenshot(path=PICTURE)
            browser.close()
            server.terminate()


if __name__ == "__main__":
    main()
