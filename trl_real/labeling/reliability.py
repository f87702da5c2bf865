"""Estimate from a labeled sample whether labels of dissimilar pairs are more reliable: `label_reliability`."""

import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from scipy.stats import chi2_contingency

from ..candidates.conversion import Converted, ConvertedPairs, convert
from ..config import SelectionConfig
from ..core.checks import check_count, check_seed
from ..core.messages import response_text
from ..selection.budget import prompt_numbers
from ..selection.preferences import embed_stage, pick_stage, usable_columns, with_pairs
from ..selection.report_parts import skipped_reasons
from ..selection.similarity import pair_vectors
from .label_noise import Estimate, cross_fit, flip_rates, share_estimate, wrong_majority
from .labels import apply_labels


# Pairs per prompt with scores: more pairs of the same prompt add little information.
PAIRS_PER_PROMPT = 5
# With fewer prompts, the folds are too small for valid intervals.
MIN_PROMPTS = 100
# Bins differ significantly if the p-value is below this.
LEVEL = 0.05


@dataclass
class ReliabilityBin:
    """
    The pairs within a range of similarity.

    Attributes:
        low (`float`): The lowest similarity.
        high (`float`): The highest similarity.
        pairs (`int`): The number of pairs.
        agreement (`Estimate`): The share of pairs in which the model agrees with the label.
        flip_rate (`Estimate`): The estimated share of wrong labels.
        label_agreement (`float` or `None`): The average share of the annotators of a pair who prefer the chosen side; `None` if
            there is only one annotator per pair.
    """

    low: float
    high: float
    pairs: int
    agreement: Estimate
    flip_rate: Estimate
    label_agreement: float | None = None


