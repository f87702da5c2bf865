"""`trl-real apply`: turn pairs and their labels into preferences."""

from dataclasses import dataclass, field

from ..config import ON_SKIP
from ..core.output_folder import OutputFolder
from ..labeling.labels import AGGREGATES, apply_labels
from .arguments import PairsArguments, parse, paths_in
from .errors import users_mistakes
from .pairs_file import write_pairs


PREFERENCES = ("preferences.jsonl", "preferences.parquet")


@dataclass
class ApplyArguments(PairsArguments):
    """
    Arguments of `trl-real apply`: those of [`PairsArguments`] and [`apply_labels`], and the output folder.

    Parameters:
        labels (`str`):
            The labels: a label log, a CSV file, an export of Label Studio, Argilla or Prodigy, or the id of a dataset on the Hub.
        output_dir (`str`, *optional*, defaults to `"labeled"`):
            The output folder for `preferences.jsonl`.
        on_skip, aggregate:
            See [`apply_labels`].
    """

    labels: str | None = field(
        default=None,
        metadata={
            "help": "The labels: a label log, a CSV file, an export of Label Studio, Argilla or Prodigy, or the id of a dataset on "
            "the Hub."
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
        folder.check(PREFERENCES, [*arguments.inputs, *paths_in(arguments.labels)])
        if not arguments.labels:
            raise ValueError("`--labels` is required: a file with the labels, or the id of a dataset on the Hub.")
        pairs = arguments.load()
        preferences = apply_labels(pairs, arguments.labels, arguments.on_skip, arguments.aggregate)
        with folder.replacing(PREFERENCES) as stage:
            note = write_pairs(preferences, stage, "preferences")
            written = ", ".join(path.name for path in stage.iterdir())
    decided = len(preferences) - preferences["chosen"][:].count(None)
    print(f"{decided:,} of {len(pairs):,} pairs have a preferred side.", *([note] if note else []), sep="\n")
    print(f"Written to {folder.path}: {written}.")
