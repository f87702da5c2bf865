"""
The command line: `trl-real select` and `trl-real dpo`, with flags or a recipe in YAML.

Several processes: `accelerate launch --multi_gpu -m trl_real.cli dpo --config recipe.yaml`.
"""

import argparse
import contextlib
import difflib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from datasets.exceptions import DatasetsError
from transformers.trainer_utils import get_last_checkpoint
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from . import __version__
from .config import SelectionConfig
from .conversion import convert, to_candidates
from .files import load_files
from .hub import push_selected_dataset
from .labels import to_label_tasks
from .layouts import LAYOUTS
from .preferences import select_converted
from .real_dpo_config import RealDPOConfig
from .real_dpo_trainer import RealDPOTrainer


OUTPUTS = ("pairs.jsonl", "selection.png", "selection_report.json", "tasks.jsonl")
COLUMN_PARTS = ("prompt", "responses", "scores", "chosen", "rejected")
LICENSE = "Licence of the data, for its card. Default: what the source's card on the Hub says."
DATA_FILES = "Local files instead: JSON, JSONL, CSV, Parquet or Arrow, perhaps compressed."


@dataclass
class ColumnArguments:
    """
    Arguments of both commands: what [`to_candidates`] has to be told of the data, where its columns leave a doubt.

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
            The licence of the data, for the card. If `None`, what the source's card on the Hub says.
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
            The licence of the data, for the card of the selected dataset. If `None`, what the source's card on the Hub says.
    """

    data_files: list[str] | None = field(default=None, metadata={"help": DATA_FILES})
    eval_data_files: list[str] | None = field(default=None, metadata={"help": "Local files to evaluate on."})
    license: str | None = field(default=None, metadata={"help": LICENSE})


def main(argv: list[str] | None = None) -> int:
    """Run a command; mistakes of the user end in one line and exit code 1, those in the flags in 2."""
    commands: dict[str, Callable[[list[str]], None]] = {"select": select, "dpo": dpo}
    parser = argparse.ArgumentParser(
        prog="trl-real", description="Label only the response pairs that are worth a label, then align with DPO."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "command",
        choices=commands,
        help="`select` writes the pairs of a dataset; `dpo` selects and trains. Each has its own --help.",
    )
    arguments = sys.argv[1:] if argv is None else argv
    command = commands[parser.parse_args(arguments[:1]).command]
    try:
        command(arguments[1:])
    except UserError as error:
        cause = error.__cause__
        why = cause.__cause__ if isinstance(cause, DatasetsError) and cause.__cause__ is not None else ""
        print("trl-real: error:", *f"{cause} {why}".split(), file=sys.stderr)
        return 1
    return 0


