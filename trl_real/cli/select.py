"""`trl-real select`: select pairs, and write them with the report and the label tasks to a folder."""

import importlib.util

from ..candidates.conversion import convert
from ..config import SelectionConfig
from ..core.output_folder import OutputFolder
from ..hub.access import check_can_push
from ..hub.push import push_selected_dataset
from ..labeling.tasks import to_label_tasks
from ..selection.preferences import select_converted
from .arguments import ColumnArguments, SelectArguments, parse
from .disk_space import check_disk_space
from .errors import users_mistakes
from .pairs_file import PAIRS_JSONL, PAIRS_PARQUET, write_pairs


OUTPUTS = (PAIRS_JSONL, PAIRS_PARQUET, "selection.png", "selection_report.json", "tasks.jsonl")


def select(argv: list[str]) -> None:
    """Select pairs, and write them with the report and the label tasks to a folder."""
    arguments, columns, config = parse("select", (SelectArguments, ColumnArguments, SelectionConfig), argv)
    folder = OutputFolder(arguments.output_dir)
    with users_mistakes(), folder.locked():
        folder.check(OUTPUTS, arguments.inputs)
        repo_id = arguments.hub_dataset_id or folder.path.absolute().name
        if arguments.push_to_hub:
            check_can_push(repo_id, "dataset", private=arguments.hub_private_repo)
        on_skip = "error" if config.on_skip == "error" else "keep"
        rows = arguments.load()
        converted = convert(rows, columns.layout, named=columns.named, on_skip=on_skip, votes=columns.votes)
        check_disk_space(converted.dataset, config, folder.path)
        pairs, report = select_converted(converted, config)
        with folder.replacing(OUTPUTS) as stage:
            note = write_pairs(pairs, stage)
            if not report.labeled:
                to_label_tasks(pairs, stage / "tasks.jsonl")
            report.save(stage / "selection_report.json")
            if importlib.util.find_spec("matplotlib") is not None:
                report.plot(stage / "selection.png")
            written = sorted(path.name for path in stage.iterdir())
        print(report)
        print(f"\nWritten to {folder.path}: {', '.join(written)}.", *([note] if note else []))
        if arguments.push_to_hub:
            commit = push_selected_dataset(
                pairs, repo_id, report, config, private=arguments.hub_private_repo, license=arguments.license
            )
            print(f"Pushed: {commit.commit_url}")
