"""Put the labeling page into a Space on the Hub: `push_label_space`."""

import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from .. import __version__
from ..config import SelectionConfig
from ..core.columns import kind
from ..embedding.identity import STATIC
from ..label_page.space_settings import ANNOTATORS, PAIRS, PORT, SETTINGS, TOKEN, SpaceSettings
from ..labeling.hub_labels import TAG, download_logs, merge_logs
from ..labeling.queue import LabelQueue
from .access import check_can_push
from .card_parts import endpoint, link, render
from .commit import Operations, Target, commit, is_empty
from .retries import explained, retried


def push_label_space(
    pairs: Dataset,
    repo_id: str,
    *,
    space_token: str | None = None,
    annotators: Mapping[str, str] | None = None,
    labels_repo_id: str | None = None,
    token: str | None = None,
    **queue_options: Any,
) -> CommitInfo:
    r"""
    Put the labeling page of `trl-real label` into a private Space on the Hub.

    A private dataset has the pairs and gets the labels. The Space runs in Docker on free hardware. It saves new labels every minute,
    and when it is stopped. When it starts again, it resumes. [`apply_labels`], [`next_pairs`] and [`label_progress`] read the labels
    from the dataset: pass its id as `labels`.

    A second push replaces the pairs and the files of the Space, and never deletes labels. The new pairs must include all pairs that
    have labels in the dataset. A repository that this function has not created is not changed.

    Args:
        pairs ([`~datasets.Dataset`]):
            Unlabeled pairs, as for [`LabelQueue`].
        repo_id (`str`):
            The Space, as `"user/name"`, `"organization/name"` or `"name"`. It is created if it does not exist.
        space_token (`str`, *optional*):
            A token with which the Space saves the labels. It is kept as a secret of the Space. It only needs write access to the
            dataset of the labels, so create a fine-grained token for it. The token of `hf auth login` is never put into the Space. If `None`, the secret of
            the Space stays as it is: add it in the settings of a new Space.
        annotators (`dict[str, str]`, *optional*):
            The password of each annotator. They are kept as a secret of the Space. The first annotator is the lead, who can see the
            progress. If `None`, you are the only annotator. In an organization, where all members see the Space, they are required.
        labels_repo_id (`str`, *optional*):
            The dataset for pairs and labels. If `None`, the dataset that the Space already uses, or `"<repo_id>-labels"` for a new Space.
        token (`str`, *optional*):
            A token with write access, for the push. If `None`, the token of `hf auth login`.
        queue_options (*optional*):
            Options of [`LabelQueue`], such as `overlap=2`.

    Returns:
        [`~huggingface_hub.CommitInfo`]: The new commit of the Space, or the previous one if nothing has changed.

    Raises:
        `TypeError`, `ValueError`: If an argument is not valid, a repository is public, or the labels are of other pairs.
        `PermissionError`: If you are not logged in, or a token has no write access.
        `FileExistsError`: If a name is taken by a Space or dataset with other files.
        `ConnectionError`: If the Hub does not answer after several attempts.

    Example:

    ```python
    from trl_real import load_sample, push_label_space, real_select

    candidates = load_sample().remove_columns("scores")
    pairs = candidates.map(real_select, batched=True, remove_columns=["responses"])
    push_label_space(pairs, "user/label-pairs", space_token="hf_...")
    ```
    """
    _check(space_token, annotators, queue_options)
    check_can_push(repo_id, "space", private=True, token=token)
    api = HfApi(token=token, library_name="trl-real", library_version=__version__)
    with explained(repo_id):
        user = retried(api.whoami, repo_id)["name"]
        space = Target(api, _full_name(repo_id, user), private=True, repo_type="space")
        labels_of_space = _labels_of(space)
        labels_repo_id = _full_name(labels_repo_id or labels_of_space, user)
    if annotators is None and not space.repo_id.startswith(f"{user}/"):
        raise ValueError(
            f"All members of the organization can open {space.repo_id}, and would all label in one name. Give each annotator a name "
            "and a password with `annotators`."
        )
    check_can_push(labels_repo_id, "dataset", private=True, token=token)
    if space_token is not None:
        _check_space_token(labels_repo_id, space_token)
    labels = Target(api, labels_repo_id, private=True)
    _check_labels(pairs, labels, token, queue_options)
    data = _as_parquet(pairs)
    annotator = user if annotators is None else None
    settings = SpaceSettings(labels_repo_id, hashlib.sha256(data).hexdigest(), annotator, queue_options)
    secrets = {} if space_token is None else {TOKEN: space_token}
    secrets |= {} if annotators is None else {ANNOTATORS: json.dumps(dict(annotators))}

    def plan(head: str, there: set[str]) -> Operations:
        _check_ours(space.repo_id, there)
        for name, value in secrets.items():  # first, because the commit starts the Space
            api.add_space_secret(space.repo_id, name, value)
        return _space_files(space.repo_id, settings)

    with explained(labels_repo_id):
        commit(
            labels,
            lambda _, there: _dataset_files(space.repo_id, settings, data, there),
            f"{len(pairs):,} pairs to label",
        )
    if space_token is not None:
        _check_access(labels_repo_id, space_token)
    with explained(space.repo_id):
        done = commit(space, plan, "a labeling page")
    page = f"{endpoint()}/spaces/{space.repo_id}"
    print(f"The page will be at {page}. The labels go to the dataset {labels_repo_id}.")
    if space_token is None:
        print(f"The Space needs a token with write access to this dataset, as its secret `{TOKEN}`: {page}/settings")
    return done


