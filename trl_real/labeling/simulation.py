"""Labeling in rounds played through on candidates that have scores, before anyone labels: `simulate_labeling`."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from scipy.optimize import brentq
from scipy.special import expit
from sklearn.model_selection import GroupShuffleSplit

from ..candidates.conversion import convert
from ..config import SelectionConfig
from ..core.checks import check_count, check_number
from ..embedding.embed import embed_map, embed_responses
from ..selection.budget import prompt_numbers
from ..selection.select import pair_id, real_select
from ..selection.similarity import pair_differences
from .label_log import LabelRecord
from .pool import Pool
from .preference_model import fit
from .progress import expected_gains, judge
from .progress_report import LEAST_GAIN, MIN_LABELS
from .rounds import PICKS, check_round_strategy, pick_round
from .simulation_report import LabelingSimulation


HELD_OUT = 0.25
# Pairs of a held-out prompt: more of them say little that is new.
HELD_OUT_PAIRS = 5
