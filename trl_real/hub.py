"""Selected datasets on the Hub, data and card in one commit: `push_selected_dataset`."""

import errno
import importlib.util
import json
import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

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
    constants,
)
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from . import __version__, inert
from .card_parts import is_repo_id
from .cards import as_splits, create_dataset_card, data_folder, find_source, split_reports
from .config import SelectionConfig
from .report import SelectionReport


logger = logging.getLogger(__name__)

Result = TypeVar("Result")
TRIES = 4
WAIT = 1.0  # seconds before the second try, twice as many before the next
# Another commit came first, or the Hub could not answer. Anything else would fail again.
AGAIN = (408, 409, 412, 429, 500, 502, 503, 504)
# What the client has tried several times itself before it gives up.
TRIED = re.compile("/preupload/|/info/lfs/")
# What the client wraps the failure of an upload and of a download into.
WRAPPED = (RuntimeError, LocalEntryNotFoundError)
CONFIG = re.compile(r"(?!(data|figures)$)\w[\w.-]*")


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
    if not CONFIG.fullmatch(config_name):
        raise ValueError(
            "`config_name` must be letters, digits, '.', '-' and '_', and neither 'data' nor 'figures', got "
            f"{inert.redact(repr(config_name))}."
        )
    if inert.TOKEN.search(repo_id):
        raise ValueError("`repo_id` has a token in it. Pass the name of the repository, and the token as `token`.")
    folder = data_folder(config_name)
    with explained(repo_id), tempfile.TemporaryDirectory(prefix="trl-real-") as temporary:
        api = HfApi(token=token, library_name="trl-real", library_version=__version__)
        shard_size = convert_file_size_to_int(max_shard_size)
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
        if source is None:
            source, source_revision = find_source(next(iter(splits.values())))
        source_data = _source_data(api, source, source_revision) if license is None else {}

        def plan(head: str, there: set[str]) -> list[CommitOperationAdd | CommitOperationDelete]:
            card = create_dataset_card(
                dataset,
                report,
                config,
                repo_id=repo_id,
                config_name=config_name,
                source=source,
                source_revision=source_revision,
                license=license or source_data.get("license"),
                pretty_name=pretty_name,
                model_id=model_id,
                plots={split: name for split, (name, _) in plots.items()},
                download_size=sum(path.stat().st_size for path in files.values()),
                previous=_card(api, repo_id, head) if "README.md" in there else None,
            )
            for name, value in source_data.items():
                card.data[name] = card.data.get(name) or value
            if not card.data.get("license"):
                logger.warning(
                    "The licence of the pairs is not known: find out that of their source and pass `license`."
                )
            new: dict[str, Any] = {**files, **dict(plots.values()), "README.md": str(card).encode()}
            ours = re.compile(
                rf"{re.escape(folder)}/[^/]+-\d{{5}}-of-\d{{5}}\.parquet|figures/{re.escape(folder)}-[^/]+\.png"
            )
            return [
                *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in new.items()),
                *(CommitOperationDelete(name) for name in there if ours.fullmatch(name) and name not in new),
            ]

        rows = sum(map(len, splits.values()))
        return _commit(api, repo_id, plan, f"{rows:,} selected pairs", private, revision, create_pr)


def _write_shards(rows: Dataset, split: str, folder: Path, size: int) -> Iterator[tuple[str, Path]]:
    """Write a split as Parquet, whole with its images, under the names that `datasets` gives to its files."""
    shards = rows._estimate_nbytes() // size + 1
    for i in range(shards):
        shard = rows.shard(shards, i, contiguous=True)
        if any(map(require_storage_embed, shard.features.values())):
            shard = shard.with_format("arrow").map(embed_table_storage, batched=True, keep_in_memory=True)
        name = f"{split}-{i:05d}-of-{shards:05d}.parquet"
        shard.to_parquet(folder / name)
        yield name, folder / name


def _draw(reports: dict[str, SelectionReport], folder: Path) -> Iterator[tuple[str, Path]]:
    """Draw the figure of each split that has one, if Matplotlib is there."""
    for split, report in reports.items():
        if report.figures() and importlib.util.find_spec("matplotlib") is not None:
            report.plot(folder / f"{split}.png")
            yield split, folder / f"{split}.png"


def _card(api: HfApi, repo_id: str, revision: str) -> DatasetCard:
    return DatasetCard.load(api.hf_hub_download(repo_id, "README.md", repo_type="dataset", revision=revision))


