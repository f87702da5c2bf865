"""Several annotators as tables: what docs/study.md shows of results/annotators.json."""

from typing import Any

from report import difference, share


def spread(estimate: dict[str, float], form: str = ".0%") -> str:
    """A mean with its interval."""
    return f"{estimate['mean']:{form}} ({estimate['low']:{form}} to {estimate['high']:{form}})"


def combined_table(found: dict[str, Any]) -> str:
    lines = [
        "| Labels per pair | " + " | ".join(found) + " |",
        "|---" * (len(found) + 1) + "|",
        "| wrong, majority | " + " | ".join(share(row["majority"]) for row in found.values()) + " |",
        "| wrong, `dawid_skene` | " + " | ".join(share(row["dawid_skene"]) for row in found.values()) + " |",
        "| fewer errors | " + " | ".join(spread(row["fewer_errors"]) for row in found.values()) + " |",
    ]
    return "\n".join(lines)


def adaptive_table(found: dict[str, Any]) -> str:
    lines = [
        "| As good as a majority of | Wrong | Fewer labels: second opinions | Fewer labels: a majority that stops once decided |",
        "|---|---|---|---|",
    ]
    for k, row in found.items():
        cells = [share(row["majority"]), spread(row["fewer_labels"]), spread(row["fewer_labels_decided"])]
        lines.append(f"| {k} labels | {' | '.join(cells)} |")
    return "\n".join(lines)


def second_table(found: dict[str, Any]) -> str:
    lines = ["| Share of second opinions | Accuracy | minus new pairs only |", "|---|---|---|"]
    for part, row in found.items():
        less = "" if float(part) == 0 else difference(row["less_new"])
        lines.append(f"| {float(part):.0%} | {share(row['accuracy'])} | {less} |")
    return "\n".join(lines)


def suspects_table(found: dict[str, Any]) -> str:
    lines = ["| Planted errors | `suspect_labels` | Pairwise KNN-Shapley |", "|---|---|---|"]
    for name, by_share in found.items():
        for part, row in by_share.items():
            cells = [spread(row[how], ".1f") for how in ("suspect_labels", "knn_shapley")]
            lines.append(f"| {name}, {float(part):.0%} | {' | '.join(cells)} |")
    return "\n".join(lines)


def annotators(results: dict[str, Any]) -> str:
    """What docs/study.md shows."""
    found = results["annotators"]
    skills = [f"{skill:.0%}" for skill in found["skills"].values()]
    parts = [
        f"Five simulated annotators are right in {', '.join(skills[:-1])} and {skills[-1]} of the pairs, whichever pair it is. "
        f"There are {found['pairs']:,} pairs of {found['data']}. The tables show means over {found['seeds']} draws of annotators, with "
        "95% intervals.",
        "**How to combine the labels.** The table shows the share of wrong labels. Half of the tied pairs count as wrong.",
        combined_table(found["combine"]),
        "**Which pairs to ask about again.** Each pair has two labels first. `next_pairs(..., second_opinions=1.0)` then asks for "
        f"{found['round']} further labels at a time, until the labels that `dawid_skene` combines are as good as a majority of 3 or 5 labels "
        "of each pair. The last column asks until no further label can change the majority. It knows the number of labels beforehand.",
        adaptive_table(found["adapt"]),
        "**A second opinion or a new pair.** The number of labels is half the number of pairs. A share of each round is second "
        "opinions, and the rest is new pairs. The table shows the held-out accuracy of the linear model:",
        second_table(found["second_or_new"]),
        "**Labels worth a second look.** A share of the labels is turned round. The table shows how many times more of them there are "
        f"among the most suspicious {found['first']:.0%} of the pairs than among all pairs:",
        suspects_table(found["suspects"]),
    ]
    return "\n\n".join(parts) + "\n"
