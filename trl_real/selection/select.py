"""From candidates to pairs: `real_select`."""

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
    min_score_gap: float = SelectionConfig.min_score_gap,
    on_skip: str = SelectionConfig.on_skip,
    selection_seed: int = SelectionConfig.selection_seed,
) -> Any:
    r"""
    Pick the pair(s) of each prompt that are worth a label. For `dataset.map(..., batched=True)`.

    Responses that are equal (after Unicode NFC and `strip()`) merge, empty ones and, where there are scores, those
    without one are left out. Ties in score are never labeled. Picks depend on the responses and their scores alone: not on
    the prompt, the order of the responses, or the batch.

    Args:
        batch (`dict`):
            Columns `prompt` (text or messages) and `responses` (a list of texts or of message lists), optionally
            `scores` (one number a response, higher is better, None where missing) and `embeddings` (from
            [`embed_responses`]; computed here otherwise). Or given pairs: `chosen`, `rejected`, optionally `prompt`.
        rank (`int`, *optional*):
            As in [`embed_responses`].
        strategy (`str`, *optional*, defaults to `"easy"`):
            Which pairs to pick, see [`SelectionConfig`]. `"random"` and `"max_min"` load no embedder; `"max_min"`,
            `"divpo"` and `"dissimilar_gap"` need `scores`.
        embedder, embedder_max_length, embedder_batch_size, embedder_dtype (*optional*):
            As in [`embed_responses`]; unused if there is a column `embeddings`.
        strategy_kwargs (`dict[str, Any]`, *optional*):
            Options of the strategy, see [`SelectionConfig`].
        pairs_per_prompt (`int`, *optional*, defaults to `1`):
            How many pairs to pick from each prompt, at most, the best first.
        min_score_gap (`float`, *optional*, defaults to `0.0`):
            Two responses form a pair only if their scores differ by more than this. Those of given pairs are in
            `score_chosen` and `score_rejected`.
        on_skip (`str`, *optional*, defaults to `"drop"`):
            What happens to a prompt without a valid pair: `"drop"` it, `"keep"` its row with nulls and a `skip_reason`,
            or `"error"`.
        selection_seed (`int`, *optional*, defaults to `0`):
            Seed of `"random"`, and of the side on which an annotator sees a response.

    Returns:
        `dict`: The batch, one row a pair, every other column repeated along with its row. With scores: `prompt`,
        `chosen`, `rejected`, `score_chosen`, `score_rejected` and `similarity` (cosine, float32, NaN if nothing was
        embedded). Without: `prompt`, `response_a`, `response_b`, `similarity` and `pair_id`. Given pairs keep their
        sides and get an explicit `prompt` and `similarity`; those whose sides are equal, empty or tied are no valid pairs.

    Raises:
        `ValueError`: If the columns or an option are not known, the strategy needs scores and there are none, scores or
            embeddings do not match the responses, or, with `on_skip="error"`, a prompt has no valid pair.
        `TypeError`: If a prompt or a response is neither text nor messages, or a score is no number.

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
        measures ([`Measures`], *optional*): What to add the measures of all pairs to that could have been picked.
        pair_embeddings (`bool`, *optional*, defaults to `False`): Whether `embeddings` becomes the vectors of both sides, `(2, dim)`.

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
                f"{prompt!r:.80}. Mend the row, or drop such rows with `on_skip='drop'`."
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
    if config.on_skip == "keep" or "skip_reason" in batch:  # which would say of a pair that it is none
        columns["skip_reason"] = [reasons[r] for r in picks.rows.tolist()]
    if pair_embeddings and compared.vectors is not None:
        columns["embeddings"] = _vectors_of_sides(compared.vectors, picks)
    _write(batch, columns, picks.rows.tolist(), len(reasons))
    return batch


def _keep(rows: Candidates | GivenPairs, picks: Picks, skipped: np.ndarray) -> Picks:
    """Add the rows without a pair; given pairs keep their sides."""
    sides = np.full((len(skipped), 2), -1)
    if isinstance(rows, GivenPairs):
        sides = rows.starts[skipped][:, None] + np.arange(2)
    return in_order([picks, Picks(skipped, sides, np.full(sides.shape, np.nan), np.full(len(skipped), np.nan))])


def pair_id(prompt: Any, response_a: Any, response_b: Any) -> str:
    """A hash of the prompt and both responses, 32 hexadecimal digits, the same whichever side a response is on."""
    sides = sorted([as_json(response_a), as_json(response_b)])
    return hashlib.sha256("\n".join([as_json(prompt), *sides]).encode()).hexdigest()[:32]


def _columns_of_given(rows: GivenPairs, picks: Picks) -> dict[str, Any]:
    """The columns that change where pairs were given."""
    columns: dict[str, Any] = {}
    if rows.rewritten:
        columns["prompt"] = take(rows.prompts, picks.rows)
        for name, side in zip(("chosen", "rejected"), picks.sides.T, strict=True):
            columns[name] = take(rows.responses, side)
    return columns


def _columns_of_picks(
    rows: Candidates, picks: Picks, config: SelectionConfig
) -> tuple[dict[str, Any], list[str | None] | None]:
    """The columns of picked pairs, with nulls in rows that are kept without one; and, of unlabeled pairs, their ids."""
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
    for n, pair_hash in enumerate(ids):  # by a hash, so that nobody knows which text comes first
        if pair_hash is not None and seed_of([pair_hash], config.selection_seed) % 2:
            first[n], second[n] = second[n], first[n]
    return columns | {"response_a": first, "response_b": second}, ids


def _vectors_of_sides(vectors: Vectors, picks: Picks) -> np.ndarray:
    """The vectors of both sides of each pair, `(n_picks, 2, dim)`; of given pairs they are there already."""
    found = vectors.array[vectors.where[picks.sides]].astype(np.float32, copy=False)
    found[picks.sides < 0] = 0.0
    return found


def _write(batch: Any, columns: dict[str, Any], rows: list[int], n: int) -> None:
    """Change the batch of n rows in place, since `datasets` would merge a new dict into the old rows."""
    if rows != list(range(n)):  # the columns that only ride along, too
        for name in set(batch) - set(columns):
            values = _embeddings(batch) if name == "embeddings" else read_column(batch, name)
            batch[name] = [values[r] for r in rows]
    if hasattr(batch, "pa_table"):  # from `Dataset.map`, which writes Arrow; a stream does not
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
    """The column `embeddings` row by row, as arrays rather than as Python numbers where that is possible."""
    if not is_untouched(batch, "embeddings"):
        return batch["embeddings"]
    counts, array = vectors_from_arrow(batch.pa_table["embeddings"].combine_chunks())
    return np.split(array, np.cumsum(counts))[:-1]


class _TypedList(TypedList):
    """
    A column that `Dataset.map` writes with its Arrow type.

    Without it the type would come from the first batch, whatever that happens to hold: null where all its prompts are
    skipped, messages with fewer keys than later ones have.
    """

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        if "json" in str(self.arrow_type):  # `datasets.Json`, which is encoded already
            return pa.array(TypedSequence(list(self), type=generate_from_arrow_type(self.arrow_type)))
        return pa.array(list(self), type=type or self.arrow_type)


def pair_features(features: Features) -> Features:
    """The features of what [`real_select`] makes of rows with `features`, with `skip_reason`."""
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
