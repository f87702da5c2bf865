"""Draw flow.png, the stages from your rows to an aligned model: `python docs/figures/flow.py`."""

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch


# The center, what there is at this stage, and the functions that lead to it.
STAGES = [
    (0.0, 0.0, "your rows", "any known layout"),
    (1.75, 0.0, "candidates", "to_candidates"),
    (3.5, 0.0, "embeddings", "embed_responses"),
    (5.25, 0.0, "pairs", "real_select\nselect_budget"),
    (7.4, 0.0, "preferences", "chosen, rejected"),
    (9.15, 0.0, "aligned model", "RealDPOTrainer"),
]
ANNOTATORS = (6.325, -1.35, "annotators", "to_label_tasks\napply_labels")
INK, LINE, FILL, PEOPLE = "#24292f", "#57606a", "#dbe7f5", "#fbe3d3"
WIDTH, HEIGHT, GAP = 1.42, 0.8, 0.05


def box(axes: plt.Axes, x: float, y: float, name: str, how: str, color: str) -> None:
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    axes.add_patch(FancyBboxPatch(corner, WIDTH, HEIGHT, "round,pad=0,rounding_size=0.1", fc=color, ec=LINE, lw=0.8))
    axes.text(x, y + 0.19, name, ha="center", va="center", fontsize=10, weight="bold", color=INK)
    family = "monospace" if "_" in how or how == "RealDPOTrainer" else "sans-serif"
    axes.text(x, y - 0.13, how, ha="center", va="center", fontsize=8, family=family, color=INK, linespacing=1.25)


def arrow(axes: plt.Axes, start: tuple[float, float], end: tuple[float, float], bend: str = "arc3") -> None:
    style = {"arrowstyle": "-|>", "color": LINE, "lw": 1.2, "connectionstyle": bend, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)


def main() -> None:
    figure, axes = plt.subplots(figsize=(9.2, 2.3), layout="constrained")
    for stage in STAGES:
        box(axes, *stage, FILL)
    for (x, y, *_), (next_x, *_) in itertools.pairwise(STAGES):
        arrow(axes, (x + WIDTH / 2 + GAP, y), (next_x - WIDTH / 2 - GAP, y))
    box(axes, *ANNOTATORS, PEOPLE)
    (pairs, *_), (preferences, *_) = STAGES[3], STAGES[4]
    x, y, *_ = ANNOTATORS
    below, turn = -HEIGHT / 2 - GAP, "angle,angleA=90,angleB=0,rad=6"
    arrow(axes, (pairs, below), (x - WIDTH / 2 - GAP, y), turn)
    arrow(axes, (x + WIDTH / 2 + GAP, y), (preferences, below), "angle,angleA=0,angleB=90,rad=6")
    axes.text(
        (pairs + preferences) / 2, 0.1, "scores", ha="center", va="bottom", fontsize=8.5, style="italic", color=INK
    )
    axes.text(pairs - 0.1, -0.95, "no scores", ha="right", va="center", fontsize=8.5, style="italic", color=INK)
    axes.set(xlim=(-0.85, 10.0), ylim=(-1.9, 0.55), aspect="equal")
    axes.axis("off")
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=180)


if __name__ == "__main__":
    main()