def select(argv: list[str]) -> None:
    """Select pairs and write them, with the report, to a folder."""
    arguments, columns, config = _parse("select", (SelectArguments, ColumnArguments, SelectionConfig), argv)
    with _users_mistakes():
        files = {arguments.dataset_train_split: arguments.data_files}
        dataset = load_files(arguments.dataset_name, arguments.dataset_config, files, streaming=False)
        on_skip = "error" if config.on_skip == "error" else "keep"
        rows = dataset[arguments.dataset_train_split]
        converted = convert(rows, columns.layout, named=columns.named, on_skip=on_skip)
        pairs, report = select_converted(converted, config)
        folder = Path(arguments.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / ".pairs.jsonl"  # nobody is to find a half of them where the pairs are looked for
        try:
            pairs.to_json(unfinished, force_ascii=False)
            for name in OUTPUTS:
                (folder / name).unlink(missing_ok=True)  # of an earlier run
            unfinished.replace(folder / "pairs.jsonl")
        finally:
            unfinished.unlink(missing_ok=True)
        if not report.labelled:
            to_label_tasks(pairs, folder / "tasks.jsonl")
        report.save(folder / "selection_report.json")
        if importlib.util.find_spec("matplotlib") is not None:
            report.plot(folder / "selection.png")
        print(report)
        print(f"\nWritten to {folder}: {', '.join(name for name in OUTPUTS if (folder / name).exists())}.")
        if arguments.push_to_hub:
            commit = push_selected_dataset(
                pairs,
                arguments.hub_dataset_id or folder.absolute().name,
                report,
                config,
                private=arguments.hub_private_repo,
                license=arguments.license,
            )
            print(f"Pushed: {commit.commit_url}")


def dpo(argv: list[str]) -> None:
    """Select pairs and train on them."""
    arguments, columns, config, model = _parse(
        "dpo", (DPOArguments, ColumnArguments, RealDPOConfig, ModelConfig), argv
    )
    with _users_mistakes():
        if model.model_name_or_path is None:
            raise ValueError("`--model_name_or_path` is required: the model that is to be aligned.")
        checkpoint = _checkpoint(config)
        train, test = arguments.dataset_train_split, arguments.dataset_test_split
        evaluates = config.eval_strategy != "no"
        files = {train: arguments.data_files, **({test: arguments.eval_data_files} if evaluates else {})}
        dataset = load_files(arguments.dataset_name, arguments.dataset_config, files, arguments.dataset_streaming)
        if columns.layout or columns.named:
            on_skip = "error" if config.on_skip == "error" else "drop"
            named = {f"{part}_column": column for part, column in columns.named.items()}
            for split in files:
                dataset[split] = to_candidates(dataset[split], columns.layout, on_skip=on_skip, **named)
        config.model_init_kwargs = {
            "revision": model.model_revision,
            "attn_implementation": model.attn_implementation,
            "dtype": model.dtype,
            **(config.model_init_kwargs or {}),
        }
        trainer = RealDPOTrainer(
            model=model.model_name_or_path,
            args=config,
            train_dataset=dataset[train],
            eval_dataset=dataset[test] if evaluates else None,
            quantization_config=get_quantization_config(model),
            peft_config=get_peft_config(model),
        )
    if trainer.selection_report is not None:
        trainer.accelerator.print(trainer.selection_report)
    trainer.train(resume_from_checkpoint=checkpoint)
    with _users_mistakes():
        trainer.save_model(config.output_dir, _internal_call=True)  # or it would push, and not name the dataset
        trainer.create_model_card(model_name=Path(config.output_dir).name, dataset_name=arguments.dataset_name)
        trainer.accelerator.print(f"\nThe model is in {config.output_dir}.")
        if config.push_to_hub:
            trainer.push_to_hub(dataset_name=arguments.dataset_name, license=arguments.license)
            trainer.accelerator.print(f"It was pushed to {trainer.hub_model_id}.")


class UserError(Exception):
    """What a user has to mend; the cause says what."""


@contextlib.contextmanager
def _users_mistakes() -> Iterator[None]:
    """Turns the errors that name a mistake into `UserError`."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, DatasetsError) as error:
        raise UserError from error


def number(text: str) -> float:
    """A number as it was typed: of a budget, `1` is one pair, and 1.0 might be all of them."""
    return int(text) if text.strip().isdecimal() else float(text)


class _Parser(TrlParser):
    """TRL's parser, which says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error:", *message.split(), f"(see `{self.prog} --help`)", file=sys.stderr)
        sys.exit(2)


def _parse(command: str, kinds: tuple[type, ...], argv: list[str]) -> Any:
    parser = _Parser(kinds, prog=f"trl-real {command}")
    parser._option_string_actions["--budget"].type = number
    if argv[-1:] == ["--config"]:
        parser.error("--config needs the path of a recipe in YAML")
    try:
        return parser.parse_args_and_config(argv)
    except (ValueError, TypeError, OSError, yaml.YAMLError) as error:  # of the checks of a config, or of the file
        options = ["--config", *parser._option_string_actions]
        for flag in (argument.partition("=")[0] for argument in argv if argument.startswith("--")):
            if not any(option.startswith(flag) for option in options):
                close = difflib.get_close_matches(flag, options, n=1)
                parser.error(f"there is no option {flag}" + (f": did you mean {close[0]}?" if close else ""))
        parser.error(str(error))


def _checkpoint(config: RealDPOConfig) -> str | None:
    """The checkpoint to go on from: a folder, or with "true" the last one in `output_dir`."""
    wanted = config.resume_from_checkpoint
    if wanted is None or wanted.lower() in ("", "false"):
        return None
    folder = config.output_dir if wanted.lower() == "true" else None
    checkpoint = wanted if folder is None else Path(folder).is_dir() and get_last_checkpoint(folder)
    if not checkpoint or not Path(checkpoint).is_dir():
        raise FileNotFoundError(f"`--resume_from_checkpoint`: there is no checkpoint in {folder or wanted}.")
    return str(checkpoint)


if __name__ == "__main__":
    sys.exit(main())
