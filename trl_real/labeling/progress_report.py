"""How labeling goes, in numbers: `LabelProgress`."""

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


# With fewer labels that were drawn at random the interval of the agreement is wider than 10 points to each side.
MIN_LABELS = 100
# Labeling stops where all other labels together are expected to add less agreement than this. Chosen on seeds 0 to 9 of the study.
LEAST_GAIN = 0.0065


@dataclass
class ProgressPoint:
    """
    What a number of labels is worth.

    Attributes:
        labels (`int`): How many pairs that were drawn at random have a label.
        agreement (`Estimate`): How often a model of these labels agrees with the labels of prompts that it has not seen.
        log_likelihood (`Estimate`): The mean logarithm of the chance that it gives to these; -0.693 for knowing nothing.
    """

    labels: int
    agreement: Estimate
    log_likelihood: Estimate


@dataclass
class LabelProgress:
    r"""
    How labeling goes.

    Attributes:
        pairs (`int`): Pairs that there are.
        decided (`int`): Pairs that somebody has decided about.
        labels (`int`): Labels for one side.
        ties (`int`): Labels for neither.
        skipped (`int`): Decisions without a label.
        annotators (`int`): How many annotators decided.
        drawn (`int`): Pairs with a label for one side that were drawn at random, by which all of this is judged.
        curve (`list[ProgressPoint]`): What these labels are worth, from round to round; at most eight rounds.
        agreement (`Estimate` or `None`): How often a model of all labels agrees with those of prompts that it has not seen.
        gain_next (`float` or `None`): How much the next round is expected to add to that agreement.
        gain_all (`float` or `None`): How much the labels of all other pairs are expected to add.
        annotators_agree (`Estimate` or `None`): How often two annotators of a pair agree, where there are two: the noise floor.
        first_shown_wins (`Estimate` or `None`): How often the side that was shown first wins, where this is known.
        longer_wins (`Estimate` or `None`): How often the longer side wins, of those that differ in length.
        seconds (`float` or `None`): How long an annotator takes, in the median, where this is known.
        krippendorff_alpha (`Estimate` or `None`): How much more annotators agree than by chance, where several label a pair.
        by_annotator (`list[AnnotatorSummary]`): What is known about each annotator, those with the most labels first.
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
        """Whether more labels are not worth it; `None` if that cannot be told yet."""
        if self.decided == self.pairs:
            return True
        if self.drawn < MIN_LABELS or self.agreement is None or self.agreement.low <= 0.5 or self.gain_all is None:
            return None
        return self.gain_all < LEAST_GAIN

    @property
    def reasons(self) -> list[str]:
        """Why `stop` says what it says."""
        if self.decided == self.pairs:
            return ["Every pair has been decided about."]
        if self.drawn < MIN_LABELS:
            return [f"Too few labels of pairs that were drawn at random: {self.drawn} of at least {MIN_LABELS}."]
        if self.agreement is None or self.agreement.low <= 0.5 or self.gain_all is None:
            return [
                "A linear model of the embeddings does not predict these labels better than chance, as far as so many can tell. "
                "Label more pairs, or try another embedder."
            ]
        less = "less" if self.stop else "not less"
        return [
            f"The labels of the {self.pairs - self.decided:,} other pairs are expected to add {100 * self.gain_all:.2f} points of "
            f"agreement, {less} than {100 * LEAST_GAIN:.2f}."
        ]

    def to_dict(self) -> dict[str, Any]:
        """The progress as plain Python objects, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LabelProgress":
        """The progress that `to_dict` has made `values` of."""

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
        """Write the progress as JSON."""
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "LabelProgress":
        """Read a progress that `save` has written."""
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))

    def facts(self) -> list[tuple[str, str]]:
        """The numbers in words."""
        facts = [
            ("pairs decided", f"{self.decided:,} of {self.pairs:,}, by {self.annotators:,} annotators"),
            ("labels", f"{self.labels:,}, {self.ties:,} ties, {self.skipped:,} skipped"),
            ("drawn at random", f"{self.drawn:,} pairs with a label"),
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
            facts.append(("all others add", f"{100 * self.gain_all:.2f} points expected"))
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
        Draw the agreement against the number of labels, and what all other labels are expected to add.

        Args:
            path (`str` or `Path`, *optional*):
                Where to save the figure; its ending decides the format.

        Returns:
            [`~matplotlib.figure.Figure`]: The figure.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("`plot` needs Matplotlib: `pip install 'trl-real[plot]'`.") from error

        figure = Figure(
            figsize=(7, 3.4), layout="constrained"
        )  # without pyplot: no global state or display is touched
        axes = figure.subplots()
        labels = [point.labels for point in self.curve]
        value, low, high = (
            [100 * getattr(point.agreement, end) for point in self.curve] for end in ("value", "low", "high")
        )
        axes.plot(
            labels, value, color="#d9541e", marker="o", markersize=4, label="agreement with labels of other prompts"
        )
        axes.fill_between(labels, low, high, color="#d9541e", alpha=0.15, linewidth=0, label="interval of 95%")
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
        axes.set(xlabel="labels of pairs that were drawn at random", ylabel="agreement (%)", xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, loc="outside upper left", ncols=3, fontsize=9)
        if path is not None:
            with whole_file(path) as unfinished:
                figure.savefig(unfinished, dpi=150)
        return figure


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})"
