"""`trl-real label`: serve the page on which people label pairs, here or in a Space on the Hub."""

import contextlib
import getpass
import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, disable_progress_bars

from ..config import SelectionConfig
from ..core.output_folder import OutputFolder
from ..labeling.queue import LabelQueue
from ..labeling.rounds import PICKS
from .arguments import PairsArguments, parse, paths_in
from .errors import users_mistakes


LOG = "labels.jsonl"
SPACE_TOKEN = "TRL_REAL_SPACE_TOKEN"
LOOPBACK = ("127.0.0.1", "localhost")


@dataclass
class LabelArguments(PairsArguments):
    """
    Arguments of `trl-real label`: those of [`PairsArguments`] and [`LabelQueue`], and where the page is served.

    Parameters:
        output_dir (`str`, *optional*, defaults to `"labeling"`):
            The output folder, for the label log `labels.jsonl`.
        auth (`list[str]`, *optional*):
            The annotators, each as `name:password`, or files with such lines. The first one is the lead, who can see the progress. If
            `None`, everyone who opens the page labels as `annotator`.
        annotator (`str`, *optional*):
            The name of the annotator if there is no `auth`. If `None`, your user name on this machine, or `annotator` if it has none.
        host (`str`, *optional*, defaults to `"127.0.0.1"`):
            The address to listen on. Any address other than the local one requires `auth`.
        port (`int`, *optional*, defaults to `7860`):
            The port to listen on. 0 picks a free port.
        push_to_space (`str`, *optional*):
            A Space on the Hub to put the page into, instead of serving it here; see [`push_label_space`]. The environment variable
            `TRL_REAL_SPACE_TOKEN` has the token with which the Space saves the labels.
        labels_repo_id (`str`, *optional*):
            The dataset for the labels of the Space. If `None`, the one that the Space uses already, or `"<push_to_space>-labels"`.
        n, strategy, audit, seed, overlap, lease_seconds, embedder, embedder_max_length, embedder_batch_size, embedder_dtype:
            See [`LabelQueue`].
    """

    output_dir: str = field(default="labeling", metadata={"help": "Output folder for the label log labels.jsonl."})
    auth: list[str] | None = field(
        default=None,
        metadata={
            "help": "Annotators as name:password, or files with such lines. The first one is the lead, who can see the progress. "
            "Default: one annotator without a password."
        },
    )
    annotator: str | None = field(
        default=None,
        metadata={"help": "Name of the annotator without --auth. Default: your user name on this machine."},
    )
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen on. Any address other than the local one requires --auth."},
    )
    port: int = field(default=7860, metadata={"help": "Port to listen on. 0 picks a free port."})
    push_to_space: str | None = field(
        default=None,
        metadata={
            "help": "Space on the Hub to put the page into, instead of serving it here. It saves the labels with the token in the "
            f"environment variable {SPACE_TOKEN}."
        },
    )
    labels_repo_id: str | None = field(
        default=None,
        metadata={
            "help": "Dataset for the labels of the Space. Default: the one it uses already, or its name with -labels."
        },
    )
    n: int = field(default=50, metadata={"help": "Number of pairs per round."})
    strategy: str = field(
        default="random", metadata={"help": "Which pairs to label next in each round.", "choices": ["random", *PICKS]}
    )
    audit: float = field(default=0.2, metadata={"help": "Share of each round that is randomly sampled."})
    seed: int = field(
        default=0, metadata={"help": "Seed of the order of pairs and sides. Use the same one when you resume."}
    )
    overlap: int = field(default=1, metadata={"help": "Number of annotators who label each pair."})
    lease_seconds: float = field(
        default=900.0,
        metadata={"help": "Seconds for which a pair is reserved for the annotator who is looking at it."},
    )
    embedder: str = field(
        default=SelectionConfig.embedder,
        metadata={"help": "Embedder for the strategies and the progress page, as a Hub id or a local path."},
    )
    embedder_max_length: int | None = field(
        default=None,
        metadata={"help": "Maximum number of tokens of a response to embed. Default: the model's limit, at most 512."},
    )
    embedder_batch_size: int = field(
        default=SelectionConfig.embedder_batch_size,
        metadata={"help": "Number of full-length texts to embed at once."},
    )
    embedder_dtype: str = field(
        default=SelectionConfig.embedder_dtype,
        metadata={
            "help": "Precision of the embedder. 'auto' is bfloat16 if the hardware supports it, and float32 otherwise."
        },
    )


