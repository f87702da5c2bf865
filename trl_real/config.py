"""Every knob of the selection, defined once."""

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
    What responses are embedded with: the options `embedder`, `embedder_max_length`, `embedder_batch_size` and
    `embedder_dtype` of [`SelectionConfig`], which travel together; and, once it has been looked for, which model a name has
    been found to mean.
    """

    embedder: Any = DEFAULT_EMBEDDER
    max_length: int | None = None
    batch_size: int = 32
    dtype: str = "auto"
    found: Any = None


@dataclass
class SelectionConfig:
    r"""
    Configuration of the selection: which pairs to build from several responses a prompt, and how many to keep.

    [`real_select`] and [`embed_responses`] take what concerns them under the same names, and [`RealDPOConfig`] adds all
    of it to [`~trl.DPOConfig`].

    Parameters:
        strategy (`str`, *optional*, defaults to `"easy"`):
            Which pair of a prompt to pick. From the REAL paper (arXiv 2409.17169): `"easy"` the least similar, `"hard"` the
            most similar, `"centroid"` the responses nearest to the two 2-means centroids, `"random"` any. Besides:
            `"aepo"` two that are like the others and unlike each other (arXiv 2405.13541), and with scores `"max_min"`
            the best against the worst, `"divpo"` the most diverse of the good ones against the least diverse of the bad
            ones (arXiv 2501.18101), and `"dissimilar_gap"` a weighted sum of dissimilarity and score gap.
        embedder (`str` or object, *optional*, defaults to `"sentence-transformers/all-MiniLM-L6-v2"`):
            What turns a response into a vector: a Sentence Transformers id or path, a causal language model id or path
            (mean of the last hidden layer over the response's tokens, as in the paper), in [`RealDPOTrainer`] `"policy"`,
            the model that is about to be trained, as in the paper, or, from Python, an object with a method
            `encode(list[str])` that returns one vector a text.
        embedder_max_length (`int`, *optional*):
            How many tokens of a response are embedded; longer ones are cut and counted. If `None`, the model's own
            limit, at most 512. An embedder object keeps its own limit.
        embedder_batch_size (`int`, *optional*, defaults to `32`):
            How many texts of full length go through the embedder at once, of shorter ones as many as have no more tokens;
            on a CPU at most 2,048 tokens.
        embedder_dtype (`str`, *optional*, defaults to `"auto"`):
            Precision of the embedder: `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"` for bfloat16 where the
            hardware computes in it natively and float32 elsewhere.
        strategy_kwargs (`dict[str, Any]`, *optional*):
            Options of the strategy: `lambda_` of `"aepo"` (1.0), what dissimilarity counts against being like the others;
            `threshold` of `"divpo"` (midway between a prompt's lowest and highest score), above which a response is
            good; `gap_weight` of `"dissimilar_gap"` (0.5), from 0, dissimilarity alone, to 1, score gap alone.
        pairs_per_prompt (`int`, *optional*, defaults to `1`):
            How many pairs to pick from each prompt, at most.
        min_score_gap (`float`, *optional*, defaults to `0.0`):
            Two responses form a pair only if their scores differ by *more* than this; ties are never labeled.
        budget (`int` or `float`, *optional*):
            How many of the picked pairs to keep, as in scikit-learn's `train_size`: a float between 0 and 1 is a
            share, an int is a count. If `None`, all.
        budget_strategy (`str`, *optional*):
            The strategy in whose order the budget is spent, see [`select_budget`]. If `None`, that of `strategy`; `"random"`
            spends it on pairs that are drawn, whatever picked them.
        budget_cost (`str`, *optional*):
            What a pair costs, for a `budget` in that unit: `"characters"` or `"tokens"` that a person reads, or the name of
            a column of numbers. If `None`, each pair costs 1. See [`select_budget`].
        budget_min_distance (`float`, *optional*):
            Keep only pairs that are further than this cosine distance from all that are kept already. See
            [`select_budget`].
        on_skip (`str`, *optional*, defaults to `"drop"`):
            What happens to a prompt without a valid pair: `"drop"` it, `"keep"` its row with nulls and a
            `skip_reason`, or `"error"`.
        selection_seed (`int`, *optional*, defaults to `0`):
            Seed of the `"random"` strategy and of the side on which an annotator sees a response.
    """

    strategy: str = field(
        default="easy",
        metadata={
            "help": "Which pair of a prompt to pick: 'easy' (least similar), 'hard' (most similar), 'centroid' (nearest "
            "to the two 2-means centroids), 'random', 'aepo', or, with scores, 'max_min', 'divpo' or 'dissimilar_gap'."
        },
    )
    embedder: str = field(
        default=DEFAULT_EMBEDDER,
        metadata={
            "help": "Sentence Transformers or causal language model, as a Hub id or a local path; 'policy' for the model that "
            "is about to be trained."
        },
    )
    embedder_max_length: int | None = field(
        default=None,
        metadata={"help": "Tokens of a response that are embedded. Default: the model's own limit, at most 512."},
    )
    embedder_batch_size: int = field(
        default=32, metadata={"help": "Texts of full length that go through the embedder at once."}
    )
    embedder_dtype: str = field(
        default="auto",
        metadata={
            "help": "Precision of the embedder; 'auto' is bfloat16 where the hardware has it, float32 elsewhere.",
            "choices": list(EMBEDDER_DTYPES),
        },
    )
    strategy_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Options of the strategy, as JSON on the command line: '{\"lambda_\": 2.0}'."}
    )
    pairs_per_prompt: int = field(default=1, metadata={"help": "Pairs to pick from each prompt, at most."})
    min_score_gap: float = field(
        default=0.0, metadata={"help": "Only responses whose scores differ by more than this form a pair."}
    )
    budget: float | None = field(
        default=None,
        metadata={"help": "Picked pairs to keep: a share below 1 (0.35) or a count (500). Default: all."},
    )
    budget_strategy: str | None = field(
        default=None,
        metadata={"help": "Strategy in whose order the budget is spent; 'random' draws. Default: that of `strategy`."},
    )
    budget_cost: str | None = field(
        default=None,
        metadata={
            "help": "Unit of the budget: 'characters' or 'tokens' that a person reads, or a column of numbers. Default: pairs."
        },
    )
    budget_min_distance: float | None = field(
        default=None,
        metadata={"help": "Keep only pairs that are further than this cosine distance from all kept ones."},
    )
    on_skip: str = field(
        default="drop",
        metadata={"help": "What to do with a prompt that has no valid pair.", "choices": list(ON_SKIP)},
    )
    selection_seed: int = field(
        default=0, metadata={"help": "Seed of the 'random' strategy and of the sides an annotator sees."}
    )

    @property
    def is_budgeted(self) -> bool:
        """Whether some of the picked pairs may be left out."""
        return self.budget is not None or self.budget_min_distance is not None

    @property
    def embedder_options(self) -> EmbedderOptions:
        """The options of the embedder as one object."""
        return EmbedderOptions(self.embedder, self.embedder_max_length, self.embedder_batch_size, self.embedder_dtype)

    def __post_init__(self) -> None:
        # A command line hands a dict over as JSON and every number as a float.
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
        for name in ("embedder_max_length", "embedder_batch_size", "pairs_per_prompt"):
            value = getattr(self, name)
            if value is None and name == "embedder_max_length":
                continue
            check_count(name, value)
        if not isinstance(self.min_score_gap, Real) or not self.min_score_gap >= 0:  # so that NaN fails too
            raise ValueError(f"`min_score_gap` must be a number of 0 or more, got {self.min_score_gap!r}.")
        check_seed("selection_seed", self.selection_seed)
        if self.budget_strategy is not None:
            check_strategy(self.budget_strategy, name="budget_strategy")
            if not self.is_budgeted:
                raise ValueError(
                    f"`budget_strategy={self.budget_strategy!r}` says how a `budget` is spent, and there is none. Set both."
                )
        if not isinstance(self.budget_cost, str | None):
            raise TypeError(f"`budget_cost` must be a str, got {self.budget_cost!r}.")
        if self.budget_cost is not None and self.budget is None:
            raise ValueError(
                f"`budget_cost={self.budget_cost!r}` is the unit of a `budget`, and there is none. Set both."
            )
        check_number("budget_min_distance", self.budget_min_distance, 0, 2)
        if self.on_skip == "keep" and self.is_budgeted:
            raise ValueError(
                "A budget cannot be combined with `on_skip='keep'`: a row without a pair has no place in it. Set "
                "`on_skip='drop'`, or leave `budget` and `budget_min_distance` unset."
            )


def check_embedder(embedder: object) -> None:
    """Raise unless `embedder` is a name or can encode."""
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
