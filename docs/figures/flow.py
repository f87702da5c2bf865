"""Draw flow.png, the stages from prompts to an aligned model: `python docs/figures/flow.py`."""

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch


# The center, what there is at this stage, and the functions that lead to it or, for the first ones, away from it.
SOURCES = [
    (0.0, 0.5, "prompts", "generate_responses\nscore_responses"),
    (0.0, -0.5, "your rows", "to_candidates"),
]
STAGES = [
    (1.95, 0.0, "candidates", "prompt, responses"),
    (3.8, 0.0, "embeddings", "embed_responses"),
    (5.65, 0.0, "pairs", "real_select\nselect_budget"),
    (7.9, 0.0, "preferences", "chosen, rejected"),
    (9.8, 0.0, "aligned model", "RealDPOTrainer"),
]
ANNOTATORS = (6.775, -1.35, "annotators", "trl-real label\napply_labels")
INK, LINE, FILL, PEOPLE = "#24292f", "#57606a", "#dbe7f5", "#fbe3d3"
WIDTH, HEIGHT, GAP = 1.56, 0.8, 0.05


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
    figure, axes = plt.subplots(figsize=(9.8, 2.65), layout="constrained")
    for stage in STAGES:
        box(axes, *stage, FILL)
    for source in SOURCES:
        box(axes, *source, FILL)
        x, y, *_ = source
        arrow(axes, (x + WIDTH / 2 + GAP, y), (STAGES[0][0] - WIDTH / 2 - GAP, y / 5))
    for (x, y, *_), (next_x, *_) in itertools.pairwise(STAGES):
        arrow(axes, (x + WIDTH / 2 + GAP, y), (next_x - WIDTH / 2 - GAP, y))
    box(axes, *ANNOTATORS, PEOPLE)
    (pairs, *_), (preferences, *_) = STAGES[2], STAGES[3]
    x, y, *_ = ANNOTATORS
    below, turn = -HEIGHT / 2 - GAP, "angle,angleA=90,angleB=0,rad=6"
    arrow(axes, (pairs, below), (x - WIDTH / 2 - GAP, y), turn)
    arrow(axes, (x + WIDTH / 2 + GAP, y), (preferences, below), "angle,angleA=0,angleB=90,rad=6")
    axes.text(
        (pairs + preferences) / 2, 0.1, "scores", ha="center", va="bottom", fontsize=8.5, style="italic", color=INK
    )
    axes.text(pairs - 0.1, -0.95, "no scores", ha="right", va="center", fontsize=8.5, style="italic", color=INK)
    loop = "in rounds: next_pairs, until label_progress says stop"
    axes.text(x, y - HEIGHT / 2 - 0.2, loop, ha="center", va="center", fontsize=8.5, style="italic", color=INK)
    axes.set(xlim=(-0.9, 10.7), ylim=(-2.1, 1.0), aspect="equal")
    axes.axis("off")
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=180)


if __name__ == "__main__":
    main()
