"""How many labels are wrong: `LabelError`."""

from typing import Any

from datasets import ClassLabel
from evaluate import EvaluationModuleInfo

from ..labeling.label_log import check_label
from .base import ColumnsModule
from .intervals import share


class LabelError(ColumnsModule):
    """
    How many labels are wrong, measured against gold labels.

    Where both name a side, the label is right or wrong. Ties and missing labels, which [`apply_labels`] leaves out of the
    preferences, are neither, and counted.

    Args:
        **settings:
            Those of [`~evaluate.EvaluationModule`], such as `keep_in_memory` or `num_process`.

    `compute`, `add_batch` and `add` take:
        labels (`list[str]` of n):
            The label of each pair, `"a"`, `"b"`, `"tie"` or `None`, as [`apply_labels`] takes them.
        gold_labels (`list[str]` of n):
            What is known to be right, in the same words.

    Returns of `compute`:
        `dict`: `label_error`, the share of wrong ones among the labels that are right or wrong, from 0 to 1;
        `label_error_low` and `label_error_high`, the ends of its 95% interval (Wilson, 1927); and the counts `right`, `wrong`,
        `tied` (one of both, or both, a tie) and `missing` (one of both, or both, `None`).

    Raises:
        `ValueError`: If a column is missing, empty or of another length than the other, a label is none of the four, or in
            no row both name a side.
        `TypeError`: If a column is no list, or an option is not known.

    Example:

    ```python
    >>> from trl_real import LabelError

    >>> results = LabelError().compute(labels=["a", "b", "tie", "b", None], gold_labels=["a", "b", "a", "a", "b"])
    >>> round(results["label_error"], 2), results["right"], results["wrong"], results["tied"], results["missing"]
    (0.33, 2, 1, 1, 1)
    ```
    """

    def _info(self) -> EvaluationModuleInfo:
        label = ClassLabel(names=["a", "b", "tie"])  # and null
        return self._describe(
            {"labels": label, "gold_labels": label},
            "Edwin B. Wilson. Probable Inference, the Law of Succession, and Statistical Inference. Journal of the American "
            "Statistical Association 22(158), 1927.",
            "https://doi.org/10.1080/01621459.1927.10502953",
            "metric",
        )

    def _read(self, name: str, column: Any) -> list[str | None]:
        return [check_label(label, f"in row {r} of the column `{name}`") for r, label in enumerate(column)]

    def _compute(self, *, labels: list[int | None], gold_labels: list[int | None]) -> dict[str, Any]:
        tie = self.features["labels"].str2int("tie")
        present = [pair for pair in zip(labels, gold_labels, strict=True) if None not in pair]
        sides = [pair for pair in present if tie not in pair]
        counts = {"tied": len(present) - len(sides), "missing": len(labels) - len(present)}
        if not sides:
            raise ValueError(
                f"Of {len(labels)} rows none has a side, 'a' or 'b', in both `labels` and `gold_labels`, so that no label is "
                f"right or wrong. Found: {counts}."
            )
        wrong = sum(label != gold for label, gold in sides)
        return {
            **share("label_error", wrong, len(sides)),
            "right": len(sides) - wrong,
            "wrong": wrong,
            **counts,
        }
