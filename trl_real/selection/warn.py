"""What a report says that its reader should not miss: warnings about selected pairs."""

import logging

from .report import SelectionReport
from .value_counts import ValueCounts


logger = logging.getLogger(__name__)

# Fewer pairs say nothing about length.
MIN_PAIRS = 20
# From this share of the pairs on that differ in length, a model is likely to learn that the longer one wins.
LONGER_WINS = 2 / 3


def warn_of_reversed(report: SelectionReport) -> None:
    """Say how many given pairs contradict their scores."""
    if n := report.policies.get("reversed_scores"):
        logger.warning(
            "Of %d given pairs %d have a higher `score_rejected` than `score_chosen`. They are kept as they were given: check "
            "that higher scores are better and that the sides are not swapped.",
            report.rows,
            n,
        )


def warn_of_length(report: SelectionReport, differences: ValueCounts) -> None:
    """Say that a model may learn to write more, from the lengths of chosen less rejected of the selected pairs."""
    values, counts = differences.distinct()
    if counts[values != 0].sum() >= MIN_PAIRS and report.chosen_longer["picked"] > LONGER_WINS:
        logger.warning(
            "Of the selected pairs that differ in length the longer response is chosen in %.0f%% (%.0f%% of all pairs that "
            "could be labeled): a model may learn to write more rather than better. Look at what the scores reward, or "
            "compare lengths before and after training.",
            100 * report.chosen_longer["picked"],
            100 * report.chosen_longer["eligible"],
        )
