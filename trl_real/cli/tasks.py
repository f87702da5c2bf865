"""`trl-real tasks`: write the tasks for annotators to a file, in the format of a label tool."""

from dataclasses import dataclass, field
from pathlib import Path

from ..core.output_folder import check_not_inputs
from ..labeling.formats.tools import FORMATS
from ..labeling.tasks import to_label_tasks
from .arguments import PairsArguments, parse
from .errors import users_mistakes


@dataclass
class TasksArguments(PairsArguments):
    """
    Arguments of `trl-real tasks`: those of [`PairsArguments`] and [`to_label_tasks`].

    Parameters:
        output_file (`str`, *optional*):
            The file to write. If `None`, `tasks` with the ending of the format.
        format (`str`, *optional*, defaults to `"jsonl"`):
            See [`to_label_tasks`].
    """

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
        tool = FORMATS[arguments.format]
        path = Path(arguments.output_file or f"tasks{tool.suffix}")
        outputs = [path, *([path.with_suffix(".xml")] if tool.config is not None else ())]
        check_not_inputs(outputs, arguments.inputs, "output_file")
        written = to_label_tasks(arguments.load(), path, format=arguments.format)
    config = f", and the labeling interface to {path.with_suffix('.xml')}" if tool.config is not None else ""
    print(f"Written {len(written):,} tasks to {path}{config}.")
