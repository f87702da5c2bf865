"""`trl-real select`: pairs, report and label tasks in a folder."""

import importlib.util
from pathlib import Path

from ..candidates.conversion import convert
from ..config import SelectionConfig
from ..hub.push import push_selected_dataset
from ..labeling.labels import to_label_tasks
from ..selection.preferences import select_converted
from .arguments import ColumnArguments, SelectArguments, parse
from .data_files import load_files
from .errors import users_mistakes


OUTPUTS = ("pairs.jsonl", "selection.png", "selection_report.json", "tasks.jsonl")


def select(argv: list[str]) -> None:
    """Select pairs and write them, with the report, to a folder."""
    arguments, columns, config = parse("select", (SelectArguments, ColumnArguments, SelectionConfig), argv)
    with users_mistakes():
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