HERE_ONLY = ("annotator", "host", "port", "output_dir")
QUEUE_OPTIONS = (
    *("n", "strategy", "audit", "seed", "overlap", "lease_seconds"),
    *("embedder", "embedder_max_length", "embedder_batch_size", "embedder_dtype"),
)


def label(argv: list[str]) -> None:
    """Serve the page until it is interrupted, or put it into a Space."""
    (arguments,) = parse("label", (LabelArguments,), argv)
    if arguments.push_to_space is not None:
        with users_mistakes():
            push_to_space(arguments)
        return
    folder = OutputFolder(arguments.output_dir)
    with users_mistakes(), folder.locked():
        if any(importlib.util.find_spec(name) is None for name in ("markdown_it", "nh3", "starlette", "uvicorn")):
            raise ImportError("`trl-real label` needs the extra `label`: `pip install 'trl-real[label]'`.")
        from ..label_page.accounts import Accounts
        from ..label_page.server import create_app, serve

        passwords = read_passwords(paths_in(arguments.auth))
        if arguments.labels_repo_id is not None:
            raise ValueError("`--labels_repo_id` is for a Space, so it needs `--push_to_space`.")
        if passwords and arguments.annotator is not None:
            raise ValueError(
                "`--annotator` and `--auth` cannot be combined: with `--auth`, annotators sign in by name."
            )
        if not passwords and arguments.host not in LOOPBACK:
            raise ValueError(
                f"`--host {arguments.host}` lets others reach the page, who would all label in one name. Give each of them a name and "
                "a password with `--auth`."
            )
        annotator = arguments.annotator or _user()
        queue = LabelQueue(load_pairs(arguments), folder.path / LOG, **queue_options(arguments))
        accounts = Accounts(passwords) if passwords else None
        who = ", ".join(passwords) if passwords else annotator

        def started(url: str) -> None:
            print(f"Label at {url} as {who}. Decisions go to {queue.log}. Stop with Ctrl+C.", flush=True)

        with contextlib.suppress(KeyboardInterrupt):  # which a process that was started in the background does not get
            serve(create_app(queue, accounts, annotator), arguments.host, arguments.port, started)
        progress = queue.progress()
        print(f"\n{progress.done:,} of {progress.pairs:,} pairs are done. Every decision is in {queue.log}.")


def _user() -> str:
    """The name of the user on this machine; `"annotator"` if it has none, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "annotator"


def load_pairs(arguments: LabelArguments) -> Dataset:
    """The pairs to label."""
    disable_progress_bars()
    return arguments.load()


def queue_options(arguments: LabelArguments) -> dict[str, Any]:
    """The options of [`LabelQueue`]."""
    return {name: getattr(arguments, name) for name in QUEUE_OPTIONS}


def push_to_space(arguments: LabelArguments) -> None:
    """Put the page into a Space."""
    for name in HERE_ONLY:
        if getattr(arguments, name) != getattr(LabelArguments, name):
            raise ValueError(
                f"`--{name}` is for a page on this machine, and has no meaning for `--push_to_space`. Remove one of them."
                + (" In a Space, give names and passwords with `--auth`." if name == "annotator" else "")
            )
    from ..hub.label_space import push_label_space

    push_label_space(
        load_pairs(arguments),
        str(arguments.push_to_space),
        space_token=os.environ.get(SPACE_TOKEN) or None,
        annotators=read_passwords(paths_in(arguments.auth)) or None,
        labels_repo_id=arguments.labels_repo_id,
        **queue_options(arguments),
    )


def read_passwords(given: list[str]) -> dict[str, str]:
    """Names and passwords from `name:password`, or from files with such lines. No message has a password."""
    passwords: dict[str, str] = {}
    for n, value in enumerate(given, 1):
        path = Path(value)
        is_file = os.path.isfile(value)  # not that of `Path`, which raises with the value if it is very long
        lines = path.read_text(encoding="utf-8-sig").splitlines() if is_file else [value]
        for k, line in enumerate(lines, 1):
            if is_file and not line.strip():
                continue
            where = f"line {k} of {path}" if is_file else f"value {n}"
            name, colon, password = line.partition(":")
            name = name.strip()
            if not (name and colon and password):
                raise ValueError(
                    f"`--auth`: {where} is not of the form `name:password`"
                    + ("." if is_file else ", nor is it a file.")
                )
            if name in passwords:
                raise ValueError(f"`--auth`: {name!r} comes twice.")
            passwords[name] = password
    if given and not passwords:
        raise ValueError(f"`--auth`: there is no annotator in {given[0]}.")
    return passwords
