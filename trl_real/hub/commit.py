"""Push one commit to a dataset on the Hub, all or nothing."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, DatasetInfo, HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

from .card_parts import endpoint
from .retries import retried


logger = logging.getLogger(__name__)

Operations = list[CommitOperationAdd | CommitOperationDelete]


@dataclass(frozen=True)
class Target:
    """
    The target of a commit.

    Attributes:
        api ([`~huggingface_hub.HfApi`]): The client, with its token.
        repo_id (`str`): The dataset. It is created if it does not exist.
        private (`bool` or `None`): Whether a new dataset is private; `None` for the default of the Hub.
        revision (`str` or `None`): The branch, created if it does not exist; `None` for the main branch.
        create_pr (`bool`): Whether to open a pull request instead.
    """

    api: HfApi
    repo_id: str
    private: bool | None
    revision: str | None
    create_pr: bool


def commit(target: Target, plan: Callable[[str, set[str]], Operations], message: str) -> CommitInfo:
    """
    Commit the operations that `plan` returns for the head and its files, all or nothing. Retries start from the new head.
    """
    api, repo_id, create_pr = target.api, target.repo_id, target.create_pr
    undo: list[Callable[[], None]] = []
    printed: list[str] = []

    def attempt() -> CommitInfo:
        info = _open(target, undo)
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
                revision=target.revision,
                create_pr=create_pr,
                parent_commit=info.sha,
            )
        except HTTPError as error:
            if create_pr and getattr(error, "response", None) is None:  # a retry may open a second pull request
                raise ConnectionError(
                    f"The connection was lost while a pull request was opened. Check {endpoint()}/datasets/{repo_id}/discussions "
                    "for it before you push again."
                ) from error
            raise

    try:
        return retried(attempt, repo_id)
    except BaseException:
        for step in reversed(undo):
            try:
                step()
            except HTTPError as error:
                logger.warning(
                    "The new repository or branch of %s could not be removed: %s", repo_id, type(error).__name__
                )
        raise


def _open(target: Target, undo: list[Callable[[], None]]) -> DatasetInfo:
    """The repository at a revision. Both are created if they do not exist, and `undo` gets the steps to remove them."""
    api, repo_id, private, revision = target.api, target.repo_id, target.private, target.revision
    try:
        info = api.dataset_info(repo_id)
    except RepositoryNotFoundError:
        try:
            api.create_repo(repo_id, repo_type="dataset", private=private)
            undo.append(lambda: _delete_if_empty(api, repo_id))
        except HfHubHTTPError as error:
            if error.response.status_code != 409:  # another process was faster
                raise
        info = api.dataset_info(repo_id)
    if private and not info.private:
        raise ValueError(
            f"`private=True`, but {repo_id} already exists and is public. Make it private in its settings, or push to another "
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
    if info.siblings is None:  # not every Hub lists the files here
        return set(api.list_repo_files(info.id, repo_type="dataset", revision=info.sha))
    return {file.rfilename for file in info.siblings}
