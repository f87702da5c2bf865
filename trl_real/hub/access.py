"""Check before a long run that a push at its end will be allowed: `check_can_push`."""

from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from .. import __version__
from .retries import explained, retried


def check_can_push(repo_id: str, repo_type: str, private: bool | None = None, token: str | None = None) -> None:
    """
    Raise if a push to a repository would fail: its name is not valid, the user is not logged in, the token is read-only, the
    namespace belongs to another user, or the repository is public although it must be private.

    Args:
        repo_id (`str`):
            The repository, as `"user/name"`, `"organization/name"` or `"name"`.
        repo_type (`str`):
            `"model"`, `"dataset"` or `"space"`.
        private (`bool`, *optional*):
            Whether the repository of a dataset or Space must be private.
        token (`str`, *optional*):
            The token to push with. If `None`, the token of `hf auth login`.

    Raises:
        `ValueError`: If the name is not valid, or the repository is public although `private=True`.
        `PermissionError`: If the user is not logged in, or the token has no write access.
        `ConnectionError`: If the Hub does not answer after several attempts.
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
        refused = f"Could not push to {repo_id!r}: the token has no write access"
        # Not every Hub returns the role of the token and the organizations of the user.
        token_info = (user.get("auth") or {}).get("accessToken") or {}
        if token_info.get("role") == "read":
            raise PermissionError(f"{refused}, because it is read-only. Create a token with the role `write`.")
        full_name = repo_id if "/" in repo_id else f"{user['name']}/{repo_id}"
        organizations = [organization["name"] for organization in user.get("orgs", [])]
        if "orgs" in user and full_name.split("/")[0] not in (user["name"], *organizations):
            raise PermissionError(
                f"{refused}, because the namespace is neither {user['name']!r} nor one of your organizations "
                f"({', '.join(organizations) or 'none'}). Choose a name in one of these namespaces."
            )
        try:
            info = retried(lambda: api.repo_info(full_name, repo_type=repo_type), repo_id)
        except RepositoryNotFoundError:
            return  # the push will create it
        if private and repo_type != "model" and not info.private:
            raise ValueError(
                f"{full_name} must be private, but it already exists and is public. Make it private in its settings, or choose "
                "another name."
            )
