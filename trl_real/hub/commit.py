"""Push one commit to a repository on the Hub, all or nothing."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, DatasetInfo, HfApi, SpaceInfo
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
        repo_id (`str`): The repository. It is created if it does not exist.
        private (`bool` or `None`): Whether a new repository is private; `None` for the default of the Hub.
        revision (`str` or `None`): The branch, created if it does not exist; `None` for the main branch.
        create_pr (`bool`): Whether to open a pull request instead.
        repo_type (`str`): `"dataset"`, or `"space"` for a Space that runs in Docker.
    """

    api: HfApi
    repo_id: str
    private: bool | None
    revision: str | None = None
    create_pr: bool = False
    repo_type: str = "dataset"

    def info(self, revision: str | None = None) -> DatasetInfo | SpaceInfo:
        """The repository at a revision."""
        found = self.api.repo_info(self.repo_id, revision=revision, repo_type=self.repo_type)
        assert isinstance(found, DatasetInfo | SpaceInfo)
        return found

    def files(self, info: DatasetInfo | SpaceInfo) -> set[str]:
        """The names of its files."""
        if info.siblings is None:  # not every Hub lists the files here
            return set(self.api.list_repo_files(self.repo_id, repo_type=self.repo_type, revision=info.sha))
        return {file.rfilename for file in info.siblings}


def commit(target: Target, plan: Callable[[str, set[str]], Operations], message: str) -> CommitInfo:
    """
    Commit the operations that `plan` returns for the head and its files, all or nothing. Retries start from the new head.
    """
    api, repo_id, create_pr = target.api, target.repo_id, target.create_pr
    undo: list[Callable[[], None]] = []
    printed: list[str] = []

    def attempt() -> CommitInfo:
        info = _open(target, undo)
        operations = plan(str(info.sha), target.files(info))
        if not printed:
            printed.append(f"Pushing {message} to {repo_id}, which is {'private' if info.private else 'PUBLIC'}.")
            print(*printed)
        try:
            return api.create_commit(
                repo_id,
                operations,
                commit_message=f"Upload {message}",
                repo_type=target.repo_type,
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


def _open(target: Target, undo: list[Callable[[], None]]) -> DatasetInfo | SpaceInfo:
    """The repository at a revision. Both are created if they do not exist, and `undo` gets the steps to remove them."""
    api, repo_id, private, revision = target.api, target.repo_id, target.private, target.revision
    try:
        info = target.info()
    except RepositoryNotFoundError:
        sdk = "docker" if target.repo_type == "space" else None
        try:
            api.create_repo(repo_id, repo_type=target.repo_type, private=private, space_sdk=sdk)
            undo.append(lambda: _delete_if_empty(target))
        except HfHubHTTPError as error:
            if error.response.status_code != 409:  # another process was faster
                raise
        info = target.info()
    if private and not info.private:
        raise ValueError(
            f"`private=True`, but {repo_id} already exists and is public. Make it private in its settings, or push to another "
            "name."
        )
    if revision is None:
        return info
    try:
        return target.info(revision)
    except RevisionNotFoundError:
        head = str(info.sha)
        api.create_branch(repo_id, branch=revision, repo_type=target.repo_type)
        undo.append(lambda: _delete_if_new(target, revision, head))
        return info


def _delete_if_new(target: Target, branch: str, head: str) -> None:
    if target.info(branch).sha == head:
        target.api.delete_branch(target.repo_id, branch=branch, repo_type=target.repo_type)


def is_empty(files: set[str], repo_type: str) -> bool:
    """Whether a repository has only the files that the Hub itself puts there."""
    return files <= ({".gitattributes", "README.md"} if repo_type == "space" else {".gitattributes"})


def _delete_if_empty(target: Target) -> None:
    if is_empty(target.files(target.info()), target.repo_type):
        target.api.delete_repo(target.repo_id, repo_type=target.repo_type)
