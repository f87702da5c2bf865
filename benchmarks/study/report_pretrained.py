"""The results with a pretrained policy as tables: as many runs as there are."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from intervals import over_seeds
from report import difference, name_of, points, share
from scipy.stats import binom


KINDS = ("candidates", "pairs")
RUNS = Path(__file__).parent / "results" / "pretrained.jsonl"
PILOT = RUNS.with_name("pretrained_pilot.jsonl")


def read_runs(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def of_kind(runs: list[dict[str, Any]], kind: str) -> dict[str, dict[int, dict[str, Any]]]:
    """The runs of one dataset by arm and seed, all with the settings of its last run."""
    same = [run for run in runs if run["kind"] == kind]
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for run in same:
        if run["settings"] == same[-1]["settings"]:
            found[run["arm"]][run["seed"]] = run
    return found


def less_random(arms: dict[str, dict[int, dict[str, Any]]], arm: str, value: str = "accuracy") -> list[float]:
    """What an arm has more than `random`, in the seeds that both have."""
    shared = sorted(arms[arm].keys() & arms.get("random", {}).keys())
    return [arms[arm][seed][value] - arms["random"][seed][value] for seed in shared]


def estimate(values: list[float], settings: dict[str, Any]) -> dict[str, float] | None:
    """With fewer than two seeds there is no interval."""
    return (
        over_seeds(values, settings["held_out"] / (settings["pool"] + settings["held_out"]))
        if len(values) > 1
        else None
    )


def above_chance(pairs: int) -> float:
    """The accuracy on so many pairs that is significantly above one half."""
    return float(binom.isf(0.05, pairs, 0.5)) / pairs


def runs_table(arms: dict[str, dict[int, dict[str, Any]]]) -> str:
    lines = [
        "| | Seeds | Labels | Held-out accuracy | minus `random` | Held-out loss | minus `random` | Minutes per run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm, by_seed in arms.items():
        runs = list(by_seed.values())
        settings = runs[0]["settings"]

        def mean(name: str, runs: list[dict[str, Any]] = runs) -> float:
            return sum(run[name] for run in runs) / len(runs)

        accuracy = estimate([run["accuracy"] for run in runs], settings)
        within = f" ({share({'mean': accuracy['low']})} to {share({'mean': accuracy['high']})})" if accuracy else ""
        gaps = [[] if arm == "random" else less_random(arms, arm, value) for value in ("accuracy", "loss")]
        less = [estimate(values, settings) for values in gaps]
        lines.append(
            f"| {'all labels' if arm == 'all' else name_of(arm)} | {len(runs)} | {mean('labels'):.0f} | "
            f"{share({'mean': mean('accuracy')})}{within} | {difference(less[0])} | {mean('loss'):.3f} | {nats(less[1])} | "
            f"{mean('minutes'):.0f} |"
        )
    return "\n".join(lines)


def nats(estimate: dict[str, float] | None) -> str:
    """A difference of losses, in bold if its interval is on one side of zero."""
    if estimate is None:
        return ""
    text = "{mean:+.3f} ({low:+.3f} to {high:+.3f})".format(**estimate)
    return f"**{text}**" if estimate["low"] > 0 or estimate["high"] < 0 else text


def pilot_table(runs: list[dict[str, Any]]) -> str:
    lines = ["| Learning rate | Data | Labels | Held-out pairs | Accuracy | Loss |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {run['settings']['learning_rate']:g} | {run['data']} | {run['labels']} | {run['judged_on']} | "
        f"{share({'mean': run['accuracy']})} | {run['loss']:.3f} |"
        for run in runs
    ]
    return "\n".join(lines)


def embedders_table(results: dict[str, Any]) -> str:
    """Each embedder on the same texts: which labels are wrong, if that is known, and what a linear model learns."""
    candidates = "wrong" in next(iter(results["embedders"].values()))
    full = "1.0"
    if candidates:
        lines = [
            "| Embedder and text | Wrong labels: `random` | `easy` | `easy`, minus the default embedder | "
            "Linear model: `random` | `easy`, minus `random` | Minutes |",
            "|---|---|---|---|---|---|---|",
        ]
    else:
        lines = [
            "| Embedder and text | Model agrees with the labels | from the least to the most similar pairs | "
            "Linear model: all labels | `random`, 35% | `easy` in strategy order, minus `random` | Minutes |",
            "|---|---|---|---|---|---|---|",
        ]
    for name, found in results["embedders"].items():
        minutes = f"{results['seconds'][name] / 60:.1f}"
        if candidates:
            wrong = found["wrong"]
            cells = [
                share(wrong["random"]),
                share(wrong["easy"]),
                difference(found["wrong_less_default"]["easy"]) if name != "MiniLM, response" else "",
                share(found["accuracy"]["random"][full]),
                difference(found["less_random"]["easy"][full]),
            ]
        else:
            by_share = next(part for part in found["accuracy"]["random"] if part != full)
            agreement = found["agreement"]
            cells = [
                f"{agreement['value']:.0%} ({agreement['low']:.0%} to {agreement['high']:.0%})",
                ", ".join(f"{row['value']:.0%}" for row in found["bins"]),
                share(found["accuracy"]["random"][full]),
                share(found["accuracy"]["random"][by_share]),
                points(found["less_random"]["easy, in its order"][by_share]),
            ]
        lines.append(f"| {name} | " + " | ".join([*cells, minutes]) + " |")
    return "\n".join(lines)


def pretrained(results: dict[str, Any]) -> str:
    """A block of docs/study.md, from the runs that exist."""
    parts = ["### DPO with a pretrained policy"]
    runs, pilot = results["pretrained"], results["pretrained_pilot"]
    if pilot:
        parts += [
            "A pilot on another seed chooses the learning rate, with all labels of a smaller pool: the first one whose accuracy is significantly "
            f"above chance ({share({'mean': above_chance(pilot[0]['judged_on'])})} of {pilot[0]['judged_on']} pairs), or the best one.",
            pilot_table(pilot),
        ]
    if not runs:
        parts.append(
            "No run has finished yet, so nothing is known about pretrained policies. `make study-pretrained` adds runs."
        )
    for kind in KINDS:
        arms = of_kind(runs, kind)
        if not arms:
            continue
        first = next(iter(next(iter(arms.values())).values()))
        settings = first["settings"]
        longer = {seed: run["longer_is_better"] for by_seed in arms.values() for seed, run in by_seed.items()}
        parts += [
            f"**{first['data']}.** {settings['labels']} labels out of {settings['pool']} prompts per arm, {settings['held_out']} held-out pairs, "
            f"at most {settings['max_length']} tokens, learning rate {settings['learning_rate']:g}. The longer response is better in "
            f"{share({'mean': sum(longer.values()) / len(longer)})} of the held-out pairs.",
            runs_table(arms),
        ]
    for kind in KINDS:
        found = results.get(f"embedders_{kind}")
        if found:
            settings = found["settings"]
            what = "prompts" if kind == "candidates" else "pairs"
            parts += [
                f"### Other embedders on {found['data']}",
                f"All embedders read the first {settings['max_length']} tokens of each response, of {found['rows']:,} {what}. The embeddings of the "
                f"policy are the mean of its last hidden layer. *Prompt and response* adds the last {settings['prompt_length']} characters of "
                f"the prompt. The linear model is the one of the annotation curve, over {settings['seeds']} seeds.",
                embedders_table(found),
            ]
    return "\n\n".join(parts) + "\n"