def _source_data(api: HfApi, source: str | None, revision: str | None) -> dict[str, Any]:
    """What the card of the source says of its licence and language; nothing if it cannot be asked."""
    names = ("license", "license_name", "license_link", "language")
    if source is None or not is_repo_id(source):
        return {}
    try:
        data: Any = api.dataset_info(source, revision=revision).card_data or {}
    except (HTTPError, OSError) as error:
        logger.warning("The licence of %s is not known, for its card cannot be read: %s", source, type(error).__name__)
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
        info = _open(api, repo_id, private, None if create_pr else revision, undo)
        operations = plan(str(info.sha), _files(info))
        if not printed:
            printed.append(f"Pushing {message} to {repo_id}, which is {'private' if info.private else 'PUBLIC'}.")
            print(*printed)
        return api.create_commit(
            repo_id,
            operations,
            commit_message=f"Upload {message}",
            repo_type="dataset",
            revision=revision,
            create_pr=create_pr,
            parent_commit=info.sha,
        )

    try:
        return retried(attempt, repo_id)
    except BaseException:
        for step in reversed(undo):
            with suppress(HTTPError):
                step()
        raise


def retried(attempt: Callable[[], Result], repo_id: str) -> Result:
    """What `attempt` returns, after some tries where another one may help."""
    for wait in (WAIT * 2**i for i in range(TRIES - 1)):
        try:
            return attempt()
        except (HTTPError, json.JSONDecodeError, *WRAPPED) as error:
            if not _may_help(_reason(error)):
                raise
            logger.warning(
                "Pushing to %s failed (%s), next try in %g s.", repo_id, type(_reason(error)).__name__, wait
            )
            time.sleep(wait)
    return attempt()


def _open(
    api: HfApi, repo_id: str, private: bool | None, revision: str | None, undo: list[Callable[[], None]]
) -> DatasetInfo:
    """The repository at a revision; both are made if they are not there, and `undo` takes that back."""
    try:
        info = api.dataset_info(repo_id)
    except RepositoryNotFoundError:
        undo.append(lambda: _delete_if_empty(api, repo_id))
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
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
        undo.append(lambda: _delete_if_new(api, repo_id, revision, head))
        api.create_branch(repo_id, branch=revision, repo_type="dataset", exist_ok=True)
        return info


def _reason(error: BaseException) -> BaseException:
    """The error of the Hub that the client has wrapped into another one, if it has."""
    return error.__cause__ if isinstance(error, WRAPPED) and isinstance(error.__cause__, HTTPError) else error


def _may_help(error: BaseException) -> bool:
    """Whether another try may help: after a cut connection, a page of a proxy, or a status in `AGAIN`."""
    if isinstance(error, WRAPPED):
        return False
    response = getattr(error, "response", None)
    if response is None:
        return True
    tried = response.request.method == "PUT" or TRIED.search(str(response.request.url))
    return response.status_code in AGAIN and not tried


def _delete_if_new(api: HfApi, repo_id: str, branch: str, head: str) -> None:
    if api.dataset_info(repo_id, revision=branch).sha == head:
        api.delete_branch(repo_id, branch=branch, repo_type="dataset")


def _delete_if_empty(api: HfApi, repo_id: str) -> None:
    if _files(api.dataset_info(repo_id)) <= {".gitattributes"}:
        api.delete_repo(repo_id, repo_type="dataset")


def _files(info: DatasetInfo) -> set[str]:
    return {file.rfilename for file in info.siblings or ()}


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Turns what the Hub and the disk refuse into one error that says what to do, without a token in it."""
    try:
        yield
    except (HTTPError, json.JSONDecodeError, *WRAPPED) as failure:
        error = _reason(failure)
        if isinstance(error, WRAPPED):
            raise
        response = getattr(error, "response", None)
        status = None if response is None else response.status_code
        kind, advice = {
            400: (ValueError, "the Hub does not accept it"),
            401: (
                PermissionError,
                "you are not logged in, or the token is not valid; run `hf auth login` or pass `token`",
            ),
            403: (
                PermissionError,
                "the token must not write there; use one with write access, and a name in a namespace that is yours",
            ),
            404: (
                FileNotFoundError,
                "there is no such dataset or revision that you can see, and the name may be taken; check the name, or take "
                "another one",
            ),
            409: (
                FileExistsError,
                "the name is taken, or another commit is on its way; take another name, or push again",
            ),
            412: (ConnectionError, "others keep committing at the same time; push again"),
        }.get(status or 0, (ConnectionError, f"the Hub at {constants.ENDPOINT} does not answer; push again later"))
        text = f"Could not push to {repo_id!r}: {advice}. ({type(error).__name__}: {' '.join(str(error).split())})"
        clean = inert.redact(str(error)) == str(error)
        raise kind(inert.redact(text)) from (failure if clean else None)
    except HFValidationError as error:
        raise ValueError(f"`repo_id={inert.redact(repo_id)!r}` cannot be the name of a dataset: {error}") from None
    except OSError as error:
        if error.errno != errno.ENOSPC and "No space left" not in str(error):
            raise
        raise OSError(
            errno.ENOSPC,
            f"Could not push to {repo_id!r}: the disk of {tempfile.gettempdir()} is full. Make room, or set `TMPDIR` to a "
            "folder on another disk",
        ) from error