def _check(space_token: Any, annotators: Any, queue_options: dict[str, Any]) -> None:
    """Raise for wrong arguments before anything is asked of the Hub. No message has a token or a password."""
    if space_token is not None and (not isinstance(space_token, str) or not space_token):
        raise ValueError(
            "`space_token` must be a token for the Space, as a string. Create one with write access to your datasets."
        )
    if annotators is not None:
        if not isinstance(annotators, Mapping) or not annotators:
            raise TypeError(f"`annotators` must map each name to a password, found {type(annotators).__name__}.")
        for name, password in annotators.items():
            if not all(isinstance(text, str) and text.strip() for text in (name, password)):
                raise ValueError("`annotators` must map each name to a password. Neither can be empty.")
    embedder = queue_options.get("embedder", SelectionConfig.embedder)
    if not isinstance(embedder, str) or Path(embedder.removeprefix(STATIC)).exists():
        raise ValueError(
            "`embedder` must be the id of a model on the Hub, because the Space has nothing of this machine, found "
            f"{kind(embedder)}."
        )


def _full_name(repo_id: str, user: str) -> str:
    return repo_id if "/" in repo_id else f"{user}/{repo_id}"


def _labels_of(space: Target) -> str:
    """The dataset that the Space already uses, or the default for a new Space."""
    try:
        info = retried(space.info, space.repo_id)
    except RepositoryNotFoundError:
        return f"{space.repo_id}-labels"
    there = space.files(info)
    _check_ours(space.repo_id, there)
    if SETTINGS not in there:
        return f"{space.repo_id}-labels"
    path = space.api.hf_hub_download(space.repo_id, SETTINGS, repo_type="space", revision=info.sha)
    return SpaceSettings.load(Path(path)).labels_repo_id


def _check_ours(repo_id: str, there: set[str]) -> None:
    if SETTINGS not in there and not is_empty(there, "space"):
        raise FileExistsError(
            f"{repo_id} is a Space with other files. Choose another name, or delete the Space on the Hub first."
        )


def _check_space_token(labels_repo_id: str, space_token: str) -> None:
    """Raise unless the token of the Space can write to a dataset of this name."""
    try:
        check_can_push(labels_repo_id, "dataset", token=space_token)
    except PermissionError as error:
        raise PermissionError(f"`space_token`: {error}") from None


def _check_access(labels_repo_id: str, space_token: str) -> None:
    """Raise if the token of the Space does not reach the dataset, as a fine-grained token may not."""
    try:
        with explained(labels_repo_id):
            retried(lambda: HfApi(token=space_token).dataset_info(labels_repo_id), labels_repo_id)
    except FileNotFoundError:
        raise PermissionError(
            f"`space_token` has no access to the dataset {labels_repo_id}, which exists now. Give it write access to this dataset, "
            "and push again."
        ) from None


def _check_labels(pairs: Dataset, labels: Target, token: str | None, queue_options: dict[str, Any]) -> None:
    """Try what the Space does when it starts: read its labels, and make a queue of the pairs."""
    logs: list[Path] = []
    with explained(labels.repo_id), contextlib.suppress(RepositoryNotFoundError):
        if TAG not in (retried(labels.info, labels.repo_id).tags or ()):
            raise FileExistsError(
                f"{labels.repo_id} is a dataset with other data: it does not have the tag `{TAG}`. Choose another `labels_repo_id`."
            )
        logs = download_logs(labels.repo_id, token)
    with tempfile.TemporaryDirectory(prefix="trl-real-") as folder:
        LabelQueue(pairs, merge_logs(logs, Path(folder, "labels.jsonl")), **queue_options)


def _as_parquet(pairs: Dataset) -> bytes:
    with io.BytesIO() as buffer:
        pairs.with_format(None).to_parquet(buffer)
        return buffer.getvalue()


def _dataset_files(repo_id: str, settings: SpaceSettings, pairs: bytes, there: set[str]) -> Operations:
    """The pairs, and the card of a new dataset."""
    card = _render("label_log_card.md.jinja", repo_id, settings, tag=TAG)
    new = [] if "README.md" in there else [_add("README.md", card)]
    return [*new, CommitOperationAdd(path_in_repo=PAIRS, path_or_fileobj=pairs)]


def _space_files(repo_id: str, settings: SpaceSettings) -> Operations:
    return [
        _add("README.md", _render("label_space_readme.md.jinja", repo_id, settings, port=PORT)),
        _add("Dockerfile", render("label_space_dockerfile.jinja", port=PORT, version=__version__)),
        _add("app.py", render("label_space_app.py.jinja")),
        _add(SETTINGS, settings.dumps()),
    ]


def _render(template: str, repo_id: str, settings: SpaceSettings, **more: Any) -> str:
    space, labels = link(repo_id, "spaces"), link(settings.labels_repo_id, "datasets")
    names = {"repo_id": repo_id, "labels_repo_id": settings.labels_repo_id, "pairs_file": PAIRS}
    return render(template, space=space, labels=labels, **names, **more)


def _add(name: str, text: str) -> CommitOperationAdd:
    return CommitOperationAdd(path_in_repo=name, path_or_fileobj=f"{text.strip()}\n".encode())
