"""The numbers of a selection in the trackers of a run."""

from typing import Any

from transformers import TrainerCallback


class LogSelection(TrainerCallback):
    """Sends the numbers of the selection to the trackers of a run."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        report = self.trainer.selection_report
        if report is not None and report.strategy is not None and state.global_step == 0:
            self.trainer.log({f"selection/{name}": value for name, value in report.metrics().items()})
