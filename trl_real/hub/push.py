"""Selected datasets on the Hub, data and card in one commit: `push_selected_dataset`."""

import functools
import importlib.util
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

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
    DatasetInfo,
    HfApi,
)
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .. import __version__
from ..config import SelectionConfig
from ..core.files import whole_file
from ..core.redaction import TOKEN
from ..selection.report import SelectionReport
from .card_metadata import Source, data_folder, find_source
from .card_parts import endpoint, is_repo_id
from .dataset_card import as_splits, create_dataset_card, split_reports
from .requests import explained, retried


logger = logging.getLogger(__name__)


def push_selected_dataset(
    dataset: Dataset | DatasetDict,
    repo_id: str,
    report: SelectionReport | Mapping[str, SelectionReport] | None = None,
    config: SelectionConfig | None = None,
    *,
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
            The licence of the source. If `None`, what its card on the Hub says.
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
    splits = as_splits(dataset)
    reports = split_reports(splits, report)
    for split, rows in splits.items():
        if len(rows) == 0:
            raise ValueError(f"`dataset` has no rows in its split {split!r}: there is nothing to push.")
        if rows.features != next(iter(splits.values())).features:
            raise ValueError(
                f"The splits of `dataset` differ in their columns: see {split!r}. Push them as one config each."
            )
    if TOKEN.search(repo_id):
        raise ValueError("`repo_id` has a token in it. Pass the name of the repository, and the token as `token`.")
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
    folder = data_folder(config_name)
    with explained(repo_id), tempfile.TemporaryDirectory(prefix="trl-real-") as temporary:
        api = HfApi(token=token, library_name="trl-real", library_version=__version__)
        shard_size = max(1, convert_file_size_to_int(max_shard_size))
        files = {
            f"{folder}/{name}": path
            for split, rows in splits.items()
            for name, path in _write_shards(rows, split, Path(temporary), shard_size)
        }
        plots = {split: (f"figures/{folder}-{split}.png", path) for split, path in _draw(reports, Path(temporary))}
        if "/" not in repo_id or "/" not in (model_id or "/"):
            user = retried(api.whoami, repo_id)["name"]
            repo_id = repo_id if "/" in repo_id else f"{user}/{repo_id}"
            model_id = model_id if model_id is None or "/" in model_id else f"{user}/{model_id}"
        origin = find_source(next(iter(splits.values()))) if source is None else Source(source, source_revision)
        source_data = _source_data(api, origin) if license is None else {"license": license}
        card = functools.partial(
            card,
            repo_id=repo_id,
            model_id=model_id,
            license=source_data.get("license"),
            plots={split: name for split, (name, _) in plots.items()},
            download_size=sum(path.stat().st_size for path in files.values()),
        )
        # What `load_dataset` would read as data, the shards of older versions among it, and figures.
        stale = re.compile(
            rf"{re.escape(folder)}/([^/]+-\d{{5}}-of-\d{{5}}(-[0-9a-f]{{16}})?\.parquet|({'|'.join(map(re.escape, splits))})-[^/]*)"
            rf"|figures/{re.escape(folder)}-[^/]+\.png"
        )

        def plan(head: str, there: set[str]) -> list[CommitOperationAdd | CommitOperationDelete]:
            readme = card(previous=_card(api, repo_id, head) if "README.md" in there else None)
            for name, value in source_data.items():
                readme.data[name] = readme.data.get(name) or value
            if not readme.data.get("license"):
                logger.warning(
                    "The licence of the pairs is not known: find out that of their source and pass `license`."
                )
            new: dict[str, Any] = {**files, **dict(plots.values()), "README.md": str(readme).encode()}
            return [
                *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in new.items()),
                *(CommitOperationDelete(name) for name in there if stale.fullmatch(name) and name not in new),
            ]

        message = f"{sum(map(len, splits.values())):,} selected pairs"
        return _commit(api, repo_id, plan, message, private, revision, create_pr)


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
    """What the card of the source says of its licence and language; nothing if it cannot be asked."""
    names = ("license", "license_name", "license_link", "language")
    if source.name is None or not is_repo_id(source.name):
        return {}
    try:
        data: Any = api.dataset_info(source.name, revision=source.revision).card_data or {}
    except (HTTPError, OSError, ValueError) as error:
        logger.warning(
            "The licence of %s is not known, for its card cannot be read: %s", source.name, type(error).__name__
        )
        return {}
    return {name: data.get(name) for name in names if data.get(name)}


