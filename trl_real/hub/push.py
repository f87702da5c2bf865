"""Selected datasets on the Hub, data and card in one commit: `push_selected_dataset`."""

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
from ..selection.report import SelectionReport
from .card_metadata import Source, data_folder, describe_download, describe_files, describe_size, find_source
from .card_parts import is_repo_id
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
    Push selected pairs to the Hub with their card and figure, all in one commit: nobody ever sees data without its card, or a
    card of other data. What is about to become public is printed before it goes out.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.DatasetDict`]):
            The pairs. All splits of the configuration are replaced by these.
        repo_id (`str`):
            Where to, as `"user/name"`, `"organization/name"` or `"name"`. Created if it is not there.
        report ([`SelectionReport`] or `dict[str, SelectionReport]`, *optional*):
            What [`select_preferences`] reported, for each split if there are several.
        config ([`SelectionConfig`], *optional*):
            The options that the pairs were selected with.
        candidates ([`~datasets.Dataset`] or [`~datasets.DatasetDict`], *optional*):
            What the pairs were selected from, with their scores, so that others can select anew. Pushed in the same commit, as
            the configuration `candidates`, or `<config_name>-candidates` beside another one than the default.
            `load_dataset(repo_id)` still loads the pairs.
        config_name (`str`, *optional*, defaults to `"default"`):
            The configuration of the dataset to write. Others that are there stay.
        private (`bool`, *optional*):
            Whether a repository that is created is private. If `None`, as the Hub decides for its owner.
        revision (`str`, *optional*):
            The branch to push to. If `None`, the main one. Created if it is not there.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request instead.
        token (`str`, *optional*):
            A token with write access. If `None`, that of `hf auth login`.
        license (`str`, *optional*):
            The license of the source. If `None`, what its card on the Hub says.
        source (`str`, *optional*):
            Where the candidates come from, see [`create_dataset_card`].
        source_revision (`str`, *optional*):
            Its commit.
        pretty_name (`str`, *optional*):
            The title of the card.
        model_id (`str`, *optional*):
            A model on the Hub that was trained on the pairs.
        max_shard_size (`int` or `str`, *optional*, defaults to `"500MB"`):
            How large a Parquet file may be.

    Returns:
        [`~huggingface_hub.CommitInfo`]: The commit, or the one before it if nothing has changed.

    Raises:
        `TypeError`, `ValueError`: If an argument cannot be what it is, or `private=True` and the repository is public.
        `PermissionError`: If you are not logged in, or must not write there.
        `FileNotFoundError`, `FileExistsError`: If there is no such revision, or the name is taken.
        `ConnectionError`: If the Hub does not answer after some tries. The repository is as it was.
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
    card()  # so that what it raises is raised before anything is written
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
                    "The license of the pairs is not known: find out that of their source and pass `license`."
                )
            pairs = _operations({**files.paths, "README.md": str(readme).encode()}, there, config_name, list(splits))
            return pairs + (_operations(dict(other_files.paths), there, others_name, list(others)) if others else [])

        message = f"{sum(map(len, splits.values())):,} selected pairs"
        return commit(Target(api, repo_id, private, revision, create_pr), plan, message)


class _Files(NamedTuple):
    """
    What is about to be committed beside the card.

    Attributes:
        paths (`dict[str, Path]`): Where each file is, by its name in the repository.
        plots (`dict[str, str]`): The name of the figure of each split that has one.
        size (`int`): Bytes of the data.
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
                f"The splits of `dataset` differ in their columns: see {split!r}. Push them as one config each."
            )
    if TOKEN.search(repo_id):
        raise ValueError("`repo_id` has a token in it. Pass the name of the repository, and the token as `token`.")
    return splits, split_reports(splits, report)


def _check_candidates(candidates: Any) -> dict[str, Dataset]:
    """The splits of the candidates, or an error before anything is written."""
    if not isinstance(candidates, Dataset | DatasetDict):
        raise TypeError(f"`candidates` must be a `Dataset` or a `DatasetDict`, got {type(candidates).__name__}.")
    splits = as_splits(candidates)
    for split, rows in splits.items():
        if "responses" not in rows.column_names or len(rows) == 0:
            raise ValueError(
                f"`candidates` must have rows with a column `responses`, and its split {split!r} has {len(rows)} rows with "
                f"{rows.column_names}."
            )
    return splits


def _describe_candidates(data: Any, splits: dict[str, Dataset], name: str, size: int) -> None:
    """Add the configuration of the candidates to the metadata of the card."""
    describe_files(data, splits, name)
    describe_download(data, name, size)
    describe_size(data)


def _full_names(api: HfApi, repo_id: str, model_id: str | None) -> tuple[str, str | None]:
    """Both names with their namespace, by default that of the user."""
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
    """Add what is new, and delete what `load_dataset` would read as data, the shards of older versions among it, and figures."""
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
    """Write a split as Parquet, whole with its images, under the names that `datasets` gives to its files."""
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
    """Draw the figure of each split that has one, if Matplotlib is there."""
    for split, report in reports.items():
        if report.figures() and importlib.util.find_spec("matplotlib") is not None:
            report.plot(folder / f"{split}.png")
            yield split, folder / f"{split}.png"


def _card(api: HfApi, repo_id: str, revision: str) -> DatasetCard:
    return DatasetCard.load(api.hf_hub_download(repo_id, "README.md", repo_type="dataset", revision=revision))


def _source_data(api: HfApi, source: Source) -> dict[str, Any]:
    """What the card of the source says of its license and language; nothing if it cannot be asked."""
    names = ("license", "license_name", "license_link", "language")
    if source.name is None or not is_repo_id(source.name):
        return {}
    try:
        data: Any = api.dataset_info(source.name, revision=source.revision).card_data or {}
    except (HTTPError, OSError, ValueError) as error:
        logger.warning(
            "The license of %s is not known, for its card cannot be read: %s", source.name, type(error).__name__
        )
        return {}
    return {name: data.get(name) for name in names if data.get(name)}
