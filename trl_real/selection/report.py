"""What a selection did, in numbers: `SelectionReport`."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..candidates.eligibility import POLICIES, SKIP_REASONS
from ..core.files import whole_file, write_text
from .distribution import BINS, Comparison, Distribution
from .value_counts import ValueCounts


if TYPE_CHECKING:
    from matplotlib.figure import Figure


REASONS = {
    **SKIP_REASONS,
    "over_budget": "picked, but not within the limits of the budget",
    "prompt_too_long": "the prompt alone fills `max_length`",
    "identical_tokens": "chosen and rejected are the same tokens: they differ in what the chat template or tokenizer leaves out",
    "identical_when_truncated": "chosen and rejected are the same tokens once cut to `max_length`",
}


@dataclass
class SelectionReport:
    r"""
    What a selection did: each prompt or given pair is in `skipped` or has pairs, and each picked pair is in `dropped` or in
    `pairs`.

    Attributes:
        strategy (`str` or `None`): The strategy; `None` if pairs were given and all are taken.
        embedder (`str` or `None`): Id, path or class of the embedder; `None` if nothing was embedded.
        embedder_revision (`str` or `None`): Its commit on the Hub, or the hash of its weights; `None` if unknown.
        embedder_max_length (`int` or `None`): How many tokens of a response it embeds; `None` if unknown.
        budget (`int`, `float` or `None`): The budget.
        budget_strategy (`str` or `None`): The strategy in whose order it is spent; `None` if there is none.
        budget_cost (`str` or `None`): Its unit; `None` for pairs.
        layout (`str` or `None`): The layout of the rows, see [`to_candidates`]; `None` if pairs are all taken.
        given_pairs (`bool`): Whether the rows came as pairs.
        labeled (`bool`): Whether the pairs that came out have a chosen and a rejected side.
        rows (`int`): Rows that went in: prompts, given pairs, or rows that are grouped by prompt.
        skipped (`dict[str, int]`): Prompts or given pairs without a valid pair, by reason.
        policies (`dict[str, int]`): What was done to rows and responses that stay, or were left out of a prompt, by
            policy. `rows` less `policies["grouped_rows"]` are the prompts or given pairs.
        dropped (`dict[str, int]`): Pairs that were picked and dropped later, by reason.
        pairs (`int`): Pairs that came out: the labels that are needed.
        responses (`int`): Responses that went in.
        responses_cut (`int` or `None`): How many of them were longer than the embedder's limit; `None` if unknown.
        tokens_cut (`int` or `None`): How many tokens of them were not embedded; `None` if unknown.
        similarity (`Comparison`): Cosines of the pairs.
        score_gap (`Comparison`): Scores of chosen less rejected.
        response_length (`Comparison`): Characters of the responses that form pairs.
        length_difference (`Comparison`): Characters of chosen less rejected.
        chosen_longer (`dict[str, float]`): In which share of the `"eligible"` and of the `"picked"` pairs chosen is the
            longer side, of those that differ in length; empty without labels.
        seconds (`dict[str, float]`): Time spent, by stage; what comes from the cache takes next to none.
    """

    strategy: str | None
    embedder: str | None
    budget: float | None
    budget_cost: str | None
    layout: str | None
    given_pairs: bool
    labeled: bool
    rows: int
    skipped: dict[str, int]
    policies: dict[str, int]
    dropped: dict[str, int]
    pairs: int
    responses: int
    responses_cut: int | None
    tokens_cut: int | None
    similarity: Comparison = field(default_factory=Comparison)
    score_gap: Comparison = field(default_factory=Comparison)
    response_length: Comparison = field(default_factory=Comparison)
    length_difference: Comparison = field(default_factory=Comparison)
    chosen_longer: dict[str, float] = field(default_factory=dict)
    embedder_revision: str | None = None
    embedder_max_length: int | None = None
    budget_strategy: str | None = None
    seconds: dict[str, float] = field(default_factory=dict, compare=False)

    @property
    def labelled(self) -> bool:
        """The former name of `labeled`."""
        return self.labeled

    def compare(self, eligible: dict[str, ValueCounts], picked: dict[str, ValueCounts]) -> None:
        """Fill in the comparisons from the numbers of both, by measure."""
        for name in ("similarity", "score_gap", "response_length", "length_difference"):
            if name in eligible and name in picked:
                setattr(self, name, Comparison.of(eligible[name], picked[name], bounded=name == "similarity"))
        for name, measures in (("eligible", eligible), ("picked", picked)):
            difference, counts = measures.get("length_difference", ValueCounts()).distinct()
            if n_differ := counts[difference != 0].sum():
                self.chosen_longer[name] = round(float(counts[difference > 0].sum() / n_differ), 6)

    @classmethod
    def of_given_pairs(
        cls, rows: int, skipped: dict[str, int] | None = None, policies: dict[str, int] | None = None
    ) -> "SelectionReport":
        """The report on pairs that are all taken as they come, but for those that are `skipped`."""
        skipped = skipped or {}
        n_pairs = rows - sum(skipped.values())
        return cls(
            strategy=None,
            embedder=None,
            budget=None,
            budget_cost=None,
            layout=None,
            given_pairs=True,
            labeled=True,
            rows=rows,
            skipped=skipped,
            policies=policies or {},
            dropped={},
            pairs=n_pairs,
            responses=2 * rows,
            responses_cut=None,
            tokens_cut=None,
            similarity=Comparison(Distribution(n_pairs), Distribution(n_pairs)),
        )

    def metrics(self) -> dict[str, float]:
        """The numbers that say most, for the trackers of a run."""
        numbers: dict[str, float | None] = {
            "pairs": self.pairs,
            "skipped": sum(self.skipped.values()),
            "dropped": sum(self.dropped.values()),
            "tokens_cut": self.tokens_cut,
            "chosen_longer": self.chosen_longer.get("picked"),
        }
        for name in ("similarity", "score_gap"):
            for side in ("eligible", "picked"):
                numbers[f"{name}_{side}"] = getattr(getattr(self, name), side).quantiles.get("median")
        return {name: float(number) for name, number in numbers.items() if number is not None}

    def to_dict(self) -> dict[str, Any]:
        """The report as plain Python objects, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SelectionReport":
        """The report that `to_dict` has made `values` of."""
        if "labelled" in values:  # as version 0.1.0 has saved it
            values = {("labeled" if name == "labelled" else name): value for name, value in values.items()}
        report = cls(**values)
        for name, value in values.items():
            if isinstance(value, dict) and "eligible" in value and isinstance(value["eligible"], dict):
                sides = {side: Distribution(**value[side]) for side in ("eligible", "picked")}
                setattr(report, name, Comparison(**{**value, **sides}))
        return report

    def save(self, path: str | Path) -> None:
        """Write the report as JSON. A file that is there is replaced."""
        write_text(path, json.dumps(self.to_dict(), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "SelectionReport":
        """Read a report that `save` has written."""
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))

    def facts(self) -> list[tuple[str, str]]:
        """The counts in words: what went in, what was done to it, and what came out."""
        what = "pairs" if self.given_pairs else "prompts"
        n_prompts = self.rows - self.policies.get("grouped_rows", 0)
        facts = [(f"{what} in", f"{n_prompts:,} with {self.responses:,} responses")]
        facts += [(POLICIES[policy][0], f"{n:,}: {POLICIES[policy][1]}") for policy, n in self.policies.items()]
        if self.responses_cut:
            limit = "" if self.embedder_max_length is None else f" of {self.embedder_max_length} tokens"
            tokens = "" if self.tokens_cut is None else f", {self.tokens_cut:,} tokens in all"
            facts.append(("responses cut", f"{self.responses_cut:,}: longer than the embedder's limit{limit}{tokens}"))
        facts += [(f"{what} skipped", f"{n:,}: {REASONS[reason]}") for reason, n in self.skipped.items()]
        facts += [("pairs dropped", f"{n:,}: {REASONS[reason]}") for reason, n in self.dropped.items()]
        facts.append(("pairs out", f"{self.pairs:,} {'labeled' if self.labeled else 'to label'}"))
        n_eligible = self.similarity.eligible.count
        if n_eligible and self.strategy is not None:
            share = self.pairs / n_eligible
            facts.append(
                ("labels needed", f"{self.pairs:,} instead of {n_eligible:,}, {share:.1%} of labeling every pair")
            )
        return facts

    def figures(self) -> list[tuple[str, str, str]]:
        """The comparisons in numbers: what is measured, of all pairs and of those that came out; the first row is a head."""

        def describe(distribution: Distribution, digits: int) -> str:
            values = (round(distribution.quantiles[q], digits) + 0.0 for q in ("p25", "median", "p75"))  # never -0
            low, middle, high = (f"{value:,.{digits}f}" for value in values)
            return f"{middle} ({low} to {high})"

        rows = [
            (name, describe(comparison.eligible, digits), describe(comparison.picked, digits))
            for name, comparison, digits in (
                ("similarity", self.similarity, 2),
                ("score gap", self.score_gap, 2),
                ("response length", self.response_length, 0),
                ("chosen - rejected", self.length_difference, 0),
            )
            if comparison.eligible.quantiles and comparison.picked.quantiles
        ]
        if len(self.chosen_longer) == 2:
            eligible, picked = (f"{self.chosen_longer[side]:.0%}" for side in ("eligible", "picked"))
            rows.append(("chosen is longer", eligible, picked))
        return [("median (middle half)", "all pairs", "pairs out"), *rows] if rows else []

    def __str__(self) -> str:
        spent = "" if self.budget_strategy in (None, self.strategy) else f", budget spent by {self.budget_strategy}"
        lines = [
            ("strategy", f"{self.strategy or 'none'}{spent}"),
            ("embedder", self.embedder or "none"),
            *self.facts(),
        ]
        if self.seconds:
            lines.append(("time", ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in self.seconds.items())))
        rows = self.figures()
        width = max(len(name) for name, *_ in [*lines, *rows])
        second = max((len(row[1]) for row in rows), default=0)
        text = [f"{name:<{width}}  {value}" for name, value in lines]
        text += [f"{name:<{width}}  {eligible:<{second}}  {picked}" for name, eligible, picked in rows]
        return "\n".join(text)

    def plot(self, path: str | Path | None = None) -> "Figure":
        r"""
        Draw the picked pairs over all that could have been labeled: their similarities and, with labels, their score gaps
        and differences in length.

        Args:
            path (`str` or `Path`, *optional*):
                Where to save the figure; its ending decides the format (PNG if it has none). A file that is there is replaced.

        Returns:
            [`~matplotlib.figure.Figure`]: The figure.
        """
        try:
            from matplotlib.figure import Figure
            from matplotlib.ticker import MaxNLocator
        except ImportError as error:
            raise ImportError("`plot` needs Matplotlib: `pip install 'trl-real[plot]'`.") from error

        panels = [
            (comparison, label, merged)
            for comparison, label, merged in (  # bins that are drawn as one
                (self.similarity, "cosine similarity", 1),
                (self.score_gap, "score gap", 2),
                (self.length_difference, "chosen - rejected, characters", 2),
            )
            if comparison.eligible.quantiles and comparison.picked.quantiles
        ]
        # A figure of its own, without pyplot, so that no global state or display is touched.
        figure = Figure(figsize=(7 if len(panels) < 2 else 3.4 * len(panels), 3.4), layout="constrained")
        all_axes = figure.subplots(1, max(len(panels), 1), squeeze=False)[0]
        for axes, (comparison, label, merged) in zip(all_axes, panels, strict=False):
            edges = np.linspace(comparison.low, comparison.high, BINS + 1)[::merged]
            shown = []
            for distribution, name, color, dark in (
                (comparison.eligible, "all {:,} pairs that could be labeled", "#b8bfc8", "#5f6a78"),
                (comparison.picked, f"{{:,}} pairs picked by '{self.strategy}'", "#d9541e", "#9c3206"),
            ):
                counts = np.reshape(distribution.histogram, (-1, merged)).sum(1)
                axes.stairs(
                    counts / counts.sum(),
                    edges,
                    fill=True,
                    alpha=0.75,
                    color=color,
                    label=name.format(distribution.count),
                )
                axes.axvline(distribution.quantiles["median"], color=dark, linestyle="--", linewidth=1.2)
                shown.append(np.flatnonzero(counts))
            axes.set_xlim(edges[min(s[0] for s in shown)], edges[max(s[-1] for s in shown) + 1])
            axes.set_xlabel(label)
            axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
            axes.spines[["top", "right"]].set_visible(False)
        if panels:
            all_axes[0].set_ylabel("share of the pairs (dashed: median)")
            handles, names = all_axes[0].get_legend_handles_labels()
            figure.legend(handles, names, frameon=False, loc="outside upper left", ncols=2)
        else:
            all_axes[0].text(0.5, 0.5, "nothing to compare", ha="center", transform=all_axes[0].transAxes)
        if path is not None:
            path = Path(path)
            with whole_file(path if path.suffix else path.with_suffix(".png")) as unfinished:
                figure.savefig(unfinished, dpi=150)
        return figure
