"""Simulate labeling in rounds on candidates with scores, before anyone labels: `simulate_labeling`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.model_selection import GroupShuffleSplit

from ..candidates.conversion import ConvertedPairs, convert
from ..config import EmbedderOptions, SelectionConfig
from ..core.checks import check_count, check_number
from ..embedding.embed import embed
from ..selection.budget import prompt_numbers
from ..selection.select import pair_id, real_select
from ..selection.similarity import pair_differences
from .label_log import LabelRecord
from .pool import Pool
from .preference_model import fit
from .progress import expected_gain, judge
from .progress_report import LEAST_GAIN, MIN_LABELS, LabelProgress
from .rounds import check_audit, check_round_strategy, drawn_at_random, pick_round
from .simulation_report import LabelingSimulation, SimulatedRound


HELD_OUT = 0.25
# Pairs per held-out prompt: more pairs of the same prompt add little information.
HELD_OUT_PAIRS = 5
MIN_PROMPTS = 40


def simulate_labeling(
    candidates: Dataset,
    strategies: Sequence[str] = ("random",),
    annotators: float = 0.2,
    seeds: int = 10,
    *,
    n: int = 50,
    audit: float = 0.2,
    pairs_per_prompt: int = 1,
    embedder: Any = SelectionConfig.embedder,
    embedder_max_length: int | None = SelectionConfig.embedder_max_length,
    embedder_batch_size: int = SelectionConfig.embedder_batch_size,
    embedder_dtype: str = SelectionConfig.embedder_dtype,
) -> LabelingSimulation:
    r"""
    Simulate labeling in rounds on a sample with scores, before anyone labels.

    For each seed, the simulation holds out a quarter of the prompts, draws pairs from the other prompts, simulates annotators, and
    labels round by round, with pairs from [`next_pairs`]. After each round, a linear preference model is trained on the labels so
    far and evaluated on pairs of the held-out prompts, whose labels come directly from the scores. The stopping rule of
    [`label_progress`] then decides whether to stop.

    Args:
        candidates ([`~datasets.Dataset`]):
            Candidates with scores, in any layout that [`to_candidates`] recognizes, or labeled pairs. The labels of labeled pairs
            are used as they are, both for training and for evaluation. `embeddings` from [`embed_responses`] are used if present.
        strategies (`list[str]`, *optional*, defaults to `("random",)`):
            Strategies of [`next_pairs`] to compare. `"random"` is always included.
        annotators (`float`, *optional*, defaults to `0.2`):
            Error rate of the simulated annotators on random pairs, below 0.5. They err more often the closer the scores are
            (Bradley-Terry). 0 simulates annotators without errors.
        seeds (`int`, *optional*, defaults to `10`):
            Number of simulations per strategy, at least 2.
        n (`int`, *optional*, defaults to `50`):
            Number of pairs per round.
        audit (`float`, *optional*, defaults to `0.2`):
            The share of each round that is randomly sampled, as in [`next_pairs`].
        pairs_per_prompt (`int`, *optional*, defaults to `1`):
            Number of random pairs per prompt to label.
        embedder, embedder_max_length, embedder_batch_size, embedder_dtype (*optional*):
            As in [`embed_responses`].

    Returns:
        [`LabelingSimulation`]: For each strategy the accuracy after each round, the number of labels at the stop and the accuracy
        lost by stopping; and the `recommended` strategy.

    Raises:
        `TypeError`: If `candidates` is not a [`~datasets.Dataset`].
        `ValueError`: If there are neither scores nor labels, there are fewer than 40 prompts with a pair, or an option is not
            valid.

    Example:

    ```python
    >>> from trl_real import load_sample, simulate_labeling

    >>> simulation = simulate_labeling(load_sample(), seeds=2, n=20)
    >>> simulation.recommended
    'random'
    ```
    """
    if not isinstance(candidates, Dataset):
        raise TypeError(f"`simulate_labeling` needs a `datasets.Dataset`, got {type(candidates).__name__}.")
    for strategy in strategies:
        check_round_strategy(strategy)
    check_number("annotators", annotators, 0, 0.49)
    check_count("n", n)
    check_audit(audit)
    check_count("pairs_per_prompt", pairs_per_prompt)
    check_count("seeds", seeds)
    if seeds < 2:
        raise ValueError(f"`seeds` must be at least 2 for an interval, got {seeds}.")
    config = SelectionConfig(
        embedder=embedder,
        embedder_max_length=embedder_max_length,
        embedder_batch_size=embedder_batch_size,
        embedder_dtype=embedder_dtype,
    )
    rows = _embedded(candidates, config.embedder_options)
    noise = _temperature(rows, annotators) if "scores" in rows.column_names and annotators else 0.0
    played: dict[str, list[list[SimulatedRound]]] = {name: [] for name in dict.fromkeys(["random", *strategies])}
    for seed in range(seeds):
        train, held_out = _split(rows, seed)
        gold = pair_differences(_pairs(held_out, seed, HELD_OUT_PAIRS))
        pool = labeled_pool(_pairs(_annotate(train, noise, seed), seed, pairs_per_prompt), seed)
        for name, of_strategy in played.items():
            of_strategy.append(play(pool, gold, name, n, audit))
    return LabelingSimulation.of(played, pairs=len(pool.rows), held_out=HELD_OUT)


def play(pool: Pool, held_out: np.ndarray, strategy: str, n: int = 50, audit: float = 0.2) -> list[SimulatedRound]:
    """
    Label a pool round by round until every pair has a label.

    Args:
        pool ([`Pool`]): Pairs whose correct label is `"a"`. Earlier decisions about them are discarded.
        held_out (`np.ndarray` of shape `(n_held_out, dim)`): The embedding of the better response minus that of the worse one.
        strategy, n, audit: As in [`next_pairs`].
    """
    pool.records = [[] for _ in pool.records]
    rounds = []
    while pool.is_open().any():
        drawn, picked, _ = pick_round(pool, n, strategy, audit)
        for pair in (*drawn.tolist(), *picked.tolist()):
            pool.records[pair] = [LabelRecord(pair, "a")]
        labeled = pool.decided
        model = fit(pool.difference[labeled].astype(np.float64), *pool.votes(labeled))
        logits = model.logits(held_out)
        gain = expected_gain(model, pool, labeled)
        stop = _stops(pool, drawn_at_random(pool, labeled, strategy), gain)
        rounds.append(SimulatedRound(len(labeled), float((logits > 0).mean() + (logits == 0).mean() / 2), gain, stop))
    return rounds


def _stops(pool: Pool, drawn: np.ndarray, gain: float) -> bool:
    """Whether [`LabelProgress`] would recommend to stop."""
    decided = pool.decided
    progress = LabelProgress(len(pool.rows), len(decided), len(decided), 0, 0, 1, len(drawn), gain_all=gain)
    if (
        len(drawn) >= MIN_LABELS and gain < LEAST_GAIN
    ):  # otherwise the agreement, which is slow to compute, has no effect
        progress.agreement = judge(pool, decided, drawn)[0]
    return progress.stop is True


def labeled_pool(pairs: Dataset, seed: int) -> Pool:
    """A pool of labeled pairs, with the chosen response as `response_a`."""
    ids = [
        pair_id(row["prompt"], row["chosen"], row["rejected"])
        for row in pairs.select_columns(["prompt", "chosen", "rejected"])
    ]
    kept = ["prompt", "chosen", "rejected", *({"responses", "embeddings"} & {*pairs.column_names})]
    pairs = pairs.select_columns(kept).rename_columns({"chosen": "response_a", "rejected": "response_b"})
    return Pool.of(pairs.add_column("pair_id", ids), None, seed, EmbedderOptions())


def _embedded(candidates: Dataset, options: EmbedderOptions) -> Dataset:
    """Candidates with scores, or labeled pairs, with `embeddings`."""
    converted = convert(candidates)
    rows = converted.dataset
    if not converted.labeled:
        raise ValueError(
            "`simulate_labeling` needs a labeled sample: `responses` and `scores`, or `chosen` and `rejected`. Found: "
            f"{rows.column_names}."
        )
    if isinstance(converted, ConvertedPairs):
        rows = rows.remove_columns(list({"responses", "scores"} & {*rows.column_names}))
    if "embeddings" not in rows.column_names:
        rows, _ = embed(rows, options)
    usable = _pairs(rows, 0, 1)
    n_prompts = len(np.unique(prompt_numbers(usable))) if len(usable) else 0
    if n_prompts < MIN_PROMPTS:
        raise ValueError(f"`simulate_labeling` needs at least {MIN_PROMPTS} prompts with a pair, found {n_prompts}.")
    return rows


def _split(rows: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Split the rows into training and held-out rows. All rows of a prompt are in the same split."""
    prompts = prompt_numbers(rows)
    splits = GroupShuffleSplit(1, test_size=HELD_OUT, random_state=seed).split(prompts, groups=prompts)
    train, held_out = next(splits)
    return rows.select(train), rows.select(held_out)


