"""Push selected datasets to the Hub, data and card in one commit: `push_selected_dataset`."""

import functools
import importlib.util
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset, DatasetDict
from datasets.config import MAX_SHARD_SIZE
from datasets.features.features import require_storage_embed
from datasets.table import embed_table_storage
from datasets.utils.py_utils import convert_file_size_to_int
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCard,
    HfApi,
)
from huggingface_hub.errors import (
    HTTPError,
)

from .. import __version__
from ..config import SelectionConfig
from ..core.files import whole_file
from ..core.redaction import TOKEN
from ..core.repo_ids import is_repo_id
from ..selection.report import SelectionReport
from .card_metadata import Source, data_folder, describe_download, describe_files, describe_size, find_source
from .commit import Operations, Target, commit
from .dataset_card import as_splits, create_dataset_card, split_reports
from .retries import explained, retried


logger = logging.getLogger(__name__)


def push_selected_dataset(
    dataset: Dataset | DatasetDict,
    repo_id: str,
    report: SelectionReport | Mapping[str, SelectionReport] | None = None,
    config: SelectionConfig | None = None,
    *,
    candidates: Dataset | DatasetDict | None = None,
    config_name: str = "default",
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    license: str | None = None,
    source: str | None = None,
    source_revision: str | None = None,
    pretty_name: str | None = None,
    model_id: str | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> CommitInfo:
    r"""
    Push selected pairs to the Hub with their card and figure.

    Everything is pushed in one commit, so data and card on the Hub always match. Before the push, a message says how many pairs
    go to which repository, and whether it is public.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
            The pairs. They replace all splits of the configuration.
        repo_id (`str`):
            The repository, as `"user/name"`, `"organization/name"` or `"name"`. It is created if it does not exist.
        report ([`SelectionReport`] or `dict[str, SelectionReport]`, *optional*):
            The report of [`select_preferences`], or a dict with one report per split.
        config ([`SelectionConfig`], *optional*):
            The options of the selection.
        candidates ([`~datasets.Dataset`] or [`~datasets.DatasetDict`], *optional*):
            The candidates that the pairs were selected from, with their scores, so that others can repeat the selection. They
            are pushed in the same commit as the configuration `candidates`, or `<config_name>-candidates` if `config_name` is
            not the default. `load_dataset(repo_id)` still loads the pairs.
        config_name (`str`, *optional*, defaults to `"default"`):
            The configuration of the dataset to write. Other configurations are kept.
        private (`bool`, *optional*):
            Whether a new repository is private. If `None`, the setting of its owner on the Hub applies.
        revision (`str`, *optional*):
            The branch to push to, created if it does not exist. If `None`, the main branch.
        create_pr (`bool`, *optional*, defaults to `False`):
            Whether to open a pull request instead of pushing to the branch.
        token (`str`, *optional*):
            A token with write access. If `None`, the token of `hf auth login`.
        license (`str`, *optional*):
            The license of the source. If `None`, the license in the card of the source on the Hub.
        source (`str`, *optional*):
            The origin of the candidates, see [`create_dataset_card`].
        source_revision (`str`, *optional*):
            The commit of the source.
        pretty_name (`str`, *optional*):
            The title of the card.
        model_id (`str`, *optional*):
            A model on the Hub that was trained on the pairs.
        max_shard_size (`int` or `str`, *optional*, defaults to `"500MB"`):
            The maximum size of a Parquet file.

    Returns:
        [`~huggingface_hub.CommitInfo`]: The new commit, or the previous one if nothing has changed.

    Raises:
        `TypeError`, `ValueError`: If an argument is not valid, or `private=True` and the repository is public.
        `PermissionError`: If you are not logged in, or the token has no write access.
        `FileNotFoundError`, `FileExistsError`: If there is no such revision, or the name is taken.
        `ConnectionError`: If the Hub does not answer after several attempts. The repository is not changed.
        `OSError`: If the files cannot be written.

    Example:

    ```python
    from trl_real import SelectionConfig, load_sample, push_selected_dataset, select_preferences

    config = SelectionConfig(strategy="easy", budget=0.5)
    pairs, report = select_preferences(load_sample(), config)
    push_selected_dataset(pairs, "user/selected-pairs", report, config, license="apache-2.0", private=True)
    ```
    """
    splits, reports = _check(dataset, report, repo_id)
    others = {} if candidates is None else _check_candidates(candidates)
    others_name = "candidates" if config_name == "default" else f"{config_name}-candidates"
    card = functools.partial(
        create_dataset_card,
        dataset,
        report,
        config,
        config_name=config_name,
        source=source,
        source_revision=source_revision,
        pretty_name=pretty_name,
    )
    card()  # raises for wrong arguments before anything is written
    with explained(repo_id), tempfile.TemporaryDirectory(prefix="trl-real-") as temporary:
        api = HfApi(token=token, library_name="trl-real", library_version=__version__)
        files = _write_files(splits, reports, config_name, Path(temporary) / "pairs", max_shard_size)
        other_files = _write_files(others, {}, others_name, Path(temporary) / "candidates", max_shard_size)
        repo_id, model_id = _full_names(api, repo_id, model_id)
        origin = find_source(next(iter(splits.values()))) if source is None else Source(source, source_revision)
        source_data = _source_data(api, origin) if license is None else {"license": license}
        card = functools.partial(
            card, repo_id=repo_id, model_id=model_id, license=source_data.get("license"), plots=files.plots
        )

        def plan(head: str, there: set[str]) -> Operations:
            readme = card(previous=_card(api, repo_id, head) if "README.md" in there else None)
            describe_download(readme.data, config_name, files.size)
            if others:
                _describe_candidates(readme.data, others, others_name, other_files.size)
            for name, value in source_data.items():
                readme.data[name] = readme.data.get(name) or value
            if not readme.data.get("license"):
                logger.warning(
                    "The license of the pairs is unknown. Look up the license of their source, and pass it as `license`."
                )
            pairs = _operations({**files.paths, "README.md": str(readme).encode()}, there, config_name, list(splits))
            return pairs + (_operations(dict(other_files.paths), there, others_name, list(others)) if others else [])

        message = f"{sum(map(len, splits.values())):,} selected pairs"
        return commit(Target(api, repo_id, private, revision, create_pr), plan, message)


class _Files(NamedTuple):
    """
    The files to commit together with the card.

    Attributes:
        paths (`dict[str, Path]`): The local path of each file, by its name in the repository.
        plots (`dict[str, str]`): The name of the figure of each split that has one.
        size (`int`): The size of the data in bytes.
    """

    paths: dict[str, Path]
    plots: dict[str, str]
    size: int


def _check(dataset: Any, report: Any, repo_id: str) -> tuple[dict[str, Dataset], dict[str, SelectionReport]]:
    """The splits and their reports, or an error before anything is written."""
    splits = as_splits(dataset)
    for split, rows in splits.items():
        if len(rows) == 0:
            raise ValueError(f"`dataset` has no rows in its split {split!r}: there is nothing to push.")
        if rows.features != next(iter(splits.values())).features:
            raise ValueError(
                f"The splits of `dataset` have different columns: see {split!r}. Push each of them as its own config."
            )
    if TOKEN.search(repo_id):
        raise ValueError("`repo_id` contains a token. Pass only the name of the repository, and the token as `token`.")
    return splits, split_reports(splits, report)


def _check_candidates(candidates: Any) -> dict[str, Dataset]:
    """The splits of the candidates, or an error before anything is written."""
    if not isinstance(candidates, Dataset | DatasetDict):
        raise TypeError(f"`candidates` must be a `Dataset` or a `DatasetDict`, got {type(candidates).__name__}.")
    splits = as_splits(candidates)
    for split, rows in splits.items():
        if "responses" not in rows.column_names or len(rows) == 0:
            raise ValueError(
                f"`candidates` must have rows with a column `responses`, but its split {split!r} has {len(rows)} rows with "
                f"{rows.column_names}."
            )
    return splits


def _describe_candidates(data: Any, splits: dict[str, Dataset], name: str, size: int) -> None:
    """Add the configuration of the candidates to the metadata of the card."""
    describe_files(data, splits, name)
    describe_download(data, name, size)
    describe_size(data)


def _full_names(api: HfApi, repo_id: str, model_id: str | None) -> tuple[str, str | None]:
    """Both names with their namespace. The default namespace is the user."""
    if "/" in repo_id and "/" in (model_id or "/"):
        return repo_id, model_id
    user = retried(api.whoami, repo_id)["name"]
    model_id = model_id if model_id is None or "/" in model_id else f"{user}/{model_id}"
    return repo_id if "/" in repo_id else f"{user}/{repo_id}", model_id


def _write_files(
    splits: dict[str, Dataset],
    reports: dict[str, SelectionReport],
    config_name: str,
    temporary: Path,
    max_shard_size: int | str,
) -> _Files:
    """Write the data of a configuration and its figures to a temporary folder."""
    temporary.mkdir()
    folder, shard_size = data_folder(config_name), max(1, convert_file_size_to_int(max_shard_size))
    data = {
        f"{folder}/{name}": path
        for split, rows in splits.items()
        for name, path in _write_shards(rows, split, temporary, shard_size)
    }
    figures = dict(_draw(reports, temporary))
    plots = {split: f"figures/{folder}-{split}.png" for split in figures}
    size = sum(path.stat().st_size for path in data.values())
    return _Files(data | {plots[split]: path for split, path in figures.items()}, plots, size)


def _operations(new: dict[str, Path | bytes], there: set[str], config_name: str, splits: list[str]) -> Operations:
    """Add the new files. Delete old figures and all other files that `load_dataset` would read as data."""
    folder = re.escape(data_folder(config_name))
    stale = re.compile(
        rf"{folder}/([^/]+-\d{{5}}-of-\d{{5}}(-[0-9a-f]{{16}})?\.parquet|({'|'.join(map(re.escape, splits))})-[^/]*)"
        rf"|figures/{folder}-[^/]+\.png"
    )
    return [
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in new.items()),
        *(CommitOperationDelete(name) for name in there if stale.fullmatch(name) and name not in new),
    ]


