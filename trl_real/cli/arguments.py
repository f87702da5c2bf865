"""The flags and recipe keys of the commands, and how they are parsed."""

import difflib
import sys
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml
from trl import ScriptArguments, TrlParser

from ..candidates.layouts import LAYOUTS


COLUMN_PARTS = ("prompt", "responses", "scores", "chosen", "rejected")
LICENSE = "License of the data, for its card. Default: what the source's card on the Hub says."
DATA_FILES = "Local files instead: JSON, JSONL, CSV, Parquet or Arrow, perhaps compressed."


@dataclass
class ColumnArguments:
    """
    Arguments of `select` and `dpo`: what [`to_candidates`] has to be told of the data, where its columns leave a doubt.

    Parameters:
        layout (`str`, *optional*):
            The layout of the data.
        prompt_column, responses_column, scores_column, chosen_column, rejected_column (`str`, *optional*):
            Columns with other names than the usual.
    """

    layout: str | None = field(default=None, metadata={"help": f"Layout of the data: one of {', '.join(LAYOUTS)}."})
    prompt_column: str | None = field(default=None, metadata={"help": "Column of the prompts."})
    responses_column: str | None = field(default=None, metadata={"help": "Column of the responses."})
    scores_column: str | None = field(default=None, metadata={"help": "Column of their scores."})
    chosen_column: str | None = field(default=None, metadata={"help": "Of pairs, the column of the chosen side."})
    rejected_column: str | None = field(default=None, metadata={"help": "Of pairs, the column of the rejected side."})

    @property
    def named(self) -> dict[str, str]:
        """The columns that are named, by part."""
        columns = {part: getattr(self, f"{part}_column") for part in COLUMN_PARTS}
        return {part: column for part, column in columns.items() if column is not None}


@dataclass
class SelectArguments:
    """
    Arguments of `trl-real select`, beside those of [`ColumnArguments`] and [`SelectionConfig`].

    Parameters:
        dataset_name (`str`, *optional*):
            Dataset to load, as an id of the Hub or a folder.
        data_files (`list[str]`, *optional*):
            Local files instead: JSON, JSONL, CSV, Parquet or Arrow, perhaps compressed.
        dataset_config (`str`, *optional*):
            Configuration of the dataset.
        dataset_train_split (`str`, *optional*, defaults to `"train"`):
            The split to select from.
        output_dir (`str`, *optional*, defaults to `"selected"`):
            The folder that the pairs, the report and, without scores, the label tasks are written to.
        push_to_hub (`bool`, *optional*, defaults to `False`):
            Whether to push the pairs, with their card, to the Hub.
        hub_dataset_id (`str`, *optional*):
            Where to. If `None`, the name of `output_dir` in the user's own namespace.
        hub_private_repo (`bool`, *optional*):
            Whether a dataset that is created there is private. If `None`, as the Hub decides for its owner.
        license (`str`, *optional*):
            The license of the data, for the card. If `None`, what the source's card on the Hub says.
    """

    dataset_name: str | None = field(
        default=None, metadata={"help": "Dataset to load, as an id of the Hub or a folder."}
    )
    data_files: list[str] | None = field(default=None, metadata={"help": DATA_FILES})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to select from."})
    output_dir: str = field(default="selected", metadata={"help": "Folder for the pairs and the report."})
    push_to_hub: bool = field(default=False, metadata={"help": "Push the pairs, with their card, to the Hub."})
    hub_dataset_id: str | None = field(
        default=None, metadata={"help": "Where to. Default: the name of the folder, in your own namespace."}
    )
    hub_private_repo: bool | None = field(
        default=None,
        metadata={"help": "Whether a dataset that is created there is private. Default: as the Hub decides."},
    )
    license: str | None = field(default=None, metadata={"help": LICENSE})

    @property
    def inputs(self) -> list[str]:
        """The files and folders that are read, and perhaps an id of the Hub."""
        return paths_in(self.data_files, self.dataset_name)


@dataclass
class DPOArguments(ScriptArguments):
    """
    Arguments of `trl-real dpo`, beside those of [`ColumnArguments`], [`RealDPOConfig`] and [`~trl.ModelConfig`].

    Parameters:
        data_files (`list[str]`, *optional*):
            Local files instead of `dataset_name`: JSON, JSONL, CSV, Parquet or Arrow, perhaps compressed.
        eval_data_files (`list[str]`, *optional*):
            Local files to evaluate on.
        license (`str`, *optional*):
            The license of the data, for the card of the selected dataset. If `None`, what the source's card on the Hub says.
    """

    data_files: list[str] | None = field(default=None, metadata={"help": DATA_FILES})
    eval_data_files: list[str] | None = field(default=None, metadata={"help": "Local files to evaluate on."})
    license: str | None = field(default=None, metadata={"help": LICENSE})

    @property
    def inputs(self) -> list[str]:
        """The files and folders that are read, and perhaps an id of the Hub."""
        return paths_in(self.data_files, self.eval_data_files, self.dataset_name)


def paths_in(*given: list[str] | str | None) -> list[str]:
    """All that is given, in one list: a recipe may have one path in place of a list."""
    return [path for paths in given for path in ([paths] if isinstance(paths, str) else paths or ())]


def number(text: str) -> float:
    """A number as it was typed: of a budget, `1` is one pair, and 1.0 might be all of them."""
    return int(text) if text.strip().isdecimal() else float(text)


class _Parser(TrlParser):
    """TRL's parser, which says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error:", *message.split(), f"(see `{self.prog} --help`)", file=sys.stderr)
        sys.exit(2)


def parse(command: str, kinds: tuple[type, ...], argv: list[str]) -> Any:
    parser = _Parser(kinds, prog=f"trl-real {command}")
    if budget := parser._option_string_actions.get("--budget"):
        budget.type = number
    if argv[-1:] == ["--config"]:
        parser.error("--config needs the path of a recipe in YAML")
    try:
        return parser.parse_args_and_config(argv)
    except (
        ValueError,
        TypeError,
        OSError,
        ImportError,
        yaml.YAMLError,
    ) as error:  # of the checks of a config, or of the file
        options = ["--config", *parser._option_string_actions]
        for flag in (argument.partition("=")[0] for argument in argv if argument.startswith("--")):
            if not any(option.startswith(flag) for option in options):
                close = difflib.get_close_matches(flag, options, n=1)
                parser.error(f"there is no option {flag}" + (f": did you mean {close[0]}?" if close else ""))
        parser.error(str(error))
