"""The base class of the `evaluate` modules. It checks columns before anything is stored."""

import inspect
from typing import Any

import numpy as np
from datasets import Features
from evaluate import EvaluationModule, EvaluationModuleInfo

from ..core.columns import kind


class ColumnsModule(EvaluationModule):
    """
    An `evaluate` module with named columns. Options are arguments of the constructor, because `evaluate.combine` passes all
    arguments of `compute` to each of its modules.
    """

    def __init__(self, **settings: Any):
        unknown = settings.keys() - inspect.signature(EvaluationModule.__init__).parameters.keys()
        if unknown:  # `evaluate` would silently ignore them
            known = [name for name, p in inspect.signature(type(self)).parameters.items() if p.kind is p.KEYWORD_ONLY]
            raise TypeError(
                f"`{type(self).__name__}` has no option {sorted(unknown)}. Its options are {known} and those of "
                "`evaluate.EvaluationModule`."
            )
        super().__init__(**settings)

    def _describe(self, features: dict[str, Any], citation: str, url: str, module_type: str) -> EvaluationModuleInfo:
        description, inputs = (inspect.getdoc(self) or "\n\n").split("\n\n", 1)
        return EvaluationModuleInfo(
            description=description,
            citation=citation,
            features=Features(features),
            inputs_description=inputs,
            license="Apache-2.0",
            reference_urls=[url],
            module_type=module_type,
        )

    def _read(self, name: str, column: Any) -> Any:
        """Check a column, and return the values to store."""
        raise NotImplementedError

    def add_batch(self, *, predictions: Any = None, references: Any = None, **columns: Any) -> None:
        """Add rows. Each column is a list, an array, a tensor or a column of a dataset, with one value per row."""
        names, owner = self._feature_names(), type(self).__name__
        columns |= {"predictions": predictions, "references": references}
        found = [name for name, column in columns.items() if column is not None]
        if sorted(found) != sorted(names):
            raise ValueError(f"`{owner}` takes the columns {names}. Found: {found}. Pass exactly these columns.")
        read = {name: self._read(name, read_rows(name, columns[name])) for name in names}
        lengths = {name: len(column) for name, column in read.items()}
        if len(set(lengths.values())) > 1 or not all(lengths.values()):
            raise ValueError(f"`{owner}` needs columns of equal length, with at least one row. Found: {lengths}.")
        super().add_batch(**read)

    def add(self, *, prediction: Any = None, reference: Any = None, **columns: Any) -> None:
        """Add one row, with one value per column."""
        named = {"predictions": prediction, "references": reference}
        columns |= {name: value for name, value in named.items() if value is not None}
        self.add_batch(**{name: [value] for name, value in columns.items()})

    def compute(self, *, predictions: Any = None, references: Any = None, **columns: Any) -> dict[str, Any] | None:
        """Compute from the rows added before and the columns given here. Columns of other modules are ignored."""
        names, owner = self._feature_names(), type(self).__name__
        for name, value in columns.items():
            if name not in names and value is not None and (isinstance(value, str) or not hasattr(value, "__len__")):
                raise TypeError(
                    f"`compute` of `{owner}` takes the columns {names}, found `{name}={value!r:.60}`. Pass options to the "
                    f"constructor: `{owner}({name}=...)`."
                )
        columns |= {"predictions": predictions, "references": references}
        own = {name: columns[name] for name in names if columns.get(name) is not None}
        if not own and self.writer is None:
            found = [name for name, column in columns.items() if column is not None]
            raise ValueError(
                f"`{owner}` has no rows: it takes the columns {names}, in `add_batch` or `compute`. Found: {found}."
            )
        return super().compute(**own)


def read_rows(name: str, column: Any) -> Any:
    """The rows of a column as a list or an array."""
    if hasattr(column, "detach"):
        column = column.detach().cpu().double().numpy()
    if isinstance(column, str | dict) or not hasattr(column, "__getitem__"):
        raise TypeError(f"Column `{name}`: expected a list with one value per row, found {kind(column)}.")
    return column[:]  # reads a column of a dataset at once


def read_numbers(name: str, column: Any) -> np.ndarray:
    """A column of finite numbers as `(n,)` float64."""
    try:
        numbers = np.asarray(column)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of different lengths, tensors with gradients
        raise TypeError(
            f"Column `{name}`: expected a list of numbers, one per row, found something else ({error})."
        ) from error
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "biuf"):
        odd = next((value for value in column if not isinstance(value, int | float)), None)
        found = f"an array of shape {numbers.shape}" if numbers.ndim != 1 else f"an item that is {kind(odd)}"
        raise TypeError(f"Column `{name}`: expected a list of numbers, one per row, found {found}.")
    finite = np.isfinite(numbers)
    if not finite.all():
        row = int((~finite).argmax())
        raise ValueError(
            f"Column `{name}`, row {row}: found {numbers[row]}, expected a finite number. Remove such rows from all columns."
        )
    return numbers.astype(np.float64)
