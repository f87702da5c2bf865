"""`trl-real tasks`: write the tasks for annotators to a file, in the format of a label tool."""

from dataclasses import dataclass, field
from pathlib import Path

from ..labeling.formats.tools import FORMATS
from ..labeling.tasks import to_label_tasks
from .arguments import DATASET_NAME, PAIRS_TO_LABEL, parse
from .data_files import load_files
from .errors import users_mistakes


@dataclass
class TasksArguments:
    """
    Arguments of `trl-real tasks`: those of [`to_label_tasks`], and the source of the pairs.

    Parameters:
        dataset_name (`str`, *optional*):
            Dataset with the pairs, as a Hub id or a local folder.
        data_files (`list[str]`, *optional*):
            Local files to load instead: the `pairs.jsonl` that `trl-real select` writes for responses without scores.
        dataset_config (`str`, *optional*):
            Configuration of the dataset.
        dataset_train_split (`str`, *optional*, defaults to `"train"`):
            The split with the pairs.
        output_file (`str`, *optional*):
            The file to write. If `None`, `tasks` with the ending of the format.
        format (`str`, *optional*, defaults to `"jsonl"`):
            See [`to_label_tasks`].
    """

    dataset_name: str | None = field(default=None, metadata={"help": DATASET_NAME})
    data_files: list[str] | None = field(default=None, metadata={"help": PAIRS_TO_LABEL})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split with the pairs."})
    output_file: str | None = field(
        default=None, metadata={"help": "File to write. Default: tasks, with the ending of the format."}
    )
    format: str = field(
        default="jsonl", metadata={"help": "Format of the file: the tool that reads it.", "choices": list(FORMATS)}
    )


def tasks(argv: list[str]) -> None:
    """Write the tasks for annotators to a file."""
    (arguments,) = parse("tasks", (TasksArguments,), argv)
    with users_mistakes():
        files = {arguments.dataset_train_split: arguments.data_files}
        dataset = load_files(arguments.dataset_name, arguments.dataset_config, files, streaming=False)
        tool = FORMATS[arguments.format]
        path = Path(arguments.output_file or f"tasks{tool.suffix}")
        written = to_label_tasks(dataset[arguments.dataset_train_split], path, format=arguments.format)
    config = f", and the labeling interface to {path.with_suffix('.xml')}" if tool.config is not None else ""
    print(f"Written {len(written):,} tasks to {path}{config}.")
