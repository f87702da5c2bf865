"""Whether a push will be allowed, asked before the work that it is to carry: `check_can_push`."""

from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from .. import __version__
from .retries import explained, retried


def check_can_push(repo_id: str, repo_type: str, private: bool | None = None, token: str | None = None) -> None:
    """
    Raise if a repository cannot be pushed to: its name is not valid, nobody is logged in, the token is read-only, the namespace
    is somebody else's, or it is to be private and is there as a public one.

    Args:
        repo_id (`str`):
            The repository, as `"user/name"`, `"organization/name"` or `"name"`.
        repo_type (`str`):
            `"model"` or `"dataset"`.
        private (`bool`, *optional*):
            Whether the data of the push must be private.
        token (`str`, *optional*):
            The token to push with. If `None`, that of `hf auth login`.

    Raises:
        `ValueError`: If the name is not valid, or the repository is public although `private=True`.
        `PermissionError`: If nobody is logged in, or the token must not write there.
        `ConnectionError`: If the Hub does not answer after some tries.
    """
    with explained(repo_id):
        validate_repo_id(repo_id)
        api = HfApi(token=token, library_name="trl-real", library_version=__version__)
        try:
            user = retried(api.whoami, repo_id)
        except LocalTokenNotFoundError as error:
            raise PermissionError(
                f"Could not push to {repo_id!r}: you are not logged in. Run `hf auth login`, or set `HF_TOKEN`."
            ) from error
        refused = f"Could not push to {repo_id!r}: the token must not write there"
        # Not every Hub says what the token may do, or which organizations there are.
        token_info = (user.get("auth") or {}).get("accessToken") or {}
        if token_info.get("role") == "read":
            raise PermissionError(f"{refused}, because it is read-only. Make one with the role `write`.")
        full_name = repo_id if "/" in repo_id else f"{user['name']}/{repo_id}"
        organizations = [organization["name"] for organization in user.get("orgs", [])]
        if "orgs" in user and full_name.split("/")[0] not in (user["name"], *organizations):
            raise PermissionError(
                f"{refused}, because the namespace is neither {user['name']!r} nor one of your organizations "
                f"({', '.join(organizations) or 'none'}). Choose a name in one of these."
            )
        try:
            info = retried(lambda: api.repo_info(full_name, repo_type=repo_type), repo_id)
        except RepositoryNotFoundError:
            return  # and will be made
        if private and repo_type == "dataset" and not info.private:
            raise ValueError(
                f"{full_name} is to be private, but it is there already and public. Make it private in its settings, or choose "
                "another name."
            )