def _write_shards(rows: Dataset, split: str, folder: Path, size: int) -> Iterator[tuple[str, Path]]:
    """Write a split as Parquet, including its images, with the file names of `datasets`."""
    shards = rows._estimate_nbytes() // size + 1
    for i in range(shards):
        shard = rows.shard(shards, i, contiguous=True)
        if any(map(require_storage_embed, shard.features.values())):
            shard = shard.with_format("arrow").map(embed_table_storage, batched=True, keep_in_memory=True)
        name = f"{split}-{i:05d}-of-{shards:05d}.parquet"
        with whole_file(folder / name) as unfinished:
            shard.to_parquet(unfinished)
        yield name, folder / name


def _draw(reports: dict[str, SelectionReport], folder: Path) -> Iterator[tuple[str, Path]]:
    """Draw the figure of each split that has one, if Matplotlib is installed."""
    for split, report in reports.items():
        if report.figures() and importlib.util.find_spec("matplotlib") is not None:
            report.plot(folder / f"{split}.png")
            yield split, folder / f"{split}.png"


def _card(api: HfApi, repo_id: str, revision: str) -> DatasetCard:
    return DatasetCard.load(api.hf_hub_download(repo_id, "README.md", repo_type="dataset", revision=revision))


def _source_data(api: HfApi, source: Source) -> dict[str, Any]:
    """License and language from the card of the source; empty if the card cannot be read."""
    names = ("license", "license_name", "license_link", "language")
    if source.name is None or not is_repo_id(source.name):
        return {}
    try:
        data: Any = api.dataset_info(source.name, revision=source.revision).card_data or {}
    except (HTTPError, OSError, ValueError) as error:
        logger.warning(
            "The license of %s is unknown, because its card cannot be read: %s", source.name, type(error).__name__
        )
        return {}
    return {name: data.get(name) for name in names if data.get(name)}
