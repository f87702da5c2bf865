"""The results of the study as tables and figures: what docs/study.md and README.md show."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from annotation_curve import CLEAR_CHANCE
from data import SHARE as SHARE_OF_LABELS

from trl_real.strategies import STRATEGIES


SHARE, SMALL_SHARE = str(SHARE_OF_LABELS), "0.1"
PERCENT = 100
ROUNDS = ("candidates", "five", "pairs")
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
    mean, low, high = (round(PERCENT * estimate[name], 1) + 0.0 for name in ("mean", "low", "high"))  # never -0
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

    def of_curve(curve: dict[str, Any], name: str, part: str = SHARE) -> dict | None:
        return curve["less_random"].get(name, {}).get(part)

    def of_dpo(arms: dict[str, Any], name: str) -> dict | None:
        return arms.get(name, {}).get("accuracy_less_random")

    # Title, what a strategy has, and what `random` itself has.
    columns = [
        (
            "AlpacaEval: wrong labels, a pair a prompt",
            lambda name: wrong.get(name, {}).get("less_random"),
            wrong["random"]["wrong"],
        ),
        (
            f"AlpacaEval: linear model, {float(SHARE):.0%}, drawn",
            lambda name: of_curve(candidates, name),
            candidates["accuracy"]["random"][SHARE],
        ),
        (
            f"AlpacaEval: linear model, {float(SMALL_SHARE):.0%}, in order",
            lambda name: of_curve(candidates, f"{name}, in its order", SMALL_SHARE),
            candidates["accuracy"]["random"][SMALL_SHARE],
        ),
        (f"AlpacaEval: DPO, {float(SHARE):.0%}, drawn", lambda name: of_dpo(dpo, name), dpo["random"]["accuracy"]),
        (
            f"HH-RLHF: linear model, {float(SHARE):.0%}, in order",
            lambda name: of_curve(pairs, f"{name}, in its order"),
            pairs["accuracy"]["random"][SHARE],
        ),
        (
            f"HH-RLHF: DPO, {float(SHARE):.0%}, in order",
            lambda name: of_dpo(dpo_pairs, f"{name}, in its order"),
            dpo_pairs["random"]["accuracy"],
        ),
    ]
    lines = [
        "Models are trained on a share of the labels, either of prompts that are drawn, or of the pairs that come first in the order "
        "of the strategy. Where a cell is empty, nothing was run, or the strategy has no choice.",
        "",
        f"| Difference from `random`, in percentage points | {' | '.join(title for title, _, _ in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for strategy in [name for name in candidates["accuracy"] if name != "random" and "," not in name]:
        cells = [difference(less_random(strategy)) for _, less_random, _ in columns]
        lines.append(f"| {name_of(strategy)} | {' | '.join(cells)} |")
    lines.append(f"| `random`: share, no difference | {' | '.join(share(baseline) for _, _, baseline in columns)} |")
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
        lines.append(f"| {name_of(strategy)} | " + " | ".join(difference(found[part]) for part in labels) + " |")
    return "\n".join(lines)


def order_table(curve: dict[str, Any]) -> str:
    labels = list(curve["labels"].items())[:-1]  # with all of them there is no order
    lines = [
        "| Labels | " + " | ".join(f"{count:,} ({float(part):.0%})" for part, count in labels) + " |",
        "|---|" + "---|" * len(labels),
    ]
    for strategy, found in curve["less_drawn"].items():
        cells = [difference(found[part]) for part, _ in labels]
        lines.append(f"| {name_of(strategy.split(', ')[0])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def dpo_table(results: dict[str, Any]) -> str:
    lines = [
        "| | Labels | Trained on | Accuracy | minus `random` | Margin | minus `random` |",
        "|---|---|---|---|---|---|---|",
    ]
    for strategy, arm in results["arms"].items():
        margin, less = arm["margin"], arm["margin_less_random"]
        lines.append(
            f"| {'all labels' if strategy == 'all' else name_of(strategy)} | {arm['labels']:.0f} | {arm['trained_on']:.0f} | "
            f"{share(arm['accuracy'])} | "
            f"{difference(arm['accuracy_less_random']) if strategy != 'random' else ''} | {margin['mean']:.2f} | "
            + (f"{less['mean']:+.2f} ({less['low']:+.2f} to {less['high']:+.2f})" if strategy != "random" else "")
            + " |"
        )
    return "\n".join(lines)


def fewer(results: dict[str, Any]) -> str:
    """What a part of the labels costs against all of them."""
    lines = [
        f"| {float(SHARE):.0%} of the labels, minus `random` with all of them | AlpacaEval | HH-RLHF |",
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


def rounds_table(results: dict[str, Any]) -> str:
    """What the stop of `label_progress` costs and saves."""

    def cells(found: dict[str, Any]) -> list[str]:
        return [f"{found['share']['mean']:.0%}", points(found["loss"]), f"{found['within_two']:.0%}"]

    lines = [
        "| | Labels | Accuracy with all | Stop | Share of the labels | Lost by it | At most 2 points lost |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in ROUNDS:
        found = results[f"rounds_{kind}"]
        several = "" if found["pairs_per_prompt"] == 1 else f", {found['pairs_per_prompt']} pairs per prompt"
        first = [f"{found['data']}{several}", f"{found['pairs']:,}", share(found["with_all_labels"])]
        for name, title in (
            ("rule", "by `label_progress`"),
            ("fixed", "at the same share for all seeds"),
            ("hindsight", "at the first round that lost at most a point"),
        ):
            lines.append("| " + " | ".join([*first, title, *cells(found[name])]) + " |")
            first = ["", "", ""]
    return "\n".join(lines)


def thresholds_table(results: dict[str, Any]) -> str:
    """What other thresholds would have cost and saved, on the seeds that the rule was chosen on."""
    sets = [results[f"rounds_{kind}"] for kind in ROUNDS if results[f"rounds_{kind}"]["thresholds"]]
    names = [name for found in sets for name in (f"{found['data']}: share of the labels", "lost by it")]
    lines = [f"| Stop below | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for threshold in sets[0]["thresholds"]:
        rows = [found["thresholds"][threshold] for found in sets]
        cells = [cell for row in rows for cell in (f"{row['share']['mean']:.0%}", points(row["loss"]))]
        lines.append(f"| {PERCENT * float(threshold):.2f} points | {' | '.join(cells)} |")
    return "\n".join(lines)


def acquisition_table(results: dict[str, Any]) -> str:
    """Each strategy of `next_pairs` against `random`, on average over the rounds."""
    sets = [results[f"rounds_{kind}"] for kind in ROUNDS if results[f"rounds_{kind}"]["less_random"]]
    lines = [
        "| Accuracy minus that of `random`, on average over the rounds | "
        + " | ".join(found["data"] for found in sets)
        + " |",
        "|---" * (len(sets) + 1) + "|",
    ]
    for strategy in sets[0]["less_random"]:
        cells = [difference(found["less_random"][strategy]) for found in sets]
        lines.append(f"| `{strategy}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def rounds_parts(results: dict[str, Any]) -> list[str]:
    """Labels in rounds."""
    found = results["rounds_candidates"]
    return [
        "### Labels in rounds",
        f"Rounds of {found['round']} labels that are drawn at random (of {results['rounds_five']['round']} with five pairs per prompt), "
        "until [`label_progress`](rounds.md) says stop: the labels of all other pairs are expected to add less than "
        f"{PERCENT * found['least_gain']:.2f} points of agreement, and there are at least {found['min_labels']} labels. Lost are points of "
        "held-out accuracy against all labels, of the linear model of `label_progress`. The threshold was chosen on "
        f"{found['chosen_on']} seeds, with a look at thirty more, and is judged on {found['judged_on']} that nobody had looked at. Intervals here are over the draws of splits and annotators of these texts.",
        rounds_table(results),
        "The second line of each shows what the rule itself buys: a fixed share at the same cost loses about as much, but which share that is "
        "nobody knows beforehand. The third line knows the held-out accuracy, which nobody has.",
        f"On the {found['chosen_on']} seeds that it was chosen on:",
        thresholds_table(results),
        f"Other strategies of `next_pairs`, with a fifth of each round drawn at random, over the {found['judged_on']} seeds:",
        acquisition_table(results),
    ]


def strategies_table(found: dict[str, Any]) -> str:
    lines = ["| One label a prompt | Wrong labels | minus `random` |", "|---|---|---|"]
    for strategy, row in found.items():
        lines.append(f"| {name_of(strategy)} | {share(row['wrong'])} | {difference(row.get('less_random'))} |")
    return "\n".join(lines)


def reliability_table(report: dict[str, Any]) -> str:
    lines = [
        "| Similarity, of random pairs | Wrong labels | `label_reliability` says | the truth is in its interval |",
        "|---|---|---|---|",
    ]
    for row in [*report["bins"], {**report, "low": None}]:
        true, said = row["truth"], row["said"]
        where = "all" if row["low"] is None else f"{row['low']:.2f} to {row['high']:.2f}"
        lines.append(
            f"| {where} | {true['mean']:.0%} ({true['low']:.0%} to {true['high']:.0%}) | "
            f"{said['mean']:.0%} ({said['low']:.0%} to {said['high']:.0%}) | {row['covered']} of {report['annotators']} times |"
        )
    return "\n".join(lines)


def tables(results: dict[str, Any]) -> str:
    """What docs/study.md shows."""
    curve, reliability = results["annotation_curve"], results["reliability"]
    titles = {
        "by gap": "AlpacaEval, annotators who err",
        "exact": "AlpacaEval, annotators who never err",
        "clear": "AlpacaEval, annotators who err, without pairs of which the judge finds neither side to have a chance of "
        f"{CLEAR_CHANCE:.0%}",
        "people": "HH-RLHF, people",
    }
    parts = [
        "### Which labels are wrong",
        f"AlpacaEval, where {curve['error_of_random_pairs']:.0%} of the labels of random pairs are wrong:",
        strategies_table(reliability["strategies"]["AlpacaEval"]),
        f"What `label_reliability` says about such labels of {reliability['reports']['AlpacaEval']['pairs']:,} pairs, on average over "
        f"{reliability['reports']['AlpacaEval']['annotators']} draws of the annotators (the lowest to the highest):",
        reliability_table(reliability["reports"]["AlpacaEval"]),
        "For HH-RLHF nobody knows; the right panel shows how often a model of other prompts agrees with its labels ([the whole "
        "report](reliability.md)).",
        "![Wrong labels by similarity](figures/reliability.png)",
        "### What a label is worth",
        f"Held-out accuracy of `random`, and that of the others minus it, in percentage points, over {curve['seeds']} seeds. *In its "
        "order*: the budget takes the pairs that come first in the order of the strategy, as `budget=` does; the others are of "
        "prompts that are drawn.",
        "![Held-out accuracy against the number of labels](figures/annotation_curve.png)",
        "The grey band is the interval of `random` itself.",
    ]
    by_annotator = {name.split(", ")[1]: found for name, found in curve["curves"].items()}

    def shown(annotator: str) -> list[str]:
        longer = share(by_annotator[annotator]["longer_is_better"])
        intro = f"**{titles[annotator]}.** The longer response is the better one in {longer} of the held-out pairs."
        return [intro, curves_table(by_annotator[annotator])]

    parts += [
        *shown("by gap"),
        *shown("people"),
        "A strategy in its order, minus the same strategy on drawn prompts (AlpacaEval, annotators who err):",
        order_table(by_annotator["by gap"]),
        fewer(results),
    ]
    for found in (results["dpo_candidates"], results["dpo_pairs"]):
        parts += [
            f"### DPO on {found['data']}",
            f"Over {found['settings']['seeds']} seeds, an epoch over the labels each, judged on "
            f"{found['arms']['random']['judged_on']:.0f} held-out pairs. Pairs that `max_length` cuts to the same tokens, or to the "
            "prompt alone, are bought and neither trained on nor judged on.",
            dpo_table(found),
        ]
    parts += rounds_parts(results)
    parts += ["### Other annotators of AlpacaEval", *shown("exact"), *shown("clear")]
    machine, minutes = results["run"]["machine"], results["run"]["minutes"]
    parts.append(
        f"All of this took {sum(minutes.values()):.0f} minutes on {machine['threads']} threads of an {machine['processor']}."
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
