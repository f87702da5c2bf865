"""`trl-real label`: serve the label page."""

import getpass
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

from datasets import disable_progress_bars

from ..config import SelectionConfig
from ..core.output_folder import OutputFolder
from ..labeling.queue import LabelQueue
from ..labeling.rounds import PICKS
from .arguments import DATA_FILES, parse, paths_in
from .data_files import load_files
from .errors import users_mistakes


LOG = "labels.jsonl"
LOOPBACK = ("127.0.0.1", "localhost")


@dataclass
class LabelArguments:
    """
    Arguments of `trl-real label`: those of [`LabelQueue`], and options of the server.

    Parameters:
        dataset_name (`str`, *optional*):
            Dataset with the pairs, as a Hub id or a local folder.
        data_files (`list[str]`, *optional*):
            Local files to load instead: the `pairs.jsonl` that `trl-real select` writes for responses without scores, or tasks from
            [`to_label_tasks`].
        dataset_config (`str`, *optional*):
            Configuration of the dataset.
        dataset_train_split (`str`, *optional*, defaults to `"train"`):
            The split with the pairs.
        output_dir (`str`, *optional*, defaults to `"labeling"`):
            Folder of the project, with the label log `labels.jsonl`.
        auth (`list[str]`, *optional*):
            Names and passwords of the annotators, as `name:password` or as files with one `name:password` per line. The first annotator
            is the lead. If `None`, everyone who opens the page labels as `annotator`.
        annotator (`str`, *optional*):
            Name of the annotator without `auth`. If `None`, the user name on this machine.
        host (`str`, *optional*, defaults to `"127.0.0.1"`):
            Address to listen on. Any address other than localhost requires `auth`.
        port (`int`, *optional*, defaults to `7860`):
            Port to listen on. 0 picks a free port.
        n, strategy, audit, seed, overlap, lease_seconds, embedder, embedder_max_length, embedder_batch_size, embedder_dtype:
            See [`LabelQueue`].
    """

    dataset_name: str | None = field(
        default=None, metadata={"help": "Dataset with the pairs, as a Hub id or a local folder."}
    )
    data_files: list[str] | None = field(default=None, metadata={"help": DATA_FILES})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split with the pairs."})
    output_dir: str = field(default="labeling", metadata={"help": "Folder of the project, with labels.jsonl."})
    auth: list[str] | None = field(
        default=None,
        metadata={
            "help": "Annotators as name:password, or files with one name:password per line. The first one is the lead. Default: one "
            "annotator without a password."
        },
    )
    annotator: str | None = field(
        default=None,
        metadata={"help": "Name of the annotator without --auth. Default: your user name on this machine."},
    )
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen on. Any address other than localhost requires --auth."},
    )
    port: int = field(default=7860, metadata={"help": "Port to listen on. 0 picks a free port."})
    n: int = field(default=50, metadata={"help": "Number of pairs per round."})
    strategy: str = field(
        default="random", metadata={"help": "How to pick the pairs of a round.", "choices": ["random", *PICKS]}
    )
    audit: float = field(default=0.2, metadata={"help": "Share of randomly sampled pairs per round."})
    seed: int = field(
        default=0, metadata={"help": "Seed of the order of pairs and sides. Use the same seed for the whole project."}
    )
    overlap: int = field(default=1, metadata={"help": "Number of annotators per pair."})
    lease_seconds: float = field(
        default=900.0, metadata={"help": "How long a pair is reserved for an annotator, in seconds."}
    )
    embedder: str = field(
        default=SelectionConfig.embedder, metadata={"help": "Embedder for the strategies and the progress report."}
    )
    embedder_max_length: int | None = field(default=None, metadata={"help": "Number of tokens to embed per response."})
    embedder_batch_size: int = field(
        default=SelectionConfig.embedder_batch_size,
        metadata={"help": "Number of full-length texts per batch."},
    )
    embedder_dtype: str = field(
        default=SelectionConfig.embedder_dtype, metadata={"help": "Precision of the embedder."}
    )


QUEUE_OPTIONS = (
    *("n", "strategy", "audit", "seed", "overlap", "lease_seconds"),
    *("embedder", "embedder_max_length", "embedder_batch_size", "embedder_dtype"),
)


def label(argv: list[str]) -> None:
    """Serve the label page until it is interrupted."""
    (arguments,) = parse("label", (LabelArguments,), argv)
    folder = OutputFolder(arguments.output_dir)
    with users_mistakes(), folder.locked():
        if any(importlib.util.find_spec(name) is None for name in ("markdown_it", "nh3", "starlette", "uvicorn")):
            raise ImportError("`trl-real label` needs the extra `label`: `pip install 'trl-real[label]'`.")
        from ..label_page.accounts import Accounts
        from ..label_page.server import create_app, serve

        passwords = read_passwords(paths_in(arguments.auth))
        if not passwords and arguments.host not in LOOPBACK:
            raise ValueError(
                f"`--host {arguments.host}` lets others reach the page, who would all label in one name. Give each of them a name and "
                "a password with `--auth`."
            )
        annotator = arguments.annotator or getpass.getuser()
        disable_progress_bars()
        files = {arguments.dataset_train_split: arguments.data_files}
        dataset = load_files(arguments.dataset_name, arguments.dataset_config, files, streaming=False)
        queue = LabelQueue(
            dataset[arguments.dataset_train_split],
            folder.path / LOG,
            **{name: getattr(arguments, name) for name in QUEUE_OPTIONS},
        )
        accounts = Accounts(passwords) if passwords else None
        who = ", ".join(passwords) if passwords else annotator

        def started(url: str) -> None:
            print(f"Label at {url} as {who}. Decisions go to {queue.log}. Stop with Ctrl+C.", flush=True)

        try:
            serve(create_app(queue, accounts, annotator), arguments.host, arguments.port, started)
        except KeyboardInterrupt:
            progress = queue.progress()
            print(f"\n{progress.done:,} of {progress.pairs:,} pairs are done. Every decision is in {queue.log}.")


def read_passwords(given: list[str]) -> dict[str, str]:
    """Read names and passwords from `name:password` values, or from files of them. No message contains a password."""
    passwords: dict[str, str] = {}
    for n, value in enumerate(given, 1):
        path = Path(value)
        is_file = path.is_file()
        lines = path.read_text(encoding="utf-8").splitlines() if is_file else [value]
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