def _pairs(rows: Dataset, seed: int, pairs_per_prompt: int) -> Dataset:
    """Random pairs of candidates, or the given pairs, with their embeddings."""
    options = {"strategy": "random", "selection_seed": seed, "pairs_per_prompt": pairs_per_prompt}
    return rows.map(real_select, batched=True, fn_kwargs=options, keep_in_memory=True, desc="Pairing responses")


def _temperature(rows: Dataset, error: float) -> float:
    """The temperature of Bradley-Terry annotators who prefer the worse response of a random pair with probability `error`."""
    gaps = []
    for scores in rows["scores"]:
        known = np.array([score for score in scores or [] if score is not None], dtype=np.float64)
        gap = np.abs(known[:, None] - known)[np.triu_indices(len(known), 1)]
        gaps.append(gap[(gap > 0) & np.isfinite(gap)])
    gap = np.concatenate(gaps)
    scale = float(gap.mean())
    return float(brentq(lambda t: expit(-gap / t).mean() - error, 1e-6 * scale, 1e6 * scale))


def _annotate(rows: Dataset, noise: float, seed: int) -> Dataset:
    """The scores as annotators see them: with Gumbel noise, so that they compare as in the Bradley-Terry model."""
    if not noise:
        return rows
    rng = np.random.default_rng(seed)
    seen = [
        [None if score is None else score + rng.gumbel(scale=noise) for score in row["scores"] or []]
        for row in rows.select_columns(["scores"])
    ]
    return rows.remove_columns("scores").add_column("scores", seen)
