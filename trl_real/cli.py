"""
The command line: `trl-real select` and `trl-real dpo`, with flags or a recipe in YAML.

Several processes: `accelerate launch --multi_gpu -m trl_real.cli dpo --config recipe.yaml`.
"""

import argparse
import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import DatasetDict, IterableDatasetDict, load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config, get_quantization_config

from .config import SelectionConfig
from .labels import to_label_tasks
from .preferences import select_preferences
from .real_dpo_config import RealDPOConfig
from .real_dpo_trainer import RealDPOTrainer


# The loader of `datasets` for each ending, which may be followed by that of a compression.
LOADERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".arrow": "arrow"}


@dataclass
class SelectArguments:
    """
    Arguments of `trl-real select`, beside those of [`SelectionConfig`].

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
    """

    dataset_name: str | None = field(
        default=None, metadata={"help": "Dataset to load, as an id of the Hub or a folder."}
    )
    data_files: list[str] | None = field(
        default=None,
        metadata={"help": "Local files instead: JSON, JSONL, CSV, Parquet or Arrow, perhaps compressed."},
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split to select from."})
    output_dir: str = field(default="selected", metadata={"help": "Folder for the pairs and the report."})


@dataclass
class DPOArguments(ScriptArguments):
    """
    Arguments of `trl-real dpo`, beside those of [`RealDPOConfig`] and [`~trl.ModelConfig`].

    Parameters:
        data_files (`list[str]`, *optional*):
            Local files instead of `dataset_name`: JSON, JSONL, CSV, Parquet or Arrow, perhaps compressed.
    """

    data_files: list[str] | None = field(
        default=None,
        metadata={
            "help": "Local files instead of `dataset_name`: JSON, JSONL, CSV, Parquet or Arrow, perhaps compressed."
        },
    )


def main(argv: list[str] | None = None) -> int:
    """Run a command; mistakes of the user end in one line and exit code 1, those in the flags in 2."""
    commands: dict[str, Callable[[list[str]], None]] = {"select": select, "dpo": dpo}
    parser = argparse.ArgumentParser(
        prog="trl-real", description="Label only the response pairs that are worth a label, then align with DPO."
    )
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
        print(f"trl-real: error: {' '.join(str(error.__cause__).split())}", file=sys.stderr)
        return 1
    return 0


def select(argv: list[str]) -> None:
    """Select pairs and write them, with the report, to a folder."""
    arguments, config = _parse("select", (SelectArguments, SelectionConfig), argv)
    with _users_mistakes():
        dataset = _load(arguments, streaming=False)[arguments.dataset_train_split]
        pairs, report = select_preferences(dataset, config)
        folder = Path(arguments.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        pairs.to_json(folder / "pairs.jsonl", force_ascii=False)
        if not report.labelled:
            to_label_tasks(pairs, folder / "tasks.jsonl")
        report.save(folder / "selection_report.json")
        if importlib.util.find_spec("matplotlib") is not None:
            report.plot(folder / "selection.png")
    print(report)
    print(f"\nWritten to {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}.")


def dpo(argv: list[str]) -> None:
    """Select pairs and train on them."""
    arguments, config, model = _parse("dpo", (DPOArguments, RealDPOConfig, ModelConfig), argv)
    with _users_mistakes():
        if model.model_name_or_path is None:
            raise ValueError("`--model_name_or_path` is required: the model that is to be aligned.")
        dataset = _load(arguments, arguments.dataset_streaming)
        config.model_init_kwargs = {
            "revision": model.model_revision,
            "attn_implementation": model.attn_implementation,
            "dtype": model.dtype,
            **(config.model_init_kwargs or {}),
        }
        trainer = RealDPOTrainer(
            model=model.model_name_or_path,
            args=config,
            train_dataset=dataset[arguments.dataset_train_split],
            eval_dataset=dataset[arguments.dataset_test_split] if config.eval_strategy != "no" else None,
            quantization_config=get_quantization_config(model),
            peft_config=get_peft_config(model),
        )
    if trainer.selection_report is not None:
        trainer.accelerator.print(trainer.selection_report)
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.save_model(config.output_dir)
    trainer.accelerator.print(f"\nThe model is in {config.output_dir}.")
    if config.push_to_hub:
        trainer.push_to_hub(dataset_name=arguments.dataset_name)
        trainer.accelerator.print(f"It was pushed to {trainer.hub_model_id}.")


class UserError(Exception):
    """What a user has to mend; the cause says what."""


@contextlib.contextmanager
def _users_mistakes() -> Iterator[None]:
    """Turns the errors that name a mistake, until training starts, into `UserError`."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise UserError from error


def _parse(command: str, kinds: tuple[type, ...], argv: list[str]) -> Any:
    parser = TrlParser(kinds, prog=f"trl-real {command}")
    try:
        return parser.parse_args_and_config(argv)
    except (ValueError, TypeError, FileNotFoundError) as error:  # of the checks of a config, or of the file
        parser.error(" ".join(str(error).split()))


def _load(arguments: SelectArguments | DPOArguments, streaming: bool) -> DatasetDict | IterableDatasetDict:
    """The splits of the data."""
    files, name = arguments.data_files, arguments.dataset_name
    if (files is None) == (name is None):
        raise ValueError("Give either `--dataset_name` or `--data_files`.")
    if files is None:
        dataset = load_dataset(name, name=arguments.dataset_config, streaming=streaming)
    else:
        missing = [file for file in files if not Path(file).is_file()]
        if missing:
            raise FileNotFoundError(f"`--data_files`: there is no file {missing[0]}.")
        endings = {next((end for end in Path(file).suffixes if end in LOADERS), "") for file in files}
        if len(endings) > 1 or endings == {""}:
            raise ValueError(f"`--data_files`: expected files that end in one of {list(LOADERS)}, found {files}.")
        dataset = load_dataset(
            LOADERS[endings.pop()],
            data_files={arguments.dataset_train_split: files},
            streaming=streaming,
        )
    if arguments.dataset_train_split not in dataset:
        raise ValueError(
            f"There is no split {arguments.dataset_train_split!r}. Found: {list(dataset)}. Set `--dataset_train_split`."
        )
    return dataset


if __name__ == "__main__":
    sys.exit(main())
