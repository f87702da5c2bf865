"""The real text of the study, each response embedded once: candidates with scores, and pairs that people have labeled."""

import hashlib
from pathlib import Path

import numpy as np
from datasets import Dataset, load_dataset
from scipy.optimize import brentq
from scipy.special import expit

from trl_real import embed_responses, load_sample, to_candidates
from trl_real.config import DEFAULT_EMBEDDER


COLUMNS = ("prompt", "responses", "scores", "chosen", "rejected", "embeddings")
MAX_LENGTH = 256
HELD_OUT = 0.25
SHARE = 0.35  # of the labels: 65% fewer, as in the paper
ERROR = 0.2  # of the simulated annotators
# The scores of AlpacaEval are chances to win against a baseline, given in millionths.
LEAST_CHANCE = 1e-6
TURN = "\n\nAssistant:"  # what ends a turn of a person in HH-RLHF


def load_candidates(
    folder: str | None, least_chance: float = LEAST_CHANCE, embedder: str = DEFAULT_EMBEDDER
) -> tuple[str, Dataset]:
    """
    AlpacaEval, or the sample of the package: columns `prompt`, `responses`, `scores` and `embeddings`. A difference of 1 in
    score is odds of e to be the better response; chances below `least_chance` are equal, and never form a pair.
    """
    if folder is None:
        rows = load_sample()
        return "sample", _embed(to_candidates(rows), embedder)
    rows = load_dataset("json", data_files=str(Path(folder) / "alpaca_eval_candidates.jsonl.gz"), split="train")
    return "AlpacaEval", _embed(to_candidates(rows), embedder).map(
        _log_odds, batched=True, fn_kwargs={"least_chance": least_chance}
    )


def load_pairs(folder: str) -> tuple[str, Dataset]:
    """HH-RLHF harmless: columns `prompt`, `chosen`, `rejected` and `embeddings`."""
    rows = load_dataset("json", data_files=str(Path(folder) / "hh_rlhf_harmless.jsonl.gz"), split="train")
    return "HH-RLHF", _embed(to_candidates(rows))


def _embed(rows: Dataset, embedder: str = DEFAULT_EMBEDDER) -> Dataset:
    options = {"embedder": embedder, "embedder_max_length": MAX_LENGTH}
    rows = rows.map(embed_responses, batched=True, fn_kwargs=options)
    return rows.select_columns([name for name in rows.column_names if name in COLUMNS])


def _log_odds(batch: dict[str, list], least_chance: float) -> dict[str, list]:
    chances = [np.clip(scores, least_chance, 1 - least_chance) for scores in batch["scores"]]
    batch["scores"] = [np.log(chance / (1 - chance)) for chance in chances]
    return batch


def split(rows: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Training and held-out rows; all rows whose prompt begins with the same turn are on one side."""
    drawn = [_drawn(prompt.split(TURN)[0], seed) for prompt in rows["prompt"]]
    edge = np.quantile(drawn, 1 - HELD_OUT)
    return rows.select(np.flatnonzero(drawn <= edge)), rows.select(np.flatnonzero(drawn > edge))


def _drawn(prompt: str, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=6, salt=seed.to_bytes(8, "little")).digest())


def gaps(rows: Dataset) -> list[np.ndarray]:
    """The score of one response less that of the other, of all pairs of each prompt that are not tied."""
    found = []
    for scores in rows["scores"]:
        first, second = np.triu_indices(len(scores), 1)
        gap = np.take(scores, first) - np.take(scores, second)
        found.append(gap[gap != 0])
    return found


def temperature(rows: Dataset) -> float:
    """How noisy annotators are who take the worse response of a random pair for the better one in the share `ERROR`."""
    gap = np.abs(np.concatenate(gaps(rows)))
    return float(brentq(lambda t: expit(-gap / t).mean() - ERROR, 1e-3, 1e3))


def annotate(rows: Dataset, annotator: str, noise: float, seed: int) -> Dataset:
    """
    The scores as a simulated annotator sees them: as they are (`"exact"`), or (`"by gap"`) with Gumbel noise, so that the better
    response of a pair is taken for the worse one with the chance `1 / (1 + exp(gap / noise))`, the Bradley-Terry model.
    """
    if annotator == "exact":
        return rows
    rng = np.random.default_rng(seed)
    seen = [np.asarray(scores) + rng.gumbel(scale=noise, size=len(scores)) for scores in rows["scores"]]
    return rows.remove_columns("scores").add_column("scores", [list(scores) for scores in seen])
