"""The flags and recipe keys of the commands, and their parser."""

import difflib
import json
import sys
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml
from datasets import Dataset
from trl import ScriptArguments, TrlParser

from ..candidates.layouts import LAYOUTS
from .data_files import load_files


COLUMN_PARTS = ("prompt", "responses", "scores", "chosen", "rejected", "left", "right", "vote")
LICENSE = "License of the data, for the dataset card. Default: the license in the card of the source on the Hub."
DATA_FILES = "Local files to load instead: JSON, JSONL, CSV, Parquet or Arrow. They may be compressed."


@dataclass
class SourceArguments:
    """
    Arguments of every command that reads one dataset.

    Parameters:
        dataset_name (`str`, *optional*):
            Dataset to load, as a Hub id or a local folder.
        data_files (`list[str]`, *optional*):
            Local files to load instead: JSON, JSONL, CSV, Parquet or Arrow. They may be compressed.
        dataset_config (`str`, *optional*):
            Configuration of the dataset.
        dataset_train_split (`str`, *optional*, defaults to `"train"`):
            The split to read.
    """

    dataset_name: str | None = field(
        default=None, metadata={"help": "Dataset to load, as a Hub id or a local folder."}
    )
    data_files: list[str] | None = field(default=None, metadata={"help": DATA_FILES})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to read."})

    @property
    def inputs(self) -> list[str]:
        """The files and folders to read, and the Hub id if there is one."""
        return paths_in(self.data_files, self.dataset_name)

    def load(self) -> Dataset:
        """Read the split."""
        files: dict[str, list[str] | str | None] = {self.dataset_train_split: self.data_files}
        dataset = load_files(self.dataset_name, self.dataset_config, files, streaming=False)
        return dataset[self.dataset_train_split]


@dataclass
class PairsArguments(SourceArguments):
    """Arguments of every command that reads unlabeled pairs: those of [`SourceArguments`], for `pairs.jsonl`."""

    data_files: list[str] | None = field(
        default=None,
        metadata={
            "help": "Local files to load instead: the pairs.jsonl that `trl-real select` writes for responses without scores."
        },
    )


@dataclass
class ColumnArguments:
    """
    Arguments of `select` and `dpo` that describe the data for [`to_candidates`], if the columns are ambiguous.

    Parameters:
        layout (`str`, *optional*):
            The layout of the data.
        prompt_column, responses_column, scores_column, chosen_column, rejected_column (`str`, *optional*):
            The names of columns that are not recognized.
        left_column, right_column, vote_column (`str`, *optional*):
            The columns of the two responses and of the vote between them.
        votes (`dict[str, str]`, *optional*):
            The meaning of each vote: `"left"`, `"right"` or `"tie"`.
    """

    layout: str | None = field(default=None, metadata={"help": f"Layout of the data: one of {', '.join(LAYOUTS)}."})
    prompt_column: str | None = field(default=None, metadata={"help": "Column with the prompts."})
    responses_column: str | None = field(default=None, metadata={"help": "Column with the responses."})
    scores_column: str | None = field(default=None, metadata={"help": "Column with the scores of the responses."})
    chosen_column: str | None = field(default=None, metadata={"help": "For pairs: column with the chosen response."})
    rejected_column: str | None = field(
        default=None, metadata={"help": "For pairs: column with the rejected response."}
    )
    left_column: str | None = field(default=None, metadata={"help": "For votes: column with one response."})
    right_column: str | None = field(default=None, metadata={"help": "For votes: column with the other response."})
    vote_column: str | None = field(default=None, metadata={"help": "Column with the votes."})
    votes: dict[str, str] | str | None = field(
        default=None,
        metadata={
            "help": 'The meaning of each vote, as JSON on the command line: \'{"1": "left", "2": "right", "0": "tie"}\'.'
        },
    )

    def __post_init__(self) -> None:
        if isinstance(self.votes, str):
            try:
                self.votes = json.loads(self.votes)
            except json.JSONDecodeError as error:
                raise ValueError(f"`votes` must be JSON, got {self.votes!r}: {error}") from error

    @property
    def named(self) -> dict[str, str]:
        """The given column names, by part."""
        columns = {part: getattr(self, f"{part}_column") for part in COLUMN_PARTS}
        return {part: column for part, column in columns.items() if column is not None}