@dataclass
class ReliabilityReport:
    r"""
    The reliability of labels by the similarity of the pair.

    Attributes:
        pairs (`int`): Number of labeled pairs.
        prompts (`int`): Number of distinct prompts.
        embedder (`str`): Id, path or class of the embedder.
        agreement (`Estimate`): The share of pairs in which a model that has not seen the prompt agrees with the label.
        flip_rate (`Estimate`): The estimated share of wrong labels.
        p_agreement (`float`): The p-value of the hypothesis that all bins have the same agreement.
        p_flip_rate (`float`): The p-value of the hypothesis that all bins have the same share of wrong labels.
        bins (`list[ReliabilityBin]`): From the least to the most similar pairs.
        skipped (`dict[str, int]`): Rows without a labeled pair, by reason.
    """

    pairs: int
    prompts: int
    embedder: str
    agreement: Estimate
    flip_rate: Estimate
    p_agreement: float
    p_flip_rate: float
    bins: list[ReliabilityBin]
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """A summary of the conclusions that the numbers support."""
        if self.prompts < MIN_PROMPTS:
            return f"Too small a sample: {self.prompts} prompts. Label at least {MIN_PROMPTS} before you conclude anything."
        if self.agreement.low <= 0.5:
            return (
                "The embeddings predict these labels no better than chance, so the share of wrong labels cannot be estimated. "
                "Label more pairs, or try another embedder."
            )
        sentences = [] if len(self.bins) == 1 else [self._compare_agreement()]
        if self.p_flip_rate < LEVEL:
            rates = ", ".join(f"{row.flip_rate.value:.0%}" for row in self.bins)
            sentences.append(
                f"The estimated shares of wrong labels differ: {rates}, from dissimilar to similar pairs."
            )
        elif self.p_agreement < LEVEL:
            sentences.append(
                "The reason may not be wrong labels: the estimated shares of wrong labels do not differ significantly."
            )
        if self.flip_rate.high - self.flip_rate.low > 0.25:
            sentences.append(
                "The share of wrong labels is uncertain: label more pairs, or have several annotators label each pair."
            )
        return " ".join(sentences)

    def _compare_agreement(self) -> str:
        first, last = self.bins[0].agreement, self.bins[-1].agreement
        error = np.hypot(first.high - first.low, last.high - last.low) / (2 * 1.96)  # of the difference
        if self.p_agreement >= LEVEL:
            return (
                "Labels of dissimilar pairs are not significantly easier to predict than those of similar pairs. A sample of this "
                f"size cannot show a difference of less than {2.8 * error:.0%}."  # 80% power at the 5% level
            )
        if abs(first.value - last.value) < 1.96 * error:
            return "The bins differ in how easy their labels are to predict, but without a trend from dissimilar to similar pairs."
        easier, harder = ("dissimilar", "similar") if first.value > last.value else ("similar", "dissimilar")
        return f"Labels of {easier} pairs are easier to predict than those of {harder} pairs."

    def to_dict(self) -> dict[str, Any]:
        """The report as plain Python objects, for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        def show(estimate: Estimate) -> str:
            return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})"

        rows = [["similarity", "pairs", "model agrees", "wrong labels"]]
        rows += [
            [f"{row.low:.2f} to {row.high:.2f}", f"{row.pairs:,}", show(row.agreement), show(row.flip_rate)]
            for row in self.bins
        ]
        rows.append(["all", f"{self.pairs:,}", show(self.agreement), show(self.flip_rate)])
        if any(row.label_agreement is not None for row in self.bins):
            people = ["annotators agree", *(f"{row.label_agreement or 0:.0%}" for row in self.bins), ""]
            rows = [[*row, cell] for row, cell in zip(rows, people, strict=True)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        p_values = f"bins differ in agreement: p = {self.p_agreement:.2g}; in wrong labels: p = {self.p_flip_rate:.2g}"
        return "\n".join([*table, p_values, self.verdict])


def label_reliability(
    dataset: Dataset,
    labels: Any = None,
    *,
    embedder: Any = SelectionConfig.embedder,
    embedder_max_length: int | None = SelectionConfig.embedder_max_length,
    embedder_batch_size: int = SelectionConfig.embedder_batch_size,
    embedder_dtype: str = SelectionConfig.embedder_dtype,
    bins: int = 4,
    seed: int = 0,
) -> ReliabilityReport:
    r"""
    Estimate from a labeled sample how reliable labels are, by the similarity of the pair.

    A linear model of the embeddings learns to predict the labels, and is evaluated on prompts that it has not seen
    (cross-fitting). If the model is confident and the label disagrees, the label is likely to be wrong. The share of such labels
    is estimated together with the accuracy of the model. The estimate covers labels that are wrong *or that a linear model of
    these embeddings cannot explain*, so it is only as good as the embedder.

    Args:
        dataset ([`~datasets.Dataset`]):
            Labeled pairs, or candidates with scores, in any layout that [`to_candidates`] recognizes. From candidates, up to five
            random pairs per prompt are used. If several annotators voted, the columns `label_agreement` and `n_labels` from
            [`apply_labels`] are used. `embeddings` from [`embed_responses`] are used if present.
        labels (`str`, `Path`, `dict` or `list`, *optional*):
            Labels of unlabeled pairs, in any format that [`apply_labels`] accepts.
        embedder, embedder_max_length, embedder_batch_size, embedder_dtype (*optional*):
            As in [`embed_responses`].
        bins (`int`, *optional*, defaults to `4`):
            Number of similarity ranges to report, with about the same number of pairs in each.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the folds and of the random pairs.

    Returns:
        [`ReliabilityReport`]: Agreement and share of wrong labels, overall and by similarity, with 95% intervals, and a verdict.
        Use `flip_rate.value` as the `label_smoothing` of TRL's `loss_type="robust"`.

    Raises:
        `TypeError`: If `dataset` is not a [`~datasets.Dataset`].
        `ValueError`: If it has no labels, there are fewer than 20 prompts with a labeled pair, or an option is not valid.

    Example:

    ```python
    >>> from trl_real import label_reliability, load_sample

    >>> report = label_reliability(load_sample(), bins=2)
    >>> report.verdict
    'Too small a sample: 44 prompts. Label at least 100 before you conclude anything.'
    ```
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(f"`label_reliability` needs a `datasets.Dataset`, got {type(dataset).__name__}.")
    check_count("bins", bins)
    check_seed("seed", seed)
    config = SelectionConfig(
        strategy="random",  # several random pairs per prompt from candidates
        pairs_per_prompt=PAIRS_PER_PROMPT,
        selection_seed=seed,
        embedder=embedder,
        embedder_max_length=embedder_max_length,
        embedder_batch_size=embedder_batch_size,
        embedder_dtype=embedder_dtype,
    )
    if labels is not None:
        dataset = apply_labels(dataset, labels)
    converted = convert(dataset)
    pairs, unpaired, name = _labeled_pairs(converted, config)
    prompts = prompt_numbers(pairs)
    n_prompts, skipped = len(np.unique(prompts)), dict((converted.skipped + unpaired).most_common())
    if n_prompts < 20:
        raise ValueError(
            f"`label_reliability` needs labeled pairs of at least 20 prompts, and of {MIN_PROMPTS} for a conclusion. Found "
            f"{len(pairs)} pairs of {n_prompts} prompts. Skipped rows: {skipped or 'none'}."
        )
    report = _estimate(pairs, prompts, bins, seed)
    return dataclasses.replace(report, embedder=name, skipped=skipped)


