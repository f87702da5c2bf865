"""From candidates to pairs: `real_select`."""

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Features, Value

from ._transform import Transform
from .candidates import Candidates, is_untouched, read_candidates, read_column, side_names
from .config import SelectionConfig
from .messages import as_json, item_feature, joint_features
from .policies import SKIP_REASONS, Eligible, eligible_responses
from .similarity import embed_eligible, group_prompts, read_vectors, vectors_from_arrow
from .strategies import STRATEGIES, pick_pairs


@Transform
def real_select(
    batch: Any,
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
        strategy (`str`, *optional*, defaults to `"easy"`):
            `"easy"`, `"hard"`, `"centroid"` or `"random"`, see [`SelectionConfig`]. `"random"` loads no embedder.
        embedder, embedder_max_length, embedder_batch_size, embedder_dtype (*optional*):
            As in [`embed_responses`]; unused if there is a column `embeddings`.
        strategy_kwargs (`dict[str, Any]`, *optional*):
            Keyword arguments of the strategy.
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
        `ValueError`: If the columns or an option are not known, scores or embeddings do not match the responses, or,
            with `on_skip="error"`, a prompt has no valid pair.
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
    eligible = eligible_responses(candidates, min_score_gap)
    vectors = None
    # The vectors of given pairs are those of both sides, not of the responses that they may have been picked from.
    if "embeddings" in batch and not (candidates.given_pairs and "responses" in batch):
        vectors = read_vectors(batch, candidates, eligible)
    elif not STRATEGIES[strategy].seeded:
        vectors = embed_eligible(
            candidates, eligible, embedder, embedder_max_length, embedder_batch_size, embedder_dtype
        )

    picks: list[list[Pick]] = [[] for _ in eligible]
    for group in group_prompts(eligible, vectors, min_score_gap):
        seeds = None
        if STRATEGIES[strategy].seeded:
            texts = [[candidates.texts[r][position] for position in eligible[r].positions] for r in group.rows]
            seeds = np.array([_seed(row, selection_seed) for row in texts], dtype=np.uint64)
        pairs = pick_pairs(
            strategy, group.similarity, group.may_pair, pairs_per_prompt, seeds, **(strategy_kwargs or {})
        )
        first, second = np.triu_indices(group.similarity.shape[1], 1)
        for r, similarity, row in zip(group.rows, group.similarity, pairs.tolist(), strict=True):
            picks[r] = [Pick(first[p], second[p], similarity[first[p], second[p]]) for p in row if p >= 0]

    rows: list[Pair] = []
    for r, found in enumerate(picks):
        if not found and eligible[r].reason is None:
            eligible[r].reason = "no_pair_for_strategy"
        reason = eligible[r].reason
        if reason is not None and on_skip == "error":
            raise ValueError(
                f"Row {r} of the batch has no valid pair: {SKIP_REASONS[reason]} ({reason}). Its prompt is "
                f"{candidates.prompts[r]!r:.80}. Mend the row, or drop such rows with `on_skip='drop'`."
            )
        if found:
            rows.extend(_pair(candidates, eligible[r], r, pick, selection_seed) for pick in found)
        elif on_skip == "keep":
            rows.append(_pair(candidates, eligible[r], r, None, selection_seed))
    _write(batch, candidates, rows, with_reason=on_skip == "keep")
    return batch


class Pick(NamedTuple):
    """A pair of a prompt: indices into its `Eligible.positions`, and the cosine."""

    first: int
    second: int
    similarity: float


@dataclass
class Pair:
    """
    A row of the output; all but `row`, `prompt` and `skip_reason` is null in a row without a pair.

    Attributes:
        row (`int`): The row of the batch that it comes from.
        prompt (`str` or `list`): The prompt.
        sides (`list`): Chosen and rejected, or what an annotator sees as a and b.
        scores (`list`): The scores of both sides; null without scores.
        similarity (`float` or `None`): The cosine.
        pair_id (`str` or `None`): The hash of an unlabelled pair.
        skip_reason (`str` or `None`): Why there is no pair.
    """

    row: int
    prompt: Any
    sides: list[Any]
    scores: list[float | None]
    similarity: float | None
    pair_id: str | None
    skip_reason: str | None


def _pair(candidates: Candidates, eligible: Eligible, r: int, pick: Pick | None, selection_seed: int) -> Pair:
    """Label the picked pair by its scores, or shuffle its sides where there are none."""
    prompt, responses = candidates.prompts[r], candidates.responses[r]
    pair = Pair(r, prompt, [None, None], [None, None], None, None, eligible.reason)
    if candidates.given_pairs:
        pair.sides = list(responses)
    if pick is None:
        return pair
    pair.similarity = float(np.float32(pick.similarity))
    if candidates.given_pairs:
        return pair
    order = [pick.first, pick.second]
    if eligible.scores:
        order.sort(key=eligible.scores.__getitem__, reverse=True)
        pair.scores = [eligible.scores[i] for i in order]
        pair.sides = [responses[eligible.positions[i]] for i in order]
        return pair
    pair.sides = [responses[eligible.positions[i]] for i in order]
    pair.pair_id = pair_id(prompt, *pair.sides)
    if _seed([pair.pair_id], selection_seed) % 2:
        pair.sides.reverse()
    return pair


def pair_id(prompt: Any, response_a: Any, response_b: Any) -> str:
    """A hash of the prompt and both responses, 32 hexadecimal digits, the same whichever side a response is on."""
    sides = sorted([as_json(response_a), as_json(response_b)])
    return hashlib.sha256("\n".join([as_json(prompt), *sides]).encode()).hexdigest()[:32]


def _seed(texts: list[str], selection_seed: int) -> int:
    """The seed of a prompt: a hash of the texts of its responses, in their order, and of the seed of the selection."""
    digest = hashlib.blake2b(str(selection_seed).encode(), digest_size=8)
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return int.from_bytes(digest.digest(), "little")


def _write(batch: Any, candidates: Candidates, pairs: list[Pair], with_reason: bool) -> None:
    """Change the batch in place, since `datasets` would merge a new dict into the old rows."""
    columns: dict[str, list[Any]] = {}
    if candidates.rewritten:
        columns["prompt"] = [pair.prompt for pair in pairs]
    if candidates.rewritten or not candidates.given_pairs:
        for side, name in enumerate(candidates.sides):
            columns[name] = [pair.sides[side] for pair in pairs]
    if candidates.scores is not None:
        for side, name in enumerate(("score_chosen", "score_rejected")):
            columns[name] = [pair.scores[side] for pair in pairs]
    columns["similarity"] = [pair.similarity for pair in pairs]
    if candidates.sides == ("response_a", "response_b"):
        columns["pair_id"] = [pair.pair_id for pair in pairs]
    if with_reason:
        columns["skip_reason"] = [pair.skip_reason for pair in pairs]

    rows = [pair.row for pair in pairs]
    if rows != list(range(len(candidates.prompts))):  # the columns that only ride along, too
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


class _TypedList(list[Any]):
    """
    A column for `Dataset.map` that knows its Arrow type.

    Without it the type would come from the first batch, whatever that happens to hold: null where all its prompts are
    skipped, messages with fewer keys than later ones have.
    """

    def __init__(self, values: list[Any], arrow_type: pa.DataType):
        super().__init__(values)
        self.arrow_type = arrow_type

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
