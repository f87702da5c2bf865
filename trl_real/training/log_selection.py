"""Log the numbers of a selection to experiment trackers."""

from typing import Any

from transformers import TrainerCallback


class LogSelection(TrainerCallback):
    """Log the numbers of the selection to the experiment trackers of a run."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        report = self.trainer.selection_report
        if report is not None and report.strategy is not None and state.global_step == 0:
            self.trainer.log({f"selection/{name}": value for name, value in report.metrics().items()})
