"""What a labeling Space and its dataset are made of: files, settings and the names of secrets."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


SETTINGS = "label_space.json"  # in the Space
PAIRS = "pairs.parquet"  # in the dataset, next to the labels
PORT = 7860
# Secrets of the Space. `HF_TOKEN` is the name that `huggingface_hub` reads.
TOKEN = "HF_TOKEN"
ANNOTATORS = "TRL_REAL_ANNOTATORS"


@dataclass(frozen=True)
class SpaceSettings:
    """
    The settings of a labeling Space, in its file `label_space.json`.

    Attributes:
        labels_repo_id (`str`): The dataset with the pairs, for the labels.
        pairs_sha256 (`str`): The SHA-256 of the file with the pairs. If it changes, the Hub starts the Space again.
        annotator (`str` or `None`): The only annotator. If `None`, the secret `TRL_REAL_ANNOTATORS` has names and passwords.
        queue_options (`dict`): Options of [`LabelQueue`].
    """

    labels_repo_id: str
    pairs_sha256: str
    annotator: str | None
    queue_options: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> "SpaceSettings":
        """Read the file."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def dumps(self) -> str:
        """The content of the file."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"
