"""The results of the study as tables and figures: what docs/study.md and README.md show."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt


SHARE = "0.35"
PERCENT = 100
LINES = {
    "random": ("black", "-"),
    "easy": ("tab:blue", "-"),
    "easy, any prompt": ("tab:blue", "--"),
    "centroid": ("tab:green", "-"),
    "aepo": ("tab:purple", "-"),
    "hard": ("tab:red", "-"),
    "max_min": ("tab:orange", "--"),
    "dissimilar_gap": ("tab:brown", "--"),
}
# These read all scores before they pick a pair.
NEED_SCORES = ("max_min", "divpo", "dissimilar_gap")


def points(estimate: dict[str, float] | None) -> str:
    """A difference of shares and its interval, in percentage points."""
    if estimate is None:
        return ""
    mean, low, high = (PERCENT * estimate[name] for name in ("mean", "low", "high"))
    text = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"**{text}**" if low > 0 or high < 0 else text


def share(estimate: dict[str, float]) -> str:
    return f"{estimate['mean']:.1%}"


def name_of(strategy: str) -> str:
    first, *rest = strategy.split(", ")
    return ", ".join([f"`{first}`", *rest]) + (" (reads all scores)" if strategy in NEED_SCORES else "")


def summary(results: dict[str, Any]) -> str:
    """What README.md shows: each strategy against `random` with as many labels."""
    curves = results["annotation_curve"]["curves"]
    candidates, pairs = curves["AlpacaEval, by gap"], curves["HH-RLHF, people"]
    dpo = [results[f"dpo_{kind}"]["arms"] for kind in ("candidates", "pairs")]
    lines = [
        f"| Less `random` with as many labels, in percentage points | AlpacaEval: wrong labels | accuracy, {float(SHARE):.0%} of the labels | "
        f"accuracy, all labels | DPO, {float(SHARE):.0%} | HH-RLHF: accuracy, {float(SHARE):.0%} | DPO, {float(SHARE):.0%} |",
        "|---|---|---|---|---|---|---|",
    ]
    for strategy in candidates["accuracy"]:
        if strategy == "random":
            continue
        cells = [
            points(candidates["label_error_less_random"][strategy]["1.0"]),
            *(points(candidates["less_random"][strategy][key]) for key in (SHARE, "1.0")),
            points(dpo[0].get(strategy, {}).get("accuracy_less_random")),
            points(pairs["less_random"].get(strategy, {}).get(SHARE)),
            points(dpo[1].get(strategy, {}).get("accuracy_less_random")),
        ]
        lines.append(f"| {name_of(strategy)} | {' | '.join(cells)} |")
    baseline = [
        share(candidates["label_error"]["random"]["1.0"]),
        *(share(candidates["accuracy"]["random"][key]) for key in (SHARE, "1.0")),
        share(dpo[0]["random"]["accuracy"]),
        share(pairs["accuracy"]["random"][SHARE]),
        share(dpo[1]["random"]["accuracy"]),
    ]
    lines.append(f"| `random` itself | {' | '.join(baseline)} |")
    fewer = [
        f"{points(curve['less_random_with_all_labels'][strategy][SHARE])} for `{strategy}`"
        for curve in (candidates, pairs)
        for strategy in ("easy", "random")
    ]
    lines += [
        "",
        f"{1 - float(SHARE):.0%} fewer labels than all, against `random` with all of them: accuracy {fewer[0]} and {fewer[1]} on "
        f"AlpacaEval, {fewer[2]} and {fewer[3]} on HH-RLHF.",
    ]
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
            lines.append(f"| {name_of(strategy)} | " + " | ".join(points(found[part]) for part in labels) + " |")
    return "\n".join(lines)


def dpo_table(results: dict[str, Any]) -> str:
    lines = ["| | Labels | Accuracy | less `random` | Margin | less `random` |", "|---|---|---|---|---|---|"]
    for strategy, arm in results["arms"].items():
        margin, less = arm["margin"], arm["margin_less_random"]
        lines.append(
            f"| {'all labels, at random' if strategy == 'all' else name_of(strategy)} | {arm['labels']} | {share(arm['accuracy'])} | "
            f"{points(arm['accuracy_less_random']) if strategy != 'random' else ''} | {margin['mean']:.2f} | "
            + (f"{less['mean']:+.2f} ({less['low']:+.2f} to {less['high']:+.2f})" if strategy != "random" else "")
            + " |"
        )
    return "\n".join(lines)


def reliability_table(report: dict[str, Any]) -> str:
    lines = ["| Similarity | Wrong labels | `label_reliability` says |", "|---|---|---|"]
    for row in [*report["bins"], {**report, "low": None}]:
        true, said = row["truth"], row["flip_rate"]
        where = "all" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
        lines.append(
            f"| {where} | {true['label_error']:.0%} ({true['label_error_low']:.0%} to {true['label_error_high']:.0%}) | "
            f"{said['value']:.0%} ({said['low']:.0%} to {said['high']:.0%}) |"
        )
    return "\n".join(lines)


def tables(results: dict[str, Any]) -> str:
    """What docs/study.md shows."""
    curve = results["annotation_curve"]
    settings = results["dpo_candidates"]["settings"]
    parts = [
        "### What a label is worth",
        f"Held-out accuracy of `random`, and of the others less that in percentage points, over {curve['seeds']} seeds. Bold: the 95% "
        "interval is on one side of zero.",
    ]
    titles = {
        "exact": "annotators without error",
        "by gap": f"{curve['error_of_random_pairs']:.0%} wrong labels",
        "people": "labels of people",
    }
    for name, found in curve["curves"].items():
        data, annotator = name.split(", ")
        parts += [f"{data}, {titles[annotator]}:", curves_table(found)]
    parts += ["![Held-out accuracy against the number of labels](figures/annotation_curve.png)"]
    parts += [
        "### DPO",
        f"{settings['seeds']} seeds, {settings['steps']} steps of {settings['batch_size']} pairs for every row.",
    ]
    for kind in ("candidates", "pairs"):
        parts += [f"{results[f'dpo_{kind}']['data']}:", dpo_table(results[f"dpo_{kind}"])]
    reports = results["reliability"]["reports"]
    parts += [
        "### Which labels are wrong",
        f"AlpacaEval, simulated annotators ({PAIRS_TEXT}):",
        reliability_table(reports["AlpacaEval"]),
        "HH-RLHF, labels of people: see [what `label_reliability` prints](reliability.md).",
        "![Wrong labels by similarity](figures/reliability.png)",
    ]
    return "\n\n".join(parts) + "\n"


PAIRS_TEXT = "random pairs, a quarter of them a row"


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
        lambda row: [row["truth"][f"label_error{end}"] for end in ("", "_low", "_high")],
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
