"""What a selection did, in numbers: `SelectionReport`."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .policies import POLICIES, SKIP_REASONS


if TYPE_CHECKING:
    from matplotlib.figure import Figure


REASONS = {
    **SKIP_REASONS,
    "over_budget": "picked, but not within the budget",
    "prompt_too_long": "the prompt alone fills `max_length`",
    "identical_when_truncated": "chosen and rejected are the same tokens once cut to `max_length`",
}
QUANTILES = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "max": 1.0}
BINS = 40


@dataclass
class Distribution:
    """
    Similarities in short.

    Attributes:
        count (`int`): How many pairs there are, NaN included.
        quantiles (`dict[str, float]`): Minimum, quartiles and maximum; empty if nothing was embedded.
        histogram (`list[int]`): Counts in `BINS` equal bins from -1 to 1.
    """

    count: int = 0
    quantiles: dict[str, float] = field(default_factory=dict)
    histogram: list[int] = field(default_factory=lambda: [0] * BINS)

    @classmethod
    def of(cls, values: Iterable[float]) -> "Distribution":
        """Describe `values`; NaN, where nothing was embedded, is counted and otherwise left out."""
        array = np.asarray(values, dtype=np.float64)
        count, array = len(array), array[np.isfinite(array)]
        if not len(array):
            return cls(count)
        quantiles = np.quantile(array, list(QUANTILES.values()))
        histogram, _ = np.histogram(np.clip(array, -1, 1), bins=BINS, range=(-1, 1))
        return cls(
            count,
            {name: round(float(value), 6) for name, value in zip(QUANTILES, quantiles, strict=True)},
            histogram.tolist(),
        )


@dataclass
class SelectionReport:
    r"""
    What a selection did: each prompt or given pair is in `skipped` or has pairs, and each picked pair is in `dropped` or in
    `pairs`.

    Attributes:
        strategy (`str` or `None`): The strategy; `None` if pairs were given and all are taken.
        embedder (`str` or `None`): Id, path or class of the embedder; `None` if nothing was embedded.
        budget (`int`, `float` or `None`): The budget.
        layout (`str` or `None`): The layout of the rows, see [`to_candidates`]; `None` if pairs are all taken.
        given_pairs (`bool`): Whether the rows came as pairs.
        labelled (`bool`): Whether the pairs that came out have a chosen and a rejected side.
        rows (`int`): Rows that went in: prompts, given pairs, or rows that are grouped by prompt.
        skipped (`dict[str, int]`): Prompts or given pairs without a valid pair, by reason.
        policies (`dict[str, int]`): What was done to rows and responses that stay, or were left out of a prompt, by
            policy. `rows` less `policies["grouped_rows"]` are the prompts or given pairs.
        dropped (`dict[str, int]`): Pairs that were picked and dropped later, by reason.
        pairs (`int`): Pairs that came out.
        responses (`int`): Responses that went in.
        responses_cut (`int` or `None`): How many of them were longer than the embedder's limit; `None` if unknown.
        eligible (`Distribution`): Similarities of all pairs that could have been labelled.
        picked (`Distribution`): Similarities of the selected pairs, before training dropped any for their length.
    """

    strategy: str | None
    embedder: str | None
    budget: float | None
    layout: str | None
    given_pairs: bool
    labelled: bool
    rows: int
    skipped: dict[str, int]
    policies: dict[str, int]
    dropped: dict[str, int]
    pairs: int
    responses: int
    responses_cut: int | None
    eligible: Distribution
    picked: Distribution

    @classmethod
    def of_given_pairs(cls, n_pairs: int) -> "SelectionReport":
        """The report on pairs that are all taken as they come."""
        return cls(
            strategy=None,
            embedder=None,
            budget=None,
            layout=None,
            given_pairs=True,
            labelled=True,
            rows=n_pairs,
            skipped={},
            policies={},
            dropped={},
            pairs=n_pairs,
            responses=2 * n_pairs,
            responses_cut=None,
            eligible=Distribution(n_pairs),
            picked=Distribution(n_pairs),
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain Python objects, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        what = "pairs" if self.given_pairs else "prompts"
        n_prompts = self.rows - self.policies.get("grouped_rows", 0)
        lines = [
            ("strategy", self.strategy or "none"),
            ("embedder", self.embedder or "none"),
            (f"{what} in", f"{n_prompts:,} with {self.responses:,} responses"),
        ]
        lines += [(POLICIES[policy][0], f"{n:,}: {POLICIES[policy][1]}") for policy, n in self.policies.items()]
        if self.responses_cut:
            lines.append(("responses cut", f"{self.responses_cut:,} were longer than the embedder's limit"))
        lines += [(f"{what} skipped", f"{n:,}: {REASONS[reason]}") for reason, n in self.skipped.items()]
        lines += [("pairs dropped", f"{n:,}: {REASONS[reason]}") for reason, n in self.dropped.items()]
        share = f", of {self.eligible.count:,} that could be labelled" if self.eligible.count else ""
        lines.append(("pairs out", f"{self.pairs:,} {'labelled' if self.labelled else 'to label'}{share}"))
        for name, distribution in (("all pairs", self.eligible), ("pairs out", self.picked)):
            if distribution.quantiles:
                q = distribution.quantiles
                lines.append(
                    (f"similarity, {name}", f"median {q['median']:.2f}, half in {q['p25']:.2f} to {q['p75']:.2f}")
                )
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)

    def plot(self, path: str | Path | None = None) -> "Figure":
        r"""
        Draw the similarities of the pairs that came out over those of all that could have been labelled.

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

        edges = np.linspace(-1, 1, BINS + 1)
        # A figure of its own, without pyplot, so that no global state or display is touched.
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, distribution, color, dark in (
            (f"all {self.eligible.count:,} pairs that could be labelled", self.eligible, "#b8bfc8", "#5f6a78"),
            (f"{self.picked.count:,} pairs picked by '{self.strategy}'", self.picked, "#d9541e", "#9c3206"),
        ):
            if distribution.quantiles:
                shares = np.array(distribution.histogram) / sum(distribution.histogram)
                axes.stairs(shares, edges, fill=True, alpha=0.75, color=color, label=name)
                axes.axvline(distribution.quantiles["median"], color=dark, linestyle="--", linewidth=1.2)
        low = min((d.quantiles["min"] for d in (self.eligible, self.picked) if d.quantiles), default=-1.0)
        axes.set_xlim(np.floor(low * 10) / 10, 1)
        axes.set_xlabel("cosine similarity of the two responses (dashed: median)")
        axes.set_ylabel("share of the pairs")
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(frameon=False, loc="outside upper left", ncols=2)
        else:
            axes.text(0.5, 0.5, "nothing was embedded", ha="center", transform=axes.transAxes)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure
