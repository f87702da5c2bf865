"""From candidates to pairs: `real_select`."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ._transform import Transform
from .candidates import SKIP_REASONS, Candidates, Eligible, eligible_responses, read_candidates
from .config import SelectionConfig
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
    without one are left out. Ties in score are never labelled. Picks depend on the responses alone: not on the prompt,
    the order of the responses, or the batch.

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
    if "embeddings" in batch:
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

    rows: list[tuple[int, Pick | None]] = []
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
            rows.extend((r, pick) for pick in found)
        elif on_skip == "keep":
            rows.append((r, None))
    _write(batch, candidates, eligible, rows, selection_seed, on_skip == "keep")
    return batch


class Pick(NamedTuple):
    """A pair of a prompt: indices into its `Eligible.positions`, and the cosine."""

    first: int
    second: int
    similarity: float


def _seed(texts: list[str], selection_seed: int) -> int:
    """The seed of a prompt: a hash of the texts of its responses, in their order, and of the seed of the selection."""
    digest = hashlib.blake2b(str(selection_seed).encode(), digest_size=8)
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
    return int.from_bytes(digest.digest(), "little")


def _write(
    batch: Any,
    candidates: Candidates,
    eligible: list[Eligible],
    rows: list[tuple[int, Pick | None]],
    selection_seed: int,
    with_reason: bool,
) -> None:
    """Change the batch in place, since `datasets` would merge a new dict into the old rows."""
    prompts, pairs, scores, identities = [], [], [], []
    for r, pick in rows:
        row, responses = eligible[r], candidates.responses[r]
        pair: list[Any] = [None, None]
        pair_scores: list[float | None] = [None, None]
        if candidates.given_pairs:
            pair = responses
        elif pick is not None:
            order = [pick.first, pick.second]
            if row.scores and row.scores[pick.first] < row.scores[pick.second]:
                order.reverse()
            pair = [responses[row.positions[i]] for i in order]
            pair_scores = [row.scores[i] for i in order] if row.scores else pair_scores
        prompt, pair = _conversational(candidates.prompts[r], pair, responses)
        if not candidates.given_pairs and candidates.scores is None:
            identity = None if pick is None else pair_id(prompt, *pair)
            if identity is not None and _seed([identity], selection_seed) % 2:
                pair.reverse()
            identities.append(identity)
        prompts.append(prompt)
        pairs.append(pair)
        scores.append(pair_scores)

    had_prompt = "prompt" in batch
    _repeat_rows(batch, [r for r, _ in rows], len(eligible))
    rewrite = not had_prompt or any(p is not candidates.prompts[r] for p, (r, _) in zip(prompts, rows, strict=True))
    if rewrite:
        batch["prompt"] = _typed(prompts, pa.string())
    if rewrite or not candidates.given_pairs:
        unlabelled = not candidates.given_pairs and candidates.scores is None
        for side, name in enumerate(("response_a", "response_b") if unlabelled else ("chosen", "rejected")):
            batch[name] = _typed([pair[side] for pair in pairs], pa.string())
    if candidates.scores is not None:
        for side, name in enumerate(("score_chosen", "score_rejected")):
            batch[name] = _typed([pair[side] for pair in scores], pa.float64())
    similarities = [None if pick is None else float(np.float32(pick.similarity)) for _, pick in rows]
    batch["similarity"] = _typed(similarities, pa.float32())
    if identities:
        batch["pair_id"] = _typed(identities, pa.string())
    if with_reason:
        batch["skip_reason"] = _typed([eligible[r].reason for r, _ in rows], pa.string())


def _repeat_rows(batch: Any, rows: list[int], n_rows: int) -> None:
    """Give every column of the batch the rows of the output, also those that only ride along."""
    if rows == list(range(n_rows)):
        return
    for name in list(batch):
        if name == "embeddings" and name in getattr(batch, "keys_to_format", ()):
            counts, array = vectors_from_arrow(batch.pa_table[name].combine_chunks())
            values: Any = np.split(array, np.cumsum(counts)[:-1])
        else:
            values = batch[name]
        batch[name] = [values[r] for r in rows]


def _conversational(prompt: Any, pair: list[Any], responses: list[Any]) -> tuple[Any, list[Any]]:
    """Turn the text of a row into messages where its prompt or its responses are messages already."""
    if isinstance(prompt, list) or any(isinstance(response, list) for response in responses):
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        pair = [[{"role": "assistant", "content": text}] if isinstance(text, str) else text for text in pair]
    return prompt, pair


def pair_id(prompt: Any, response_a: Any, response_b: Any) -> str:
    """A hash of the prompt and both responses, 32 hexadecimal digits, the same whichever side a response is on."""
    sides = sorted([_content(response_a), _content(response_b)])
    return hashlib.sha256("\n".join([_content(prompt), *sides]).encode()).hexdigest()[:32]


def _content(value: Any) -> str:
    """Text or messages as one line of JSON, without the nulls that Arrow adds to messages with other keys."""

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(item) for key, item in value.items() if item is not None}
        return [clean(item) for item in value] if isinstance(value, list) else value

    return json.dumps(clean(value), sort_keys=True, default=str)


class _TypedList(list[Any]):
    """A list that keeps its Arrow type where all it holds is null, as a whole batch of skipped prompts does."""

    arrow_type: pa.DataType

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        return pa.array(list(self), type=type or self.arrow_type)


def _typed(values: list[Any], arrow_type: pa.DataType) -> list[Any]:
    if any(isinstance(value, list) for value in values):  # messages, whose type `datasets` finds out
        return values
    typed = _TypedList(values)
    typed.arrow_type = arrow_type
    return typed
