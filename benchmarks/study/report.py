"""The results of the study as tables: what docs/study.md shows."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from annotation_curve import CLEAR_CHANCE
from data import SHARE as SHARE_OF_LABELS

from trl_real.strategies import STRATEGIES


SHARE, SMALL_SHARE = str(SHARE_OF_LABELS), "0.1"
PERCENT = 100
ROUNDS = ("candidates", "five", "pairs")
SUMMARY_ROWS = ("easy", "centroid", "hard", "max_min")
# These read all scores before they pick a pair.
NEED_SCORES = [name for name, strategy in STRATEGIES.items() if strategy.needs("scores")]


def points(estimate: dict[str, float]) -> str:
    """A difference of shares and its interval, in percentage points."""
    mean, low, high = (round(PERCENT * estimate[name], 1) + 0.0 for name in ("mean", "low", "high"))  # never -0
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def share(estimate: dict[str, float]) -> str:
    return f"{estimate['mean']:.1%}"


def in_words(strategy: str) -> str:
    """A strategy of the results as people read it."""
    return strategy.replace("in its order", "in strategy order")


def name_of(strategy: str) -> str:
    first, *rest = in_words(strategy).split(", ")
    return ", ".join([f"`{first}`", *rest]) + (" (reads all scores)" if first in NEED_SCORES else "")


def difference(estimate: dict[str, float] | None) -> str:
    """A difference, in bold if its interval is on one side of zero."""
    if estimate is None:
        return ""
    text = points(estimate)
    return f"**{text}**" if estimate["low"] > 0 or estimate["high"] < 0 else text


class Column(NamedTuple):
    """A column of differences from `random`: its title, the difference of a strategy, and the share of `random` itself."""

    title: str
    less_random: Callable[[str], dict[str, float] | None]
    random: dict[str, float]


def columns(results: dict[str, Any]) -> list[Column]:
    """Everything in which the study compares a strategy with `random` at the same number of labels."""
    curves = results["annotation_curve"]["curves"]
    candidates, pairs = curves["AlpacaEval, by gap"], curves["HH-RLHF, people"]
    wrong = results["reliability"]["strategies"]["AlpacaEval"]
    dpo, dpo_pairs = (results[f"dpo_{kind}"]["arms"] for kind in ("candidates", "pairs"))

    def of_curve(curve: dict[str, Any], name: str, part: str = SHARE) -> dict | None:
        return curve["less_random"].get(name, {}).get(part)

    def of_dpo(arms: dict[str, Any], name: str) -> dict | None:
        return arms.get(name, {}).get("accuracy_less_random")

    return [
        Column(
            "AlpacaEval: wrong labels, one pair per prompt",
            lambda name: wrong.get(name, {}).get("less_random"),
            wrong["random"]["wrong"],
        ),
        Column(
            f"AlpacaEval: linear model, {float(SHARE):.0%}, random prompts",
            lambda name: of_curve(candidates, name),
            candidates["accuracy"]["random"][SHARE],
        ),
        Column(
            f"AlpacaEval: linear model, {float(SMALL_SHARE):.0%}, in strategy order",
            lambda name: of_curve(candidates, f"{name}, in its order", SMALL_SHARE),
            candidates["accuracy"]["random"][SMALL_SHARE],
        ),
        Column(
            f"AlpacaEval: DPO, {float(SHARE):.0%}, random prompts",
            lambda name: of_dpo(dpo, name),
            dpo["random"]["accuracy"],
        ),
        Column(
            f"HH-RLHF: linear model, {float(SHARE):.0%}, in strategy order",
            lambda name: of_curve(pairs, f"{name}, in its order"),
            pairs["accuracy"]["random"][SHARE],
        ),
        Column(
            f"HH-RLHF: DPO, {float(SHARE):.0%}, in strategy order",
            lambda name: of_dpo(dpo_pairs, f"{name}, in its order"),
            dpo_pairs["random"]["accuracy"],
        ),
    ]


def differences_table(corner: str, strategies: Iterable[str], columns: list[Column]) -> str:
    """Each strategy against `random` with as many labels."""
    lines = [f"| {corner} | {' | '.join(column.title for column in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for strategy in strategies:
        cells = [difference(column.less_random(strategy)) for column in columns]
        lines.append(f"| {name_of(strategy)} | {' | '.join(cells)} |")
    lines.append(f"| `random` itself | {' | '.join(share(column.random) for column in columns)} |")
    return "\n".join(lines)


def overview(results: dict[str, Any]) -> list[str]:
    """All strategies at a glance."""
    accuracy = results["annotation_curve"]["curves"]["AlpacaEval, by gap"]["accuracy"]
    strategies = [name for name in accuracy if name != "random" and "," not in name]
    return [
        "### At a glance",
        "Each cell is a difference from `random` with the same number of labels, in percentage points, with its 95% interval. It is bold "
        "if the interval excludes zero. The models are trained on the given share of the labels. An empty cell was not run, or "
        "leaves the strategy no choice.",
        differences_table("Minus `random`", strategies, columns(results)),
    ]


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
    """What training on a share of the labels costs, compared with all of them."""
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
        "| | Labels | Accuracy with all labels | When to stop | Share of the labels | Points lost | At most 2 points lost |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in ROUNDS:
        found = results[f"rounds_{kind}"]
        several = "" if found["pairs_per_prompt"] == 1 else f", {found['pairs_per_prompt']} pairs per prompt"
        first = [f"{found['data']}{several}", f"{found['pairs']:,}", share(found["with_all_labels"])]
        for name, title in (
            ("rule", "when `label_progress` says so"),
            ("fixed", "at a fixed share of the labels"),
            ("hindsight", "at the first round that loses at most one point"),
        ):
            lines.append("| " + " | ".join([*first, title, *cells(found[name])]) + " |")
            first = ["", "", ""]
    return "\n".join(lines)


def thresholds_table(results: dict[str, Any]) -> str:
    """What other thresholds cost and save, on the seeds that the rule was chosen on."""
    sets = [results[f"rounds_{kind}"] for kind in ROUNDS if results[f"rounds_{kind}"]["thresholds"]]
    names = [name for found in sets for name in (f"{found['data']}: share of the labels", "points lost")]
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
        "| Accuracy minus `random`, averaged over the rounds | " + " | ".join(found["data"] for found in sets) + " |",
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
        f"Each round labels {found['round']} randomly sampled pairs ({results['rounds_five']['round']} with five pairs per prompt). Labeling "
        "stops when [`label_progress`](rounds.md) says so: there are at least "
        f"{found['min_labels']} labels, and labeling all other pairs is expected to add less than {PERCENT * found['least_gain']:.2f} points of "
        "agreement. *Points lost* compares the held-out accuracy of the linear model of `label_progress` at the stop with its accuracy "
        f"after all labels. The threshold was chosen on {found['chosen_on']} seeds, after a look at thirty more. It is evaluated on "
        f"{found['judged_on']} seeds that nobody had looked at. The intervals in this section are over splits and annotators, for these texts.",
        rounds_table(results),
        "The second row of each dataset is a fixed share that costs about the same. It loses about as much, but nobody knows that share "
        "beforehand. The third row uses the held-out accuracy, which nobody has while labeling.",
        f"Other thresholds, on the {found['chosen_on']} seeds that the rule was chosen on:",
        thresholds_table(results),
        f"Other strategies of `next_pairs`, over the {found['judged_on']} seeds. A fifth of each round is randomly sampled:",
        acquisition_table(results),
    ]


def strategies_table(found: dict[str, Any]) -> str:
    lines = ["| One label per prompt | Wrong labels | minus `random` |", "|---|---|---|"]
    for strategy, row in found.items():
        lines.append(f"| {name_of(strategy)} | {share(row['wrong'])} | {difference(row.get('less_random'))} |")
    return "\n".join(lines)


def reliability_table(report: dict[str, Any]) -> str:
    lines = [
        "| Similarity of random pairs | Wrong labels | Estimate of `label_reliability` | Interval holds the true share |",
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
        "by gap": "AlpacaEval, annotators who make errors",
        "exact": "AlpacaEval, annotators who make no errors",
        "clear": "AlpacaEval, annotators who make errors, without the pairs in which both sides have less than a "
        f"{CLEAR_CHANCE:.0%} chance to win",
        "people": "HH-RLHF, human labels",
    }
    parts = [
        *overview(results),
        "### Which labels are wrong",
        f"On AlpacaEval, {curve['error_of_random_pairs']:.0%} of the labels of random pairs are wrong:",
        strategies_table(reliability["strategies"]["AlpacaEval"]),
        "`label_reliability` estimates the share of wrong labels without knowing the true one. The table compares both for "
        f"{reliability['reports']['AlpacaEval']['pairs']:,} pairs. The estimate is the mean over "
        f"{reliability['reports']['AlpacaEval']['annotators']} simulated annotators, with the lowest and the highest one:",
        reliability_table(reliability["reports"]["AlpacaEval"]),
        "On HH-RLHF the true share is unknown. The right panel shows how often a model that is trained on other prompts agrees with "
        "the labels ([the full report](reliability.md)).",
        "![Wrong labels by similarity](figures/reliability.png)",
        "### What a label is worth",
        "The tables show the held-out accuracy of `random`, and the difference of every other strategy from it in percentage points, "
        f"over {curve['seeds']} seeds. *In strategy order* means that the budget goes to the pairs that the strategy ranks first, as "
        "`budget=` does. The other rows spend the budget on randomly sampled prompts.",
        "![Held-out accuracy against the number of labels](figures/annotation_curve.png)",
        "The gray band is the 95% interval of `random`.",
    ]
    by_annotator = {name.split(", ")[1]: found for name, found in curve["curves"].items()}

    def shown(annotator: str) -> list[str]:
        longer = share(by_annotator[annotator]["longer_is_better"])
        intro = f"**{titles[annotator]}.** The longer response is better in {longer} of the held-out pairs."
        return [intro, curves_table(by_annotator[annotator])]

    parts += [
        *shown("by gap"),
        *shown("people"),
        "In strategy order minus randomly sampled prompts, for the same strategy (AlpacaEval, annotators who make errors):",
        order_table(by_annotator["by gap"]),
        fewer(results),
    ]
    for found in (results["dpo_candidates"], results["dpo_pairs"]):
        parts += [
            f"### DPO on {found['data']}",
            f"{found['settings']['seeds']} seeds, one epoch over the labels, evaluated on "
            f"{found['arms']['random']['judged_on']:.0f} held-out pairs. Some pairs are the same, or only the prompt, once cut to "
            "`max_length`. They cost a label, but are used neither for training nor for evaluation.",
            dpo_table(found),
        ]
    parts += rounds_parts(results)
    parts += ["### Other annotators on AlpacaEval", *shown("exact"), *shown("clear")]
    machine, minutes = results["run"]["machine"], results["run"]["minutes"]
    parts.append(
        f"The whole study took {sum(minutes.values()):.0f} minutes on {machine['threads']} threads of an {machine['processor']}."
    )
    return "\n\n".join(parts) + "\n"
