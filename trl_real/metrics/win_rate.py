"""How often one system beats another one: `WinRate`."""

from typing import Any

import numpy as np
from datasets import Value
from evaluate import EvaluationModuleInfo

from ..core.checks import check_seed
from .base import ColumnsModule, read_numbers
from .intervals import interval


RESAMPLES = 10_000


class WinRate(ColumnsModule):
    """
    How often the responses of one system beat those of another system on the same prompts. Ties count half.

    Args:
        seed (`int`, *optional*, defaults to `0`):
            Seed of the bootstrap.
        **settings:
            The arguments of [`~evaluate.EvaluationModule`], such as `keep_in_memory` or `num_process`.

    `compute`, `add_batch` and `add` take:
        predictions (`list[float]`, array or tensor of shape `(n,)`):
            The score of the system's response to each prompt, in any unit, higher is better.
        references (`list[float]`, array or tensor of shape `(n,)`):
            The score of the other system's response to each prompt. Verdicts work as scores, too:
            `predictions=[v == "a" for v in verdicts], references=[v == "b" for v in verdicts]`.

    Returns of `compute`:
        `dict`:

        - `win_rate`: from 0 to 1.
        - `win_rate_low` and `win_rate_high`: the ends of its 95% percentile bootstrap interval (Efron, 1979). The interval is
          too narrow for fewer than about 20 rows, or if the rate is close to 0 or 1. It has no width if all rows have the same
          outcome.
        - `wins`, `ties` and `losses`: the counts.

    Raises:
        `ValueError`: If a column is missing or empty, the columns differ in length, or a value is NaN or infinite.
        `TypeError`: If a column has anything but numbers, or an option is unknown.

    Example:

    ```python
    >>> from trl_real import WinRate

    >>> results = WinRate().compute(predictions=[0.9, 0.4, 0.7, 0.8], references=[0.2, 0.4, 0.1, 0.9])
    >>> results["win_rate"], results["wins"], results["ties"], results["losses"]
    (0.625, 2, 1, 1)
    ```
    """

    def __init__(self, *, seed: int = 0, **settings: Any):
        check_seed("seed", seed)
        super().__init__(seed=seed, **settings)

    def _info(self) -> EvaluationModuleInfo:
        return self._describe(
            {"predictions": Value("float64"), "references": Value("float64")},
            "Bradley Efron. Bootstrap Methods: Another Look at the Jackknife. The Annals of Statistics 7(1), 1979.",
            "https://doi.org/10.1214/aos/1176344552",
            "comparison",
        )

    def _read(self, name: str, column: Any) -> np.ndarray:
        return read_numbers(name, column)

    def _compute(self, *, predictions: list[float], references: list[float]) -> dict[str, Any]:
        ours, theirs = np.array(predictions), np.array(references)
        counts = np.array([compared.sum() for compared in (ours > theirs, ours == theirs, ours < theirs)])
        n, worth = counts.sum(), np.array([1.0, 0.5, 0.0])
        # Sampling rows with replacement is equivalent to sampling these three counts.
        drawn = np.random.default_rng(self.seed).multinomial(n, counts / n, size=RESAMPLES) @ worth / n
        low, high = np.quantile(drawn, [0.025, 0.975])
        wins, ties, losses = counts.tolist()
        return {
            **interval("win_rate", counts @ worth / n, low, high),
            "wins": wins,
            "ties": ties,
            "losses": losses,
        }
