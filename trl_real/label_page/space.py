"""The labeling page in a Space on the Hub: `serve_space`, which the app of the Space calls."""

import json
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from datasets import Dataset, disable_progress_bars
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from ..labeling.hub_labels import download_logs, merge_logs
from ..labeling.queue import LabelQueue
from .accounts import Accounts
from .label_saver import LabelSaver
from .server import create_app, serve
from .space_settings import ANNOTATORS, PAIRS, PORT, SETTINGS, TOKEN, SpaceSettings


# At the start, the Hub may be busy.
RETRYING = Retrying(
    retry=retry_if_exception_type((ConnectionError, HTTPError)),
    stop=stop_after_attempt(5),
    wait=wait_exponential(),
    reraise=True,
)


def serve_space(folder: Path) -> None:
    """
    Serve the labeling page of a Space until the process is stopped, and save the labels to the Hub.

    The disk of a Space does not outlive a restart. Therefore, the pairs and the labels of earlier starts are read from the Hub first.

    Args:
        folder (`Path`):
            The files of the Space.

    Raises:
        `RuntimeError`: If a secret of the Space is missing.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # which ends the `with` block below
    disable_progress_bars()
    settings = SpaceSettings.load(folder / SETTINGS)
    _secret(TOKEN)  # `huggingface_hub` reads it
    accounts = Accounts(json.loads(_secret(ANNOTATORS))) if settings.annotator is None else None
    pairs, log = RETRYING(_download, settings.labels_repo_id)
    queue = LabelQueue(Dataset.from_parquet(str(pairs)), log, **settings.queue_options)
    with RETRYING(LabelSaver, log, settings.labels_repo_id) as saver:
        app = create_app(queue, accounts, settings.annotator or "", saver)

        def started(url: str) -> None:
            print(f"The page is at {url}. Labels go to {saver.name} of {settings.labels_repo_id}.", flush=True)

        serve(app, "0.0.0.0", int(os.environ.get("PORT", PORT)), started)


def _secret(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise RuntimeError(
            f"The Space has no secret `{name}`. Add it in the settings of the Space, or push the Space again with `push_label_space`."
        )
    return value


def _download(repo_id: str) -> tuple[Path, Path]:
    """The pairs, and a label log with all decisions that are on the Hub."""
    logs = download_logs(repo_id)
    # The folder stays, in case the last labels cannot be saved.
    log = merge_logs(logs, Path(tempfile.mkdtemp(prefix="trl-real-"), "labels.jsonl"))
    return Path(hf_hub_download(repo_id, PAIRS, repo_type="dataset")), log
