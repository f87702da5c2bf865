"""All options of the selection, defined once."""

import json
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

from .core.checks import check_count, check_number, check_seed
from .strategies import check_strategy


DEFAULT_EMBEDDER = "sentence-transformers/all-MiniLM-L6-v2"
EMBEDDER_DTYPES = ("auto", "float32", "bfloat16", "float16")
ON_SKIP = ("drop", "keep", "error")


@dataclass(frozen=True)
class EmbedderOptions:
    """
    How to embed responses: the options `embedder`, `embedder_max_length`, `embedder_batch_size` and `embedder_dtype` of
    [`SelectionConfig`] as one object. `found` is the model that the name resolved to, once it has been looked up.
    """

    embedder: Any = DEFAULT_EMBEDDER
    max_length: int | None = None
    batch_size: int = 32
    dtype: str = "auto"
    found: Any = None


@dataclass
class SelectionConfig:
    r"""
    Configuration of the selection: which pairs to build from several responses per prompt, and how many of them to keep.

    [`real_select`] and [`embed_responses`] take the options that concern them under the same names. [`RealDPOConfig`] adds
    all of them to [`~trl.DPOConfig`].

    Parameters:
        strategy (`str`, *optional*, defaults to `"easy"`):
            Which pair of each prompt to pick.

            - `"easy"`: the least similar pair (REAL, arXiv 2409.17169).
            - `"hard"`: the most similar pair (REAL).
            - `"centroid"`: the responses nearest to the two 2-means centroids (REAL).
            - `"random"`: a random pair (REAL).
            - `"aepo"`: two responses that are similar to the others but not to each other (arXiv 2405.13541).
            - `"max_min"`: the responses with the best and the worst score. Needs scores.
            - `"divpo"`: the most diverse good response and the least diverse bad one (arXiv 2501.18101). Needs scores.
            - `"dissimilar_gap"`: the largest weighted sum of dissimilarity and score gap. Needs scores.
            - `"chain"`: neighbors in the ranking by score. With `pairs_per_prompt`, a > b > c gives (a, b) and (b, c). Needs scores.
        embedder (`str` or object, *optional*, defaults to `"sentence-transformers/all-MiniLM-L6-v2"`):
            The model that turns a response into a vector. Either the id or path of a Sentence Transformers model, or of a
            causal language model (mean of the last hidden layer over the tokens of the response, as in the paper). In
            [`RealDPOTrainer`], `"policy"` is the model to be trained, as in the paper. `"static:"` and the name of a model is
            an embedder of one vector per token that is distilled from it, which is much faster. From Python, also an
            object with a method `encode(list[str])` that returns one vector per text.
        embedder_max_length (`int`, *optional*):
            The maximum number of tokens of a response to embed. Longer responses are truncated and counted. If `None`, the
            limit of the model, at most 512. An embedder object keeps its own limit.
        embedder_batch_size (`int`, *optional*, defaults to `32`):
            The number of full-length texts to embed at once. Batches of shorter texts hold more texts, but no more tokens.
            On a CPU, a batch has at most 2,048 tokens.
        embedder_dtype (`str`, *optional*, defaults to `"auto"`):
            Precision of the embedder: `"float32"`, `"bfloat16"`, `"float16"` or `"auto"`. `"auto"` uses bfloat16 on hardware
            with native support for it, and float32 otherwise.
        strategy_kwargs (`dict[str, Any]`, *optional*):
            Options of the strategy.

            - `lambda_` of `"aepo"` (defaults to 1.0): the weight of the dissimilarity of the pair.
            - `threshold` of `"divpo"` (defaults to the midpoint between the lowest and the highest score of a prompt):
              responses that score above it are good, those below are bad.
            - `gap_weight` of `"dissimilar_gap"` (defaults to 0.5): from 0, only dissimilarity, to 1, only the score gap.
        pairs_per_prompt (`int`, *optional*, defaults to `1`):
            The maximum number of pairs to pick from each prompt.
        max_pairs_per_response (`int`, *optional*):
            The maximum number of pairs of a prompt that have the same response, so that several pairs are not all won by one
            response. If `None`, there is no maximum.
        min_score_gap (`float`, *optional*, defaults to `0.0`):
            Two responses form a pair only if their scores differ by *more* than this. Ties are never labeled.
        budget (`int` or `float`, *optional*):
            How many of the picked pairs to keep, as in scikit-learn's `train_size`: a float between 0 and 1 is a
            share, an int is a count. If `None`, all pairs are kept.
        budget_strategy (`str`, *optional*):
            The strategy that ranks the pairs for the budget, see [`select_budget`]. If `None`, the same as `strategy`.
            `"random"` keeps a random sample of the pairs, whichever strategy picked them.
        budget_cost (`str`, *optional*):
            The unit of `budget`: `"characters"` or `"tokens"` to read, or the name of a numeric column with the cost of each
            pair. If `None`, each pair costs 1. See [`select_budget`].
        budget_min_distance (`float`, *optional*):
            Keep a pair only if its cosine distance to every pair that is already kept is larger than this. See
            [`select_budget`].
        on_skip (`str`, *optional*, defaults to `"drop"`):
            What to do with a prompt that has no valid pair: `"drop"` it, `"keep"` its row with nulls and a
            `skip_reason`, or raise an `"error"`.
        selection_seed (`int`, *optional*, defaults to `0`):
            Seed of the `"random"` strategy, and of which response an annotator sees on which side.
    """

    strategy: str = field(
        default="easy",
        metadata={
            "help": "Which pair of each prompt to pick: 'easy' (least similar), 'hard' (most similar), 'centroid' (nearest "
            "to the two 2-means centroids), 'random', 'aepo', or, with scores, 'max_min', 'divpo', 'dissimilar_gap' or "
            "'chain'."
        },
    )
    embedder: str = field(
        default=DEFAULT_EMBEDDER,
        metadata={
            "help": "Sentence Transformers model or causal language model, as a Hub id or a local path. With `trl-real dpo`, "
            "'policy' is the model to be trained. 'static:' before a name distills one vector per token from the model, which is much faster."
        },
    )
    embedder_max_length: int | None = field(
        default=None,
        metadata={"help": "Maximum number of tokens of a response to embed. Default: the model's limit, at most 512."},
    )
    embedder_batch_size: int = field(default=32, metadata={"help": "Number of full-length texts to embed at once."})
    embedder_dtype: str = field(
        default="auto",
        metadata={
            "help": "Precision of the embedder. 'auto' is bfloat16 if the hardware supports it, and float32 otherwise.",
            "choices": list(EMBEDDER_DTYPES),
        },
    )
    strategy_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Options of the strategy, as JSON on the command line: '{\"lambda_\": 2.0}'."}
    )
    pairs_per_prompt: int = field(default=1, metadata={"help": "Maximum number of pairs to pick from each prompt."})
    max_pairs_per_response: int | None = field(
        default=None,
        metadata={"help": "Maximum number of pairs of a prompt that have the same response. Default: no maximum."},
    )
    min_score_gap: float = field(
        default=0.0, metadata={"help": "Two responses form a pair only if their scores differ by more than this."}
    )
    budget: float | None = field(
        default=None,
        metadata={"help": "How many picked pairs to keep: a share below 1 (0.35) or a count (500). Default: all."},
    )
    budget_strategy: str | None = field(
        default=None,
        metadata={
            "help": "Strategy that ranks the pairs for the budget; 'random' keeps a random sample. Default: `strategy`."
        },
    )
    budget_cost: str | None = field(
        default=None,
        metadata={
            "help": "Unit of the budget: 'characters' or 'tokens' to read, or a numeric column. Default: pairs."
        },
    )
    budget_min_distance: float | None = field(
        default=None,
        metadata={"help": "Keep only pairs that are farther than this cosine distance from all pairs kept so far."},
    )
    on_skip: str = field(
        default="drop",
        metadata={"help": "What to do with a prompt that has no valid pair.", "choices": list(ON_SKIP)},
    )
    selection_seed: int = field(
        default=0,
        metadata={"help": "Seed of the 'random' strategy, and of which response an annotator sees on which side."},
    )

    @property
    def is_budgeted(self) -> bool:
        """Whether a limit may leave out some of the picked pairs."""
        return self.budget is not None or self.budget_min_distance is not None

    @property
    def embedder_options(self) -> EmbedderOptions:
        """The options of the embedder as one object."""
        return EmbedderOptions(self.embedder, self.embedder_max_length, self.embedder_batch_size, self.embedder_dtype)

    def __post_init__(self) -> None:
        # A command line passes a dict as JSON and every number as a float.
        if isinstance(self.strategy_kwargs, str):
            try:
                self.strategy_kwargs = json.loads(self.strategy_kwargs)
            except json.JSONDecodeError as error:
                raise ValueError(f"`strategy_kwargs` must be JSON, got {self.strategy_kwargs!r}: {error}") from error
        if not isinstance(self.strategy_kwargs, dict | None):
            raise TypeError(f"`strategy_kwargs` must be a dict, got {self.strategy_kwargs!r}.")
        if self.budget is not None:
            self.budget = check_budget(self.budget)
        check_strategy(self.strategy, self.strategy_kwargs)
        check_embedder(self.embedder)
        for name, choices in (("embedder_dtype", EMBEDDER_DTYPES), ("on_skip", ON_SKIP)):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {list(choices)}, got {getattr(self, name)!r}.")
        for name in ("embedder_max_length", "embedder_batch_size", "pairs_per_prompt", "max_pairs_per_response"):
            value = getattr(self, name)
            if value is None and name in ("embedder_max_length", "max_pairs_per_response"):
                continue
            check_count(name, value)
        if not isinstance(self.min_score_gap, Real) or not self.min_score_gap >= 0:  # false for NaN too
            raise ValueError(f"`min_score_gap` must be a number of at least 0, got {self.min_score_gap!r}.")
        check_seed("selection_seed", self.selection_seed)
        if self.budget_strategy is not None:
            check_strategy(self.budget_strategy, name="budget_strategy")
            if not self.is_budgeted:
                raise ValueError(
                    f"`budget_strategy={self.budget_strategy!r}` ranks pairs for a `budget`, but no budget is set. Set both."
                )
        if not isinstance(self.budget_cost, str | None):
            raise TypeError(f"`budget_cost` must be a str, got {self.budget_cost!r}.")
        if self.budget_cost is not None and self.budget is None:
            raise ValueError(
                f"`budget_cost={self.budget_cost!r}` is the unit of a `budget`, but no budget is set. Set both."
            )
        check_number("budget_min_distance", self.budget_min_distance, 0, 2)
        if self.on_skip == "keep" and self.is_budgeted:
            raise ValueError(
                "A budget cannot be combined with `on_skip='keep'`, because rows without a pair cannot be ranked. Set "
                "`on_skip='drop'`, or leave `budget` and `budget_min_distance` unset."
            )


def check_embedder(embedder: object) -> None:
    """Raise unless `embedder` is a name or has a method `encode`."""
    if not (isinstance(embedder, str) or callable(getattr(embedder, "encode", None))):
        raise TypeError(
            "`embedder` must be a model id, a local path or an object with a method `encode(list[str])`, got "
            f"{type(embedder).__name__}."
        )


def check_budget(budget: float) -> float:
    """Return `budget` with whole numbers as `int`, or raise if it is neither a share nor a count."""
    if isinstance(budget, bool) or not isinstance(budget, int | float | np.number):
        raise TypeError(f"`budget` must be a share (float below 1) or a count (int), got {budget!r}.")
    if 0 < budget < 1:
        return float(budget)
    if budget >= 1 and float(budget).is_integer() and (budget > 1 or isinstance(budget, int | np.integer)):
        return int(budget)
    if budget == 1:
        raise ValueError(
            "`budget=1.0` could mean one pair or all of them. Leave `budget` unset to keep all pairs, or pass the "
            "integer 1 to keep one."
        )
    raise ValueError(f"`budget` must be a share between 0 and 1 or a whole number, got {budget!r}.")