@dataclass
class SelectArguments(SourceArguments):
    """
    Arguments of `trl-real select`, in addition to those of [`SourceArguments`], [`ColumnArguments`] and [`SelectionConfig`].

    Parameters:
        output_dir (`str`, *optional*, defaults to `"selected"`):
            The output folder for the pairs, the report and, without scores, the label tasks.
        push_to_hub (`bool`, *optional*, defaults to `False`):
            Whether to push the pairs, with their card, to the Hub.
        hub_dataset_id (`str`, *optional*):
            The dataset on the Hub to push to. If `None`, the name of `output_dir` in the user's own namespace.
        hub_private_repo (`bool`, *optional*):
            Whether a new dataset on the Hub is private. If `None`, the setting of its owner on the Hub applies.
        license (`str`, *optional*):
            The license of the data, for the dataset card. If `None`, the license in the card of the source on the Hub.
    """

    output_dir: str = field(default="selected", metadata={"help": "Output folder for the pairs and the report."})
    push_to_hub: bool = field(default=False, metadata={"help": "Push the pairs, with their card, to the Hub."})
    hub_dataset_id: str | None = field(
        default=None,
        metadata={"help": "Dataset on the Hub to push to. Default: the name of the folder, in your own namespace."},
    )
    hub_private_repo: bool | None = field(
        default=None,
        metadata={
            "help": "Whether a new dataset on the Hub is private. Default: the setting of its owner on the Hub."
        },
    )
    license: str | None = field(default=None, metadata={"help": LICENSE})


@dataclass
class DPOArguments(ScriptArguments):
    """
    Arguments of `trl-real dpo`, in addition to those of [`ColumnArguments`], [`RealDPOConfig`] and [`~trl.ModelConfig`].

    Parameters:
        data_files (`list[str]`, *optional*):
            Local files to load instead of `dataset_name`: JSON, JSONL, CSV, Parquet or Arrow. They may be compressed.
        eval_data_files (`list[str]`, *optional*):
            Local files with the evaluation dataset. They need an `eval_strategy`.
        license (`str`, *optional*):
            The license of the data, for the dataset card. If `None`, the license in the card of the source on the Hub.
    """

    data_files: list[str] | None = field(default=None, metadata={"help": DATA_FILES})
    eval_data_files: list[str] | None = field(
        default=None, metadata={"help": "Local files with the evaluation dataset. Needs --eval_strategy."}
    )
    license: str | None = field(default=None, metadata={"help": LICENSE})

    @property
    def inputs(self) -> list[str]:
        """The files and folders to read, and the Hub id if there is one."""
        return paths_in(self.data_files, self.eval_data_files, self.dataset_name)


def paths_in(*given: list[str] | str | None) -> list[str]:
    """All given paths in one list. A recipe may have a single path in place of a list."""
    return [path for paths in given for path in ([paths] if isinstance(paths, str) else paths or ())]


def number(text: str) -> float:
    """Parse a number as an int if it was typed as one: a budget of `1` is one pair, while `1.0` is ambiguous."""
    return int(text) if text.strip().isdecimal() else float(text)


class _Parser(TrlParser):
    """TRL's parser, with errors in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error:", *message.split(), f"(see `{self.prog} --help`)", file=sys.stderr)
        sys.exit(2)


def parse(command: str, kinds: tuple[type, ...], argv: list[str]) -> Any:
    parser = _Parser(
        kinds,
        prog=f"trl-real {command}",
        epilog="--config recipe.yaml reads options from a YAML file. Flags override it.",
    )
    if budget := parser._option_string_actions.get("--budget"):
        budget.type = number
    if argv[-1:] == ["--config"]:
        parser.error("--config needs the path of a YAML recipe")
    try:
        return parser.parse_args_and_config(argv)
    except (ValueError, TypeError, OSError, ImportError, yaml.YAMLError) as error:  # a wrong value, or a wrong recipe
        options = ["--config", *parser._option_string_actions]
        for flag in (argument.partition("=")[0] for argument in argv if argument.startswith("--")):
            if not any(option.startswith(flag) for option in options):
                close = difflib.get_close_matches(flag, options, n=1)
                parser.error(f"there is no option {flag}" + (f": did you mean {close[0]}?" if close else ""))
        parser.error(str(error))
