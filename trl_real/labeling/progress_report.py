"""The report on the progress of labeling: `LabelProgress`."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.files import whole_file, write_text
from .annotators import AnnotatorSummary
from .label_noise import Estimate


if TYPE_CHECKING:
    from matplotlib.figure import Figure


# With fewer labels of randomly sampled pairs, the interval of the agreement is wider than ±10 percentage points.
MIN_LABELS = 100
# Stop if all remaining labels together are expected to add less agreement than this. Chosen on seeds 0 to 9 of the study.
LEAST_GAIN = 0.0065


@dataclass
class ProgressPoint:
    """
    A point on the learning curve.

    Attributes:
        labels (`int`): The number of randomly sampled pairs with a label.
        agreement (`Estimate`): How often a model of these labels agrees with the labels of prompts that it has not seen.
        log_likelihood (`Estimate`): The mean log-probability that the model assigns to these labels; -0.693 for a model that
            knows nothing.
    """

    labels: int
    agreement: Estimate
    log_likelihood: Estimate


@dataclass
class LabelProgress:
    r"""
    The progress of labeling.

    Attributes:
        pairs (`int`): Number of pairs.
        decided (`int`): Pairs with at least one decision.
        labels (`int`): Labels that prefer one side.
        ties (`int`): Labels that prefer neither side.
        skipped (`int`): Decisions without a label.
        annotators (`int`): Number of annotators.
        drawn (`int`): Randomly sampled pairs with a label that prefers one side. The evaluation uses only these.
        curve (`list[ProgressPoint]`): The learning curve over the rounds, with at most eight points.
        agreement (`Estimate` or `None`): How often a model of all labels agrees with the labels of prompts that it has not seen.
        gain_next (`float` or `None`): How much the next round is expected to add to the agreement.
        gain_all (`float` or `None`): How much the labels of all remaining pairs are expected to add.
        annotators_agree (`Estimate` or `None`): How often two annotators of the same pair agree; `None` if no pair has two. This
            is the noise floor.
        first_shown_wins (`Estimate` or `None`): How often the side that was shown first wins; `None` if unknown.
        longer_wins (`Estimate` or `None`): How often the longer side wins, among pairs that differ in length.
        seconds (`float` or `None`): Median time per decision in seconds; `None` if unknown.
        krippendorff_alpha (`Estimate` or `None`): Krippendorff's alpha, the agreement beyond chance; `None` if no pair has several
            labels.
        by_annotator (`list[AnnotatorSummary]`): A summary per annotator, sorted by the number of labels.
    """

    pairs: int
    decided: int
    labels: int
    ties: int
    skipped: int
    annotators: int
    drawn: int
    curve: list[ProgressPoint] = field(default_factory=list)
    agreement: Estimate | None = None
    gain_next: float | None = None
    gain_all: float | None = None
    annotators_agree: Estimate | None = None
    first_shown_wins: Estimate | None = None
    longer_wins: Estimate | None = None
    seconds: float | None = None
    krippendorff_alpha: Estimate | None = None
    by_annotator: list[AnnotatorSummary] = field(default_factory=list)

    @property
    def stop(self) -> bool | None:
        """Whether to stop labeling; `None` if there are too few labels to tell."""
        if self.decided == self.pairs:
            return True
        if self.drawn < MIN_LABELS or self.agreement is None or self.agreement.low <= 0.5 or self.gain_all is None:
            return None
        return self.gain_all < LEAST_GAIN

    @property
    def reasons(self) -> list[str]:
        """The reasons for the value of `stop`."""
        if self.decided == self.pairs:
            return ["Every pair has a decision."]
        if self.drawn < MIN_LABELS:
            return [f"Too few labels of randomly sampled pairs: {self.drawn} of at least {MIN_LABELS}."]
        if self.agreement is None or self.agreement.low <= 0.5 or self.gain_all is None:
            return [
                "With this number of labels, a linear model of the embeddings does not predict the labels significantly better "
                "than chance. Label more pairs, or try another embedder."
            ]
        less = "less" if self.stop else "not less"
        return [
            f"The labels of the {self.pairs - self.decided:,} remaining pairs are expected to add {100 * self.gain_all:.2f} "
            f"points of agreement, {less} than {100 * LEAST_GAIN:.2f}."
        ]

    def to_dict(self) -> dict[str, Any]:
        """The progress as plain Python objects, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LabelProgress":
        """Restore a report from the output of `to_dict`."""

        def read(value: Any) -> Any:
            return Estimate(**value) if isinstance(value, dict) else value

        def read_all(kind: type, name: str) -> list[Any]:
            return [kind(**{key: read(value) for key, value in item.items()}) for item in values.get(name, [])]

        lists = {
            "curve": read_all(ProgressPoint, "curve"),
            "by_annotator": read_all(AnnotatorSummary, "by_annotator"),
        }
        return cls(**{name: read(value) for name, value in values.items()} | lists)

    def save(self, path: str | Path) -> None:
        """Save the report as JSON. An existing file is replaced."""
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "LabelProgress":
        """Load a report that `save` wrote."""
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))

    def facts(self) -> list[tuple[str, str]]:
        """The rows of the printed report: a name and a value each."""
        facts = [
            ("pairs decided", f"{self.decided:,} of {self.pairs:,}, by {self.annotators:,} annotators"),
            ("labels", f"{self.labels:,}, {self.ties:,} ties, {self.skipped:,} skipped"),
            ("randomly sampled", f"{self.drawn:,} pairs with a label"),
        ]
        facts += [(f"  after {p.labels:,}", f"model agrees {_percent(p.agreement)}") for p in self.curve]
        for name, value in (
            ("model agrees", self.agreement),
            ("annotators agree", self.annotators_agree),
            ("first shown wins", self.first_shown_wins),
            ("longer wins", self.longer_wins),
        ):
            if value is not None:
                facts.append((name, _percent(value)))
        if (alpha := self.krippendorff_alpha) is not None:
            facts.append(("Krippendorff's alpha", f"{alpha.value:.2f} ({alpha.low:.2f} to {alpha.high:.2f})"))
        facts += [(f"  {who.name}", who.in_words()) for who in self.by_annotator if len(self.by_annotator) > 1]
        if self.gain_next is not None and self.gain_all is not None:
            facts.append(("next round adds", f"{100 * self.gain_next:.2f} points expected"))
            facts.append(("remaining labels add", f"{100 * self.gain_all:.2f} points expected"))
        if self.seconds is not None:
            facts.append(("time per label", f"{self.seconds:.0f} s"))
        verdict = {True: "yes", False: "no", None: "cannot tell yet"}[self.stop]
        return [*facts, ("stop", f"{verdict}. {' '.join(self.reasons)}")]

    def __str__(self) -> str:
        facts = self.facts()
        width = max(len(name) for name, _ in facts)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in facts)

    def plot(self, path: str | Path | None = None) -> "Figure":
        r"""
        Plot the agreement over the number of labels, and the expected gain of all remaining labels.

        Args:
            path (`str` or `Path`, *optional*):
                Where to save the figure. The suffix decides the format.

        Returns:
            [`~matplotlib.figure.Figure`]: The figure.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("`plot` needs Matplotlib: `pip install 'trl-real[plot]'`.") from error

        figure = Figure(
            figsize=(7, 3.4), layout="constrained"
        )  # created without pyplot, which would change global state and may need a display
        axes = figure.subplots()
        labels = [point.labels for point in self.curve]
        value, low, high = (
            [100 * getattr(point.agreement, end) for point in self.curve] for end in ("value", "low", "high")
        )
        axes.plot(
            labels, value, color="#d9541e", marker="o", markersize=4, label="agreement with labels of other prompts"
        )
        axes.fill_between(labels, low, high, color="#d9541e", alpha=0.15, linewidth=0, label="95% interval")
        if labels and self.gain_all is not None:
            ends = [labels[-1], labels[-1] + self.pairs - self.decided]
            axes.plot(
                ends,
                [value[-1], value[-1] + 100 * self.gain_all],
                color="#5f6a78",
                linestyle="--",
                label="expected with all labels",
            )
        axes.axhline(50, color="#b8bfc8", linewidth=1)
        axes.set(xlabel="labels of randomly sampled pairs", ylabel="agreement (%)", xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, loc="outside upper left", ncols=3, fontsize=9)
        if path is not None:
            with whole_file(path) as unfinished:
                figure.savefig(unfinished, dpi=150)
        return figure


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})"
