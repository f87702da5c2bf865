"""Judging labels and an aligned model: `WinRate`, `PreferenceMargin` and `LabelError`, modules of `evaluate`."""

from typing import Any

import numpy as np
from datasets import ClassLabel, Value
from evaluate import EvaluationModuleInfo
from scipy.stats import binomtest
from scipy.stats import t as student_t

from .config import check_seed
from .evaluation import ColumnsModule, read_numbers
from .labels import check_label


RESAMPLES = 10_000
# Summed over many tokens in low precision, the log-prob of a response that is certain may come out above 0, but not by this.
ROUNDING = 0.1


class WinRate(ColumnsModule):
    """
    How often the responses of one system beat those of another on the same prompts; ties count half.

    Args:
        seed (`int`, *optional*, defaults to `0`):
            Seed of the bootstrap.
        **settings:
            Those of [`~evaluate.EvaluationModule`], such as `keep_in_memory` or `num_process`.

    `compute`, `add_batch` and `add` take:
        predictions (`list[float]`, array or tensor of shape `(n,)`):
            The score of the system's response to each prompt, in any unit, higher is better.
        references (`list[float]`, array or tensor of shape `(n,)`):
            That of the other system's response. Verdicts are scores as well: `predictions=[v == "a" for v in verdicts],
            references=[v == "b" for v in verdicts]`.

    Returns of `compute`:
        `dict`: `win_rate`, from 0 to 1; `win_rate_low` and `win_rate_high`, the ends of its 95% percentile bootstrap interval
        (Efron, 1979), which is too narrow for fewer than some 20 rows or a rate near 0 or 1, and has no width where all rows
        came out alike; and the counts `wins`, `ties` and `losses`.

    Raises:
        `ValueError`: If a column is missing, empty, of another length than the other, or has NaN or infinity.
        `TypeError`: If it has anything but numbers, or an option is not known.

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
        # To draw rows with replacement is to draw these three counts, however many rows there are.
        drawn = np.random.default_rng(self.seed).multinomial(n, counts / n, size=RESAMPLES) @ worth / n
        low, high = np.quantile(drawn, [0.025, 0.975])
        wins, ties, losses = counts.tolist()
        return {
            **_interval("win_rate", counts @ worth / n, low, high),
            "wins": wins,
            "ties": ties,
            "losses": losses,
        }


class PreferenceMargin(ColumnsModule):
    """
    By how much, and how often, a policy prefers the chosen response over the rejected one, measured against a reference.

    These are the implicit rewards of DPO (Rafailov et al., 2023), `beta * (logps - ref_logps)`, and what `trl.DPOTrainer` logs as
    `rewards/margins` and `rewards/accuracies`.

    Args:
        beta (`float`, *optional*, defaults to `0.1`):
            That of DPO: what a nat is worth. The accuracy does not depend on it.
        **settings:
            Those of [`~evaluate.EvaluationModule`], such as `keep_in_memory` or `num_process`.

    `compute`, `add_batch` and `add` take:
        chosen_logps, rejected_logps (`list[float]`, array or tensor of shape `(n,)`):
            The log-prob that the policy gives to each chosen and each rejected response, in nats, summed over its tokens.
        ref_chosen_logps, ref_rejected_logps (`list[float]`, array or tensor of shape `(n,)`):
            Those of the reference model, in the columns that TRL's `precompute_ref_log_probs` makes.

    Returns of `compute`:
        `dict`: `margin`, the mean of the chosen less the rejected reward, and `accuracy`, the share of pairs whose chosen
        reward is greater (equal ones are not, as in TRL), each with the ends of a 95% interval, Student's for `margin_low` and
        `margin_high` (without width for a single pair), Wilson's for `accuracy_low` and `accuracy_high`.

    Raises:
        `ValueError`: If a column is missing, empty, of another length than the others, has NaN, infinity or a number
            above 0, as losses are, or `beta` is not above 0.
        `TypeError`: If it has anything but numbers, or an option is not known.

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
            **_interval("margin", margins.mean(), margins.mean() - error, margins.mean() + error),
            **_share("accuracy", int((chosen > rejected).sum()), n),
        }


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
            **_share("label_error", wrong, len(sides)),
            "right": len(sides) - wrong,
            "wrong": wrong,
            **counts,
        }


def _share(name: str, k: int, n: int) -> dict[str, float]:
    """A share with Wilson's interval."""
    interval = binomtest(k, n).proportion_ci(method="wilson")
    return _interval(name, k / n, interval.low, interval.high)


def _interval(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