def _estimate(pairs: Dataset, prompts: np.ndarray, bins: int, seed: int) -> ReliabilityReport:
    """The report on pairs with embeddings. `prompts` holds the prompt of each pair as a number, `(n,)`."""
    vectors = pair_vectors(pairs)
    similarity = np.round((vectors[:, 0] * vectors[:, 1]).sum(1), 9)
    score, spread = cross_fit(vectors[:, 0] - vectors[:, 1], prompts, seed)
    # Pairs of the same prompt are not independent: together they count as one.
    weight = 1.0 / np.bincount(prompts)[prompts]
    votes, label_agreement = _votes(pairs)
    edges = np.unique(np.quantile(similarity, np.arange(1, bins) / bins))
    where = np.unique(np.searchsorted(edges, similarity, side="right"), return_inverse=True)[1]
    rate, rates, p_flip_rate = flip_rates(score, spread, votes, weight, where)

    agrees = weight * ((score > 0) + 0.5 * (score == 0))
    parts = [where == b for b in range(len(rates))]
    counts = np.array([[agrees[part].sum(), (weight - agrees)[part].sum()] for part in parts])
    differ = len(parts) > 1 and counts.sum(0).all()
    return ReliabilityReport(
        pairs=len(pairs),
        prompts=len(np.unique(prompts)),
        embedder="",
        agreement=share_estimate(*counts.sum(0)),
        flip_rate=_of_labels(rate, votes, weight),
        p_agreement=float(chi2_contingency(counts, correction=False).pvalue) if differ else 1.0,
        p_flip_rate=p_flip_rate,
        bins=[
            ReliabilityBin(
                low=round(float(similarity[part].min()), 6),
                high=round(float(similarity[part].max()), 6),
                pairs=int(part.sum()),
                agreement=share_estimate(*counts[b]),
                flip_rate=_of_labels(rates[b], votes[part], weight[part]),
                label_agreement=None if label_agreement is None else float(label_agreement[part].mean()),
            )
            for b, part in enumerate(parts)
        ],
    )


def _labeled_pairs(converted: Converted, config: SelectionConfig) -> tuple[Dataset, Counter[str], str]:
    """Pairs with `chosen`, `rejected` and `embeddings`, the counts of skipped rows by reason, and the embedder's name."""
    if not converted.labeled:
        raise ValueError(
            f"`label_reliability` needs labels: `chosen` and `rejected`, or `responses` and `scores`. Found: "
            f"{converted.columns}. Label a sample with `to_label_tasks` and `apply_labels`."
        )
    if isinstance(converted, ConvertedPairs) and _carries_vectors(converted.dataset):
        picked, _ = pick_stage(converted.dataset.select_columns(usable_columns(converted)), config)
        paired = np.flatnonzero([reason is None for reason in picked["skip_reason"]])
        return converted.dataset.select(paired), Counter(skipped_reasons(picked)), "column `embeddings`"
    embedded = embed_stage(converted, config)
    picked, _ = pick_stage(embedded.dataset, config, keep_embeddings=True)
    pairs, skipped = with_pairs(picked), Counter(skipped_reasons(picked))
    differ = np.array([_differ(**row) for row in pairs.select_columns(["chosen", "rejected"])], dtype=bool)
    if not differ.all():
        skipped["duplicate_responses"] += int(np.count_nonzero(~differ))
    return pairs.select(np.flatnonzero(differ)), skipped, embedded.embedder or "none"


def _differ(chosen: Any, rejected: Any) -> bool:
    """Whether the two sides of a pair have different texts."""
    return response_text(chosen).strip() != response_text(rejected).strip()


def _carries_vectors(dataset: Dataset) -> bool:
    """
    Whether pairs come with the vectors of all responses that they were picked from. With two responses this is ambiguous: two
    vectors may belong to the responses or to the sides.
    """
    if not {"embeddings", "responses"} <= set(dataset.column_names):
        return False
    lengths = pc.list_value_length(dataset.with_format("arrow")["responses"][:])
    return not pc.any(pc.equal(lengths, 2)).as_py()


def _votes(pairs: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
    """For each pair the number of votes for the chosen side and of all votes, `(n, 2)`, and the agreement, if known."""
    votes = np.ones((len(pairs), 2), dtype=np.int64)
    if not {"label_agreement", "n_labels"} <= set(pairs.column_names):
        return votes, None
    table = pairs.with_format("arrow")
    agreement, n_labels = (
        table[name][:].cast(pa.float64()).fill_null(1.0).to_numpy() for name in ("label_agreement", "n_labels")
    )
    n_for = np.round(agreement * n_labels)
    several = 2 * n_for > n_labels  # a label without a majority behind it counts as one vote
    votes[several] = np.column_stack([n_for, n_labels])[several]
    return votes, agreement


def _of_labels(rate: Estimate, votes: np.ndarray, weight: np.ndarray) -> Estimate:
    """Turn the error rate of a single annotator into the share of wrong labels after a majority vote."""
    return Estimate(*(round(wrong_majority(value, votes, weight), 6) for value in (rate.value, rate.low, rate.high)))
