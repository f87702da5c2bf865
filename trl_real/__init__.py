"""Response Embedding-based Alignment (REAL) for TRL: label only the response pairs that are worth a label."""

from importlib import import_module
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"

# Public name -> the module that defines it, in the order of the flow. Names load on first use, so that
# `import trl_real` imports neither torch nor TRL.
_EXPORTS = {
    "load_sample": "sample",
    "SelectionConfig": "config",
    "to_candidates": "conversion",
    "embed_responses": "embedding",
    "real_select": "selection",
    "to_label_tasks": "labels",
    "apply_labels": "labels",
    "select_budget": "budget",
    "SelectionReport": "report",
    "select_preferences": "preferences",
    "ReliabilityReport": "reliability",
    "label_reliability": "reliability",
    "create_dataset_card": "cards",
    "push_selected_dataset": "hub",
    "RealDPOConfig": "real_dpo_config",
    "RealDPOTrainer": "real_dpo_trainer",
    "WinRate": "metrics",
    "PreferenceMargin": "metrics",
    "LabelError": "metrics",
    "PreferenceDiversity": "diversity",
}

__all__ = list(_EXPORTS)

if TYPE_CHECKING:
    from .budget import select_budget as select_budget
    from .cards import create_dataset_card as create_dataset_card
    from .config import SelectionConfig as SelectionConfig
    from .conversion import to_candidates as to_candidates
    from .diversity import PreferenceDiversity as PreferenceDiversity
    from .embedding import embed_responses as embed_responses
    from .hub import push_selected_dataset as push_selected_dataset
    from .labels import apply_labels as apply_labels
    from .labels import to_label_tasks as to_label_tasks
    from .metrics import LabelError as LabelError
    from .metrics import PreferenceMargin as PreferenceMargin
    from .metrics import WinRate as WinRate
    from .preferences import select_preferences as select_preferences
    from .real_dpo_config import RealDPOConfig as RealDPOConfig
    from .real_dpo_trainer import RealDPOTrainer as RealDPOTrainer
    from .reliability import ReliabilityReport as ReliabilityReport
    from .reliability import label_reliability as label_reliability
    from .report import SelectionReport as SelectionReport
    from .sample import load_sample as load_sample
    from .selection import real_select as real_select


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
