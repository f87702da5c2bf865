"""Response Embedding-based Alignment (REAL) for TRL: label only the response pairs that are worth a label."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


__version__ = "0.2.0"

# Public name -> the module that defines it, in the order of the flow. Names load on first use, so that
# `import trl_real` imports neither torch nor TRL.
_EXPORTS = {
    "load_sample": "candidates.sample",
    "SelectionConfig": "config",
    "to_candidates": "candidates.conversion",
    "offline_lm": "sampling.offline_lm",
    "generate_responses": "sampling.generate",
    "score_responses": "sampling.score",
    "embed_responses": "embedding.embed",
    "real_select": "selection.select",
    "to_label_tasks": "labeling.tasks",
    "apply_labels": "labeling.labels",
    "next_pairs": "labeling.rounds",
    "LabelProgress": "labeling.progress_report",
    "label_progress": "labeling.progress",
    "LabelQueue": "labeling.queue",
    "LabelingSimulation": "labeling.simulation_report",
    "simulate_labeling": "labeling.simulation",
    "select_budget": "selection.budget",
    "SelectionReport": "selection.report",
    "select_preferences": "selection.preferences",
    "ReliabilityReport": "labeling.reliability",
    "label_reliability": "labeling.reliability",
    "suspect_labels": "labeling.suspects",
    "create_dataset_card": "hub.dataset_card",
    "push_selected_dataset": "hub.push",
    "push_label_space": "hub.label_space",
    "RealDPOConfig": "training.real_dpo_config",
    "RealDPOTrainer": "training.real_dpo_trainer",
    "WinRate": "metrics.win_rate",
    "PreferenceMargin": "metrics.preference_margin",
    "LabelError": "metrics.label_error",
    "PreferenceDiversity": "metrics.preference_diversity",
}

__all__ = list(_EXPORTS)

if TYPE_CHECKING:
    from .candidates.conversion import to_candidates as to_candidates
    from .candidates.sample import load_sample as load_sample
    from .config import SelectionConfig as SelectionConfig
    from .embedding.embed import embed_responses as embed_responses
    from .hub.dataset_card import create_dataset_card as create_dataset_card
    from .hub.label_space import push_label_space as push_label_space
    from .hub.push import push_selected_dataset as push_selected_dataset
    from .labeling.labels import apply_labels as apply_labels
    from .labeling.progress import label_progress as label_progress
    from .labeling.progress_report import LabelProgress as LabelProgress
    from .labeling.queue import LabelQueue as LabelQueue
    from .labeling.reliability import ReliabilityReport as ReliabilityReport
    from .labeling.reliability import label_reliability as label_reliability
    from .labeling.rounds import next_pairs as next_pairs
    from .labeling.simulation import simulate_labeling as simulate_labeling
    from .labeling.simulation_report import LabelingSimulation as LabelingSimulation
    from .labeling.suspects import suspect_labels as suspect_labels
    from .labeling.tasks import to_label_tasks as to_label_tasks
    from .metrics.label_error import LabelError as LabelError
    from .metrics.preference_diversity import PreferenceDiversity as PreferenceDiversity
    from .metrics.preference_margin import PreferenceMargin as PreferenceMargin
    from .metrics.win_rate import WinRate as WinRate
    from .sampling.generate import generate_responses as generate_responses
    from .sampling.offline_lm import offline_lm as offline_lm
    from .sampling.score import score_responses as score_responses
    from .selection.budget import select_budget as select_budget
    from .selection.preferences import select_preferences as select_preferences
    from .selection.report import SelectionReport as SelectionReport
    from .selection.select import real_select as real_select
    from .training.real_dpo_config import RealDPOConfig as RealDPOConfig
    from .training.real_dpo_trainer import RealDPOTrainer as RealDPOTrainer


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
