"""How strongly a policy prefers the chosen responses: `PreferenceMargin`."""

from typing import Any

import numpy as np
from datasets import Value
from evaluate import EvaluationModuleInfo
from scipy.stats import t as student_t

from .base import ColumnsModule, read_numbers
from .intervals import interval, share


# Rounding in low precision can move the summed log-prob of a certain response above 0, but by less than this.
ROUNDING = 0.1


class PreferenceMargin(ColumnsModule):
    """
    How much and how often a policy prefers the chosen response to the rejected one, relative to a reference model.

    The margin uses the implicit rewards of DPO (Rafailov et al., 2023), `beta * (logps - ref_logps)`. `trl.DPOTrainer` logs the
    same numbers as `rewards/margins` and `rewards/accuracies`.

    Args:
        beta (`float`, *optional*, defaults to `0.1`):
            The `beta` of DPO, which scales the rewards. The accuracy does not depend on it.
        **settings:
            The arguments of [`~evaluate.EvaluationModule`], such as `keep_in_memory` or `num_process`.

    `compute`, `add_batch` and `add` take:
        chosen_logps, rejected_logps (`list[float]`, array or tensor of shape `(n,)`):
            The log-probs of the chosen and rejected responses under the policy, in nats, summed over the tokens.
        ref_chosen_logps, ref_rejected_logps (`list[float]`, array or tensor of shape `(n,)`):
            The log-probs under the reference model, in the columns that TRL's `precompute_ref_log_probs` adds.

    Returns of `compute`:
        `dict`:

        - `margin`: the mean of chosen reward minus rejected reward. `margin_low` and `margin_high` are the ends of its 95%
          interval (Student's t). For a single pair, the interval has no width.
        - `accuracy`: the share of pairs with a larger reward for chosen; as in TRL, equal rewards do not count.
          `accuracy_low` and `accuracy_high` are the ends of its 95% interval (Wilson).

    Raises:
        `ValueError`: If a column is missing or empty, the columns differ in length, a value is NaN, infinite or above 0 (as
            losses are), or `beta` is not above 0.
        `TypeError`: If a column has anything but numbers, or an option is unknown.

    Example:

    ```python
    >>> from trl_real import PreferenceMargin

    >>> policy = {"chosen_logps": [-20.0, -31.0], "rejected_logps": [-45.0, -30.0]}
    >>> reference = {"ref_chosen_logps": [-25.0, -30.0], "ref_rejected_logps": [-40.0, -30.0]}
    >>> results = PreferenceMargin().compute(**policy, **reference)
    >>> round(results["margin"], 2), results["accuracy"]
    (0.45, 0.5)
    ```
    """

    def __init__(self, *, beta: float = 0.1, **settings: Any):
        if isinstance(beta, bool) or not isinstance(beta, int | float | np.number) or not 0 < beta < np.inf:
            raise ValueError(f"`beta` must be a number above 0, got {beta!r}.")
        self.beta = beta
        super().__init__(**settings)

    def _info(self) -> EvaluationModuleInfo:
        names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
        return self._describe(
            {name: Value("float64") for name in names},
            "Rafael Rafailov et al. Direct Preference Optimization: Your Language Model is Secretly a Reward Model. 2023.",
            "https://arxiv.org/abs/2305.18290",
            "metric",
        )

    def _read(self, name: str, column: Any) -> np.ndarray:
        numbers = read_numbers(name, column)
        if (numbers > ROUNDING).any():
            row = int((numbers > ROUNDING).argmax())
            raise ValueError(
                f"Column `{name}`, row {row}: found {numbers[row]:g}, expected a log-prob, which is at most 0. Losses are "
                "negative log-probs: change their sign."
            )
        return numbers

    def _compute(self, **logps: list[float]) -> dict[str, Any]:
        chosen, rejected = (
            self.beta * np.subtract(logps[f"{side}_logps"], logps[f"ref_{side}_logps"])
            for side in ("chosen", "rejected")
        )
        margins, n = chosen - rejected, len(chosen)
        error = student_t.ppf(0.975, n - 1) * margins.std(ddof=1) / np.sqrt(n) if n > 1 else 0.0
        return {
            **interval("margin", margins.mean(), margins.mean() - error, margins.mean() + error),
            **share("accuracy", int((chosen > rejected).sum()), n),
        }
