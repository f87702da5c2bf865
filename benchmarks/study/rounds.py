"""
Label in rounds: measure what is lost by stopping when `label_progress` says so, and whether a strategy of `next_pairs` beats `random`.

python benchmarks/study/rounds.py candidates --data folder --seeds 20 > results/rounds_candidates.json

`candidates` has one pair per prompt of AlpacaEval, `five` has five, and `pairs` is HH-RLHF. Splits and annotators are the same as in the
annotation curve. The rule was chosen on the first seeds of `candidates` and `pairs`, and is evaluated on seeds that nobody had looked at.
"""

import argparse
import json

import numpy as np
from data import ERROR, HELD_OUT, annotate, load_candidates, load_pairs, split, temperature
from datasets import Dataset, disable_progress_bars
from intervals import over_draws, over_seeds

from trl_real import real_select
from trl_real.labeling.pool import Pool
from trl_real.labeling.progress_report import LEAST_GAIN, MIN_LABELS
from trl_real.labeling.rounds import PICKS
from trl_real.labeling.simulation import labeled_pool, play
from trl_real.labeling.simulation_report import SimulatedRound
from trl_real.selection.similarity import pair_differences


CHOSEN_ON, JUDGED_FROM = 10, 100  # seeds; the seeds between them were looked at while the rule was made
THRESHOLDS = (0.003, 0.004, 0.005, 0.006, 0.0065, 0.007, 0.008, 0.01, 0.015)
HELD_OUT_PAIRS = 5  # per prompt
POINT = 0.01


def pool_and_gold(rows: Dataset, pairs_per_prompt: int, noise: float, seed: int) -> tuple[Pool, np.ndarray]:
    """Pairs to label, and the difference of the embeddings of pairs to judge by."""
    train, held_out = split(rows, seed)
    options = {"strategy": "random", "selection_seed": seed}

    def select(part: Dataset, n: int) -> Dataset:
        return part.map(real_select, batched=True, fn_kwargs=options | {"pairs_per_prompt": n}, keep_in_memory=True)

    if noise:
        train = annotate(train, "by gap", noise, seed)
    return labeled_pool(select(train, pairs_per_prompt), seed), pair_differences(select(held_out, HELD_OUT_PAIRS))


def stop_by(rounds: list[SimulatedRound], least_gain: float) -> SimulatedRound:
    """The round at which less than `least_gain` is to be had; the last one if there is none."""
    stops = (step for step in rounds if step.labels >= MIN_LABELS and step.gain_all < least_gain)
    return next(stops, rounds[-1])


def sum_up(rounds: list[list[SimulatedRound]], stops: list[SimulatedRound]) -> dict:
    """Which share of the labels the stops take, and what is lost by them: means over the seeds."""
    full = [played[-1] for played in rounds]
    share = np.array([stop.labels / end.labels for stop, end in zip(stops, full, strict=True)])
    loss = np.array([end.accuracy - stop.accuracy for stop, end in zip(stops, full, strict=True)])
    return {
        "share": over_draws(share),
        "loss": over_draws(loss),
        "within_one": round(float((loss <= POINT + 1e-9).mean()), 4),
        "within_two": round(float((loss <= 2 * POINT + 1e-9).mean()), 4),
    }


def judge(rounds: list[list[SimulatedRound]]) -> dict:
    """The rule beside a fixed share of the labels at the same cost, and beside the best stop that hindsight knows."""
    ruled = [next((step for step in played if step.stop), played[-1]) for played in rounds]
    by_rule = sum_up(rounds, ruled)
    fixed = [
        min(played, key=lambda step: abs(step.labels / played[-1].labels - by_rule["share"]["mean"]))
        for played in rounds
    ]
    hindsight = [next(step for step in played if step.accuracy >= played[-1].accuracy - POINT) for played in rounds]
    return {"rule": by_rule, "fixed": sum_up(rounds, fixed), "hindsight": sum_up(rounds, hindsight)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("kind", choices=["candidates", "five", "pairs"])
    parser.add_argument(
        "--data", help="Folder of the AlpacaEval candidates and the HH-RLHF pairs; else the package's sample."
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--round", type=int, help="Number of labels per round.")
    args = parser.parse_args()
    disable_progress_bars()
    noise = 0.0
    if args.kind == "pairs":
        name, rows = load_pairs(args.data)
    else:
        name, rows = load_candidates(args.data)
        noise = temperature(rows)
    pairs_per_prompt = 5 if args.kind == "five" else 1
    size = args.round or (150 if args.kind == "five" else 50)
    strategies = [] if args.kind == "five" else list(PICKS)
    rounds: dict[int, list[SimulatedRound]] = {}
    less_random: dict[str, list[float]] = {strategy: [] for strategy in strategies}
    chosen_on = [] if args.kind == "five" else list(range(CHOSEN_ON))
    judged_on = list(range(JUDGED_FROM, JUDGED_FROM + args.seeds))
    for seed in [*chosen_on, *judged_on]:
        pool, gold = pool_and_gold(rows, pairs_per_prompt, noise, seed)
        rounds[seed] = play(pool, gold, "random", size)
        for strategy in strategies if seed >= JUDGED_FROM else []:
            others = play(pool, gold, strategy, size)
            gaps = [step.accuracy - plain.accuracy for step, plain in zip(others, rounds[seed], strict=True)]
            less_random[strategy].append(float(np.mean(gaps)))
    chosen, judged = ([rounds[seed] for seed in seeds] for seeds in (chosen_on, judged_on))
    results = {
        "data": name,
        "pairs": round(float(np.mean([played[-1].labels for played in judged]))),
        "pairs_per_prompt": pairs_per_prompt,
        "round": size,
        "error_of_random_pairs": ERROR if noise else None,
        "least_gain": LEAST_GAIN,
        "min_labels": MIN_LABELS,
        "chosen_on": len(chosen),
        "judged_on": len(judged),
        "thresholds": {
            str(threshold): sum_up(chosen, [stop_by(played, threshold) for played in chosen])
            for threshold in (THRESHOLDS if chosen else ())
        },
        "with_all_labels": over_draws(np.array([played[-1].accuracy for played in judged])),
        **judge(judged),
        "less_random": {strategy: over_seeds(values, HELD_OUT) for strategy, values in less_random.items()},
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
