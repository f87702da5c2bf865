"""Labels in a dataset on the Hub, where a labeling Space saves them: `download_logs`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects

from ..core.files import whole_file
from ..core.redaction import redact
from ..core.repo_ids import is_repo_id


# The label logs of a dataset: one file per start of the labeling page.
LOGS = "labels/*.jsonl"
# The tag of a dataset whose labels may be yet to come.
TAG = "label-log"
# Labels with such a name are a file, even if there is none.
FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")


def is_dataset_id(labels: Any) -> bool:
    """Whether labels are the id of a dataset on the Hub, as `"user/name"`. A local file or folder of that name comes first."""
    return isinstance(labels, str) and not labels.endswith(FILES) and is_repo_id(labels)


def download_logs(repo_id: str, token: str | None = None) -> list[Path]:
    """
    The local paths of all label logs in a dataset on the Hub, as of its latest commit.

    Raises:
        `FileNotFoundError`: If there is no such dataset, or the user has no access to it.
        `ValueError`: If it is not a dataset of labels.
        `ConnectionError`: If the Hub does not answer.
    """
    api = HfApi(token=token)
    try:
        info = api.dataset_info(repo_id)
        files = api.list_repo_files(repo_id, repo_type="dataset", revision=info.sha)
        names = sorted(filter_repo_objects(files, allow_patterns=LOGS))
        if not names and TAG not in (info.tags or ()):
            raise ValueError(
                f"The dataset {repo_id!r} on the Hub has no labels: it has no files `{LOGS}`. `push_label_space` creates such a "
                "dataset."
            )
        # Of this commit: for a branch, the cache would answer in place of a Hub that does not.
        folder = (
            snapshot_download(repo_id, repo_type="dataset", revision=info.sha, allow_patterns=LOGS, token=token)
            if names
            else ""
        )
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"`{repo_id}` is neither a local file with labels nor a dataset on the Hub that you have access to. Check the name. If "
            "the dataset is private, run `hf auth login`."
        ) from error
    except (HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ConnectionError(
            f"The labels in the dataset {repo_id!r} could not be read from the Hub. Try again later. ({type(error).__name__}: "
            f"{redact(' '.join(str(error).split()))})"
        ) from None
    return [Path(folder, name) for name in names]


def merge_logs(logs: Iterable[Path], path: Path) -> Path:
    """Write several label logs to one file."""
    with whole_file(path) as unfinished, open(unfinished, "wb") as file:
        for log in logs:
            data = log.read_bytes()
            file.write(data if data.endswith(b"\n") or not data else data + b"\n")
    return path
