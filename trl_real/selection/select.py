"""Pick pairs from candidates: `real_select`."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Features, Json, Value
from datasets.arrow_writer import TypedSequence
from datasets.features.features import generate_from_arrow_type

from ..candidates.batch import Candidates, GivenPairs, read_rows
from ..candidates.eligibility import SKIP_REASONS, check_gap
from ..config import SelectionConfig
from ..core.columns import encode_json, is_untouched, read_column, take
from ..core.messages import are_alike, as_json, item_feature, joint_features
from ..core.transform import Transform, TypedList
from .measures import Measures
from .pick import Picks, check_scores, compare, in_order, pick, seed_of
from .similarity import Vectors, vectors_from_arrow


@Transform
def real_select(
    batch: Any,
    rank: int | None = None,
    *,
    strategy: str = SelectionConfig.strategy,
    embedder: Any = SelectionConfig.embedder,
    embedder_max_length: int | None = SelectionConfig.embedder_max_length,
    embedder_batch_size: int = SelectionConfig.embedder_batch_size,
    embedder_dtype: str = SelectionConfig.embedder_dtype,
    strategy_kwargs: dict[str, Any] | None = None,
    pairs_per_prompt: int = SelectionConfig.pairs_per_prompt,
    max_pairs_per_response: int | None = SelectionConfig.max_pairs_per_response,
    min_score_gap: float = SelectionConfig.min_score_gap,
    on_skip: str = SelectionConfig.on_skip,
    selection_seed: int = SelectionConfig.selection_seed,
) -> Any:
    r"""
    Pick the pair(s) of each prompt that are worth a label. For use with `dataset.map(..., batched=True)`.

    Equal responses (after Unicode NFC normalization and `strip()`) are merged. Empty responses are left out and, if there are
    scores, responses without a score as well. Two responses with the same score are never labeled. Picks depend only on the
    responses and their scores, not on the prompt, the order of the responses or the batch.

    Args:
        batch (`dict`):
            Candidates or given pairs. Candidates have the columns `prompt` (text or messages) and `responses` (a list of texts
            or of message lists). Optional columns are `scores` (one number per response, higher is better, `None` if missing)
            and `embeddings` from [`embed_responses`]; without `embeddings`, this function computes them. Given pairs have the
            columns `chosen`, `rejected` and, optionally, `prompt`.
        rank (`int`, *optional*):
            As in [`embed_responses`].
        strategy (`str`, *optional*, defaults to `"easy"`):
            Which pairs to pick, see [`SelectionConfig`]. `"random"`, `"max_min"` and `"chain"` load no
            embedder. `"max_min"`, `"divpo"`, `"dissimilar_gap"` and `"chain"` need `scores`.
        embedder, embedder_max_length, embedder_batch_size, embedder_dtype (*optional*):
            As in [`embed_responses`]. Ignored if there is a column `embeddings`.
        strategy_kwargs (`dict[str, Any]`, *optional*):
            Options of the strategy, see [`SelectionConfig`].
        pairs_per_prompt (`int`, *optional*, defaults to `1`):
            The maximum number of pairs to pick from each prompt, best first.
        max_pairs_per_response (`int`, *optional*):
            The maximum number of pairs of a prompt that have the same response. If `None`, there is no limit.
        min_score_gap (`float`, *optional*, defaults to `0.0`):
            Two responses form a pair only if their scores differ by more than this. Those of given pairs are in
            `score_chosen` and `score_rejected`.
        on_skip (`str`, *optional*, defaults to `"drop"`):
            What to do with a prompt that has no valid pair: `"drop"` it, `"keep"` its row with nulls and a `skip_reason`,
            or raise an `"error"`.
        selection_seed (`int`, *optional*, defaults to `0`):
            Seed of the `"random"` strategy, and of which response an annotator sees on which side.

    Returns:
        `dict`: The batch with one row per pair. Other columns are repeated for each pair of their row.

        - With scores, the columns are `prompt`, `chosen`, `rejected`, `score_chosen`, `score_rejected` and `similarity`
          (cosine, float32, NaN without embeddings).
        - Without scores, they are `prompt`, `response_a`, `response_b`, `similarity` and `pair_id`.
        - Given pairs keep their sides, and get `similarity` and an explicit `prompt`. Pairs with equal, empty or tied sides are
          not valid.

    Raises:
        `ValueError`: If a column is missing, an option is not valid, the strategy needs scores and there are none, the scores
            or embeddings do not match the responses, or, with `on_skip="error"`, a prompt has no valid pair.
        `TypeError`: If a prompt or a response is neither text nor messages, or a score is not a number.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from trl_real import real_select

    >>> dataset = Dataset.from_dict(
    ...     {
    ...         "prompt": ["Is the sea level the same everywhere?"],
    ...         "responses": [["No, it differs.", "No, it is different.", "Fish live in the sea."]],
    ...         "scores": [[0.9, 0.7, 0.1]],
    ...     }
    ... )
    >>> pairs = dataset.map(real_select, batched=True, remove_columns=["responses", "scores"])
    >>> pairs[0]["chosen"], pairs[0]["rejected"]
    ('No, it is different.', 'Fish live in the sea.')
    ```
    """
    config = SelectionConfig(
        strategy=strategy,
        embedder=embedder,
        embedder_max_length=embedder_max_length,
        embedder_batch_size=embedder_batch_size,
        embedder_dtype=embedder_dtype,
        strategy_kwargs=strategy_kwargs,
        pairs_per_prompt=pairs_per_prompt,
        max_pairs_per_response=max_pairs_per_response,
        min_score_gap=min_score_gap,
        on_skip=on_skip,
        selection_seed=selection_seed,
    )
    return select_batch(batch, config, rank)


def select_batch(
    batch: Any,
    config: SelectionConfig,
    rank: int | None = None,
    measures: Measures | None = None,
    pair_embeddings: bool = False,
) -> Any:
    """
    [`real_select`] with its options as one object.

    Args:
        batch, config, rank: As in [`real_select`].
        measures ([`Measures`], *optional*): Collects the measures of all eligible pairs.
        pair_embeddings (`bool`, *optional*, defaults to `False`): Whether to replace `embeddings` by the vectors of the two
            sides, `(2, dim)`.

    Returns:
        `dict`: The batch, one row per pair.
    """
    rows = read_rows(batch, "real_select")
    check_scores(config.strategy, batch)
    check_gap(config.min_score_gap, batch)
    compared = compare(batch, rows, config, rank)
    picks = pick(compared, config, measures)
    reasons = compared.eligible.reasons
    skipped = np.flatnonzero(np.bincount(picks.rows, minlength=len(reasons)) == 0)
    for r in skipped.tolist():
        reason = reasons[r] = reasons[r] or "no_pair_for_strategy"
        if config.on_skip == "error":
            (prompt,) = take(rows.prompts, np.array([r]))
            raise ValueError(
                f"Row {r} of the batch has no valid pair: {SKIP_REASONS[reason]} ({reason}). Its prompt is "
                f"{prompt!r:.80}. Correct the row, or drop such rows with `on_skip='drop'`."
            )
    if config.on_skip == "keep":
        picks = _keep(rows, picks, skipped)
    without_pair = np.array([reasons[r] is not None for r in picks.rows.tolist()], dtype=bool)
    if isinstance(rows, GivenPairs):
        columns, ids = _columns_of_given(rows, picks), None
    else:
        columns, ids = _columns_of_picks(rows, picks, config)
    columns["similarity"] = pa.array(picks.similarity.astype(np.float32), mask=without_pair).to_pylist()
    if ids is not None:
        columns["pair_id"] = ids
    if config.on_skip == "keep" or "skip_reason" in batch:  # an old `skip_reason` does not describe the new pairs
        columns["skip_reason"] = [reasons[r] for r in picks.rows.tolist()]
    if pair_embeddings and compared.vectors is not None:
        columns["embeddings"] = _vectors_of_sides(compared.vectors, picks)
    _write(batch, columns, picks.rows.tolist(), len(reasons))
    return batch


def _keep(rows: Candidates | GivenPairs, picks: Picks, skipped: np.ndarray) -> Picks:
    """Add the rows that have no pair. Given pairs keep their sides."""
    sides = np.full((len(skipped), 2), -1)
    if isinstance(rows, GivenPairs):
        sides = rows.starts[skipped][:, None] + np.arange(2)
    return in_order([picks, Picks(skipped, sides, np.full(sides.shape, np.nan), np.full(len(skipped), np.nan))])


def pair_id(prompt: Any, response_a: Any, response_b: Any) -> str:
    """A hash of the prompt and both responses, 32 hexadecimal digits. It does not depend on the order of the responses."""
    sides = sorted([as_json(response_a), as_json(response_b)])
    return hashlib.sha256("\n".join([as_json(prompt), *sides]).encode()).hexdigest()[:32]


def _columns_of_given(rows: GivenPairs, picks: Picks) -> dict[str, Any]:
    """The columns of given pairs that change."""
    columns: dict[str, Any] = {}
    if rows.rewritten:
        columns["prompt"] = take(rows.prompts, picks.rows)
        for name, side in zip(("chosen", "rejected"), picks.sides.T, strict=True):
            columns[name] = take(rows.responses, side)
    return columns


def _columns_of_picks(
    rows: Candidates, picks: Picks, config: SelectionConfig
) -> tuple[dict[str, Any], list[str | None] | None]:
    """The columns of picked pairs, with nulls in rows without a pair, and the ids of unlabeled pairs."""
    skipped = picks.sides[:, 0] < 0
    first, second = (take(rows.responses, side) for side in picks.sides.T)
    columns: dict[str, Any] = {"prompt": take(rows.prompts, picks.rows)} if rows.rewritten else {}
    if rows.scores is not None:
        columns |= {"chosen": first, "rejected": second}
        for side, scores in zip(("score_chosen", "score_rejected"), picks.scores.T, strict=True):
            columns[side] = pa.array(scores, mask=skipped).to_pylist()
        return columns, None
    pairs = zip(take(rows.prompts, picks.rows), first, second, skipped.tolist(), strict=True)
    ids = [None if skip else pair_id(*pair) for *pair, skip in pairs]
    for n, pair_hash in enumerate(ids):  # a hash decides the side, so that it says nothing about the responses
        if pair_hash is not None and seed_of([pair_hash], config.selection_seed) % 2:
            first[n], second[n] = second[n], first[n]
    return columns | {"response_a": first, "response_b": second}, ids


def _vectors_of_sides(vectors: Vectors, picks: Picks) -> np.ndarray:
    """The vectors of the two sides of each pair, `(n_picks, 2, dim)`."""
    found = vectors.array[vectors.where[picks.sides]].astype(np.float32, copy=False)
    found[picks.sides < 0] = 0.0
    return found


def _write(batch: Any, columns: dict[str, Any], rows: list[int], n: int) -> None:
    """Change the batch of n rows in place, because `datasets` would merge a new dict into the old rows."""
    if rows != list(range(n)):  # the other columns need the same rows
        for name in set(batch) - set(columns):
            values = _embeddings(batch) if name == "embeddings" else read_column(batch, name)
            batch[name] = [values[r] for r in rows]
    if hasattr(batch, "pa_table"):  # a batch of `Dataset.map`, which writes Arrow, unlike a stream
        features = batch.formatter.features or Features.from_arrow_schema(batch.pa_table.schema)
        came_as_json = {name: feature for name, feature in features.items() if isinstance(feature, Json)}
        schema = Features(pair_features(features) | came_as_json).arrow_schema
        columns = {
            name: values
            if isinstance(values, np.ndarray)
            else _TypedList((encode_json(value, features.get(name)) for value in values), schema.field(name).type)
            for name, values in columns.items()
        }
    for name, values in columns.items():
        batch[name] = values


def _embeddings(batch: Any) -> Any:
    """The column `embeddings`, one item per row: an array if possible, else Python numbers."""
    if not is_untouched(batch, "embeddings"):
        return batch["embeddings"]
    counts, array = vectors_from_arrow(batch.pa_table["embeddings"].combine_chunks())
    return np.split(array, np.cumsum(counts))[:-1]


class _TypedList(TypedList):
    """
    A column that `Dataset.map` writes with a fixed Arrow type.

    Otherwise `datasets` would infer the type from the first batch. It would be null if all prompts of that batch are skipped,
    and could lack keys that only later messages have.
    """

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        if "json" in str(self.arrow_type):  # `datasets.Json`, which is encoded already
            return pa.array(TypedSequence(list(self), type=generate_from_arrow_type(self.arrow_type)))
        return pa.array(list(self), type=type or self.arrow_type)


def pair_features(features: Features) -> Features:
    """The features of the output of [`real_select`] for rows with `features`, including `skip_reason`."""
    out = Features(features)
    given = "chosen" in features and "rejected" in features
    if given:
        names, sides = ("chosen", "rejected"), [features["chosen"], features["rejected"]]
        prompt = features.get("prompt", features["chosen"])
    else:
        names = ("chosen", "rejected") if "scores" in features else ("response_a", "response_b")
        sides, prompt = [item_feature(features["responses"])] * 2, features["prompt"]
    if "prompt" not in features or not are_alike([prompt, *sides]):
        prompt, sides = joint_features(prompt, sides)
    out["prompt"] = prompt
    out.update(zip(names, sides, strict=True))
    if not given and "scores" in features:
        out["score_chosen"] = out["score_rejected"] = Value("float64")
    out["similarity"] = Value("float32")
    if not given and "scores" not in features:
        out["pair_id"] = Value("string")
    out["skip_reason"] = Value("string")
    return out
