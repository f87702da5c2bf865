"""The results of the study as figures: what docs/study.md and README.md show."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from report import NEED_SCORES, PERCENT, SUMMARY_ROWS, columns, in_words


LINES = {
    "random": ("black", "-"),
    "easy": ("tab:blue", "-"),
    "easy, in its order": ("tab:blue", "--"),
    "centroid": ("tab:green", "-"),
    "hard": ("tab:red", "-"),
    "hard, in its order": ("tab:red", "--"),
    "max_min": ("tab:orange", "-"),
}


def plot_summary(results: dict[str, Any], path: Path) -> None:
    """The figure near the top of README.md: what a strategy does to the labels, and to a model that is trained on them."""
    wrong, accuracy, *_ = columns(results)
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.7), sharey=True, layout="constrained")
    for axis, column, title in (
        (axes[0], wrong, "Wrong labels: lower is better"),
        (axes[1], accuracy, "Held-out accuracy: higher is better"),
    ):
        for row, strategy in enumerate(SUMMARY_ROWS):
            found = column.less_random(strategy)
            if found is None:
                continue
            mean, low, high = (PERCENT * found[end] for end in ("mean", "low", "high"))
            color = "tab:blue" if low > 0 or high < 0 else "gray"
            axis.errorbar(mean, row, xerr=[[mean - low], [high - mean]], fmt="o", color=color, capsize=3)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(f"difference from random ({column.random['mean']:.1%}), in points")
        axis.margins(y=0.15)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    names = [f"{name}\n(reads scores)" if name in NEED_SCORES else name for name in SUMMARY_ROWS]
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_curves(curves: dict[str, Any], path: Path) -> None:
    shown = {
        "AlpacaEval, by gap": "AlpacaEval, simulated annotators",
        "HH-RLHF, people": "HH-RLHF harmless, human labels",
    }
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, (name, title) in zip(axes, shown.items(), strict=True):
        curve = curves[name]
        counts = list(curve["labels"].values())
        for strategy, (color, style) in LINES.items():
            if strategy in curve["accuracy"]:
                found = curve["accuracy"][strategy].values()
                axis.plot(
                    counts,
                    [PERCENT * e["mean"] for e in found],
                    style,
                    color=color,
                    label=in_words(strategy),
                    marker="o",
                    markersize=3,
                )
        baseline = curve["accuracy"]["random"].values()
        low, high = ([PERCENT * e[end] for e in baseline] for end in ("low", "high"))
        axis.fill_between(counts, low, high, color="black", alpha=0.08, linewidth=0)
        axis.set(title=title, xlabel="labels bought", xscale="log")
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("held-out accuracy (%)")
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(LINES), frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_reliability(reports: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.5), layout="constrained")
    _bars(
        axes[0],
        reports["AlpacaEval"]["bins"],
        lambda row: [row["truth"][end] for end in ("mean", "low", "high")],
    )
    axes[0].set(title="AlpacaEval, simulated annotators", ylabel="wrong labels (%)")
    _bars(axes[1], reports["HH-RLHF"]["bins"], lambda row: [row["agreement"][end] for end in ("value", "low", "high")])
    axes[1].axhline(50, color="gray", linewidth=0.8, linestyle=":")
    axes[1].set(title="HH-RLHF harmless, human labels", ylabel="a held-out model agrees (%)", ylim=(40, None))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _bars(axis: Any, rows: list[dict], read: Any) -> None:
    values = [[PERCENT * value for value in read(row)] for row in rows]
    errors = [[value - low for value, low, _ in values], [high - value for value, _, high in values]]
    axis.errorbar(
        range(len(rows)), [value for value, _, _ in values], yerr=errors, fmt="o", color="tab:blue", capsize=3
    )
    axis.set_xticks(range(len(rows)), [f"{row['low']:.2f} to\n{row['high']:.2f}" for row in rows])
    axis.set(xlabel="similarity of the two responses")
    axis.margins(x=0.15)
    axis.spines[["top", "right"]].set_visible(False)
