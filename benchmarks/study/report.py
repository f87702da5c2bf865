"""The results of the study as tables and figures: what docs/study.md and README.md show."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from trl_real.strategies import STRATEGIES


SHARE = "0.35"
PERCENT = 100
LINES = {
    "random": ("black", "-"),
    "easy": ("tab:blue", "-"),
    "easy, in its order": ("tab:blue", "--"),
    "centroid": ("tab:green", "-"),
    "hard": ("tab:red", "-"),
    "hard, in its order": ("tab:red", "--"),
    "max_min": ("tab:orange", "-"),
}
# These read all scores before they pick a pair.
NEED_SCORES = [name for name, strategy in STRATEGIES.items() if strategy.needs("scores")]


def points(estimate: dict[str, float]) -> str:
    """A difference of shares and its interval, in percentage points."""
    mean, low, high = (PERCENT * estimate[name] for name in ("mean", "low", "high"))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def share(estimate: dict[str, float]) -> str:
    return f"{estimate['mean']:.1%}"


def name_of(strategy: str) -> str:
    first, *rest = strategy.split(", ")
    return ", ".join([f"`{first}`", *rest]) + (" (reads all scores)" if first in NEED_SCORES else "")


def difference(estimate: dict[str, float] | None) -> str:
    """A difference, in bold if its interval is on one side of zero."""
    if estimate is None:
        return ""
    text = points(estimate)
    return f"**{text}**" if estimate["low"] > 0 or estimate["high"] < 0 else text


def summary(results: dict[str, Any]) -> str:
    """What README.md shows: each strategy against `random` with as many labels."""
    curves = results["annotation_curve"]["curves"]
    candidates, pairs = curves["AlpacaEval, by gap"], curves["HH-RLHF, people"]
    wrong = results["reliability"]["strategies"]["AlpacaEval"]
    dpo, dpo_pairs = (results[f"dpo_{kind}"]["arms"] for kind in ("candidates", "pairs"))

    def of_curve(curve: dict[str, Any], name: str) -> dict | None:
        return curve["less_random"].get(name, {}).get(SHARE)

    def of_dpo(arms: dict[str, Any], name: str) -> dict | None:
        return arms.get(name, {}).get("accuracy_less_random")

    # Title, what a strategy has, and what `random` itself has.
    columns = [
        ("AlpacaEval: wrong labels", lambda name: wrong.get(name, {}).get("less_random"), wrong["random"]["wrong"]),
        ("model, drawn prompts", lambda name: of_curve(candidates, name), candidates["accuracy"]["random"][SHARE]),
        (
            "model, in its order",
            lambda name: of_curve(candidates, f"{name}, in its order"),
            candidates["accuracy"]["random"][SHARE],
        ),
        ("DPO, drawn prompts", lambda name: of_dpo(dpo, name), dpo["random"]["accuracy"]),
        (
            "HH-RLHF: model, in its order",
            lambda name: of_curve(pairs, f"{name}, in its order"),
            pairs["accuracy"]["random"][SHARE],
        ),
        (
            "DPO, in its order",
            lambda name: of_dpo(dpo_pairs, f"{name}, in its order"),
            dpo_pairs["random"]["accuracy"],
        ),
    ]
    lines = [
        f"Wrong labels are of one pair a prompt. Models have {float(SHARE):.0%} of the labels: of prompts that are drawn, or the "
        "first in the order of the strategy.",
        "",
        f"| Difference from `random`, in percentage points | {' | '.join(title for title, _, _ in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for strategy in [name for name in candidates["accuracy"] if name != "random" and "," not in name]:
        cells = [difference(less_random(strategy)) for _, less_random, _ in columns]
        lines.append(f"| {name_of(strategy)} | {' | '.join(cells)} |")
    lines.append(f"| `random` itself | {' | '.join(share(baseline) for _, _, baseline in columns)} |")
    return "\n".join(lines) + "\n"


def curves_table(curve: dict[str, Any]) -> str:
    """Accuracy by strategy and number of labels."""
    labels = curve["labels"]
    lines = [
        "| Labels | " + " | ".join(f"{count:,} ({float(part):.0%})" for part, count in labels.items()) + " |",
        "|---|" + "---|" * len(labels),
        "| `random` | " + " | ".join(share(curve["accuracy"]["random"][part]) for part in labels) + " |",
    ]
    for strategy, found in curve["less_random"].items():
        if strategy != "random":
            lines.append(f"| {name_of(strategy)} | " + " | ".join(difference(found[part]) for part in labels) + " |")
    return "\n".join(lines)


def dpo_table(results: dict[str, Any]) -> str:
    lines = [
        "| | Labels | Trained on | Accuracy | less `random` | Margin | less `random` |",
        "|---|---|---|---|---|---|---|",
    ]
    for strategy, arm in results["arms"].items():
        margin, less = arm["margin"], arm["margin_less_random"]
        lines.append(
            f"| {'all labels, at random' if strategy == 'all' else name_of(strategy)} | {arm['labels']:.0f} | {arm['trained_on']:.0f} | "
            f"{share(arm['accuracy'])} | "
            f"{difference(arm['accuracy_less_random']) if strategy != 'random' else ''} | {margin['mean']:.2f} | "
            + (f"{less['mean']:+.2f} ({less['low']:+.2f} to {less['high']:+.2f})" if strategy != "random" else "")
            + " |"
        )
    return "\n".join(lines)


def fewer(results: dict[str, Any]) -> str:
    """What a part of the labels costs against all of them."""
    lines = [
        f"| {float(SHARE):.0%} of the labels, less `random` with all of them | AlpacaEval | HH-RLHF |",
        "|---|---|---|",
    ]
    curves = results["annotation_curve"]["curves"]
    candidates, pairs = (
        curves[name]["less_random_with_all_labels"] for name in ("AlpacaEval, by gap", "HH-RLHF, people")
    )
    for strategy in ("random", "easy", "easy, in its order"):
        cells = [difference(found.get(strategy, {}).get(SHARE)) for found in (candidates, pairs)]
        lines.append(f"| {name_of(strategy)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def strategies_table(found: dict[str, Any]) -> str:
    lines = ["| One label a prompt | Wrong labels | less `random` |", "|---|---|---|"]
    for strategy, row in found.items():
        lines.append(f"| {name_of(strategy)} | {share(row['wrong'])} | {difference(row.get('less_random'))} |")
    return "\n".join(lines)


def reliability_table(report: dict[str, Any]) -> str:
    lines = ["| Similarity, of random pairs | Wrong labels | `label_reliability` says |", "|---|---|---|"]
    for row in [*report["bins"], {**report, "low": None}]:
        true, said = row["truth"], row["flip_rate"]
        where = "all" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
        lines.append(
            f"| {where} | {true['mean']:.0%} ({true['low']:.0%} to {true['high']:.0%}) | "
            f"{said['value']:.0%} ({said['low']:.0%} to {said['high']:.0%}) |"
        )
    return "\n".join(lines)


def tables(results: dict[str, Any]) -> str:
    """What docs/study.md shows."""
    curve, reliability = results["annotation_curve"], results["reliability"]
    titles = {"exact": "annotators who never err", "by gap": "annotators who err", "people": "people"}
    parts = [
        "### Which labels are wrong",
        f"AlpacaEval, where {curve['error_of_random_pairs']:.0%} of the labels of random pairs are wrong:",
        strategies_table(reliability["strategies"]["AlpacaEval"]),
        reliability_table(reliability["reports"]["AlpacaEval"]),
        "Of HH-RLHF nobody knows; the right of the figure is how often a model of other prompts agrees with its labels ([the whole "
        "report](reliability.md)).",
        "![Wrong labels by similarity](figures/reliability.png)",
        "### What a label is worth",
        f"Held-out accuracy of `random`, and of the others less that, in percentage points, over {curve['seeds']} seeds. *In its "
        "order*: the budget takes the pairs that come first in the order of the strategy, as `budget=` does; the others are of "
        "prompts that are drawn.",
    ]
    for name, found in curve["curves"].items():
        data, annotator = name.split(", ")
        parts += [f"{data}, {titles[annotator]}:", curves_table(found)]
    parts += [
        "![Held-out accuracy against the number of labels](figures/annotation_curve.png)",
        "The grey band is the interval of `random` itself, that of a difference is narrower.",
        fewer(results),
    ]
    for found in (results["dpo_candidates"], results["dpo_pairs"]):
        parts += [
            f"### DPO on {found['data']}",
            f"Over {found['settings']['seeds']} seeds, an epoch over the labels each, judged on "
            f"{found['arms']['random']['judged_on']:.0f} held-out pairs. Pairs of which `max_length` leaves nothing beside the prompt "
            "are bought and not trained on.",
            dpo_table(found),
        ]
    machine, minutes = results["run"]["machine"], results["run"]["minutes"]
    parts.append(
        f"All of this took {minutes['all']:.0f} minutes on {machine['threads']} threads of an {machine['processor']}."
    )
    return "\n\n".join(parts) + "\n"


def plot_curves(curves: dict[str, Any], path: Path) -> None:
    shown = {
        "AlpacaEval, by gap": "AlpacaEval, simulated annotators",
        "HH-RLHF, people": "HH-RLHF harmless, labels of people",
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
                    label=strategy,
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
    axes[1].set(
        title="HH-RLHF harmless, labels of people", ylabel="a model of other prompts agrees (%)", ylim=(40, None)
    )
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
