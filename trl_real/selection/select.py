"""From candidates to pairs: `real_select`."""

import hashlib
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Features, Value

from ..candidates.batch import Candidates, read_candidates, side_names
from ..candidates.eligibility import SKIP_REASONS, Eligible, eligible_responses
from ..config import SelectionConfig
from ..core.columns import is_untouched, read_column, take
from ..core.messages import as_json, item_feature, joint_features
from ..core.transform import Transform, TypedList
from ..strategies import STRATEGIES, pick_pairs
from .similarity import Vectors, cosines, embed_eligible, group_prompts, read_vectors, vectors_from_arrow


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
    without one are left out. Ties in score are never labelled. Picks depend on the responses and their scores alone: not on
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
            Two responses form a pair only if their scores differ by more than this.
        on_skip (`str`, *optional*, defaults to `"drop"`):
            What happens to a prompt without a valid pair: `"drop"` it, `"keep"` its row with nulls and a `skip_reason`,
            or `"error"`.
        selection_seed (`int`, *optional*, defaults to `0`):
            Seed of `"random"`, and of the side on which an annotator sees a response.

    Returns:
        `dict`: The batch, one row a pair, every other column repeated along with its row. With scores: `prompt`,
        `chosen`, `rejected`, `score_chosen`, `score_rejected` and `similarity` (cosine, float32, NaN if nothing was
        embedded). Without: `prompt`, `response_a`, `response_b`, `similarity` and `pair_id`. Given pairs keep their
        sides and get an explicit `prompt` and `similarity`.

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
    SelectionConfig(
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
    candidates = read_candidates(batch, "real_select")
    check_scores(strategy, batch)
    eligible = eligible_responses(candidates, min_score_gap)
    vectors = None
    # The vectors of given pairs are those of both sides, not of the responses that they may have been picked from.
    if "embeddings" in batch and not (candidates.given_pairs and "responses" in batch):
        vectors = read_vectors(batch, candidates, eligible)
    elif STRATEGIES[strategy].needs("similarity"):
        vectors = embed_eligible(
            candidates, eligible, embedder, embedder_max_length, embedder_batch_size, embedder_dtype, rank
        )

    picks = _pick(
        candidates, eligible, vectors, min_score_gap, strategy, strategy_kwargs, pairs_per_prompt, selection_seed
    )
    reasons = eligible.reasons
    skipped = np.flatnonzero(np.bincount(picks.rows, minlength=len(reasons)) == 0)
    for r in skipped.tolist():
        reason = reasons[r] = reasons[r] or "no_pair_for_strategy"
        if on_skip == "error":
            (prompt,) = take(candidates.prompts, np.array([r]))
            raise ValueError(
                f"Row {r} of the batch has no valid pair: {SKIP_REASONS[reason]} ({reason}). Its prompt is "
                f"{prompt!r:.80}. Mend the row, or drop such rows with `on_skip='drop'`."
            )
    if on_skip == "keep":
        picks = _keep(candidates, picks, skipped)
    with_reason = on_skip == "keep" or "skip_reason" in batch  # which would say of a pair that it is none
    _write(batch, candidates, picks, reasons, selection_seed, with_reason)
    return batch


def check_scores(strategy: str, columns: Collection[str]) -> None:
    """Raise if a strategy needs scores to pick from `responses` and there are none."""
    if STRATEGIES[strategy].needs("scores") and not {"chosen", "scores"} & set(columns):
        without = [name for name, row in STRATEGIES.items() if not row.needs("scores")]
        raise ValueError(
            f"The strategy {strategy!r} needs the column `scores`, one number a response. Found: {sorted(columns)}. Add it, "
            f"or choose one of {without}."
        )


class Picks(NamedTuple):
    """
    Picked pairs, in the order of their rows and those of a row the best first.

    Attributes:
        rows (`np.ndarray` of shape `(n,)`): The row of the batch that each comes from.
        sides (`np.ndarray` of shape `(n, 2)`): Where both responses stand in `Candidates.responses`, the one with the
            higher score first; -1 in a row that is kept without a pair.
        scores (`np.ndarray` of shape `(n, 2)`): The scores of both; NaN without scores.
        similarity (`np.ndarray` of shape `(n,)`): Their cosine; NaN without embeddings.
    """

    rows: np.ndarray
    sides: np.ndarray
    scores: np.ndarray
    similarity: np.ndarray


def _in_order(parts: list[Picks]) -> Picks:
    none = Picks(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros((0, 2)), np.zeros(0))
    rows, *others = (np.concatenate(arrays) for arrays in zip(none, *parts, strict=True))
    order = np.argsort(rows, kind="stable")
    return Picks(rows[order], *(array[order] for array in others))


def _pick(
    candidates: Candidates,
    eligible: Eligible,
    vectors: Vectors | None,
    min_score_gap: float,
    strategy: str,
    strategy_kwargs: dict[str, Any] | None,
    pairs_per_prompt: int,
    selection_seed: int,
) -> Picks:
    """Pick the pairs of each prompt, and label them by their scores."""
    parts = []
    # By the seed and by nothing else: then only the picked pairs are compared.
    by_seed = STRATEGIES[strategy].needs("seeds") and not candidates.given_pairs
    for group in group_prompts(eligible, None if by_seed else vectors, min_score_gap):
        k, seeds = group.positions.shape[1], None
        if by_seed:
            texts = take(candidates.texts, group.positions.ravel())
            rows = (texts[start : start + k] for start in range(0, len(texts), k))
            seeds = np.array([_seed(row, selection_seed) for row in rows], dtype=np.uint64)
        if candidates.given_pairs:
            pairs = np.zeros((len(group.rows), 1), dtype=np.int64)
        else:
            pairs = pick_pairs(
                strategy,
                group.similarity,
                group.may_pair,
                pairs_per_prompt,
                scores=group.scores,
                seeds=seeds,
                **(strategy_kwargs or {}),
            )
        prompt, rank = np.nonzero(pairs >= 0)
        pair = np.column_stack(np.triu_indices(k, 1))[pairs[prompt, rank]]  # (n_picks, 2)
        scores = np.full(pair.shape, np.nan)
        if group.scores is not None:
            scores = group.scores[prompt[:, None], pair]
            turned = scores[:, 0] < scores[:, 1]
            pair[turned], scores[turned] = pair[turned, ::-1], scores[turned, ::-1]
        sides, similarity = group.positions[prompt[:, None], pair], group.similarity[prompt, pair[:, 0], pair[:, 1]]
        if by_seed and vectors is not None:
            similarity = cosines(vectors, sides)[:, 0, 1]
        parts.append(Picks(group.rows[prompt], sides, scores, similarity))
    return _in_order(parts)


def _keep(candidates: Candidates, picks: Picks, skipped: np.ndarray) -> Picks:
    """Add the rows without a pair; given pairs keep their sides."""
    sides = np.full((len(skipped), 2), -1)
    if candidates.given_pairs:
        sides = candidates.starts[skipped][:, None] + np.arange(2)
    return _in_order([picks, Picks(skipped, sides, np.full(sides.shape, np.nan), np.full(len(skipped), np.nan))])


def pair_id(prompt: Any, response_a: Any, response_b: Any) -> str:
    """A hash of the prompt and both responses, 32 hexadecimal digits, the same whichever side a response is on."""
    sides = sorted([as_json(response_a), as_json(response_b)])
    return hashlib.sha256("\n".join([as_json(prompt), *sides]).encode()).hexdigest()[:32]


def _seed(texts: list[str], selection_seed: int) -> int:
    """The seed of a prompt: a hash of the texts of its responses, in their order, and of the seed of the selection."""
    digest = hashlib.blake2b(str(selection_seed).encode(), digest_size=8)
    for text in texts:
        content = text.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return int.from_bytes(digest.digest(), "little")


def _write(
    batch: Any,
    candidates: Candidates,
    picks: Picks,
    reasons: list[str | None],
    selection_seed: int,
    with_reason: bool,
) -> None:
    """Change the batch in place, since `datasets` would merge a new dict into the old rows."""
    rows = picks.rows.tolist()
    skipped = np.array([reasons[r] is not None for r in rows], dtype=bool)
    first, second = (take(candidates.responses, side) for side in picks.sides.T)
    columns: dict[str, list[Any]] = {}
    if candidates.rewritten:
        columns["prompt"] = take(candidates.prompts, picks.rows)
    if candidates.rewritten or not candidates.given_pairs:
        columns.update(zip(candidates.sides, (first, second), strict=True))
    if candidates.scores is not None:
        for name, scores in zip(("score_chosen", "score_rejected"), picks.scores.T, strict=True):
            columns[name] = pa.array(scores, mask=skipped).to_pylist()
    columns["similarity"] = pa.array(picks.similarity.astype(np.float32), mask=skipped).to_pylist()
    if candidates.sides == ("response_a", "response_b"):
        pairs = zip(take(candidates.prompts, picks.rows), first, second, skipped.tolist(), strict=True)
        columns["pair_id"] = [None if skip else pair_id(*pair) for *pair, skip in pairs]
        for n, name in enumerate(columns["pair_id"]):
            if name is not None and _seed([name], selection_seed) % 2:  # so that nobody knows which text comes first
                first[n], second[n] = second[n], first[n]
    if with_reason:
        columns["skip_reason"] = [reasons[r] for r in rows]

    if rows != list(range(len(reasons))):  # the columns that only ride along, too
        for name in set(batch) - set(columns):
            values = _embeddings(batch) if name == "embeddings" else read_column(batch, name)
            batch[name] = [values[r] for r in rows]
    if hasattr(batch, "pa_table"):  # from `Dataset.map`, which writes Arrow; a stream does not
        features = batch.formatter.features or Features.from_arrow_schema(batch.pa_table.schema)
        schema = pair_features(features, candidates.given_pairs, candidates.scores is not None).arrow_schema
        columns = {name: _TypedList(values, schema.field(name).type) for name, values in columns.items()}
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
        if "json" in str(self.arrow_type):  # `datasets.Json`, which `datasets` encodes by itself
            return pa.array(list(self))
        return pa.array(list(self), type=type or self.arrow_type)


def pair_features(features: Features, given_pairs: bool, labelled: bool) -> Features:
    """The features of what [`real_select`] makes of rows with `features`, with `skip_reason`."""
    out = Features(features)
    if given_pairs:
        sides = [features["chosen"], features["rejected"]]
        prompt = features.get("prompt", features["chosen"])
    else:
        sides, prompt = [item_feature(features["responses"])] * 2, features["prompt"]
    out["prompt"], sides = joint_features(prompt, sides)
    out.update(zip(side_names(given_pairs or labelled), sides, strict=True))
    if labelled and not given_pairs:
        out["score_chosen"] = out["score_rejected"] = Value("float64")
    out["similarity"] = Value("float32")
    if not (labelled or given_pairs):
        out["pair_id"] = Value("string")
    out["skip_reason"] = Value("string")
    return out
