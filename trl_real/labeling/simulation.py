"""Labeling in rounds played through on candidates that have scores, before anyone labels: `simulate_labeling`."""

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
# Pairs of a held-out prompt: more of them say little that is new.
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
    Play labeling in rounds through on a sample with scores, before anyone labels.

    Each seed holds out a quarter of the prompts, draws pairs of the others and other annotators, and labels round after round as
    [`next_pairs`] says. A linear preference model of the labels so far is judged on pairs of the prompts that were held out, which are
    labeled by the scores themselves. Every round [`label_progress`]'s rule says whether to stop.

    Args:
        candidates ([`~datasets.Dataset`]):
            Candidates with scores in any layout that [`to_candidates`] knows; or labeled pairs, whose labels are then played back, for
            training and for judging. `embeddings` from [`embed_responses`] are used if there are any.
        strategies (`list[str]`, *optional*, defaults to `("random",)`):
            Strategies of [`next_pairs`]; `"random"` is always among them.
        annotators (`float`, *optional*, defaults to `0.2`):
            How often simulated annotators take the worse response of a random pair for the better one, below 0.5: the more often, the
            closer the scores are (Bradley-Terry). 0 for annotators who never err.
        seeds (`int`, *optional*, defaults to `10`):
            How many times it is played, at least 2.
        n (`int`, *optional*, defaults to `50`):
            How many pairs a round has.
        audit (`float`, *optional*, defaults to `0.2`):
            The share of a round that is drawn at random, as in [`next_pairs`].
        pairs_per_prompt (`int`, *optional*, defaults to `1`):
            How many random pairs of each prompt there are to label.
        embedder, embedder_max_length, embedder_batch_size, embedder_dtype (*optional*):
            As in [`embed_responses`].

    Returns:
        [`LabelingSimulation`]: Curves by strategy, how many labels there are at the stop and what is lost by it, and `recommended`.

    Raises:
        `TypeError`: If `candidates` is no [`~datasets.Dataset`].
        `ValueError`: If there are neither scores nor labels, fewer than 40 prompts with a pair, or an option is not valid.

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
    Label a pool round after round, until all of it is labeled.

    Args:
        pool ([`Pool`]): Pairs whose label is `"a"`; what has been decided about them is forgotten.
        held_out (`np.ndarray` of shape `(n_held_out, dim)`): The embedding of the better response less that of the worse one.
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
    """Whether [`LabelProgress`] would say stop."""
    decided = pool.decided
    progress = LabelProgress(len(pool.rows), len(decided), len(decided), 0, 0, 1, len(drawn), gain_all=gain)
    if len(drawn) >= MIN_LABELS and gain < LEAST_GAIN:  # else the agreement, which takes time, does not matter
        progress.agreement = judge(pool, decided, drawn)[0]
    return progress.stop is True


def labeled_pool(pairs: Dataset, seed: int) -> Pool:
    """A pool of labeled pairs, of which `response_a` is the chosen one."""
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
            "`simulate_labeling` needs a sample that is labeled: `responses` and `scores`, or `chosen` and `rejected`. Found: "
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
    """Rows to label and rows to judge by; all rows of a prompt are on one side."""
    prompts = prompt_numbers(rows)
    splits = GroupShuffleSplit(1, test_size=HELD_OUT, random_state=seed).split(prompts, groups=prompts)
    train, held_out = next(splits)
    return rows.select(train), rows.select(held_out)


def _pairs(rows: Dataset, seed: int, pairs_per_prompt: int) -> Dataset:
    """Random pairs of candidates, or the given pairs, with their embeddings."""
    options = {"strategy": "random", "selection_seed": seed, "pairs_per_prompt": pairs_per_prompt}
    return rows.map(real_select, batched=True, fn_kwargs=options, keep_in_memory=True, desc="Pairing responses")


def _temperature(rows: Dataset, error: float) -> float:
    """How noisy annotators are who take the worse response of a random pair for the better one in the share `error`."""
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
