"""The short answer of README.md and docs/does-real-work.md, from all parts of the study."""

from typing import Any

from report import SUMMARY_ROWS, Column, columns, difference, differences_table
from report_pretrained import estimate, less_random, of_kind


def after_dpo(results: dict[str, Any], kind: str, title: str) -> Column:
    """The accuracy of the pretrained policy. Of pairs that are given, a strategy takes the first in its order."""
    arms = of_kind(results["pretrained"], kind)
    baseline = list(arms["random"].values())
    if len(baseline) < 2:
        raise ValueError(f"results/pretrained.jsonl has fewer than two seeds of `random` on {kind}.")
    settings = baseline[0]["settings"]

    def less(strategy: str) -> dict[str, float] | None:
        return estimate(less_random(arms, strategy if kind == "candidates" else f"{strategy}, in its order"), settings)

    return Column(title, less, estimate([run["accuracy"] for run in baseline], settings))


def summary(results: dict[str, Any]) -> str:
    """What README.md shows."""
    wrong, linear, _, _, linear_pairs, _ = columns(results)
    shown = [
        wrong._replace(title="Wrong labels"),
        linear._replace(title="Linear model"),
        after_dpo(results, "candidates", "DPO"),
        linear_pairs._replace(title="HH-RLHF: linear model"),
        after_dpo(results, "pairs", "HH-RLHF: DPO"),
    ]
    return differences_table("Minus `random`, in percentage points", SUMMARY_ROWS, shown) + "\n"


def answer(results: dict[str, Any]) -> str:
    """What docs/does-real-work.md shows: `easy` against `random`, at the same number of labels."""
    wrong, linear, _, dpo, linear_pairs, dpo_pairs = columns(results)
    rows = {
        "Wrong labels (lower is better)": [wrong],
        "Accuracy of a linear preference model": [linear, linear_pairs],
        "Accuracy after DPO, a small model trained from scratch": [dpo, dpo_pairs],
        "Accuracy after DPO, a pretrained model (SmolLM2-135M-Instruct)": [
            after_dpo(results, kind, "") for kind in ("candidates", "pairs")
        ],
    }
    lines = [
        "| `easy` minus `random`, in points, at the same number of labels | AlpacaEval | HH-RLHF |",
        "|---|---|---|",
    ]
    for what, of_data in rows.items():
        cells = [difference(column.less_random("easy")) for column in of_data] + ["unknown"] * (2 - len(of_data))
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
