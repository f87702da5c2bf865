"""The report on a simulation of labeling: `LabelingSimulation`."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t

from ..core.files import write_text
from .label_noise import Estimate


class SimulatedRound(NamedTuple):
    """
    The state after a round.

    Attributes:
        labels (`int`): The number of labels.
        accuracy (`float`): The accuracy of a model of these labels on held-out pairs.
        gain_all (`float`): How much all remaining labels are expected to add to the agreement of the model with the labels.
        stop (`bool`): Whether [`LabelProgress`] recommends to stop.
    """

    labels: int
    accuracy: float
    gain_all: float
    stop: bool


@dataclass
class SimulatedStrategy:
    """
    The results of a strategy, averaged over the seeds, with 95% intervals.

    Attributes:
        labels (`list[int]`): The number of labels after each round.
        accuracy (`list[Estimate]`): The accuracy of a model of these labels on held-out pairs.
        less_random (`Estimate`): The accuracy minus that of `"random"`, averaged over the rounds.
        labels_at_stop (`Estimate`): The number of labels at the stop, or of all labels if the rule never stops.
        loss_at_stop (`Estimate`): The accuracy with all labels minus the accuracy at the stop.
    """

    labels: list[int]
    accuracy: list[Estimate]
    less_random: Estimate
    labels_at_stop: Estimate
    loss_at_stop: Estimate


@dataclass
class LabelingSimulation:
    r"""
    The report on a simulation of labeling in rounds.

    Attributes:
        pairs (`int`): The number of pairs that are labeled by the end.
        seeds (`int`): The number of simulations per strategy.
        strategies (`dict[str, SimulatedStrategy]`): The results by strategy.
    """

    pairs: int
    seeds: int
    strategies: dict[str, SimulatedStrategy]

    @classmethod
    def of(cls, played: dict[str, list[list[SimulatedRound]]], pairs: int, held_out: float) -> "LabelingSimulation":
        """Summarize the simulated rounds by strategy. Each seed holds out the share `held_out` of the prompts."""
        # The number of pairs may differ by one between seeds. The shortest curve determines how many rounds are compared.
        n_rounds = min(len(rounds) for of_strategy in played.values() for rounds in of_strategy)
        curves = {
            name: np.array([[step.accuracy for step in rounds[:n_rounds]] for rounds in of_strategy])
            for name, of_strategy in played.items()
        }
        strategies = {}
        for name, of_strategy in played.items():
            stops = [next((step for step in rounds if step.stop), rounds[-1]) for rounds in of_strategy]
            losses = [rounds[-1].accuracy - stop.accuracy for rounds, stop in zip(of_strategy, stops, strict=True)]
            strategies[name] = SimulatedStrategy(
                labels=[step.labels for step in of_strategy[0][:n_rounds]],
                accuracy=[over_splits(column, held_out) for column in curves[name].T],
                less_random=over_splits((curves[name] - curves["random"]).mean(1), held_out),
                labels_at_stop=over_splits(np.array([stop.labels for stop in stops]), held_out),
                loss_at_stop=over_splits(np.array(losses), held_out),
            )
        return cls(pairs, len(played["random"]), strategies)

    @property
    def recommended(self) -> str:
        """The best strategy that is significantly better than `"random"`, or `"random"` if there is none."""
        better = {name: row.less_random.value for name, row in self.strategies.items() if row.less_random.low > 0}
        return max(better, key=better.__getitem__, default="random")

    def to_dict(self) -> dict[str, Any]:
        """The report as plain Python objects, for JSON."""
        return dataclasses.asdict(self)

    def save(self, path: str | Path) -> None:
        """Save the report as JSON. An existing file is replaced."""
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    def __str__(self) -> str:
        rows = [["strategy", "minus random", "labels at stop", "lost by stopping", "with all labels"]]
        for name, row in self.strategies.items():
            less = "" if name == "random" else _points(row.less_random)
            at = row.labels_at_stop
            stop = f"{at.value:.0f} of {self.pairs:,} ({at.value / self.pairs:.0%})"
            rows.append([name, less, stop, _points(row.loss_at_stop), f"{row.accuracy[-1].value:.1%}"])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        return "\n".join(
            [*lines, f"Accuracy in percentage points, over {self.seeds} seeds. Recommended: {self.recommended}."]
        )


def _points(estimate: Estimate) -> str:
    value, low, high = (round(100 * end, 1) + 0.0 for end in (estimate.value, estimate.low, estimate.high))  # never -0
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def over_splits(values: np.ndarray, held_out: float) -> Estimate:
    """
    A mean over random splits of the same rows, with the interval of Nadeau and Bengio (Inference for the Generalization Error,
    2003). The splits share rows, so the usual interval would be too narrow.
    """
    n = len(values)
    error = np.std(values, ddof=1) * np.sqrt(1 / n + held_out / (1 - held_out))
    margin, mean = float(student_t.ppf(0.975, n - 1) * error), float(np.mean(values))
    return Estimate(mean, mean - margin, mean + margin)
