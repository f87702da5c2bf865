"""The example cards are those that today's code renders."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


CARDS = Path(__file__).parent.parent / "model_cards"


def settled(text):
    """A card without what differs by machine and version: these, TRL's device, what training came to, a cosine's last digit."""
    text = re.sub(r"(?m)^(- [A-Z]\w+: |Versions: ).*", r"\1", text)
    text = re.sub(r"(?m)^( +value: |\| [\w -]+ \| `rewards/\w+` \| ).*", r"\1", text)
    text = re.sub(r'device(_map)?="\w+"', "device", text)
    return re.sub(r"-?\b\d+\.\d+\b", lambda match: f"{float(match[0]):.1f}", text)


@pytest.mark.slow
def test_cards_are_fresh(tmp_path):
    result = subprocess.run(
        [sys.executable, CARDS / "render.py", tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "HF_ENDPOINT": "https://huggingface.co", "HF_HUB_OFFLINE": "1"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    for name in ("dataset_card.md", "model_card.md"):
        there = (CARDS / name).read_text(encoding="utf-8")
        assert settled((tmp_path / name).read_text(encoding="utf-8")) == settled(there), f"run `make cards`: {name}"
    assert (tmp_path / "figures" / "data-train.png").stat().st_size > 10_000
    assert (CARDS / "figures" / "data-train.png").stat().st_size > 10_000