def _commit(
    api: HfApi,
    repo_id: str,
    plan: Callable[[str, set[str]], list[CommitOperationAdd | CommitOperationDelete]],
    message: str,
    private: bool | None,
    revision: str | None,
    create_pr: bool,
) -> CommitInfo:
    """Commit what `plan` makes of the head and its files, all or nothing; of the new head where another try may help."""
    undo: list[Callable[[], None]] = []
    printed: list[str] = []

    def attempt() -> CommitInfo:
        info = _open(api, repo_id, private, revision, undo)
        operations = plan(str(info.sha), _files(api, info))
        if not printed:
            printed.append(f"Pushing {message} to {repo_id}, which is {'private' if info.private else 'PUBLIC'}.")
            print(*printed)
        try:
            return api.create_commit(
                repo_id,
                operations,
                commit_message=f"Upload {message}",
                repo_type="dataset",
                revision=revision,
                create_pr=create_pr,
                parent_commit=info.sha,
            )
        except HTTPError as error:
            if create_pr and getattr(error, "response", None) is None:  # another try may open a second one
                raise ConnectionError(
                    f"The connection was cut while a pull request was opened: see if it is there, at {endpoint()}/datasets/"
                    f"{repo_id}/discussions, before you push again."
                ) from error
            raise

    try:
        return retried(attempt, repo_id)
    except BaseException:
        for step in reversed(undo):
            try:
                step()
            except HTTPError as error:
                logger.warning("What was made of %s is still there, without data: %s", repo_id, type(error).__name__)
        raise


def _open(
    api: HfApi, repo_id: str, private: bool | None, revision: str | None, undo: list[Callable[[], None]]
) -> DatasetInfo:
    """The repository at a revision; both are made if they are not there, and `undo` takes that back."""
    try:
        info = api.dataset_info(repo_id)
    except RepositoryNotFoundError:
        try:
            api.create_repo(repo_id, repo_type="dataset", private=private)
            undo.append(lambda: _delete_if_empty(api, repo_id))
        except HfHubHTTPError as error:
            if error.response.status_code != 409:  # somebody was faster
                raise
        info = api.dataset_info(repo_id)
    if private and not info.private:
        raise ValueError(
            f"`private=True`, but {repo_id} is there already and public. Make it private in its settings, or push to another "
            "name."
        )
    if revision is None:
        return info
    try:
        return api.dataset_info(repo_id, revision=revision)
    except RevisionNotFoundError:
        head = str(info.sha)
        api.create_branch(repo_id, branch=revision, repo_type="dataset")
        undo.append(lambda: _delete_if_new(api, repo_id, revision, head))
        return info


def _delete_if_new(api: HfApi, repo_id: str, branch: str, head: str) -> None:
    if api.dataset_info(repo_id, revision=branch).sha == head:
        api.delete_branch(repo_id, branch=branch, repo_type="dataset")


def _delete_if_empty(api: HfApi, repo_id: str) -> None:
    if _files(api, api.dataset_info(repo_id)) <= {".gitattributes"}:
        api.delete_repo(repo_id, repo_type="dataset")


def _files(api: HfApi, info: DatasetInfo) -> set[str]:
    if info.siblings is None:  # of a Hub that does not list them here
        return set(api.list_repo_files(info.id, repo_type="dataset", revision=info.sha))
    return {file.rfilename for file in info.siblings}
