"""The share of wrong labels: `LabelError`."""

from typing import Any

from datasets import ClassLabel
from evaluate import EvaluationModuleInfo

from ..labeling.label_log import check_label
from .base import ColumnsModule
from .intervals import share


class LabelError(ColumnsModule):
    """
    The share of wrong labels, measured against gold labels.

    If both the label and the gold label prefer a side, the label is right or wrong. Ties and missing labels, which
    [`apply_labels`] leaves out of the preferences, are neither right nor wrong. They are counted separately.

    Args:
        **settings:
            The arguments of [`~evaluate.EvaluationModule`], such as `keep_in_memory` or `num_process`.

    `compute`, `add_batch` and `add` take:
        labels (`list[str]` of n):
            The label of each pair: `"a"`, `"b"`, `"tie"` or `None`, as in [`apply_labels`].
        gold_labels (`list[str]` of n):
            The correct label of each pair, in the same format.

    Returns of `compute`:
        `dict`: `label_error`, the share of wrong labels among the labels that are right or wrong, from 0 to 1;
        `label_error_low` and `label_error_high`, the ends of its 95% interval (Wilson, 1927); and the counts `right`, `wrong`,
        `tied` (one or both are a tie) and `missing` (one or both are `None`).

    Raises:
        `ValueError`: If a column is missing or empty, the columns differ in length, a label is none of the four, or there is no
            row in which both prefer a side.
        `TypeError`: If a column is not a list, or an option is unknown.

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
                f"None of the {len(labels)} rows has a side, 'a' or 'b', in both `labels` and `gold_labels`, so no label is right "
                f"or wrong. Found: {counts}."
            )
        wrong = sum(label != gold for label, gold in sides)
        return {
            **share("label_error", wrong, len(sides)),
            "right": len(sides) - wrong,
            "wrong": wrong,
            **counts,
        }
