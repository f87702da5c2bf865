"""`trl-real apply`: turn pairs and their labels into preferences."""

from dataclasses import dataclass, field

from ..config import ON_SKIP
from ..core.output_folder import OutputFolder
from ..labeling.labels import AGGREGATES, apply_labels
from .arguments import DATASET_NAME, PAIRS_TO_LABEL, parse, paths_in
from .data_files import load_files
from .errors import users_mistakes
from .pairs_file import write_pairs


PREFERENCES = ("preferences.jsonl", "preferences.parquet")


@dataclass
class ApplyArguments:
    """
    Arguments of `trl-real apply`: those of [`apply_labels`], the source of the pairs and the output folder.

    Parameters:
        dataset_name (`str`, *optional*):
            Dataset with the pairs, as a Hub id or a local folder.
        data_files (`list[str]`, *optional*):
            Local files to load instead: the `pairs.jsonl` that `trl-real select` writes for responses without scores.
        dataset_config (`str`, *optional*):
            Configuration of the dataset.
        dataset_train_split (`str`, *optional*, defaults to `"train"`):
            The split with the pairs.
        labels (`str`):
            The file with the labels: a label log, a CSV file, or an export of Label Studio, Argilla or Prodigy.
        output_dir (`str`, *optional*, defaults to `"labeled"`):
            The output folder for `preferences.jsonl`.
        on_skip, aggregate:
            See [`apply_labels`].
    """

    dataset_name: str | None = field(default=None, metadata={"help": DATASET_NAME})
    data_files: list[str] | None = field(default=None, metadata={"help": PAIRS_TO_LABEL})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the dataset."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split with the pairs."})
    labels: str | None = field(
        default=None,
        metadata={
            "help": "File with the labels: a label log, a CSV file, or an export of Label Studio, Argilla or Prodigy."
        },
    )
    output_dir: str = field(default="labeled", metadata={"help": "Output folder for preferences.jsonl."})
    on_skip: str = field(
        default="drop",
        metadata={"help": "What to do with pairs without a preferred side.", "choices": list(ON_SKIP)},
    )
    aggregate: str = field(
        default="majority",
        metadata={"help": "How to combine the labels of several annotators.", "choices": list(AGGREGATES)},
    )


def apply(argv: list[str]) -> None:
    """Apply labels to pairs, and write the preferences to a folder."""
    (arguments,) = parse("apply", (ApplyArguments,), argv)
    folder = OutputFolder(arguments.output_dir)
    with users_mistakes(), folder.locked():
        folder.check(PREFERENCES, paths_in(arguments.data_files, arguments.dataset_name, arguments.labels))
        if not arguments.labels:
            raise ValueError("`--labels` is required: the file with the labels.")
        files = {arguments.dataset_train_split: arguments.data_files}
        dataset = load_files(arguments.dataset_name, arguments.dataset_config, files, streaming=False)
        pairs = dataset[arguments.dataset_train_split]
        preferences = apply_labels(pairs, arguments.labels, arguments.on_skip, arguments.aggregate)
        with folder.replacing(PREFERENCES) as stage:
            note = write_pairs(preferences, stage, "preferences")
            written = ", ".join(path.name for path in stage.iterdir())
    decided = len(preferences) - preferences["chosen"][:].count(None)
    print(f"{decided:,} of {len(pairs):,} pairs have a preferred side.", *([note] if note else []), sep="\n")
    print(f"Written to {folder.path}: {written}.")
